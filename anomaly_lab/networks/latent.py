"""Codes that are Gaussians: the layer that gives one, its divergence from the prior, a draw from it."""

from jaxtyping import Float
from torch import Tensor, nn

Codes = Float[Tensor, "batch latent *place"]


class GaussianHead(nn.Module):
    """From features to the mean and the log variance of a code, by one layer.

    `kernel`: px of a convolution without padding, which gives a code at every place. None: a dense layer on vectors.
    """

    def __init__(self, features: int, latent_size: int, kernel: int | None = None) -> None:
        super().__init__()
        outputs = 2 * latent_size
        self.layer = nn.Linear(features, outputs) if kernel is None else nn.Conv2d(features, outputs, kernel)

    def forward(self, features: Float[Tensor, "batch feature *_"]) -> tuple[Codes, Codes]:
        """Mean and log variance."""
        mean, log_variance = self.layer(features).chunk(2, dim=1)
        return mean, log_variance


def kl_to_standard_normal(mean: Codes, log_variance: Codes) -> Float[Tensor, " batch"]:
    """Kullback-Leibler divergence of each code from N(0, 1), in nats, summed over its numbers; 0 for N(0, 1) itself."""
    return (mean.square() + log_variance.expm1() - log_variance).flatten(1).sum(dim=1) / 2


def sample(mean: Codes, log_variance: Codes, noise: Codes) -> Codes:
    """The code of each Gaussian that `noise` from N(0, 1) leads to; gradients reach mean and log variance."""
    return mean + (log_variance / 2).exp() * noise
