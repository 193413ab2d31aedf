"""The answer of `select`: which method, how sure, how fast, and what more photos would tell; as text and data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anomaly_lab.metrics.intervals import auroc_variance
from anomaly_lab.report.photo_counts import Photos, supported, total
from anomaly_lab.report.ranking import Contender, Figure, Ranking, Standing, scored
from anomaly_lab.report.synthetic_scores import GOOD, synthetic_scores

KINDS = {"perlin": "a foreign texture", "patch": "a pasted patch", "scar": "a scar", "blob": "a stain"}  # as docs say
NAMES = {"image_auroc": "image AUROC", "pixel_aupro": "AU-PRO", "synthetic_auroc": "AUROC on painted defects"}
MORE = 50  # good photos
BEST = "it is better than every other method that was tried"
GUESSED = 0.5  # AUROC of scores that say nothing
FEW_HELD_OUT = 10  # fewer photos decide little, however many copies of them are painted


class Facts(NamedTuple):
    """What was looked at."""

    sets: Mapping[str, Photos]  # the data sets
    minutes: float  # that it took

    @property
    def title(self) -> str:
        """The data sets."""
        return ", ".join(self.sets)

    @property
    def photos(self) -> Photos:
        """The photos of all data sets."""
        return total(self.sets)


class Steadiness(NamedTuple):
    """Shares at the highest score of an unchanged held-out photo, as threshold."""

    found: float  # of painted defects, of the kinds compared
    alarms: float  # of photos with a small change


def number(value: float) -> str:
    """Three digits without the zero before the point."""
    text = f"{value:.3f}".replace("-0.000", "0.000").replace("-0.", "-.")
    return text.removeprefix("0") if text.startswith("0.") else text


def spoken(name: str, figure: Figure) -> str:
    """A figure with its interval, in words."""
    return f"{NAMES[name]} {number(figure.value)} (95 % interval {number(figure.low)} to {number(figure.high)})"


def steadiness(standing: Standing, kinds: Sequence[str]) -> Steadiness | None:
    """How many painted defects are found without a false alarm, and how many small changes raise one."""
    found, alarms = [], []
    for run in standing.contender.runs:
        rows = synthetic_scores(run)
        if rows is None or not (rows.change == "none").any():
            return None
        reaches = rows.score > rows.score[rows.change == "none"].max()
        found.append(reaches[np.isin(rows.change, kinds)].mean() if kinds else math.nan)
        varied = np.isin(rows.change, GOOD) & (rows.change != "none")
        alarms.append(reaches[varied].mean() if varied.any() else math.nan)
    return Steadiness(float(np.mean(found)), float(np.mean(alarms)))


def sentences(ranking: Ranking, facts: Facts) -> list[str]:
    """Three sentences: which, how sure, how fast and what more photos would tell."""
    first = ranking.standings[0]
    more = what_more(first, ranking, facts)
    speed_and_more = f"{how_fast(first).removesuffix('.')}; {more[0].lower()}{more[1:]}"
    return [which(ranking), how_sure(ranking, facts), speed_and_more]


def which(ranking: Ranking) -> str:
    """The method to take, and what it is tied with."""
    first = ranking.standings[0]
    figures = ", ".join(spoken(name, figure) for name, figure in first.figures.items())
    if ranking.nothing_beats_the_control:
        strongest = next(each for each in ranking.controls if each.figures)
        measure = next(iter(strongest.figures))
        reached = f"{strongest.contender.name}, {spoken(measure, strongest.figures[measure])}"
        clauses = [f"{first.contender.name} comes first with {figures}", *beside(ranking.standings)]
        return (
            f"No method that was tried beats the trivial control {reached}: these photos do not show that any of "
            f"them sees more than the control; {'; '.join(clauses)}."
        )
    below = [NAMES[name] for name, above in first.above_control.items() if above.value <= 0]
    untold = [NAMES[name] for name, above in first.above_control.items() if above.low <= 0 < above.value]
    figures += f"; a trivial control reaches as much in {listed(below)}" if below else ""
    figures += f"; these photos cannot tell it from a trivial control in {listed(untold)}" if untold else ""
    figures += "" if first.above_control else f"; no trivial control has a result to compare it with{chance(first)}"
    if len(ranking.standings) == 1:
        return f"Take {first.contender.name}, the only method with a result: {figures}."
    clauses = beside(ranking.standings)
    return f"Take {first.contender.name}: {figures}; {'; '.join(clauses or [BEST])}."


def chance(first: Standing) -> str:
    """Whether these photos show an AUROC to be more than chance; empty where they do."""
    name, figure = next(iter(first.figures.items()))
    if figure.low > GUESSED:
        return ""
    lies = "lies below" if figure.high < GUESSED else "has an interval that holds"
    return f", and its {NAMES[name]} {lies} {number(GUESSED)}, which is chance"


def beside(standings: Sequence[Standing]) -> list[str]:
    """What the photos leave open between the first method and the others; empty where it is better than all of them."""
    first, *rest = standings
    tied, unsure, unbeaten = list[str](), list[str](), list[str]()
    above: dict[str, list[str]] = {}
    for each in rest:
        if each.tied:
            tied.append(each.contender.name)
        elif each.unsure:
            unsure.append(each.contender.name)
        elif each.exceeds_first:
            above.setdefault(listed([NAMES[name] for name in each.exceeds_first]), []).append(each.contender.name)
        elif not each.is_worse:
            unbeaten.append(each.contender.name)
    fastest = all(first.contender.slowness <= each.contender.slowness for each in rest if each.tied)
    of = "of them" if fastest else "of those that are worse than no other"
    clauses = [f"these photos cannot tell {listed(tied)} from it, and it is the fastest {of}"] * bool(tied)
    clauses += [f"{listed(unsure)} may be as good, but no figure shows it above the control"] * bool(unsure)
    clauses += [f"{listed(names)} {'are' if names[1:] else 'is'} above it in {what}" for what, names in above.items()]
    return clauses + [f"no figure shows it above {listed(unbeaten)}"] * bool(unbeaten)


def how_sure(ranking: Ranking, facts: Facts) -> str:
    """What the figures rest on."""
    first, measure = ranking.standings[0], next(iter(ranking.standings[0].figures))
    figure, photos = first.figures[measure], facts.photos
    if ranking.basis == "synthetic":
        each = ", by data set" if len(facts.sets) > 1 else ""
        kinds = listed([KINDS.get(kind, kind) for kind in ranking.kinds])
        were = "were" if ranking.kinds[1:] else "was"
        few = ", too few to decide much" if photos.held_out < FEW_HELD_OUT else ""
        return (
            f"This ranks and does not measure: no real defect was looked at, {kinds} {were} painted into copies of "
            f"{photos.held_out} held-out good photos{few}{_alarms(first, ranking)}; so many held-out photos support no "
            f"rate of false alarms below 1 in {supported(facts.sets.values())}{each}."
        )
    text = f"It rests on {photos.defective} defective and {photos.test_good} good test photos"
    least = min(photos.defective, photos.test_good)
    alarms = _alarms(first, ranking)
    if figure.value == 1:
        low = number(figure.low)
        return f"{text}: all of them are in order, and so few cannot exclude a true value of {low}{alarms}."
    few = ", too few to decide much" if least < 20 else ""
    off = max(figure.high - figure.value, figure.value - figure.low)
    return f"{text}{few}: the value may be off by {number(off)} by chance{alarms}."


def _alarms(first: Standing, ranking: Ranking) -> str:
    steady = steadiness(first, ranking.kinds)
    if steady is None or math.isnan(steady.alarms):
        return ""
    changes, share = "small shifts, light changes and noise", percent(steady.alarms)
    if ranking.basis == "labels" or math.isnan(steady.found):
        return f"; {changes} raise a false alarm in {share} of the cases"
    found = percent(steady.found)
    return f"; it finds {found} of these defects without a false alarm, and {changes} raise one in {share} of the cases"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.0f} %"


def excluded(photos: int) -> float:
    """Below this AUROC, so many photos would all be in order by chance in less than 5 % of the cases."""
    return 0.05 ** (1 / photos)


def how_fast(first: Standing) -> str:
    """Seconds of a photo, and minutes of the run."""
    minutes = first.contender.minutes
    took = "" if math.isnan(minutes) else f", and took {minutes:.1f} minutes with training and test"
    return f"It needs {first.contender.seconds:.2g} s a photo here{took}."


def what_more(first: Standing, ranking: Ranking, facts: Facts) -> str:
    """What more labelled photos, and fifty more good ones, of each data set would tell."""
    sets = list(facts.sets.values())
    each = " of each data set" if len(sets) > 1 else ""
    good = (
        f"{MORE} more good photos{each} would let the threshold of these runs support 1 false alarm in "
        f"{supported(photos.more(MORE) for photos in sets)} instead of 1 in {supported(sets)}"
    )
    if ranking.basis == "synthetic":
        text = "; ".join([*of_real_defects(facts.sets), good])
        return f"{text[0].upper()}{text[1:]}."
    if next(iter(first.figures.values())).value == 1:
        fewer = all(photos.defective < photos.test_good for photos in sets)
        more = f"defect{each}" if fewer else f"defect and one more good test photo{each}"
        off = math.hypot(*(1 - excluded(min(photos.defective, photos.test_good) + 1) for photos in sets)) / len(sets)
        return f"One more labelled {more}, in order again, would exclude values below {number(1 - off)}; {good}."
    share = narrowing(first)
    about = f"about {percent(share)}" if share >= 0.01 else "less than 1 %"
    return f"One more labelled defect{each} would narrow the interval by {about}; {good}."


def narrowing(first: Standing) -> float:
    """The share of its width that the interval of image AUROC loses by one more defective photo of each data set."""
    then, now = 0.0, 0.0  # variances of the sum over data sets
    for run in first.contender.runs:
        labels, scores = scored(run)
        parts = scores[labels == 0], scores[labels == 1]
        then, now = then + auroc_variance(*parts, more=1), now + auroc_variance(*parts)
    return 1 - math.sqrt(then / now)


def of_real_defects(sets: Mapping[str, Photos]) -> list[str]:
    """What labelled photos would tell where painted defects were ranked; data sets may have some, or none."""
    labelled = [name for name, photos in sets.items() if photos.labelled]
    lonely = [name for name, photos in sets.items() if photos.defective and not photos.labelled]
    without = [name for name, photos in sets.items() if not photos.defective]
    several = sum(map(bool, (labelled, lonely, without))) > 1

    def of(names: Sequence[str]) -> str:
        return f" of {listed(names)}" if several else " of each data set" if len(names) > 1 else ""

    there, score = " there" if several else "", "would show whether real defects score higher"
    found = []
    if labelled:
        found.append(f"the labelled test photos{of(labelled)}, which were not used, {score}{there}")
    if lonely:
        found.append(f"good test photos{of(lonely)}, beside the defective ones, {score}{there}")
    if without:
        above = f"would show whether a real one scores above good photos{there} at all"
        found.append(f"one labelled defect{' each' * (several and len(without) > 1)}{of(without)} {above}")
    return found


def listed(names: Sequence[str]) -> str:
    """Names with commas, and `and` before the last one."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def summary(
    ranking: Ranking, contenders: Sequence[Contender], facts: Facts, commands: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Everything that was found, for select.json and the page; the methods in their order, controls last."""
    ranked = [*ranking.standings, *ranking.controls]
    return {
        "title": facts.title,
        "basis": ranking.basis,
        "kinds": ranking.kinds,
        "measures": NAMES,
        "photos": counts_of(facts),
        "sentences": sentences(ranking, facts),
        "commands": [{"what": what, "command": command} for what, command in commands],
        "ranking": [_row(standing, ranking) for standing in ranked],
        "others": [{"name": each.name, "state": each.state, "note": each.note} for each in contenders if not each.runs],
    }


def counts_of(facts: Facts) -> dict[str, Any]:
    """What was looked at, for select.json and the page; held-out photos are good ones, too."""
    photos = facts.photos
    good = {"good": photos.good + photos.held_out}
    return {"title": facts.title, **photos._asdict(), **good, "minutes": facts.minutes}


def _row(standing: Standing, ranking: Ranking) -> dict[str, Any]:
    contender, steady = standing.contender, steadiness(standing, ranking.kinds)
    return {
        "name": contender.name,
        "control": contender.is_control,
        "tied": standing.tied,
        "beats_control": standing.beats_control,
        **{
            part: {name: figure._asdict() for name, figure in getattr(standing, part).items()}
            for part in ("figures", "behind", "above_control")
        },
        "found": steady.found if steady else None,
        "alarms": steady.alarms if steady else None,
        "seconds": contender.seconds,
        "minutes": contender.minutes,
        "folders": [str(run.folder) for run in contender.runs],
    }
