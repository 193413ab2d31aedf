"""`python -m anomaly_lab predict`: score new images with finished runs. Checks the options before it imports torch."""

from contextlib import ExitStack, suppress
from pathlib import Path

from anomaly_lab.cli.options import TRUST, Options, packages, parse, switch
from anomaly_lab.core.console import say
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.lock import lock
from anomaly_lab.data.listing import holds_results
from anomaly_lab.inference.sources import base_of, claim_folder, find, new_folder, result
from anomaly_lab.runs.collect import key_at
from anomaly_lab.runs.lookup import finished_runs

OPTIONS: Options = {
    "run": "the folder of a finished run; several (commas, wildcards, or a folder above them) are compared",
    "source": "a file, folder or glob of images",
    "out": "result folder; default: in predictions/ of the run, for several runs in predictions/ here",
    "maps": "true: write anomaly maps too, as float32 TIFF of the size of the photo",
    "pictures": "false: write no pictures",
    **TRUST,
}
USAGE = "predict run=DIR[,DIR...] source=FILE|FOLDER|GLOB [out=DIR] [maps=true] [pictures=false]"


def main(arguments: list[str]) -> None:
    """Write scores.csv, one picture per image, and maps; unreadable files are named at the end, with exit code 1."""
    options = parse(arguments, USAGE, OPTIONS, needed=("run", "source"))
    if options is None:
        return
    maps, pictures = switch(options, "maps", False), switch(options, "pictures", True)
    runs = finished_runs(options["run"])
    if "://" in options["source"]:
        raise UserError(f"source: expected a path on this machine, found {options['source']}; download it first")
    source = str(Path(options["source"]).expanduser())
    default = runs[0] / "predictions" if len(runs) == 1 else Path("predictions")
    out = Path(options["out"]).expanduser() if "out" in options else new_folder(default, source)
    if file := next((path for path in (out, *out.parents) if path.is_file()), None):
        raise UserError(f"out: expected a folder, found the file {file}")
    if not holds_results(out):
        for name in ("scores.csv", "unreadable.csv", "predictions.html"):
            if (out / name).exists():
                raise UserError(
                    f"out: expected a new folder or one of predict, found {out / name}, a file of another kind"
                )
    base, unlisted = base_of(source), list[OSError]()
    photos = find(source, out, unlisted.append)

    from anomaly_lab.inference.detector import Detector
    from anomaly_lab.inference.results import write_results
    from anomaly_lab.metrics.thresholds import guarantee
    from anomaly_lab.report.predictions import write_predictions

    names = short_names(runs)
    if len(runs) > 1:
        print(f"{len(runs)} runs: {', '.join(f'{name} ({run})' for name, run in zip(names, runs, strict=True))}")
    detectors = {name: Detector.load(run, trust=packages(options)) for name, run in zip(names, runs, strict=True)}
    protocols = {name: knows(run) for name, run in zip(names, runs, strict=True)}
    for name, sentence in protocols.items():
        if sentence:
            say(sentence if len(runs) == 1 else f"{name}: {sentence}")
    if "out" not in options:
        out = claim_folder(default, source)
    with ExitStack() as turns:
        with suppress(OSError):  # whoever writes the first file says so
            turns.enter_context(
                lock(out / ".lock", lambda _: say(f"out: another process predicts into {out}, waiting"))
            )
        try:
            write_results(detectors, photos, base, out, maps, pictures, unlisted)
        finally:  # photos that cannot be read are an error at the end, beside a whole result
            if (out / "scores.csv").is_file():
                supported = {
                    name: f"{guarantee(found.threshold.name, found.threshold.normals)} {protocols[name]}".strip()
                    for name, found in detectors.items()
                }
                page = write_predictions(out, lambda photo: result(out / "pictures", photo, base, ".png"), supported)
                if page:
                    say(f"page: {page}")


def knows(run: Path) -> str:
    """A sentence on a run that was allowed to know more than good photos; "" for others."""
    from anomaly_lab.runs.collect import read

    protocol = read(run, run).protocol.replace("_", " ")
    return f"The run is {protocol}: it has learnt from known defective photos, too." if protocol else ""


def short_names(runs: list[Path]) -> list[str]:
    """Short names of runs for tables, folders and pictures: the method, plus what else is needed to be unique.

    That is the first of category, data, seed, name and hash that distinguish them, else their number.
    """
    keys = [key_at(run) for run in runs]
    columns = [
        [key.category for key in keys],
        [key.dataset for key in keys],
        [f"seed={key.seed}" for key in keys],
        [key.name for key in keys],
        [run.resolve().name for run in runs],
        [str(number) for number in range(1, len(runs) + 1)],
    ]
    names = [key.method for key in keys]
    for column in columns:
        if len(set(names)) == len(names):
            break
        if len(set(column)) > 1:
            names = [f"{name}-{value}" for name, value in zip(names, column, strict=True)]
    return [name.replace("/", "-") for name in names]
