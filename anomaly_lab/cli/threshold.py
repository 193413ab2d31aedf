"""`python -m anomaly_lab threshold`: set the threshold of a finished run from other normal images, without training."""

import shlex
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from anomaly_lab.cli.options import TRUST, Options, packages, parse
from anomaly_lab.config.check import check_node
from anomaly_lab.config.files import CONF
from anomaly_lab.config.schema import own_line
from anomaly_lab.core.console import tracked
from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.core.remarks import RemarkCounter
from anomaly_lab.data.class_folders import GOOD_IN_SPITE, folder_of_defects, masks_beside
from anomaly_lab.data.listing import images_in
from anomaly_lab.data.names import is_good, speaks_of_defects
from anomaly_lab.runs.lookup import finished_run

if TYPE_CHECKING:  # torch takes seconds: mistakes are answered before
    from anomaly_lab.data.seen import Seen
    from anomaly_lab.runs.stored import StoredRun

OPTIONS: Options = {
    "run": "the folder of a finished run",
    "normals": "a folder of normal images that were not trained on",
    "threshold": "the rule: area, max, quantile, sigma, false_alarms, train_percentile or own, with its keys "
    "(threshold.rate=0.05); default: the rule of the run",
    **TRUST,
}
USAGE = "threshold run=DIR normals=FOLDER [threshold=NAME] [threshold.KEY=VALUE ...]"


def main(arguments: list[str]) -> None:
    """Append a threshold to the run's `threshold.json`: it counts from now on, earlier ones stay."""
    options = parse(arguments, USAGE, OPTIONS, needed=("run", "normals"))
    if options is None:
        return
    run = finished_run(options["run"])
    paths = normals_in(Path(options["normals"]).expanduser())

    from anomaly_lab.runs.stored import open_run  # and torch with it

    stored = open_run(str(run))
    paths = unseen(paths, stored.seen)
    draw(stored, paths, rule_config(stored.rule, options, stored.method["method"]), packages(options))


def normals_in(folder: Path) -> list[Path]:
    """The photos below a folder; prints what is left out.

    Raises UserError where there are none, and where names speak of defects or masks among them.
    """
    remarks = RemarkCounter()
    paths = images_in(folder, remarks.add) if folder.is_dir() else []
    if not paths:
        for line in remarks.lines():
            print(f"normals: {line}")
        raise UserError(f"normals: expected a folder of normal images, found none at {folder}")
    for path in (folder, *paths):
        if speaks_of_defects(path.stem):
            remarks.add(GOOD_IN_SPITE, path)
    for line in remarks.lines():
        print(f"normals: {line}")
    if beside := masks_beside(paths):
        photo, mask = next(iter(beside.items()))
        raise UserError(f"normals: expected normal images alone, found {mask}, which may be the mask of {photo.name}")
    below = {folder / parent for path in paths for parent in path.relative_to(folder).parents} - {folder}
    good = [] if is_good(folder.name) else sorted(each for each in below if is_good(each.name))
    if any(each.name.isdigit() and each.name not in {"0", "1"} for each in below):  # cameras or days, not labels
        good = [each for each in good if each.name != "0"]
    beside = [each for each in sorted(below) if each not in good]
    other = next((each for each in beside for one in good if each.parent == one.parent), None)
    if found := folder_of_defects(folder, paths) or other:
        hint = f"type {shlex.quote(f'normals={good[0]}')}" if good else "take it out, or rename it"
        raise UserError(f"normals: expected normal images alone in {folder}, found the folder {found}; {hint}")
    return paths


def unseen(paths: list[Path], seen: "Seen | None") -> list[Path]:
    """The files that the run has neither trained on nor tested, each content once; prints the others.

    Raises UserError if none is left.
    """
    from anomaly_lab.data.seen import names_of

    names = names_of(paths)
    copies, first = RemarkCounter(), dict[str, Path]()
    for path, name in zip(paths, names, strict=True):
        if first.setdefault(name, path) != path:
            copies.add(f"of {len(paths)} files left out as byte copies of others, which count once", path)
    for line in copies.lines():
        print(f"normals: {line}")
    names, paths = list(first), list(first.values())
    if seen is None:
        print("normals: the run has kept nothing of its photos: it cannot be told whether these are new to it")
    for done, known in (("trained on", seen.trained), ("tested", seen.tested)) if seen else ():
        remarks = RemarkCounter()
        for path, name in zip(paths, names, strict=True):
            if name in known:
                remarks.add(f"of {len(paths)} files left out, because the run has {done} them", path)
        for line in remarks.lines():
            print(f"normals: {line}")
    left = [path for path, name in zip(paths, names, strict=True) if not seen or name not in seen.trained | seen.tested]
    if not left:
        raise UserError(f"normals: expected images that are new to the run, found {len(paths)} that it has seen")
    return left


def rule_config(rule: dict[str, Any], options: dict[str, str], method: dict[str, Any]) -> dict[str, Any]:
    """The checked configuration of the threshold rule: that of the run or the requested one, with changed keys."""
    if name := options.get("threshold"):
        known = sorted(path.stem for path in (CONF / "threshold").glob("*.yaml"))
        if name not in known:
            raise UserError(f"threshold: expected one of {', '.join(known)}, found {name!r}{nearest(name, known)}")
        config = OmegaConf.load(CONF / "threshold" / f"{name}.yaml")
        if "line" in config:
            config.line = own_line(method)
    else:
        config = OmegaConf.create(rule)
    changes = [f"{key.partition('.')[2]}={value}" for key, value in options.items() if key.startswith("threshold.")]
    try:
        config = OmegaConf.merge(config, OmegaConf.from_dotlist(changes))
    except Exception as error:  # of the YAML parser: its classes are not ours to name
        raise UserError(f"threshold: expected KEY=VALUE, found {' '.join(changes)}") from error
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    if "images" in resolved and "threshold.images" not in options:
        resolved["images"] = "held_out"  # these images are new, whichever images the run has used
    check_node("threshold", resolved)
    return resolved


def draw(stored: "StoredRun", paths: list[Path], config: dict[str, Any], trust: list[str]) -> None:
    """Score the images with the run, then compute and write the threshold."""
    from anomaly_lab.config.build import build
    from anomaly_lab.inference.detector import Detector, iter_predictions
    from anomaly_lab.metrics.thresholds import ThresholdRule
    from anomaly_lab.runs.folder import write_threshold

    detector, rule = Detector.of(stored, trust=trust), build(config, ThresholdRule, "threshold", trust)
    unreadable: list[str] = []
    with closing(tracked(iter_predictions([detector], paths), "scoring", total=len(paths))) as results:
        for _, (result,) in results:
            if isinstance(result, UserError):
                unreadable.append(str(result))
            else:
                rule.update(result.inner_map(), result.score)
    if unreadable:
        raise UserError(
            f"{len(unreadable)} of {len(paths)} files could not be read, nothing changed: {'; '.join(unreadable)}"
        )
    old, new = detector.threshold, rule.compute()
    write_threshold(stored.folder, new._asdict())
    print(
        f"threshold: {new.image:.6g} ({new.name}, {new.normals} images) replaces {old.image:.6g} ({old.name}, "
        f"{old.normals} images); `predict` uses the new one, metrics.json keeps the metrics at the tested one"
    )
    for line in new.lines():
        print(f"threshold: {line}")
