"""A training step of FastFlow and CFLOW beside the bare step.

`python experiments/speed/flow_step.py WEIGHTS [STEPS] > experiments/speed/flow_step.csv`: ResNet-18, 256 px, batches
of 8 on resident tensors, one thread, CPU seconds in turns in one process, medians of five. STEPS: in a turn.

- `bare`: backbone without gradient, flows, the loss written out, backward, a step of the optimizer, and nothing else.
  Of CFLOW a step for every group of places, in random order.
- `ours`: the same batches through Lightning's trainer, with the callbacks of a run that work in a step.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded

import math
import statistics
import sys
from functools import partial

import torch
from resident import ours, seconds
from torch.nn import functional

from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.cflow import CFlow, position_code
from anomaly_lab.methods.fastflow import FastFlow
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.training.messages import quiet

SIDE, BATCH, TURNS, FIBRES = 256, 8, 5, 256
ADAM = partial(torch.optim.Adam, lr=2e-4)


def methods(weights: str) -> dict[str, GradientMethod]:
    """Both, as configured."""
    deep = Backbone("resnet18", ["layer1", "layer2", "layer3"], weights)
    backbone = Backbone("resnet18", ["layer2", "layer3"], weights)
    return {
        "fastflow": FastFlow(WholeImage(), deep, ADAM, SIDE, 8, [3], 2.0, False, "probability"),
        "cflow": CFlow(WholeImage(), backbone, ADAM, 8, 1.9, FIBRES, "log_sigmoid", "probability"),
    }


def fastflow(method: FastFlow, images: list[torch.Tensor]) -> None:
    """Steps written out."""
    optimizer = ADAM(method.flows.parameters())
    for batch in images:
        optimizer.zero_grad()
        with torch.no_grad():
            maps = method.backbone(batch)
        loss = torch.zeros(())
        for layer, flow in zip(maps, method.flows, strict=True):
            latent, change = flow(functional.layer_norm(layer, layer.shape[1:]))
            loss = loss + (latent.square().sum() / 2 - change.sum()) / len(batch)
        loss.backward()
        optimizer.step()


def cflow(method: CFlow, images: list[torch.Tensor]) -> None:
    """Steps written out, as many as there are groups."""
    optimizers = [ADAM(flow.parameters()) for flow in method.flows]
    for batch in images:
        with torch.no_grad():
            maps = method.backbone(batch)
        for layer, flow, optimizer in zip(maps, method.flows, optimizers, strict=True):
            channels = layer.shape[1]
            vectors, code = (each.flatten(2).mT.flatten(0, 1) for each in (layer, position_code(layer)))
            for places in torch.randperm(len(vectors)).split(FIBRES):
                optimizer.zero_grad()
                latent, change = flow(vectors[places], code[places])
                density = -channels / 2 * math.log(2 * math.pi) - latent.square().sum(dim=1) / 2 + change
                (-functional.logsigmoid(density / channels).mean()).backward()
                optimizer.step()


def main(weights: str, steps: str = "3") -> None:
    """Print a row a method."""
    torch.set_num_threads(1)
    quiet()
    torch.manual_seed(0)
    images = [torch.rand(BATCH, 3, SIDE, SIDE) for _ in range(int(steps))]
    print("method,ours_s_a_step,bare_s_a_step,ours_of_bare")
    for name, method in methods(weights).items():
        bare = {"fastflow": fastflow, "cflow": cflow}[name]
        method.backbone.load()
        method.train()
        for work in (ours, bare):
            work(method, images[:1])  # warm
        turns = [[seconds(work, method, images) / int(steps) for work in (ours, bare)] for _ in range(TURNS)]
        whole, plain = (statistics.median(column) for column in zip(*turns, strict=True))
        share = statistics.median(turn[1] / turn[0] for turn in turns)
        print(f"{name},{whole:.2f},{plain:.2f},{share:.3f}", flush=True)


main(*sys.argv[1:])
