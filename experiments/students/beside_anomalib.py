"""Reverse Distillation beside Anomalib's, in one run: the same images, order, weights, optimizer and steps.

`python experiments/students/beside_anomalib.py CATEGORY WEIGHTS [IMAGES [SIDE]] > CSV`: CATEGORY is a folder in the
layout of MVTec AD, WEIGHTS a ResNet-18 of ImageNet up to layer3. 2000 images of 256 px, repetitions counted, in batches
of 8; Adam of the paper, falling to zero; one thread, CPU seconds. All good photos train. Scores: ours the maximum of
the map after the Gaussian, Anomalib's the maximum of its map, which has one inside.

Wants `anomalib` 2, which is no dependency of this project; without it only our row is printed. Its networks, loss and
map are taken, and neither its engine nor its data. Run with 2.7.0.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded

import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from anomaly_lab.core.types import Batch
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.listing import images_in
from anomaly_lab.functional.scores import default_score
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.reverse_distillation import ReverseDistillation
from anomaly_lab.metrics.image_metrics import ranking_metrics
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.pretrained import read

BATCH, LAYERS = 8, ["layer1", "layer2", "layer3"]
ADAM = partial(torch.optim.Adam, lr=5e-3, betas=(0.5, 0.999))


class Trained(NamedTuple):
    """What is compared of a method: its weights, the loss of images in [0, 1], and the scores."""

    network: torch.nn.Module
    weights: list[torch.nn.Parameter]
    loss: Callable[[Tensor], Tensor]
    scores: Callable[[Tensor], Tensor]


def ours(weights: str) -> Trained:
    """The method as configured."""
    backbone = Backbone("resnet18.tv_in1k", LAYERS, weights)
    backbone.load()
    method = ReverseDistillation(WholeImage(), backbone, ADAM, "flattened", "basic", [2, 2, 2], 64)
    return Trained(
        method, list(method.trained()), lambda images: method.losses(Batch.of(images))["loss"],
        lambda images: default_score(method.predict(images).anomaly_map),
    )  # fmt: skip


def anomalibs(weights: str, side: int) -> Trained:
    """Anomalib's, with its own networks, loss and map."""
    from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
    from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
    from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel

    normalise = Backbone("resnet18.tv_in1k", LAYERS).normalise
    model = ReverseDistillationModel("resnet18", (side, side), LAYERS, AnomalyMapGenerationMode.ADD, pre_trained=False)
    found = model.encoder.feature_extractor.load_state_dict(read(Path(weights), "WEIGHTS"), strict=False)
    assert not [name for name in found.missing_keys if "num_batches_tracked" not in name], found.missing_keys
    learnt = [*model.decoder.parameters(), *model.bottleneck.parameters()]
    loss = ReverseDistillationLoss()
    return Trained(
        model, learnt, lambda images: loss(*model(normalise(images))),
        lambda images: model(normalise(images)).anomaly_map.flatten(1).amax(dim=1),
    )  # fmt: skip


def batches(count: int, steps: int) -> Iterator[Tensor]:
    """The rows of every step, the same for both."""
    random, rows = torch.Generator().manual_seed(0), torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(rows) < BATCH:
            rows = torch.cat([rows, torch.randperm(count, generator=random)])
        taken, rows = rows[:BATCH], rows[BATCH:]
        yield taken


def train(method: Trained, images: Tensor, steps: int) -> None:
    """A plain loop."""
    optimizer = ADAM(method.weights)
    method.network.train()
    for number, rows in enumerate(batches(len(images), steps)):
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * (1 + math.cos(math.pi * number / steps)) / 2
        optimizer.zero_grad()
        method.loss(images[rows]).backward()
        optimizer.step()
    method.network.eval()


def main(category: str, weights: str, seen: str = "2000", side: str = "256") -> None:
    """Print a row for each."""
    torch.set_num_threads(1)
    decoding, root = Decoding(int(side), 3), Path(category)

    def decoded(paths: list[Path]) -> Tensor:
        return torch.stack([torch.from_numpy(decoding.read(path)[0]) for path in paths]).float() / 255

    tested = images_in(root / "test")
    photos, tests = decoded(images_in(root / "train")), decoded(tested)
    label = torch.tensor([path.parent.name != "good" for path in tested]).long().numpy()
    made: dict[str, Callable[[], Trained]] = {"ours": lambda: ours(weights)}
    if find_spec("anomalib"):
        made["anomalib"] = lambda: anomalibs(weights, int(side))
    else:
        print("left out: anomalib is not installed", file=sys.stderr)
    print("method,images,side,image_auroc,low,high,fit_cpu_seconds,test_cpu_seconds", flush=True)
    for name, make in made.items():
        torch.manual_seed(0)
        method = make()
        start = time.process_time()
        train(method, photos, max(1, int(seen) // BATCH))
        middle = time.process_time()
        with torch.inference_mode():
            score = torch.cat([method.scores(images) for images in tests.split(BATCH)])
        end = time.process_time()
        found = ranking_metrics(score.numpy(), label)
        figures = ",".join(f"{found[key]:.4f}" for key in ("auroc", "auroc_low", "auroc_high"))
        print(f"{name},{seen},{side},{figures},{middle - start:.1f},{end - middle:.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
