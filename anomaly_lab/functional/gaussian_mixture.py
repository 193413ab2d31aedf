"""The density of a mixture of Gaussians."""

import torch
from jaxtyping import Float
from torch import Tensor


def negative_log_likelihood(
    vectors: Float[Tensor, "row length"],
    offsets: Float[Tensor, " component"],
    means: Float[Tensor, "component length"],
    factors: Float[Tensor, "component length length"],
) -> Float[Tensor, " row"]:
    """-log of a mixture's density, in nats.

    `factors` are L with precision = L L'; `offsets` are log weight + log |L| - length / 2 log(2 pi). Vectors are
    centred before they are multiplied: precisions are large, and float32 would lose the difference of two products.
    """
    whitened = torch.bmm(vectors[None] - means[:, None], factors)
    return -torch.logsumexp(offsets[:, None] - whitened.square().sum(dim=2) / 2, dim=0)
