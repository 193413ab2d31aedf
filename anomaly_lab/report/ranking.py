"""Which method is better than which, on the same photos: figures with intervals, ties, and the one to take.

Every figure is resampled over photos, with the same resamples for all methods (`metrics.bootstrap`). One method is
better than another only where the interval of the difference leaves zero; anything else is a tie. Resamples of one
photo, and of photos that are all in order, are all alike and say nothing: then image AUROC has the intervals of
`metrics.intervals`, as in `compare`, painted defects that are all found have what so few photos cannot exclude, and
anything else is unknown.
"""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from statistics import fmean
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

import numpy as np

from anomaly_lab.core.errors import UserError
from anomaly_lab.metrics.bootstrap import aupro, auroc, interval, resamples
from anomaly_lab.metrics.intervals import auroc_difference, auroc_interval
from anomaly_lab.report.synthetic_scores import GOOD, synthetic_scores
from anomaly_lab.runs.collect import Run

Basis = Literal["labels", "synthetic"]
MEASURES: dict[Basis, tuple[str, ...]] = {"labels": ("image_auroc", "pixel_aupro"), "synthetic": ("synthetic_auroc",)}
IMAGE_LEVEL = ("control_brightness", "control_sharpness")  # darker is as easy to detect as brighter
Resampled = np.ndarray  # (resample,), with the value of the photos themselves before them; nan: they say nothing


class Figure(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Resampled) -> "Figure":
        """From the value of the photos and those of the resamples behind it."""
        return cls(float(values[0]), *interval(values[1:]))


@dataclass
class Contender:
    """A method of the portfolio and its runs, one per data set; none where it failed or was left out."""

    name: str
    runs: list[Run] = field(default_factory=list)
    state: str = "done"  # done, failed, left out
    note: str = ""  # why it has no result
    minutes: float = math.nan  # of its runs

    @property
    def is_control(self) -> bool:
        """Whether a method must beat it."""
        return bool(self.runs) and self.runs[0].key.method.startswith("control_")

    @property
    def seconds(self) -> float:
        """Seconds per photo of the method alone, the mean over the data sets; nan if a run does not say."""
        return fmean(run.metrics.get("predict_seconds_per_image", math.nan) for run in self.runs)

    @property
    def slowness(self) -> float:
        """By which the fastest comes first, and the unknown last."""
        return math.inf if math.isnan(self.seconds) else self.seconds


class Standing(NamedTuple):
    """The place of a method."""

    contender: Contender
    figures: dict[str, Figure]
    behind: dict[str, Figure]  # the leader of the measure less this one; 0 for the leader itself
    above_control: dict[str, Figure]  # this one less the strongest control
    below_first: dict[str, Figure]  # the first one less this one
    tied: bool = False  # with the first one
    unsure: bool = False  # not worse than the highest, and not above the control, as others are

    @property
    def beats_control(self) -> bool:
        """Whether a figure is above that of the strongest control, beyond chance."""
        return any(figure.low > 0 for figure in self.above_control.values())

    @property
    def exceeds_first(self) -> list[str]:
        """The measures in which it is better than the first one, beyond chance."""
        return [name for name, figure in self.below_first.items() if figure.high < 0]

    @property
    def is_worse(self) -> bool:
        """Whether some measure shows the first one to be better, beyond chance, and none the contrary."""
        return any(figure.low > 0 for figure in self.below_first.values()) and not self.exceeds_first


class Ranking(NamedTuple):
    """All methods with a result, the one to take first; controls behind them."""

    basis: Basis
    standings: list[Standing]
    controls: list[Standing]
    kinds: tuple[str, ...]  # of painted defects that were compared

    @property
    def nothing_beats_the_control(self) -> bool:
        """Whether methods were compared with a control and none is above it."""
        compared = any(standing.above_control for standing in self.standings)
        return compared and not any(standing.beats_control for standing in self.standings)


