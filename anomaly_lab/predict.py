"""`python -m anomaly_lab predict`: judge new images with a finished run, from its folder alone."""

import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import OmegaConf
from rich.progress import track

from anomaly_lab.callbacks.pictures import panel, write_picture
from anomaly_lab.data.datamodule import collate
from anomaly_lab.data.images import Resize, read_working_image
from anomaly_lab.data.layouts import images_in, nearest
from anomaly_lab.data.store import ahead
from anomaly_lab.errors import UserError
from anomaly_lab.methods.method import Method
from anomaly_lab.run import build_method
from anomaly_lab.run_folder import is_finished, write_csv
from anomaly_lab.types import Batch, Prediction

OPTIONS = {"run": "the folder of a finished run", "source": "a file, folder or glob of images", "out": "result folder"}
USAGE = "python -m anomaly_lab predict run=DIR source=FILE|FOLDER|GLOB [out=DIR]"


class Detector(NamedTuple):
    """A trained method with what it needs to read an image and to decide."""

    method: Method
    threshold: float
    image_size: int
    channels: int
    resize: Resize
    batch_size: int
    workers: int


def main(arguments: list[str]) -> None:
    """Write scores.csv and a picture an image; unreadable files are listed at the end, with exit code 1."""
    options = parse(arguments)
    if options is None:
        return
    run = Path(options["run"]).expanduser()
    source = str(Path(options["source"]).expanduser())
    paths = find(source)
    detector = load(run)
    stem = Path(source.rstrip("/")).stem.strip("*?[]. ") or "images"
    out = Path(options.get("out") or run / "predictions" / stem).expanduser()
    base = Path(os.path.commonpath([path.parent for path in paths]))
    rows: list[tuple] = []
    unreadable: list[str] = []
    for found, prediction, batch in track(judge(detector, paths, unreadable), "judging", total=_steps(detector, paths)):
        assert prediction.score is not None
        for i, path in enumerate(found):
            score = prediction.score[i].item()
            decision = "abnormal" if score > detector.threshold else "normal"
            rows.append((path, score, detector.threshold, decision))
            drawn = panel(path.name, i, prediction, batch, side=256, mask=None).draw(0.0, 2 * detector.threshold)
            target = out / path.relative_to(base)
            write_picture(target.with_name(f"{target.name}.png"), drawn)
    write_csv(out / "scores.csv", ("path", "score", "threshold", "decision"), rows)
    abnormal = sum(row[3] == "abnormal" for row in rows)
    print(f"{len(rows)} images judged, {abnormal} abnormal; scores and pictures: {out}")
    if unreadable:
        raise UserError(f"{len(unreadable)} of {len(paths)} files could not be read: {'; '.join(unreadable)}")


def parse(arguments: list[str]) -> dict[str, str] | None:
    """The options of the command; None when only help was wanted."""
    if {"--help", "-h"} & set(arguments):
        print(f"usage: {USAGE}", *(f"  {name}: {text}" for name, text in OPTIONS.items()), sep="\n")
        return None
    options = dict(argument.partition("=")[::2] for argument in arguments)
    for name, value in options.items():
        if name not in OPTIONS or not value:
            raise UserError(f"predict: expected {USAGE}, found {name!r}{nearest(name, OPTIONS)}")
    for name in ("run", "source"):
        if name not in options:
            raise UserError(f"predict: expected {USAGE}, found no {name}=")
    return options


def find(source: str) -> list[Path]:
    """The images that a file, a folder or a glob names, sorted."""
    if Path(source).is_dir():
        paths = images_in(Path(source))
    elif Path(source).is_file():
        paths = [Path(source)]
    else:
        paths = sorted(Path(path) for path in glob.glob(source, recursive=True) if Path(path).is_file())
    if not paths:
        raise UserError(f"source: expected an image file, a folder or a glob of images, found none at {source}")
    return paths


def load(run: Path) -> Detector:
    """Rebuild the method of a run from its configuration and checkpoint."""
    if not is_finished(run):
        raise UserError(f"run: expected the folder of a finished run (with job.json, state done), found {run}")
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    data = {name: config.data[name] for name in ("image_size", "channels", "resize", "test_batch_size", "workers")}
    method = build_method({"method": OmegaConf.to_container(config.method, resolve=True)})
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    method.load_state_dict(checkpoint["state_dict"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threshold = json.loads((run / "metrics.json").read_text())["threshold"]
    return Detector(method.eval().to(device), threshold, *data.values())


def judge(
    detector: Detector, paths: list[Path], unreadable: list[str]
) -> Iterator[tuple[list[Path], Prediction, Batch]]:
    """Predictions a batch at a time; what cannot be read is appended to `unreadable` and left out."""

    def read(path: Path) -> Batch | UserError:
        try:
            image, placement = read_working_image(path, detector.image_size, detector.channels, detector.resize)
        except UserError as error:
            return error
        unknown = torch.tensor([-1])
        return Batch(torch.from_numpy(image)[None].float() / 255, (), unknown, unknown, (placement,))

    for start in range(0, len(paths), detector.batch_size):
        chunk = paths[start : start + detector.batch_size]
        answers = list(zip(chunk, ahead(read, chunk, detector.workers), strict=True))
        unreadable += [str(answer) for _, answer in answers if isinstance(answer, UserError)]
        good = [(path, answer) for path, answer in answers if isinstance(answer, Batch)]
        if good:
            batch = collate([answer for _, answer in good])
            with torch.inference_mode():
                prediction = detector.method(batch.image.to(detector.method.device), batch.placement)
            yield [path for path, _ in good], prediction, batch


def _steps(detector: Detector, paths: list[Path]) -> int:
    return -(-len(paths) // detector.batch_size)
