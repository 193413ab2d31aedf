"""The Dirichlet distribution of probabilities: its fit by maximum likelihood."""

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "*row class"]

ROUNDS = 2000  # at most
SETTLED = 1e-7  # relative change of all parameters at which the fit ends


def concentrations(mean: Rows, mean_log: Rows) -> Rows:
    """The parameters of the distribution under which rows with these means are likeliest, in float64.

    `mean` is that of the probabilities, `mean_log` that of their logarithms, which decides. Minka, Estimating a
    Dirichlet distribution, 2000: the fixed point of digamma(a) = digamma(sum of a) + mean_log, from the mean times an
    estimate of the sum (Wicker et al. 2008). Rows that are all the same have no likeliest distribution; they end at a
    steep one.
    """
    mean, mean_log = mean.double(), mean_log.double()
    spread = (mean * (mean.log() - mean_log)).sum(dim=-1, keepdim=True)
    start = (mean.shape[-1] - 1) * -torch.digamma(torch.ones_like(spread)) / spread.clamp_min(1e-9)
    found = mean * start
    for _ in range(ROUNDS):
        before, found = found, inverse_digamma(torch.digamma(found.sum(dim=-1, keepdim=True)) + mean_log)
        if ((found - before).abs() < SETTLED * before).all():
            break
    return found


def inverse_digamma(values: Rows) -> Rows:
    """The numbers above 0 whose digamma function is `values`: five steps of Newton (Minka 2000, appendix C)."""
    numbers = torch.where(values >= -2.22, values.exp() + 0.5, -1 / (values - torch.digamma(torch.ones_like(values))))
    for _ in range(5):
        numbers = numbers - (torch.digamma(numbers) - values) / torch.polygamma(1, numbers)
    return numbers