def rank(contenders: Sequence[Contender], basis: Basis, seed: int = 0) -> Ranking:
    """Rank the contenders with whole runs (`set_aside`).

    Raises UserError if no method, or none with the measures of the basis, has any.
    """
    set_aside(contenders, basis)
    there = [contender for contender in contenders if contender.runs]
    kinds = common_kinds(there)
    resampled = {name: _means(there, partial(SAMPLERS[name], seed=seed, kinds=kinds)) for name in MEASURES[basis]}
    resampled = {name: found for name, found in resampled.items() if found}
    methods = [contender for contender in there if not contender.is_control]
    first = next(iter(resampled), "")
    if not any(contender.name in resampled.get(first, {}) for contender in methods):
        raise UserError("select: expected a method with a result, found none; the lines above say why")
    leaders = {
        name: max((found[each.name][0], each.name) for each in methods if each.name in found)[1]
        for name, found in resampled.items() if any(each.name in found for each in methods)
    }  # fmt: skip
    strongest = {
        name: max((found[each.name][0], each.name) for each in controls)[1]
        for name, found in resampled.items()
        if (controls := [each for each in there if each.is_control and each.name in found])
    }

    by_name = {each.name: each for each in there}

    def figure(name: str, one: str) -> Figure:
        values = resampled[name][one]
        if _differ(values):
            return Figure.of(values)
        if name == "image_auroc":
            return by_formula(by_name[one].runs)
        if name == "synthetic_auroc" and values[0] in (0, 1):
            return all_in_order(float(values[0]), by_name[one].runs)
        return Figure(float(values[0]), 0.0, 1.0)

    def difference(name: str, one: str, other: str) -> Figure:
        values = resampled[name][one] - resampled[name][other]
        if one == other:
            return Figure(0.0, 0.0, 0.0)
        if _differ(values):
            return Figure.of(values)
        if name == "image_auroc":
            return by_formula(by_name[one].runs, by_name[other].runs)
        return apart(figure(name, one), figure(name, other))

    def standing(contender: Contender) -> Standing:
        mine = [name for name, found in resampled.items() if contender.name in found]
        behind = {name: difference(name, leaders[name], contender.name) for name in mine if name in leaders}
        above = {name: difference(name, contender.name, strongest[name]) for name in mine if name in strongest}
        figures = {name: figure(name, contender.name) for name in mine}
        return Standing(contender, figures, behind, above, {})

    every = [standing(contender) for contender in there]
    standings = [each for each in every if not each.contender.is_control]
    controls = sorted((each for each in every if each.contender.is_control), key=lambda each: -_value(each, first))
    return Ranking(basis, _ordered(standings, tuple(resampled), difference), controls, kinds)


def set_aside(contenders: Sequence[Contender], basis: Basis) -> None:
    """Mark as failed those whose files are damaged, or whose test photos are not those of most others on a data set.

    Their scores could not be paired with those of the others.
    """
    for each in contenders:
        if damaged := [(run, trouble) for run in each.runs if (trouble := run.trouble or damage(run, basis))]:
            _fail(each, *damaged[0])
    there = [each for each in contenders if each.runs]
    for place in range(max((len(each.runs) for each in there), default=0)):
        sets = Counter(each.runs[place].test_set for each in there)
        usual = max((each.runs[place] for each in there), key=lambda run: (sets[run.test_set], len(run.images)))
        for each in [each for each in there if each.runs[place].test_set != usual.test_set]:
            run, number = each.runs[place], len(usual.images)
            found = f"{len(run.images)}{' others' * (len(run.images) == number)}"
            _fail(each, run, f"scores.csv: expected the {number} test photos of the other methods, found {found}")
            there.remove(each)


def damage(run: Run, basis: Basis) -> str:
    """What is wrong with the file of a basis; empty where it is whole, or where its run has no such figure."""
    name, measure, read = {
        "labels": ("overlaps.npz", "pixel_aupro", overlaps_of),
        "synthetic": ("synthetic.csv", "synthetic_image_auroc", synthetic_scores),
    }[basis]
    there = (run.folder / name).exists()
    if read(run) is not None or (not there and measure not in run.metrics):
        return ""
    return f"{name}: expected what its run has written, found {'another or a damaged file' if there else 'no file'}"


def _fail(contender: Contender, run: Run, trouble: str) -> None:
    contender.runs, contender.state = [], "failed"
    contender.note = f"{trouble}; delete {run.folder}, and the same command makes it again"


