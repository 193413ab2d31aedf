"""Normalizing flows on vectors and on maps: invertible networks that know by how much they change volumes.

One coupling step as FastFlow and CFLOW take it from FrEIA ("AllInOne": coupling, global affine map, permutation). It is
written out here because random numbers come from torch's generator only, and because permutations are buffers: they are
saved with the weights and count as none of them.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Values = Float[Tensor, "batch channel *place"]
Half = Float[Tensor, "batch _ *place"]
Condition = Float[Tensor, "batch condition *place"] | None
LogDeterminant = Float[Tensor, "batch *place"]
Subnet = Callable[[int, int], nn.Module]  # from the channels that it sees and those that it gives
Mixing = Literal["permutation", "rotation"]
SMALL = 0.1  # factor of what a subnet gives
ONE = 2 * torch.log(torch.expm1(torch.tensor(5.0))).item()  # of which the softplus is 10


class Coupling(nn.Module):
    """One step: one half of the channels decides how the other half is scaled and shifted.

    Then all channels are scaled and shifted by learnt constants and mixed: reordered at random, or turned by a random
    rotation. Of an odd number of channels the larger half stays.

    Args:
        channels: Of the values.
        subnet: Makes the network that sees the half that stays, with the condition behind it.
        clamp: The largest logarithm of a scale.
        mixing: How channels are mixed.
        condition: Channels of the condition.

    """

    order: Tensor
    rotation: Tensor

    def __init__(self, channels: int, subnet: Subnet, clamp: float, mixing: Mixing, condition: int = 0) -> None:
        super().__init__()
        self.kept, self.changed = channels - channels // 2, channels // 2
        self.subnet = subnet(self.kept + condition, 2 * self.changed)
        self.clamp = clamp
        self.mixing = mixing
        self.scale = nn.Parameter(torch.full((channels,), ONE))
        self.shift = nn.Parameter(torch.zeros(channels))
        if mixing == "permutation":
            self.register_buffer("order", torch.randperm(channels))
        else:
            self.register_buffer("rotation", random_rotation(channels))

    def forward(self, values: Values, condition: Condition = None) -> tuple[Values, LogDeterminant]:
        """The changed values, and the logarithm of the determinant of the change at every place."""
        kept, changed = values.split([self.kept, self.changed], dim=1)
        log_scale, shift = self._decided(kept, condition)
        joined = torch.cat([kept, changed * log_scale.exp() + shift], dim=1)
        factor, offset = self._constants(values)
        return self._mixed(factor * joined + offset), log_scale.sum(dim=1) + factor.log().sum()

    def inverse(self, values: Values, condition: Condition = None) -> Values:
        """The values from which `forward` makes these."""
        factor, offset = self._constants(values)
        kept, changed = ((self._unmixed(values) - offset) / factor).split([self.kept, self.changed], dim=1)
        log_scale, shift = self._decided(kept, condition)
        return torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=1)

    def _decided(self, kept: Half, condition: Condition) -> tuple[Half, Half]:
        """Logarithm of the scale, and shift; not in half precision, in which a sum of many logarithms is lost."""
        seen = kept if condition is None else torch.cat([kept, condition], dim=1)
        decided = SMALL * self.subnet(seen).to(kept.dtype)
        log_scale, shift = decided.split(self.changed, dim=1)
        return self.clamp * log_scale.tanh(), shift

    def _constants(self, values: Values) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (values.ndim - 2))
        return (SMALL * functional.softplus(self.scale, beta=0.5)).view(shape), self.shift.view(shape)

    def _mixed(self, values: Values) -> Values:
        if self.mixing == "permutation":
            return values.index_select(1, self.order)  # half the time of values[:, order]
        return turned(values, exact_rotation(self.rotation, values))

    def _unmixed(self, values: Values) -> Values:
        if self.mixing == "permutation":
            return values.index_select(1, self.order.argsort())
        return turned(values, exact_rotation(self.rotation, values).T)


class Flow(nn.Module):
    """Coupling steps one after the other; the first makes the latent values of a Gaussian out of data."""

    def __init__(self, *steps: Coupling) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, values: Values, condition: Condition = None) -> tuple[Values, LogDeterminant]:
        """Latent values, and the logarithm of the determinant at every place."""
        total = values.new_zeros(())
        for step in self.steps:
            values, change = step(values, condition)
            total = total + change
        return values, total

    def inverse(self, values: Values, condition: Condition = None) -> Values:
        """Data from latent values."""
        for step in reversed(self.steps):
            assert isinstance(step, Coupling)
            values = step.inverse(values, condition)
        return values


def random_rotation(channels: int) -> Float[Tensor, "channel channel"]:
    """A rotation drawn uniformly: of a matrix of Gaussian numbers the orthogonal factor, without its mirror."""
    rotation, triangle = torch.linalg.qr(torch.randn(channels, channels))
    rotation = rotation * triangle.diagonal().sign()
    if torch.linalg.slogdet(rotation).sign < 0:
        rotation[:, 0] = -rotation[:, 0]
    return rotation


def exact_rotation(rotation: Float[Tensor, "channel channel"], values: Tensor) -> Float[Tensor, "channel channel"]:
    """A rotation in the precision of the values: one rounded to float32 is one in float64 after a step of Newton's."""
    if values.dtype != torch.float64:
        return rotation
    return rotation @ (3 * torch.eye(len(rotation)).to(rotation) - rotation.T @ rotation) / 2


def turned(values: Values, rotation: Float[Tensor, "channel channel"]) -> Values:
    """The values after a rotation, in its precision: in half precision it would no longer keep lengths."""
    with torch.autocast(values.device.type, enabled=False):
        return torch.einsum("ij,bj...->bi...", rotation, values.to(rotation.dtype))


def convolutions(side: int, ratio: float = 1.0) -> Subnet:
    """Two convolutions of `side` px with as many channels between as the first sees, times `ratio`."""

    def subnet(seen: int, given: int) -> nn.Module:
        hidden = max(1, int(seen * ratio))
        return nn.Sequential(
            nn.Conv2d(seen, hidden, side, padding=side // 2),
            nn.ReLU(),
            nn.Conv2d(hidden, given, side, padding=side // 2),
        )

    return subnet


def dense(*factors: float) -> Subnet:
    """Linear layers on vectors; those between have the channels that the first sees, times each of `factors`."""

    def subnet(seen: int, given: int) -> nn.Module:
        sides = [seen, *[int(seen * factor) for factor in factors], given]
        layers = [layer for before, made in pairwise(sides) for layer in (nn.Linear(before, made), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    return subnet
