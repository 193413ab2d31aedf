"""Fit and test of PatchCore and PaDiM beside their bare network, on real photos: seconds and memory.

`python experiments/speed/fit.py PHOTOS WEIGHTS [METHOD] > experiments/speed/fit.csv`: 209 photos of 256 px for the fit,
one by one, 40 of them for the test, in batches of 8, ResNet-18, PatchCore with 1 % of the patches. One thread, CPU
seconds, in turns in one process; seconds are medians of three, `ratio` is the median of their ratios to the network.

`memory`: the growth of a process over the fit, by the operating system (VmHWM), beside the rows that are kept of all
images and the images of one batch of eight.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # read when the libraries are loaded

import statistics
import subprocess
import sys
from pathlib import Path

import torch
from coreset import SIDE, images_of, patchcore, seconds

from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.padim import PaDiM
from anomaly_lab.networks.backbone import Backbone

COUNT, TESTED, BATCH = 209, 40, 8
AIMS = {"patchcore": 1.5, "padim": 1.2}


def padim(weights: str) -> PaDiM:
    """The method as configured."""
    backbone = Backbone("resnet18.tv_in1k", ["stride4", "stride8", "stride16"], weights)
    backbone.load()
    return PaDiM(WholeImage(), backbone, SIDE, 100, 0.01, 64.0, seed=0)


def fit(method: FittedMethod, images: torch.Tensor) -> None:
    """See all images and fit."""
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        method.update(part.float() / 255, torch.arange(start, start + len(part)))
    method.fit()


def network(method: FittedMethod, images: torch.Tensor) -> None:
    """The maps of each image."""
    for image in images.split(1):
        method.backbone(image.float() / 255)


def answer(method: FittedMethod, images: torch.Tensor, predict: bool = True) -> None:
    """The answer for batches of images, or the maps."""
    for batch in images.split(BATCH):
        (method.predict if predict else method.backbone)(batch.float() / 255)


def kib_of(name: str) -> int:
    """A figure of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(name + ":")))


def growth(method: FittedMethod, images: torch.Tensor) -> float:
    """MiB by which this process grows over the fit."""
    network(method, images[:BATCH])
    fit(method, images[:2])  # compiles
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = kib_of("VmRSS")
    fit(method, images)
    return (kib_of("VmHWM") - before) / 1024


def timed(name: str, method: FittedMethod, images: torch.Tensor) -> None:
    """Print the rows of fit and test."""
    network(method, images[:TESTED])
    fit(method, images[:2])  # compiles
    turns = []
    for _ in range(3):
        bare, whole = seconds(network, method, images), seconds(fit, method, images)
        maps = seconds(answer, method, images[:TESTED], False)
        turns.append((bare, whole, maps, seconds(answer, method, images[:TESTED])))
    for what, i, aim in (("fit", 0, AIMS[name]), ("test", 2, 1.3)):
        bare, whole = (statistics.median(turn[i + k] for turn in turns) for k in (0, 1))
        ratio = statistics.median(turn[i + 1] / turn[i] for turn in turns)
        print(f"{what},{name},{whole:.2f} s,{bare:.2f} s,{ratio:.2f},{aim}", flush=True)


def main(folder: str, weights: str, *names: str) -> None:
    """Print the rows of these methods; after `growth`, the growth of one of them only."""
    torch.set_num_threads(1)
    methods = {"patchcore": patchcore, "padim": padim}
    images = (images_of(folder, COUNT) * 255).round().to(torch.uint8)
    with torch.inference_mode():
        if names[:1] == ("growth",):
            print(growth(methods[names[1]](weights), images))
            return
        print(f"# threads 1, load {os.getloadavg()[0]:.1f}, {COUNT} images, {TESTED} tested")
        print("what,method,ours,network_or_rows_and_batch,ratio,aim", flush=True)
        for name in names or methods:
            timed(name, methods[name](weights), images)
    for name, numbers in (("patchcore", 1024 * 384), ("padim", 4096 * 100)):
        if name in (names or methods):
            command = [sys.executable, __file__, folder, weights, "growth", name]
            grown = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            rows = 4 * (COUNT * numbers + BATCH * 3 * SIDE**2) / 2**20
            aim = 1.3 if name == "patchcore" else ""
            print(f"memory,{name},{grown:.0f} MiB,{rows:.0f} MiB,{grown / rows:.2f},{aim}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