def _ordered(
    standings: list[Standing], measures: tuple[str, ...], difference: Callable[[str, str, str], Figure]
) -> list[Standing]:
    """The one to take first, then those tied with it by speed, then the others by their figures.

    Candidates are those whose first measure is not worse than the highest one; of them, those that beat the control, if
    any do; of them, those whose second measure is not worse than the highest one among them; and so on. The fastest of
    those that are worse than no other candidate comes first; tied are the candidates that no measure tells from it.
    """

    def is_worse(name: str, one: Standing, other: Standing) -> bool:
        return difference(name, other.contender.name, one.contender.name).low > 0

    candidates, unsure = standings, list[str]()
    for name in measures:
        having = [each for each in candidates if name in each.figures]
        if having:
            best = max(having, key=lambda each: each.figures[name].value)
            without = [each for each in candidates if each not in having and name != measures[0]]  # without maps
            candidates = [each for each in having if not is_worse(name, each, best)] + without
        if name == measures[0]:
            above = [each for each in candidates if each.beats_control]
            unsure = [each.contender.name for each in candidates if above and not each.beats_control]
            candidates = above or candidates
    free = candidates
    for name in measures:
        having = [each for each in free if name in each.figures]
        rivals = [each for each in candidates if name in each.figures]
        worse = [each for each in having if any(is_worse(name, each, other) for other in rivals)]
        free = [each for each in free if each not in worse] or free
    first = min(free, key=lambda each: each.contender.slowness)
    rest = []
    for each in standings:
        shared = [name for name in measures if name in first.figures and name in each.figures]
        below = {name: difference(name, first.contender.name, each.contender.name) for name in shared}
        told = any(figure.low > 0 or figure.high < 0 for figure in below.values())
        each = each._replace(below_first=below, tied=not told and each in candidates)
        rest.append(each._replace(unsure=each.contender.name in unsure and not each.is_worse))
    tied = [each for each in rest if each.tied]
    tied.sort(key=lambda each: (each.contender is not first.contender, each.contender.slowness))
    others = [each for each in rest if not each.tied]
    others.sort(key=lambda each: [-_value(each, name) for name in measures])
    return [*tied, *others]


def _value(standing: Standing, measure: str) -> float:
    figure = standing.figures.get(measure)
    return -math.inf if figure is None or math.isnan(figure.value) else figure.value


def _means(there: Sequence[Contender], sample: Callable[[Run, int], Resampled | None]) -> dict[str, Resampled]:
    """The mean of a measure over the data sets of each contender that has it on all of them."""
    found = {}
    for contender in there:
        values = [sample(run, place) for place, run in enumerate(contender.runs)]
        if all(each is not None for each in values):
            found[contender.name] = np.mean([each for each in values if each is not None], axis=0)
    return found


