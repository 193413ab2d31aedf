"""Which learning rate does STFPM need in few epochs? The loss of held-out good images after four, for twelve settings.

`python experiments/students/rates.py PHOTOS WEIGHTS > experiments/students/rates.csv`: every tenth of the photos in the
folder PHOTOS is held out; 128 px, cosine to zero, one thread. No defective photo is read.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded

import math
import sys
import time
from functools import partial
from pathlib import Path

import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.listing import images_in
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.stfpm import STFPM
from anomaly_lab.networks.backbone import Backbone

LAYERS = ["layer1", "layer2", "layer3"]
EPOCHS = 4
SETTINGS = [
    ("SGD", 0.4, 8), ("SGD", 0.4, 4), ("SGD", 1.6, 8), ("SGD", 1.6, 4), ("SGD", 4, 8), ("SGD", 4, 4), ("SGD", 4, 2),
    ("SGD", 10, 8), ("SGD", 10, 4), ("Adam", 1e-3, 8), ("Adam", 5e-3, 8), ("Adam", 5e-3, 4),
]  # fmt: skip
MORE = {"SGD": {"momentum": 0.9, "weight_decay": 1e-4}, "Adam": {}}


def trained(optimizer: str, rate: float, batch_size: int, images: torch.Tensor, weights: str) -> STFPM:
    """The method after so many epochs."""
    torch.manual_seed(0)
    teacher = Backbone("resnet18.tv_in1k", LAYERS, weights)
    teacher.load()
    factory = partial(getattr(torch.optim, optimizer), lr=rate, **MORE[optimizer])
    method = STFPM(WholeImage(), teacher, Backbone("resnet18.tv_in1k", LAYERS, trainable=True), factory).train()
    steps = factory(method.student.parameters())
    done, count = 0, EPOCHS * (len(images) // batch_size)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images))[: len(images) // batch_size * batch_size].split(batch_size):
            for group in steps.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * done / count)) / 2
            steps.zero_grad()
            method.losses(Batch.of(images[rows]))["loss"].backward()
            steps.step()
            done += 1
    return method.eval()


def main(photos: str, weights: str) -> None:
    """Print a row a setting."""
    torch.set_num_threads(1)
    decoding = Decoding(128, 3, "pad")
    images = torch.stack([torch.from_numpy(decoding.read(path)[0]) for path in images_in(Path(photos))]).float() / 255
    held_out, rest = images[::10], images[torch.arange(len(images)) % 10 > 0]
    print("optimizer,rate,batch_size,held_out_loss,cpu_seconds")
    for optimizer, rate, batch_size in SETTINGS:
        start = time.process_time()
        method = trained(optimizer, rate, batch_size, rest, weights)
        with torch.no_grad():
            loss = method.losses(Batch.of(held_out))["loss"].item()
        print(f"{optimizer},{rate:g},{batch_size},{loss:.4f},{time.process_time() - start:.0f}", flush=True)


main(*sys.argv[1:])
