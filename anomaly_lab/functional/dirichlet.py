"""The Dirichlet distribution of probabilities: its fit by maximum likelihood."""

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "*row class"]

ROUNDS = 200  # at most
SETTLED = 1e-9  # relative change of all parameters at which the fit ends
LARGEST = 1e6  # of a parameter


def concentrations(mean: Rows, mean_log: Rows) -> Rows:
    """The parameters of the distribution under which rows with these means are likeliest, in float64, at most 10^6.

    `mean` is that of the probabilities, `mean_log` that of their logarithms, which decides. Newton's method of Minka,
    Estimating a Dirichlet distribution, 2000 (section 1), from the mean times an estimate of the sum (Wicker et al.
    2008); a step that leaves the positive numbers is halved. Rows that are all the same have no likeliest distribution;
    they end at a steep one.
    """
    mean, mean_log = mean.double(), mean_log.double()
    spread = (mean * (mean.log() - mean_log)).sum(dim=-1, keepdim=True)
    start = (mean.shape[-1] - 1) * -torch.digamma(torch.ones_like(spread)) / spread.clamp_min(1e-9)
    found = (mean * start).clamp(1e-10, LARGEST)
    for _ in range(ROUNDS):
        total = found.sum(dim=-1, keepdim=True)
        gradient = torch.digamma(total) - torch.digamma(found) + mean_log
        own, shared = -torch.polygamma(1, found), torch.polygamma(1, total)  # the Hessian: a diagonal and a constant
        shift = (gradient / own).sum(dim=-1, keepdim=True) / (1 / shared + (1 / own).sum(dim=-1, keepdim=True))
        step = (gradient - shift) / own
        before, found = found, torch.where(step < found, found - step, found / 2).clamp(1e-10, LARGEST)
        if ((found - before).abs() < SETTLED * before).all():
            break
    return found
