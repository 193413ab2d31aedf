"""The convolutional autoencoder of Bergmann et al. 2018, shared by the L2, the SSIM and the variational variant."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from anomaly_lab.networks.latent import GaussianHead

Images = Float[Tensor, "batch channel height width"]
Codes = Float[Tensor, "batch latent 1 1"]


class Autoencoder(nn.Module):
    """Encoder to a code of `latent_size` numbers, decoder back; images in [0, 1].

    Table 1 of the paper at 128 px; each doubling of the side inserts one more stride-2 convolution (32 channels)
    after the second and its mirror before the last layer. No normalisation layers, so the initialisation decides how
    soon it learns, and the paper names neither it nor the output activation. With a linear output `he` (the variance
    survives every layer) learns soonest under the L2 loss (experiments/initialisation/) and under SSIM. `default` is
    PyTorch's. Under SSIM with squared constants `xavier` with a sigmoid starts as a gray image, near its best.
    """

    def __init__(
        self,
        image_size: Literal[128, 256, 512, 1024],
        channels: Literal[1, 3],
        latent_size: PositiveInt = 100,
        initialisation: Literal["he", "xavier", "default"] = "he",
        output: Literal["linear", "sigmoid"] = "linear",
    ) -> None:
        super().__init__()
        doublings = (image_size // 128).bit_length() - 1
        self.encoder = nn.Sequential(
            *_conv(channels, 32, 4, 2, 1),
            *_conv(32, 32, 4, 2, 1),
            *[layer for _ in range(doublings) for layer in _conv(32, 32, 4, 2, 1)],
            *_conv(32, 32, 3, 1, 1),
            *_conv(32, 64, 4, 2, 1),
            *_conv(64, 64, 3, 1, 1),
            *_conv(64, 128, 4, 2, 1),
            *_conv(128, 64, 3, 1, 1),
            *_conv(64, 32, 3, 1, 1),
            self.head(32, latent_size),
        )
        self.decoder = nn.Sequential(
            *_transposed(latent_size, 32, 8, 1, 0),
            *_conv(32, 64, 3, 1, 1),
            *_conv(64, 128, 3, 1, 1),
            *_transposed(128, 64, 4, 2, 1),
            *_conv(64, 64, 3, 1, 1),
            *_transposed(64, 32, 4, 2, 1),
            *_conv(32, 32, 3, 1, 1),
            *_transposed(32, 32, 4, 2, 1),
            *[layer for _ in range(doublings) for layer in _transposed(32, 32, 4, 2, 1)],
            nn.ConvTranspose2d(32, channels, 4, 2, 1),
            nn.Sigmoid() if output == "sigmoid" else nn.Identity(),
        )
        initialise(self, initialisation)

    def head(self, channels: int, latent_size: int) -> nn.Module:
        """The last layer of the encoder: from 8 x 8 places to the code."""
        return nn.Conv2d(channels, latent_size, 8)

    def forward(self, images: Images) -> Images:
        """Reconstruct the images."""
        return self.decoder(self.encoder(images.contiguous(memory_format=torch.channels_last)))


class GaussianAutoencoder(Autoencoder):
    """The same, but its encoder gives a Gaussian of codes: mean and log variance, each of `latent_size` numbers.

    For small images, of 28 and 32 px, it is the network with which Liu et al. (CVPR 2020) train a VAE on MNIST: two
    convolutions of stride 2 to 64 and 128 channels, a dense layer of 1024, and their mirror, with ReLUs; theirs has a
    `latent_size` of 32.
    """

    attended: int  # the layers of the encoder whose maps attention explains

    def __init__(
        self,
        image_size: Literal[28, 32, 128, 256, 512, 1024],
        channels: Literal[1, 3],
        latent_size: PositiveInt = 100,
        initialisation: Literal["he", "xavier", "default"] = "he",
        output: Literal["linear", "sigmoid"] = "linear",
    ) -> None:
        if image_size not in (28, 32):
            super().__init__(image_size, channels, latent_size, initialisation, output)
            self.attended = -7  # behind the last but one that halves the side, 16 x 16 places
            return
        nn.Module.__init__(self)  # none of the other's layers
        side = image_size // 4
        self.attended = 4  # both that halve the side
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 64, 4, 2, 1), nn.ReLU(inplace=True),
            nn.Conv2d(64, 128, 4, 2, 1), nn.ReLU(inplace=True),
            nn.Conv2d(128, 1024, side), nn.ReLU(inplace=True),  # dense: of all places
            GaussianHead(1024, latent_size, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Flatten(), nn.Linear(latent_size, 1024), nn.ReLU(inplace=True),
            nn.Linear(1024, 128 * side**2), nn.ReLU(inplace=True), nn.Unflatten(1, (128, side, side)),
            nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU(inplace=True),
            nn.ConvTranspose2d(64, channels, 4, 2, 1), nn.Sigmoid() if output == "sigmoid" else nn.Identity(),
        )  # fmt: skip
        initialise(self, initialisation)

    def head(self, channels: int, latent_size: int) -> nn.Module:
        """As large as two of those without a Gaussian."""
        return GaussianHead(channels, latent_size, 8)

    def encode(self, images: Images) -> tuple[Codes, Codes]:
        """Mean and log variance of the code of each image, in full precision."""
        mean, log_variance = self.encoder(images.contiguous(memory_format=torch.channels_last))
        return mean.float(), log_variance.float()

    def forward(self, images: Images) -> Images:
        """Reconstruct the images from their mean codes."""
        return self.decoder(self.encode(images)[0])


class PoolingAutoencoder(Autoencoder):
    """The convolutional autoencoder of a much copied tutorial: Chollet, Building Autoencoders in Keras, 2016.

    Three convolutions of 16, 8 and `latent_size` channels, each before a pooling; their mirror doubles the side by the
    nearest pixel. The code has latent_size * (side / 8)^2 numbers: for a large image hardly fewer than a copy of it.
    Weights start as those of Keras, uniform after Glorot. The tutorial's digits of 28 px lose a border on the way up;
    here all convolutions keep the side, a multiple of 8 px.
    """

    def __init__(
        self,
        image_size: Annotated[int, Field(ge=8, multiple_of=8)],
        channels: Literal[1, 3],
        latent_size: PositiveInt = 8,
        initialisation: Literal["he", "xavier", "default"] = "xavier",
        output: Literal["linear", "sigmoid"] = "sigmoid",
    ) -> None:
        nn.Module.__init__(self)  # none of the other's layers
        self.encoder = nn.Sequential(
            *_rectified(channels, 16), nn.MaxPool2d(2),
            *_rectified(16, 8), nn.MaxPool2d(2),
            *_rectified(8, latent_size), nn.MaxPool2d(2),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            *_rectified(latent_size, 8), nn.Upsample(scale_factor=2),
            *_rectified(8, 8), nn.Upsample(scale_factor=2),
            *_rectified(8, 16), nn.Upsample(scale_factor=2),
            nn.Conv2d(16, channels, 3, padding=1), nn.Sigmoid() if output == "sigmoid" else nn.Identity(),
        )  # fmt: skip
        initialise(self, initialisation)


def initialise(network: nn.Module, how: Literal["he", "xavier", "default"]) -> None:
    """Draw the weights of all convolutions, and prefer the memory format that is faster for them.

    About twice as fast on a CPU, and faster with bf16 on a GPU.
    """
    if how != "default":
        network.apply(_he if how == "he" else _xavier)
    network.to(memory_format=torch.channels_last)


def _rectified(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)


def _conv(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.LeakyReLU(0.2, inplace=True)


def _transposed(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> tuple[nn.Module, nn.Module]:
    return nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding), nn.LeakyReLU(0.2, inplace=True)


def _he(module: nn.Module) -> None:
    """Normal weights whose variance is 2 / (1 + 0.2^2) / inputs of an output (He et al. 2015, eq. 15).

    A transposed convolution adds only kernel^2 / stride^2 inputs per channel; on a code of one pixel only one.
    PyTorch's fan-in does not know that and makes these layers too weak, eight times in the first.
    """
    if isinstance(module, nn.Conv2d):
        inputs = module.in_channels * module.kernel_size[0] ** 2
    elif isinstance(module, nn.ConvTranspose2d):
        from_one_pixel = module.padding[0] == 0
        inputs = module.in_channels * (1 if from_one_pixel else (module.kernel_size[0] // module.stride[0]) ** 2)
    else:
        return
    nn.init.normal_(module.weight, std=(2 / (1 + 0.2**2) / inputs) ** 0.5)
    assert module.bias is not None
    nn.init.zeros_(module.bias)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
