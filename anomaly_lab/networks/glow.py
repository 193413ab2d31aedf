"""Normalizing flows that change both halves of the channels in every block, on vectors and on maps of several scales.

The block of GLOW (Kingma and Dhariwal, NeurIPS 2018) as DifferNet and CS-Flow have it. Their authors clip what leaves a
block, which the determinant does not know; it is not clipped here.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.networks.flow import Subnet

Scales = Sequence[Float[Tensor, "batch channel ..."]]  # maps from fine to coarse; vectors are one scale without places
Halves = Sequence[Float[Tensor, "batch _ ..."]]  # one half of the channels of each
LogDeterminant = Float[Tensor, " batch"]
TURN = 0.636  # about 2 / pi: the logarithm of a scale stays within the clamp
SLOPE = 0.1  # of the leaky ReLU


class Block(nn.Module):
    """Channels are reordered; each half is then scaled and shifted by what a network sees of the other half.

    The second network sees the first half as it has become. Of an odd number of channels the second half is the larger.

    Args:
        channels: Of the values, the same for all scales.
        subnet: Makes a network; it sees one half of every scale, as that many arguments, and gives twice the channels
            of the other half for each: a tensor for one scale, else a tuple.
        clamp: The largest logarithm of a factor.
        scales: How many maps there are.

    """

    def __init__(self, channels: int, subnet: Subnet, clamp: float, scales: int = 1) -> None:
        super().__init__()
        self.sides = [channels // 2, channels - channels // 2]
        self.of_second = subnet(self.sides[1], 2 * self.sides[0])
        self.of_first = subnet(self.sides[0], 2 * self.sides[1])
        self.clamp = clamp
        self.scales = scales
        for i in range(scales):
            self.register_buffer(f"order_{i}", torch.randperm(channels))

    @property
    def orders(self) -> list[Tensor]:
        """The order of the channels of each scale."""
        return [getattr(self, f"order_{i}") for i in range(self.scales)]

    def forward(self, values: Scales) -> tuple[Scales, LogDeterminant]:
        """The changed values, and the logarithm of the determinant of the change of each sample."""
        first, second = self._halves([part[:, order] for part, order in zip(values, self.orders, strict=True)])
        by_second = self._decided(self.of_second, second, first)
        first = [part * log_factor.exp() + shift for part, (log_factor, shift) in zip(first, by_second, strict=True)]
        by_first = self._decided(self.of_first, first, second)
        second = [part * log_factor.exp() + shift for part, (log_factor, shift) in zip(second, by_first, strict=True)]
        changes = [log_factor.flatten(1).sum(dim=1) for log_factor, _ in (*by_second, *by_first)]
        return self._joined(first, second), torch.stack(changes).sum(dim=0)

    def inverse(self, values: Scales) -> Scales:
        """The values from which `forward` makes these."""
        first, second = self._halves(values)
        by_first = self._decided(self.of_first, first, second)
        second = [
            (part - shift) * (-log_factor).exp() for part, (log_factor, shift) in zip(second, by_first, strict=True)
        ]
        by_second = self._decided(self.of_second, second, first)
        first = [
            (part - shift) * (-log_factor).exp() for part, (log_factor, shift) in zip(first, by_second, strict=True)
        ]
        joined = self._joined(first, second)
        return [part[:, order.argsort()] for part, order in zip(joined, self.orders, strict=True)]

    def _decided(self, subnet: nn.Module, seen: Halves, changed: Halves) -> list[tuple[Tensor, Tensor]]:
        """Logarithm of the factor, and shift, of each scale; not in half precision, in which their sum is lost."""
        answer = subnet(*seen)
        decided = []
        for part, before in zip([answer] if isinstance(answer, Tensor) else answer, changed, strict=True):
            raw, shift = part.to(before.dtype).chunk(2, dim=1)
            decided.append((self.clamp * TURN * (raw / self.clamp).atan(), shift))
        return decided

    def _halves(self, values: Scales) -> tuple[Halves, Halves]:
        halves = [part.split(self.sides, dim=1) for part in values]
        return [first for first, _ in halves], [second for _, second in halves]

    def _joined(self, first: Halves, second: Halves) -> Scales:
        return [torch.cat(halves, dim=1) for halves in zip(first, second, strict=True)]


class Glow(nn.Module):
    """Blocks one after the other; the first sees data, and of the last come the latent values of a Gaussian."""

    def __init__(self, *blocks: Block) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, values: Scales) -> tuple[Scales, LogDeterminant]:
        """Latent values, and the logarithm of the determinant of each sample."""
        changes = []
        for block in self.blocks:
            values, change = block(values)
            changes.append(change)
        return values, torch.stack(changes).sum(dim=0)

    def inverse(self, values: Scales) -> Scales:
        """Data from latent values."""
        for block in reversed(self.blocks):
            assert isinstance(block, Block)
            values = block.inverse(values)
        return values


def layers(*hidden: int) -> Subnet:
    """Linear layers on vectors, with so many numbers between them."""

    def subnet(seen: int, given: int) -> nn.Module:
        sides = [seen, *hidden, given]
        made = [layer for before, after in pairwise(sides) for layer in (nn.Linear(before, after), nn.ReLU())]
        return nn.Sequential(*made[:-1])

    return subnet


class CrossScale(nn.Module):
    """Two convolutions a scale; what lies between them also reaches the next finer and the next coarser scale.

    A map has half the places of the next finer one along a side, rounded up. Every answer has a factor that is learnt
    and starts at zero: at first a block only reorders channels.

    Args:
        scales: How many maps there are.
        seen: Channels of each map.
        hidden: Channels between the two convolutions.
        given: Channels of each answer.
        side: Of the convolutions, in places; odd.

    """

    def __init__(self, scales: int, seen: int, hidden: int, given: int, side: int) -> None:
        super().__init__()

        def convolutions(count: int, before: int, after: int, stride: int = 1) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(before, after, side, stride, side // 2) for _ in range(count))

        self.into = convolutions(scales, seen, hidden)
        self.out = convolutions(scales, hidden, given)
        self.up = convolutions(scales - 1, hidden, given)
        self.down = convolutions(scales - 1, hidden, given, stride=2)
        self.gamma = nn.Parameter(torch.zeros(scales))

    def forward(self, *maps: Float[Tensor, "batch channel _ _"]) -> tuple[Float[Tensor, "batch given _ _"], ...]:
        """An answer for each map."""
        hidden = [functional.leaky_relu(into(part), SLOPE) for into, part in zip(self.into, maps, strict=True)]
        answers = [out(part) for out, part in zip(self.out, hidden, strict=True)]
        for i, (fine, coarse) in enumerate(pairwise(hidden)):
            enlarged = functional.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)
            answers[i] = answers[i] + self.up[i](enlarged)
            answers[i + 1] = answers[i + 1] + self.down[i](fine)
        return tuple(gamma * answer for gamma, answer in zip(self.gamma, answers, strict=True))


def cross_scale(scales: int, hidden: int, side: int) -> Subnet:
    """The networks of CS-Flow."""
    return lambda seen, given: CrossScale(scales, seen, hidden, given, side)
