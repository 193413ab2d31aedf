"""Asks flows and controls about groups of images: `python experiments/why_flows_fail/groups.py ROOT RUNS OUT`.

Writes OUT/results.csv, a row for each method and group, and OUT/groups.jpg. A group's AUROC says how often its images
score higher than good test images: .5, they are as likely; below, they are likelier than what the flow was trained on.
"""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.layouts import mvtec_ad
from anomaly_lab.data.listing import images_in
from anomaly_lab.data.samples import Splits, hold_out
from anomaly_lab.inference.detector import Detector, iter_predictions
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.control import Control, Kind
from anomaly_lab.metrics.intervals import auroc_interval
from anomaly_lab.runs.collect import collect

mpl.use("Agg")
from matplotlib import pyplot

Photo = UInt8[np.ndarray, "height width 3"]
OTHERS = {  # other objects, good ones
    "screw": "mvtec_ad_small/screw/test/good", "wood": "wood_boards_256/test/good",
    "concrete": "concrete_crack_700/test/good", "x-ray": "covid19_xray/test/good",
}  # fmt: skip
LIKELIHOOD = "fastflow_likelihood"
CONTROLS: tuple[Kind, ...] = ("pca", "brightness", "sharpness")
TITLES = {
    "pixel_flow": "flow on pixels: bits per dimension",
    LIKELIHOOD: "flow on features: -log likelihood per channel and place",
}
SIDE = 32  # px that the flow on pixels sees
MOST = 40  # images of another object
REFERENCE = "test good"
COLUMNS = ("method", "group", "images", "median_score", "largest_score", "auroc", "auroc_low", "auroc_high", "commit")


def read(path: Path) -> Photo:
    """The middle square of a photo, in colour: padding would tell the groups apart."""
    with Image.open(path) as image:
        side = min(image.size)
        return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side)))


def blurred(photo: Photo) -> Photo:
    """Blurred by a Gaussian whose sigma is a pixel at 32 px."""
    return cv2.GaussianBlur(photo, (0, 0), len(photo) / SIDE, borderType=cv2.BORDER_REPLICATE)


def transistors(root: Path) -> Splits:
    """What the flows are trained on and tested with."""
    return mvtec_ad(str(root / "mvtec_ad_small"), "transistor")


def groups(root: Path) -> dict[str, list[Photo]]:
    """The images of every group. Noise is one number for each pixel at 32 px: finer noise would be gray there."""
    splits = transistors(root)
    _, held_out = hold_out(splits.train, 0.1, 0)
    good, defective = ([read(sample.path) for sample in splits.test if sample.label == label] for label in (0, 1))
    found = {"held-out good": [read(sample.path) for sample in held_out], REFERENCE: good, "defective": defective}
    for name, folder in OTHERS.items():
        found[name] = [read(path) for path in list(images_in(root / folder))[:MOST]]
    found["blurred good"] = [blurred(photo) for photo in good]
    found["constant"] = [np.full((256, 256, 3), min(level, 255), np.uint8) for level in range(0, 257, 32)]
    noise = np.random.default_rng(0).integers(0, 256, (20, SIDE, SIDE, 3), np.uint8)
    found["noise"] = [np.kron(image, np.ones((8, 8, 1), np.uint8)) for image in noise]
    return found


def detectors(root: Path, runs: Path) -> dict[str, Detector]:
    """Both flows, a second reading of fastflow that tells its likelihood, and three controls at 32 px."""
    folders = {run.key.method: run.folder for run in collect([runs])}
    found = {method: Detector.load(folders[method], "cpu") for method in ("pixel_flow", "fastflow")}
    found[LIKELIHOOD] = Detector.load(folders["fastflow"], "cpu")
    found[LIKELIHOOD].method.map = "density"
    small = found["pixel_flow"]
    samples, _ = hold_out(transistors(root).train, 0.1, 0)
    images = torch.stack([torch.from_numpy(small.decoding.read(sample.path)[0]) for sample in samples]) / 255
    for kind in CONTROLS:
        control = Control(WholeImage(), SIDE, 3, kind)
        control.update(images, torch.arange(len(images)))
        control.fit()
        found[kind] = replace(small, method=control.eval())
    return found


def scores(found: dict[str, Detector], photos: list[Photo]) -> Iterator[list[float]]:
    """Of every photo the score of every detector; a likelihood is that of the whole image."""
    with closing(iter_predictions(list(found.values()), photos)) as answers:
        for _, results in answers:
            row = []
            for name, result in zip(found, results, strict=True):
                if isinstance(result, UserError):
                    raise result
                whole = result.prediction.anomaly_map.mean().item()
                row.append(whole if name == LIKELIHOOD else result.score)
            yield row


def draw(names: list[str], table: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """The scores of all images of each group with both flows. No photo: they are not ours to pass on."""
    figure, panels = pyplot.subplots(len(names), 2, figsize=(11, 0.6 * len(names)), layout="constrained", squeeze=False)
    for number, (method, title) in enumerate(TITLES.items()):
        good = table[method][REFERENCE]
        spread = 12 * (np.quantile(good, 0.9) - np.quantile(good, 0.1))
        low, high = np.median(good) - spread, np.median(good) + spread
        for name, panel in zip(names, panels[:, number], strict=True):
            panel.axvspan(good.min(), good.max(), color="0.88")
            panel.plot(table[method][name].clip(low, high), np.zeros(len(table[method][name])), "|", ms=14, alpha=0.6)
            panel.set(xlim=(low - spread / 30, high + spread / 30), yticks=[], ylim=(-1, 1))
            if name != names[-1]:
                panel.set_xticklabels([])
        panels[0, number].set_title(title, fontsize=10)
    for name, panel in zip(names, panels[:, 0], strict=True):
        panel.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85})


def main(root: Path, runs: Path, out: Path) -> None:
    """Ask, write the table, draw the picture."""
    images, asked = groups(root), detectors(root, runs)
    commits = {json.loads((run.folder / "environment.json").read_text())["git"] for run in collect([runs])}
    columns = {name: np.array(list(scores(asked, photos))).T for name, photos in images.items()}
    table = {method: {name: column[number] for name, column in columns.items()} for number, method in enumerate(asked)}
    with (out / "results.csv").open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for method, of_group in table.items():
            good = of_group[REFERENCE]
            for name, found in of_group.items():
                pairs = found[:, None] - good
                auroc = ((pairs > 0) + (pairs == 0) / 2).mean()
                numbers = auroc, *auroc_interval(good, found)
                values = [f"{np.median(found):.4g}", f"{found.max():.4g}", *(f"{number:.3f}" for number in numbers)]
                writer.writerow([method, name, len(found), *values, " ".join(sorted(commits))])
    draw(list(images), table, out / "groups.jpg")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
