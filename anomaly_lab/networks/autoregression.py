"""Density of a code, number by number: the estimator of Abati et al., CVPR 2019 (LSA), as in the authors' code."""

import math

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

Codes = Float[Tensor, "batch latent"]
Logits = Float[Tensor, "batch latent bin"]


class MaskedDense(nn.Module):
    """A dense layer that gives each number of a code `outputs` channels, from the `inputs` channels of earlier numbers.

    A number sees those before it and itself; `strict`: only those before it, the authors' mask A. All weights are
    stored and initialised as a dense layer's; those of later numbers are never read and never learn.
    """

    mask: Tensor

    def __init__(self, latent_size: PositiveInt, inputs: PositiveInt, outputs: PositiveInt, strict: bool) -> None:
        super().__init__()
        bound = 1 / math.sqrt(latent_size * inputs)
        shape = latent_size, outputs, latent_size, inputs
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(latent_size, outputs).uniform_(-bound, bound))
        mask = torch.ones(latent_size, latent_size).tril(-int(strict))  # of numbers: all their channels have the same
        self.register_buffer("mask", mask[:, None, :, None], persistent=False)

    def forward(self, values: Float[Tensor, "batch latent input"]) -> Float[Tensor, "batch latent output"]:
        """The channels of each number."""
        weight = (self.weight * self.mask).flatten(2).flatten(0, 1)
        return functional.linear(values.flatten(1), weight, self.bias.flatten()).unflatten(1, self.bias.shape)


class Estimator(nn.Module):
    """For each number of a code the logits of `bins` equal bins of [0, 1], from the numbers before it alone.

    Four masked layers of `width` channels with a LeakyReLU of 0.01 behind each, the first one strict, and one to the
    bins.
    """

    def __init__(self, latent_size: PositiveInt = 64, bins: PositiveInt = 100, width: PositiveInt = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (1, width, width, width):
            layers += [MaskedDense(latent_size, inputs, width, strict=not layers), nn.LeakyReLU()]
        self.layers = nn.Sequential(*layers, MaskedDense(latent_size, width, bins, strict=False))

    def forward(self, codes: Codes) -> Logits:
        """The logits, in full precision."""
        return self.layers(codes[:, :, None]).float()


def bin_of(codes: Codes, bins: int) -> Int[Tensor, "batch latent"]:
    """The bin of each number in [0, 1]; 1 itself is in the last. No gradient."""
    return (codes.detach() * bins).long().clamp(0, bins - 1)


def negative_log_likelihood(codes: Codes, logits: Logits) -> Float[Tensor, " batch"]:
    """Of the bins of each code, in nats, summed over its numbers; its gradient reaches the logits alone."""
    log_probability = logits.log_softmax(dim=2)
    return -log_probability.gather(2, bin_of(codes, logits.shape[2])[:, :, None]).flatten(1).sum(dim=1)
