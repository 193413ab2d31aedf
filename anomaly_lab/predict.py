"""`python -m anomaly_lab predict`: judge new images with a finished run. Options first, torch when they are right."""

import glob
import os
from itertools import count
from pathlib import Path

from anomaly_lab.data.layouts import images_in
from anomaly_lab.errors import UserError
from anomaly_lab.options import Options, finished_run, parse
from anomaly_lab.run_folder import write_csv

OPTIONS: Options = {
    "run": "the folder of a finished run",
    "source": "a file, folder or glob of images",
    "out": "result folder",
}
USAGE = "predict run=DIR source=FILE|FOLDER|GLOB [out=DIR]"


def main(arguments: list[str]) -> None:
    """Write scores.csv and a picture an image; unreadable files are listed at the end, with exit code 1."""
    options = parse(arguments, USAGE, OPTIONS, needed=("run", "source"))
    if options is None:
        return
    run = finished_run(options["run"])
    source = str(Path(options["source"]).expanduser())
    out = Path(options["out"]).expanduser() if "out" in options else new_folder(run / "predictions", source)
    if file := next((path for path in (out, *out.parents) if path.is_file()), None):
        raise UserError(f"out: expected a folder, found the file {file}")
    judge(run, find(source, out), out)


def judge(run: Path, paths: list[Path], out: Path) -> None:
    """Load the run, judge the images and write what it says."""
    from rich.progress import track

    from anomaly_lab.callbacks.evaluation import Remark, inner_map, tell
    from anomaly_lab.callbacks.pictures import panel, write_picture
    from anomaly_lab.detector import load

    detector = load(run)
    line = detector.threshold
    base = Path(os.path.commonpath([path.parent for path in paths]))
    rows: list[tuple] = []
    unreadable: list[str] = []
    remarks: list[Remark] = []
    steps = -(-len(paths) // detector.batch_size)
    for found, prediction, batch in track(detector.judge(paths, unreadable), "judging", total=steps, transient=True):
        assert prediction.score is not None
        said = zip(found, prediction.remarks, strict=False)  # a method that never remarks has ()
        remarks += [Remark(str(path), text) for path, text in said if text]
        for i, path in enumerate(found):
            score = prediction.score[i].item()
            decision_score = line.decides(inner_map(prediction, batch, i), score)
            decision = "abnormal" if decision_score >= line.image else "normal"
            rows.append((path, score, decision_score, line.image, decision))
            drawn = panel(path.name, i, prediction, batch, side=256, mask=None).draw(0.0, 2 * line.pixel)
            target = out / path.relative_to(base)
            write_picture(target.with_name(f"{target.name}.png"), drawn)
    write_csv(out / "scores.csv", ("path", "score", "decision_score", "threshold", "decision"), rows)
    abnormal = sum(row[-1] == "abnormal" for row in rows)
    print(f"{len(rows)} images judged, {abnormal} abnormal; scores and pictures: {out}")
    tell(remarks)
    if unreadable:
        raise UserError(f"{len(unreadable)} of {len(paths)} files could not be read: {'; '.join(unreadable)}")


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
