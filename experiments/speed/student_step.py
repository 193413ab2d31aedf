"""A training step of STFPM and Reverse Distillation beside the bare step, and what a cache of the teacher would win.

`python experiments/speed/student_step.py WEIGHTS [STEPS] > experiments/speed/student_step.csv`: ResNet-18, 256 px,
batches of 8 on resident tensors, one thread, CPU seconds in turns in one process, medians of five. STEPS: in a turn.

- `bare`: teacher forward without gradient, student forward and backward, a step of the optimizer, and nothing else.
- `ours`: the same batches through Lightning's trainer, with the callbacks of a run that work in a step.
- `cached`: the bare step without the teacher: what is left where its maps come from a cache that costs nothing.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded

import statistics
import sys
from functools import partial

import torch
from resident import ours, seconds

from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.reverse_distillation import ReverseDistillation
from anomaly_lab.methods.stfpm import STFPM
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.training.messages import quiet

SIDE, BATCH, TURNS = 256, 8, 5
LAYERS = ["layer1", "layer2", "layer3"]


def methods(weights: str) -> dict[str, GradientMethod]:
    """Both, as configured."""
    teachers = [Backbone("resnet18", LAYERS, weights) for _ in range(2)]
    student = Backbone("resnet18", LAYERS, trainable=True)
    return {
        "stfpm": STFPM(WholeImage(), teachers[0], student, partial(torch.optim.SGD, lr=0.4, momentum=0.9)),
        "reverse_distillation": ReverseDistillation(
            WholeImage(), teachers[1], partial(torch.optim.Adam, lr=5e-3), "flattened", "basic", [2, 2, 2], 64
        ),
    }


def bare(method: GradientMethod, images: list[torch.Tensor], teacher: bool) -> None:
    """Steps written out; without the teacher its maps are those of the first batch."""
    network = method.backbone
    optimizer = method.optimizer([weight for weight in method.parameters() if weight.requires_grad])
    with torch.no_grad():
        kept = network(images[0])
    for batch in images:
        optimizer.zero_grad()
        normalised = network.normalise(batch)
        with torch.no_grad():
            known = network.extract(normalised) if teacher else kept
        found = (
            method.student.extract(normalised) if isinstance(method, STFPM) else method.decoder(method.embedding(known))
        )
        loss = sum((torch.nn.functional.normalize(one) - torch.nn.functional.normalize(other)).square().sum(1).mean()
                   for one, other in zip(known, found, strict=True))  # fmt: skip
        loss.backward()
        optimizer.step()


def main(weights: str, steps: str = "3") -> None:
    """Print a row a method."""
    torch.set_num_threads(1)
    quiet()
    torch.manual_seed(0)
    images = [torch.rand(BATCH, 3, SIDE, SIDE) for _ in range(int(steps))]
    print("method,ours_s_a_step,bare_s_a_step,ours_of_bare,cached_s_a_step,gain_of_a_cache")
    for name, method in methods(weights).items():
        method.train()
        works = (ours, images), (bare, images, True), (bare, images, False)
        for work, *given in works:
            work(method, given[0][:1], *given[1:])  # warm
        turns = [[seconds(work, method, *given) / int(steps) for work, *given in works] for _ in range(TURNS)]
        whole, plain, cached = (statistics.median(column) for column in zip(*turns, strict=True))
        share = statistics.median(turn[1] / turn[0] for turn in turns)
        gain = statistics.median(turn[1] / turn[2] for turn in turns)
        print(f"{name},{whole:.2f},{plain:.2f},{share:.3f},{cached:.2f},{gain:.2f}", flush=True)


main(*sys.argv[1:])
