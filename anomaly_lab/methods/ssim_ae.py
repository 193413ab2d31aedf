"""Autoencoder trained by structural similarity (AE-SSIM).

Bergmann, Löwe, Fauser, Sattlegger, Steger: Improving Unsupervised Defect Segmentation by Applying Structural
Similarity to Autoencoders, 2018. The network, the data and the optimiser of `cae`, with three differences: gray
images (`input.channels` in the configuration), an SSIM loss, an SSIM residual.
"""

import warnings
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from anomaly_lab.core.types import Images
from anomaly_lab.functional.ssim import LIBRARY_CONSTANTS, PAPER_CONSTANTS, Window, ssim_map
from anomaly_lab.methods.base.method import OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.methods.cae import CAE
from anomaly_lab.networks.autoencoder import Autoencoder


class SSIMAE(CAE):
    """Reconstruct, and call abnormal where the structure of an 11 x 11 window was not reconstructed.

    The paper prints the constants 0.01 and 0.03 where Wang et al. and every library square them; `constants=paper`
    takes them as printed. `window=uniform` is the plain window of the paper's formula, the output there is linear:
    `experiment=ssim_ae_paper` has all three. On screw, in steps of 8 images of 128 px at a rate of 2e-4, its loss falls
    from .80 to .11 in 120 steps with He's initialisation (PyTorch's: 1.07 to .15), at 256 px from .87 to .10 in 100
    steps of 2 images. The default starts lower than a linear output: .32 to .28 in 100 steps, where that falls from
    .98 to .38.
    """

    def __init__(
        self,
        network: Autoencoder,
        optimizer: OptimizerFactory,
        tiling: Tiling,
        schedule: Schedule = "constant",
        constants: Literal["library", "paper"] = "library",
        window: Window = "gaussian",
    ) -> None:
        super().__init__(network, optimizer, tiling, schedule)
        self.constants = LIBRARY_CONSTANTS if constants == "library" else PAPER_CONSTANTS
        self.window: Window = window

    def loss(self, images: Images, reconstructions: Images) -> Scalar:
        """1 - mean SSIM over the windows inside the image, in [0, 2]."""
        similarity = ssim_map(images, reconstructions, self.window, constants=self.constants, padded=False)
        return 1 - similarity.mean()

    def residual(self, images: Images, reconstructions: Images) -> Float[Tensor, "batch 1 height width"]:
        """1 - SSIM at each pixel, in [0, 2]; not clamped, because opposite structure is worse than none.

        In float64: whatever computes it, an exported file too, comes to the same map.
        """
        exact = torch.float32 if images.device.type == "mps" else torch.float64  # Apple's has no float64
        similarity = ssim_map(images.to(exact), reconstructions.to(exact), self.window, constants=self.constants)
        return (1 - similarity).mean(dim=1, keepdim=True).to(images.dtype)

    def on_train_epoch_end(self) -> None:
        """Warn of the dead start in which the output has no structure and the gradient none either."""
        if self.trainer.callback_metrics["train/loss_epoch"] >= 0.99:
            warnings.warn(
                "the SSIM loss stays at 0.99 or above: the network learns nothing; use a lower learning rate, or "
                "method.network.output=sigmoid with method.network.initialisation=xavier",
                stacklevel=1,
            )
