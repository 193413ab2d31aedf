"""A memory that an autoencoder must read from: Gong et al., ICCV 2019 (MemAE), section 3.2 and 3.3."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError

Maps = Float[Tensor, "batch channel height width"]
Weights = Float[Tensor, "batch slot height width"]
Similarity = Literal["dot", "cosine"]


class Reading(NamedTuple):
    """What was read for the places of a map."""

    maps: Maps
    weights: Float[Tensor, "batch slot row column"]  # that are left of every slot for every block; they sum to 1
    empty: Float[Tensor, ""]  # share of the blocks where only the largest weight was left, below the threshold


class Memory(nn.Module):
    """Replace every place of a map by a mean of few of the `slots` vectors that were learnt.

    The vector at a place is a query. Its weights are the softmax of its similarities to all slots; those of at most
    `shrinkage` become 0, the others are divided by their sum. So what comes out lies between the slots, whatever comes
    in. A slot of n numbers starts uniform in +-1 / sqrt(n), as in the authors' code.

    `block`: a query is what lies in a square of so many places, all channels of it, and the maps are put together from
    the blocks that were read (Hou et al., ICCV 2021). Both sides of the maps must be multiples of it.

    Where this differs:

    - The paper says cosine, the authors' code takes the plain product, the default here. A cosine is divided by
      `temperature`: without one (a temperature of 1) all weights are below e^2 / slots, and those of unrelated
      directions below 2 / slots, so that the published thresholds, 1 to 5 / slots, leave half of them or none.
    - The largest weight of a query stays, also where it is at most `shrinkage`. The paper would divide 0 by the epsilon
      of its sum: zeros come out, and no gradient goes in. Here such a query reads one slot, as if its weight were 1,
      and the gradient is that of the logarithm of the weight.
    - Weights are compared with `shrinkage`. The paper writes max(w - s, 0) w / (|w - s| + epsilon), which is the same
      number but for the epsilon; its gradient at a weight just above the threshold is that of a cliff.

    Raises UserError where no weight of several slots can be above `shrinkage`.
    """

    def __init__(
        self,
        slots: PositiveInt,
        channels: PositiveInt,
        shrinkage: NonNegativeFloat,
        similarity: Similarity = "dot",
        temperature: PositiveFloat = 0.1,
        block: PositiveInt = 1,
    ) -> None:
        super().__init__()
        largest, of, lower = 1.0, "", ""  # products have no bound, but a softmax has
        if similarity == "cosine":
            largest, lower = largest_weight(slots, temperature), "method.temperature or "
            of = f" for the cosine at a temperature of {temperature:g}"
        if slots > 1 and shrinkage >= largest:  # a single slot is read whatever its weight
            raise UserError(
                f"method.shrinkage: expected a threshold that some weight can pass: below {largest * slots:.3g} times "
                f"1 / {slots}{of}, found {shrinkage * slots:.3g}; lower {lower}method.shrinkage"
            )
        self.shrinkage = shrinkage
        self.similarity: Similarity = similarity
        self.temperature = temperature
        self.block = block
        numbers = channels * block**2  # of a query
        self.slots = nn.Parameter(torch.empty(slots, numbers).uniform_(-1, 1) / math.sqrt(numbers))

    def forward(self, queries: Maps) -> Reading:
        """Read for every block."""
        attention = self.attention(functional.pixel_unshuffle(queries, self.block))
        weights = self.shrunk(attention)
        blocks = (weights.movedim(1, -1) @ self.slots).movedim(-1, 1)
        maps = functional.pixel_shuffle(blocks, self.block)
        return Reading(maps, weights, (attention.amax(dim=1) <= self.shrinkage).float().mean())

    def attention(self, queries: Maps) -> Weights:
        """The softmax of the similarities, in full precision: it decides what passes the threshold."""
        slots = self.slots
        if self.similarity == "cosine":
            queries, slots = functional.normalize(queries, dim=1), functional.normalize(slots, dim=1) / self.temperature
        similarities = queries.movedim(1, -1) @ slots.T  # a query a row, which is faster than a convolution
        return similarities.float().softmax(dim=-1).movedim(-1, 1)

    def shrunk(self, weights: Weights) -> Weights:
        """The weights above the threshold, and the largest one, divided by their sum."""
        largest = weights.amax(dim=1, keepdim=True)
        stays = (weights > self.shrinkage) | (weights >= largest)
        left = weights * stays
        total = left.sum(dim=1, keepdim=True)
        alone = (largest <= self.shrinkage) & (stays.sum(dim=1, keepdim=True) == 1)
        return left / torch.where(alone, total.detach(), total)  # a weight by itself is 1, whatever it was


def largest_weight(slots: int, temperature: float) -> float:
    """The weight of a slot at cosine 1 when all others are at -1: 1 / (1 + (slots - 1) e^(-2 / temperature))."""
    return 1 / (1 + (slots - 1) * math.exp(-2 / temperature))


def entropy(weights: Weights) -> Float[Tensor, ""]:
    """Entropy of the weights of a query in nats, 0 to log(slots), mean over all queries (equation 9)."""
    return -(weights * (weights + 1e-12).log()).sum(dim=1).mean()


def used(weights: Weights) -> Float[Tensor, ""]:
    """The share of the slots that at least one query reads."""
    return (weights.detach().amax(dim=(0, 2, 3)) > 0).float().mean()
