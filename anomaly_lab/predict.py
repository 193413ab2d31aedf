"""`python -m anomaly_lab predict`: judge new images with a finished run. Options first, torch when they are right."""

import glob
import os
from itertools import count
from pathlib import Path

from anomaly_lab.data.layouts import images_in, nearest
from anomaly_lab.errors import UserError
from anomaly_lab.run_folder import is_finished, write_csv

OPTIONS = {"run": "the folder of a finished run", "source": "a file, folder or glob of images", "out": "result folder"}
USAGE = "python -m anomaly_lab predict run=DIR source=FILE|FOLDER|GLOB [out=DIR]"


def main(arguments: list[str]) -> None:
    """Write scores.csv and a picture an image; unreadable files are listed at the end, with exit code 1."""
    options = parse(arguments)
    if options is None:
        return
    run = Path(options["run"]).expanduser()
    if not is_finished(run):
        raise UserError(f"run: expected the folder of a finished run (with job.json, state done), found {run}")
    source = str(Path(options["source"]).expanduser())
    out = Path(options["out"]).expanduser() if "out" in options else new_folder(run / "predictions", source)
    judge(run, find(source, out), out)


def judge(run: Path, paths: list[Path], out: Path) -> None:
    """Load the run, judge the images and write what it says."""
    from rich.progress import track

    from anomaly_lab.callbacks.pictures import panel, write_picture
    from anomaly_lab.detector import load

    detector = load(run)
    base = Path(os.path.commonpath([path.parent for path in paths]))
    rows: list[tuple] = []
    unreadable: list[str] = []
    steps = -(-len(paths) // detector.batch_size)
    for found, prediction, batch in track(detector.judge(paths, unreadable), "judging", total=steps, transient=True):
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
    options = {}
    for argument in arguments:
        name, equals, options[name] = argument.partition("=")
        if not equals or not options[name]:
            raise UserError(f"predict: expected {USAGE}, found {argument!r} without a value")
        if name not in OPTIONS:
            raise UserError(f"predict: expected {USAGE}, found {name!r}{nearest(name, OPTIONS)}")
    for name in ("run", "source"):
        if name not in options:
            raise UserError(f"predict: expected {USAGE}, found no {name}=")
    return options


def new_folder(parent: Path, source: str) -> Path:
    """A folder named after the source that is not there yet: nothing that was judged before is overwritten."""
    stem = Path(source).stem.strip("*?[]. ") or "images"
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(parent / name for name in names if not (parent / name).exists())


def find(source: str, out: Path) -> list[Path]:
    """The images that a file, a folder or a glob names, sorted, without those that an earlier call wrote to `out`."""
    if Path(source).is_dir():
        paths = images_in(Path(source))
    elif Path(source).is_file():
        paths = [Path(source)]
    else:
        paths = sorted(Path(path) for path in glob.glob(source, recursive=True) if Path(path).is_file())
    paths = [path for path in paths if out.resolve() not in path.resolve().parents]
    if not paths:
        raise UserError(f"source: expected an image file, a folder or a glob of images, found none at {source}")
    return paths
