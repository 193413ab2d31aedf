"""The results of `predict` per photo: a row in a table, a picture, a map. Memory does not grow with their number."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomaly_lab.core.console import printable, say, tracked
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import growing_csv
from anomaly_lab.core.remarks import NAMED, RemarkCounter
from anomaly_lab.core.types import Batch
from anomaly_lab.data.images import Decoding
from anomaly_lab.evaluation.drawing import SIDE, WHITE, beside, captioned, panel, write_map, write_picture
from anomaly_lab.evaluation.plausibility import FEWEST
from anomaly_lab.inference.detector import Decision, Detector, ImageResult, iter_predictions, read_batch
from anomaly_lab.inference.sources import result
from anomaly_lab.metrics.thresholds import guarantee

SCORES = ("path", "run", "score", "decision_score", "threshold", "decision", "remark")
UNREADABLE = ("path", "run", "reason")
LISTED = 20  # photos up to which each is printed
ROUNDED = 2  # seconds to which some disks round times


class RunResult(NamedTuple):
    """The output of a run's method for a photo, and its decision."""

    judged: ImageResult
    decision: Decision


class Summary:
    """The summary after any number of photos: counts, and the first few errors."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.seen = 0
        self.judged = 0  # photos scored by at least one run
        self.failed = 0  # photos that at least one run could not read
        self.abnormal: Counter[str] = Counter()  # by run
        self.ends: dict[str, tuple[float, float]] = {}  # the lowest and the highest score, by run
        self.remarks = RemarkCounter()
        self.reasons: list[str] = []
        self.lines: list[str] = []  # of the first photos, one a photo and run

    def add(self, path: Path, verdicts: Mapping[str, RunResult], errors: Mapping[str, str]) -> None:
        """Count a photo with its results and errors by run."""
        self.seen += 1
        self.judged += bool(verdicts)
        self.failed += bool(errors)
        for run, verdict in verdicts.items():
            self.abnormal[run] += verdict.decision.is_abnormal
            score = verdict.decision.score
            low, high = self.ends.get(run, (score, score))
            self.ends[run] = min(low, score), max(high, score)
            if self.seen <= LISTED:
                word = "abnormal" if verdict.decision.is_abnormal else "normal"
                of_run = f"  {run}" if self.runs > 1 else ""
                self.lines.append(f"{word:8}  {verdict.decision.decision_score:.4g}{of_run}  {printable(str(path))}")
            if remark := verdict.judged.remark:
                self.remarks.add(remark if self.runs == 1 else f"{remark} ({run})", path)
        self.note(*errors.values())

    def note(self, *reasons: str) -> None:
        """Keep the first few reasons."""
        new = [printable(reason) for reason in dict.fromkeys(reasons)]
        self.reasons = (self.reasons + [reason for reason in new if reason not in self.reasons])[:NAMED]


def write_results(
    detectors: dict[str, Detector],
    photos: Iterable[Path],
    base: Path,
    out: Path,
    maps: bool,
    pictures: bool,
    unlisted: Sequence[OSError] = (),
) -> None:
    """Predict every photo with every detector (by name), and write the results below `out`, in the tree of `base`.

    `scores.csv` has one row per photo and run, `unreadable.csv` one per photo that a run cannot read. Both are called
    `.part` until all is done, and stay so if it ends early. Raises UserError at the end if photos could not be read or
    folders not listed (`unlisted`, which grows while `photos` are found).
    """
    summary, used_before = Summary(len(detectors)), any((out / name).is_dir() for name in ("pictures", "maps"))
    scores, unreadable = out / "scores.csv", out / "unreadable.csv"
    try:
        with (
            growing_csv(scores, SCORES) as add,
            growing_csv(unreadable, UNREADABLE) as add_unreadable,
            closing(tracked(iter_predictions(list(detectors.values()), photos), "scoring")) as predictions,
        ):
            started = unreadable.with_name(f"{unreadable.name}.part").stat().st_mtime  # the disk may be elsewhere
            for path, answer in predictions:
                by_run = list(zip(detectors, answer, strict=True))
                errors = {run: str(one) for run, one in by_run if isinstance(one, UserError)}
                judged = {run: one for run, one in by_run if isinstance(one, ImageResult)}
                verdicts = {run: RunResult(one, detectors[run].decision(one)) for run, one in judged.items()}
                for run, reason in errors.items():
                    add_unreadable((path, run, reason))
                for run, (one, decision) in verdicts.items():
                    word = "abnormal" if decision.is_abnormal else "normal"
                    threshold = detectors[run].threshold.image
                    add((path, run, decision.score, decision.decision_score, threshold, word, one.remark))
                    if maps and detectors[run].method.localises:
                        folder = out / "maps" / run if len(detectors) > 1 else out / "maps"
                        write_map(result(folder, path, base, ".tiff"), one.photo_map())
                if pictures and verdicts:
                    write_picture(result(out / "pictures", path, base, ".png"), picture(path, detectors, verdicts))
                summary.add(path, verdicts, errors)
            for error in unlisted:
                reason = f"expected a folder that can be read, found: {error.strerror}"
                add_unreadable((error.filename, "", reason))
                summary.note(f"{error.filename}: {reason}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: {summary.judged} images scored, see {scores}.part; the same command starts again"
        ) from None
    for line in summary.lines if summary.seen <= LISTED else ():
        say(line)
    counts = [f"{summary.abnormal[run]} abnormal{f' for {run}' if len(detectors) > 1 else ''}" for run in detectors]
    any_scored = summary.judged > 0
    without = [run for run, detector in detectors.items() if maps and not detector.method.localises]
    with_maps = maps and any_scored and len(without) < len(detectors)
    written = ["scores", *["pictures"] * (pictures and any_scored), *["maps"] * with_maps]
    say(f"{summary.judged} images scored, {', '.join(counts)}; {' and '.join(written)}: {out}")
    if without:
        say(f"maps: none of {', '.join(without)}, whose method has one number a photo and no map")
    if used_before and (older := earlier(out, started)):
        say(f"out: {older} pictures or maps in {out} are of an earlier predict; a new folder has none")
    for remark in summary.remarks.lines():
        say(remark)
    for run, detector in detectors.items():
        promise = guarantee(detector.threshold.name, detector.threshold.normals)
        same = equal_scores(summary.ends.get(run), summary.judged)
        for line in filter(None, (doubt(summary.abnormal[run], summary.judged), same, promise)):
            say(f"{run}: " * (len(detectors) > 1) + line)
    if not summary.reasons:
        unreadable.unlink()
        return
    folders = f" and {len(unlisted)} folders" if unlisted else ""
    raise UserError(
        f"{summary.failed} of {summary.seen} files{folders} could not be read, see {unreadable}: "
        f"{'; '.join(summary.reasons)}"
    )


def earlier(out: Path, started: float) -> int:
    """How many pictures and maps below `out` were written before a time, in seconds since 1970, by the clock there."""
    older = 0
    for path in chain((out / "pictures").rglob("*.png"), (out / "maps").rglob("*.tiff")):
        with suppress(OSError):  # removed meanwhile
            older += path.stat().st_mtime < started - ROUNDED
    return older


def equal_scores(ends: tuple[float, float] | None, photos: int) -> str:
    """A line about several photos with one score, "" for others."""
    if ends is None or photos < FEWEST or ends[0] < ends[1]:
        return ""
    return (
        f"All {photos} photos have the same score, {ends[0]:.6g}: the method cannot tell them apart; look at the maps."
    )


def doubt(abnormal: int, photos: int) -> str:
    """A question about three photos or more that are all abnormal, "" for others."""
    if abnormal < photos or photos < 3:
        return ""
    return (
        f"All {photos} photos are abnormal: are they of the same kind of part, light and camera as the training photos?"
    )


def picture(path: Path, detectors: Mapping[str, Detector], verdicts: Mapping[str, RunResult]) -> np.ndarray:
    """The picture of a photo, RGB, with captions. Regions above the pixel threshold of a run are outlined.

    One run: photo, reconstruction, map, outlines. Several runs: the photo, then the outlines of each run. Maps are
    coloured from 0 to twice the pixel threshold. The photo has its colours, whatever the method sees.
    """
    panels, coloured = {}, dict[Decoding, Batch | UserError]()
    for run, (judged, decision) in verdicts.items():
        batch, threshold = judged.batch, detectors[run].threshold
        if batch.image.shape[1] == 1:
            decoding = replace(detectors[run].decoding, channels=3)
            if decoding not in coloured:
                coloured[decoding] = read_batch(path, decoding)
            again = coloured[decoding]
            batch = batch if isinstance(again, UserError) else again
        about = path.name, 0, judged.prediction, batch, SIDE, None, threshold, decision.decision_score
        panels[run] = panel(*about, localises=detectors[run].method.localises)
        if len(detectors) == 1:
            return panels[run].captioned(0.0, 2 * threshold.pixel)
    photo = next(iter(panels.values())).image
    tiles = [captioned(photo, [printable(path.name), "", ""], SIDE, WHITE)]
    for run, detector in detectors.items():
        if run not in verdicts:
            tiles.append(captioned(np.zeros_like(photo), [run, "cannot read this photo", ""], SIDE, WHITE))
            continue
        tile = panels[run].outlined(0.0, 2 * detector.threshold.pixel)
        tiles.append(captioned(tile, [run, *panels[run].decision], SIDE, panels[run].color))
    return beside(tiles)
