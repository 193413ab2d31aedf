"""Eight coupling steps beside those of FrEIA, at FastFlow's sizes.

`python experiments/speed/coupling.py FOLDER > experiments/speed/coupling.csv`. FOLDER holds the package, which is no
dependency of the project: `pip install --target FOLDER FrEIA`. Both flows have 3 x 3 convolutions, permutations and the
same clamp; a step is forward, the loss of FastFlow and backward, on random maps of each stage of a ResNet-18 at 256 px,
4 images, one thread. In turns in one process, CPU seconds, medians of seven turns after a first one; `ratio` is the
median of the ratios of turns, above 1 where ours is faster. Before they are timed, both get the same weights and must
agree on latent values and log-determinant.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded

import statistics
import sys
import time

import torch
from torch import nn

from anomaly_lab.networks.flow import Coupling, Flow, convolutions

sys.path.append(sys.argv[1])
from FrEIA.framework import SequenceINN
from FrEIA.modules import AllInOneBlock

STEPS, BATCH, TURNS, CLAMP = 8, 4, 7, 2.0
SIZES = [(64, 64), (128, 32), (256, 16)]  # channels and side


def ours(channels: int) -> nn.Module:
    """Our flow."""
    return Flow(*(Coupling(channels, convolutions(3), CLAMP, "permutation") for _ in range(STEPS)))


def theirs(channels: int, side: int) -> nn.Module:
    """FrEIA's, as re-implementations of FastFlow build it."""
    flow = SequenceINN(channels, side, side)
    for _ in range(STEPS):
        flow.append(AllInOneBlock, subnet_constructor=convolutions(3), affine_clamping=CLAMP, permute_soft=False)
    return flow


def same(own: nn.Module, other: nn.Module, maps: torch.Tensor) -> None:
    """Give theirs the weights of ours, and compare what the two say."""
    for step, block in zip(own.steps, other.module_list, strict=True):
        block.subnet.load_state_dict(step.subnet.state_dict())
        block.w_perm.data = torch.eye(len(step.order))[step.order].view_as(block.w_perm)
        block.global_scale.data = step.scale.detach().view_as(block.global_scale)
        block.global_offset.data = step.shift.detach().view_as(block.global_offset)
    with torch.no_grad():
        (latent, log_determinant), (expected, total) = own(maps), other(maps)
    torch.testing.assert_close(latent, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_determinant.flatten(1).sum(dim=1), total, rtol=1e-4, atol=1e-2)


def seconds(flow: nn.Module, maps: torch.Tensor, backward: bool) -> float:
    """CPU seconds of a step, or of the forward pass alone."""
    start = time.process_time()
    with torch.set_grad_enabled(backward):
        latent, log_determinant = flow(maps)
        loss = (latent.square().sum() / 2 - log_determinant.sum()) / len(maps)
    if backward:
        flow.zero_grad()
        loss.backward()
    return time.process_time() - start


torch.set_num_threads(1)
print("channels,side,pass,ours_seconds,freia_seconds,ratio")
for channels, side in SIZES:
    torch.manual_seed(0)
    maps, flows = torch.randn(BATCH, channels, side, side), (ours(channels), theirs(channels, side))
    with torch.no_grad():  # constants that show
        for step in flows[0].steps:
            step.scale.normal_(10, 1)
            step.shift.normal_()
    same(*flows, maps)
    for backward in (True, False):
        turns = [[seconds(flow, maps, backward) for flow in flows] for _ in range(TURNS + 1)][1:]
        medians = [statistics.median(column) for column in zip(*turns, strict=True)]
        ratio = statistics.median(other / own for own, other in turns)
        name = "step" if backward else "forward"
        print(f"{channels},{side},{name},{medians[0]:.4f},{medians[1]:.4f},{ratio:.3f}", flush=True)