def scored(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The labels and scores of the test, in the better direction for a control that is one number of the image."""
    labels, scores = np.array([image.label for image in run.images]), np.array(run.scores)
    turned = run.key.method in IMAGE_LEVEL and {0, 1} <= set(labels.tolist())
    if turned and auroc(scores, labels, np.ones((1, len(labels))))[0] < 0.5:
        scores = -scores
    return labels, scores


def image_auroc(run: Run, place: int, seed: int, kinds: Sequence[str]) -> Resampled | None:
    """Image AUROC; nan as resamples where they are all alike."""
    labels, scores = scored(run)
    if not {0, 1} <= set(labels.tolist()):
        return None
    values = auroc(scores, labels, _with_itself(labels, seed + place))
    return _unknown(values) if values[0] in (0, 1) else _unless_alone(values, labels)


def by_formula(runs: Sequence[Run], others: Sequence[Run] = ()) -> Figure:
    """The mean image AUROC over data sets, or how far it lies above that of others, by `metrics.intervals`.

    The intervals of the data sets are added as those of independent ones (Zou and Donner 2008, section 2).
    """
    values, lows, highs = [], [], []
    for run, other in zip_longest(runs, others):
        labels, scores = scored(run)
        whole, abnormal = np.ones((1, len(labels))), labels == 1
        value = auroc(scores, labels, whole)[0]
        if other is None:
            low, high = auroc_interval(scores[~abnormal], scores[abnormal])
        else:
            theirs = scored(other)[1]
            value -= auroc(theirs, labels, whole)[0]
            low, high = auroc_difference(scores, theirs, abnormal)
        values.append(value)
        lows.append(value - low)
        highs.append(high - value)
    value, count = fmean(values), len(values)
    return Figure(value, value - math.hypot(*lows) / count, value + math.hypot(*highs) / count)


def apart(one: Figure, other: Figure) -> Figure:
    """One figure less another, as if they were independent (Zou and Donner 2008, section 2)."""
    difference = one.value - other.value
    down = math.hypot(one.value - one.low, other.high - other.value)
    up = math.hypot(one.high - one.value, other.value - other.low)
    return Figure(difference, max(difference - down, -1.0), min(difference + up, 1.0))


def all_in_order(value: float, runs: Sequence[Run]) -> Figure:
    """An AUROC on painted defects of 1, or 0, whose resamples are all alike: with what so few photos cannot exclude."""
    offs = []
    for run in runs:
        rows = synthetic_scores(run)
        photos = len(np.unique(rows.photo)) if rows else 1
        low, high = auroc_interval(np.zeros(photos), np.full(photos, 2 * value - 1))
        offs.append(high - low)
    off = math.hypot(*offs) / len(offs)
    return Figure(1.0, 1 - off, 1.0) if value else Figure(0.0, 0.0, off)


def pixel_aupro(run: Run, place: int, seed: int, kinds: Sequence[str]) -> Resampled | None:
    """AU-PRO of the raw maps; None without marked defects, and for a method without a map."""
    parts = overlaps_of(run)
    if parts is None:
        return None
    strata = (parts["regions"] > 0).astype(int)
    values = aupro(**parts, weights=_with_itself(strata, seed + place)).clip(max=1)
    in_order = min(values[0], 1 - values[0]) < 1e-9  # resamples are alike, but for the last digits of their sums
    return _unknown(values) if in_order else _unless_alone(values, strata)


def overlaps_of(run: Run) -> dict[str, Any] | None:
    """What `bootstrap.aupro` takes of the photos of a run; None where the file is missing or damaged."""
    try:
        with (run.folder / "overlaps.npz").open("rb") as file, np.load(file) as arrays:
            parts = {name: arrays[name] for name in ("false_positives", "overlaps", "normal_pixels", "regions")}
        aupro(**parts, weights=np.ones((1, len(parts["regions"]))))  # arrays of other shapes end here
    except (OSError, EOFError, BadZipFile, zlib.error, ValueError, KeyError, TypeError):
        return None
    return parts


def synthetic_auroc(run: Run, place: int, seed: int, kinds: Sequence[str]) -> Resampled | None:
    """The mean over kinds of painted defects of the AUROC against good photos, as they are and changed a little.

    Photos are resampled, each with all of its copies.
    """
    rows = synthetic_scores(run)
    if rows is None or not kinds:
        return None
    photos, number = np.unique(rows.photo, return_inverse=True)
    strata = np.zeros(len(photos), int)
    weights = _with_itself(strata, seed + place)[:, number]
    good = np.isin(rows.change, GOOD)
    values = []
    for kind in kinds:
        here = good | (rows.change == kind)
        values.append(auroc(rows.score[here], (~good[here]).astype(int), weights[:, here]))
    return _unless_alone(np.mean(values, axis=0), strata)


SAMPLERS: dict[str, Callable[..., Resampled | None]] = {
    "image_auroc": image_auroc, "pixel_aupro": pixel_aupro, "synthetic_auroc": synthetic_auroc,
}  # fmt: skip


def _with_itself(strata: np.ndarray, seed: int) -> np.ndarray:
    """The resamples of these photos, after the photos themselves."""
    return np.concatenate([np.ones((1, len(strata))), resamples(strata, seed)])


def _unless_alone(values: Resampled, strata: np.ndarray) -> Resampled:
    """The values; their resamples are nan where a stratum has one photo, which is drawn every time."""
    return _unknown(values) if 1 in np.bincount(strata) else values


def _differ(values: Resampled) -> bool:
    """Whether resamples say something: they are known, and not all alike."""
    return bool(np.ptp(values[1:]) > 0)  # false of nan


def _unknown(values: Resampled) -> Resampled:
    return np.concatenate([values[:1], np.full(len(values) - 1, math.nan)])


def common_kinds(contenders: Sequence[Contender]) -> tuple[str, ...]:
    """The kinds of painted defects that all runs have seen; each leaves out those that it was trained with."""
    seen = [set(rows.change) - set(GOOD) for each in contenders for run in each.runs if (rows := synthetic_scores(run))]
    return tuple(sorted(map(str, set.intersection(*seen)))) if seen else ()
