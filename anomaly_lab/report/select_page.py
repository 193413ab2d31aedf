"""The page of `select`: its answer, all methods, quality against seconds, pictures of the best three."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomaly_lab import __version__
from anomaly_lab.core.files import read_csv
from anomaly_lab.report.html import PAGE, filled, head, in_script
from anomaly_lab.report.ranking import Ranking
from anomaly_lab.report.selection import KINDS, listed
from anomaly_lab.report.synthetic_scores import GOOD, synthetic_scores
from anomaly_lab.report.thumbnails import Thumbnail, encoded, thumbnails
from anomaly_lab.report.verdict import judged
from anomaly_lab.runs.collect import Run, names_of

SCRIPTS = ("base.js", "charts.js", "select.js")
METHODS = 3  # of which pictures are shown
PICTURE_BYTES = 1_500_000  # of a method on a data set, in base64
GALLERY = {"lowest_defective": "defective, lowest score", "highest_good": "good, highest score"}
HIGHEST = 2  # good photos that are shown beside the painted ones
TILES = ("the photo", "its map", "the outline of the defect, or the map over a good photo")
Change = tuple[str, str]  # path of a held-out photo, and what was done to it: "none", or the kind of a painted defect


class Look(NamedTuple):
    """What a method says of the held-out photos of a data set, and the pictures that its run has kept."""

    good: np.ndarray  # scores of the photos as they are and changed a little
    unchanged: np.ndarray  # of those as they are
    painted: np.ndarray  # of those with a painted defect
    scores: dict[Change, float]  # of those with a picture
    files: dict[Change, Path]

    def false_alarms(self, change: Change) -> int:
        """How many good photos, unchanged and changed a little, score as high."""
        return int((self.good >= self.scores[change]).sum())

    def rank(self, change: Change) -> float:
        """The share of unchanged, or of painted photos, that score lower."""
        others = self.unchanged if is_good(change) else self.painted
        return float((others < self.scores[change]).mean())

    def verdict(self, change: Change) -> str:
        """What the score means, beside those of the other held-out photos."""
        if is_good(change):
            above = int((self.unchanged > self.scores[change]).sum())
            return f"number {above + 1} of {len(self.unchanged)} by score, from the highest"
        alarms = self.false_alarms(change)
        if not alarms:
            return "found: no good photo scores as high"
        word = "found" if self.scores[change] > self.unchanged.max() else "missed"
        return f"{word}: {alarms} of {len(self.good)} good photos score as high"


def page(found: dict[str, Any], ranking: Ranking) -> str:
    """The page of a summary (`selection.summary`)."""
    about = {"written": f"{datetime.now():%Y-%m-%d %H:%M}", "version": __version__}
    title = f"Which detector for {found['title']}"
    pictures = painted_photos(ranking) if ranking.basis == "synthetic" else hardest_photos(ranking)
    kinds = [KINDS.get(kind, kind) for kind in ranking.kinds]
    shown = {"kinds": kinds, "pictures": pictures, "names": found["measures"], "measures": []}
    parts = {
        "head": head(title, "data:"),
        "data": in_script({**found, **about, **shown}),
        "script": "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    return filled("select.html", parts)


def hardest_photos(ranking: Ranking) -> dict[str, Any]:
    """For each of the best methods a column: its lowest defective and its highest good photos of the test.

    Each says what the threshold of its run makes of it.
    """
    groups = []
    for standing in ranking.standings[:METHODS]:
        shots, tiles = [], ()
        for run in standing.contender.runs:
            for each in thumbnails(run, PICTURE_BYTES):
                if each.kind in GALLERY:
                    name = run.images[each.image].name if each.image >= 0 else each.name
                    note = ": ".join(filter(None, (name, judged(run, each.image))))
                    shots.append(shot(each, GALLERY[each.kind], note, f"{name}, {GALLERY[each.kind]}", each.tiles))
                    tiles = max(tiles, each.tiles, key=len)
        if shots:
            note = f"from the left: {', '.join(tiles)}"
            groups.append({"title": standing.contender.name, "note": note, "shots": shots})
    note = "Found, missed, false alarm: at the threshold of each run." * bool(groups)
    title = "Test photos that the best methods find hardest"
    return {"title": title, "note": note, "side_by_side": False, "groups": groups}


def painted_photos(ranking: Ranking) -> dict[str, Any]:
    """For each painted photo that the best methods find worst, and each good one that scores highest, a row of them.

    No test photo is shown, whether it has a label or not.
    """
    first = ranking.standings[:METHODS]
    groups, painted, good, without = [], 0, 0, dict[str, None]()
    for runs in zip(*(each.contender.runs for each in first), strict=True):
        named = {each.contender.name: run for each, run in zip(first, runs, strict=True)}
        looks = {name: look for name, run in named.items() if (look := look_of(run, ranking.kinds))}
        without |= dict.fromkeys(name for name in named if name not in looks)
        changes = set.intersection(*(set(look.files) for look in looks.values())) if looks else set()
        good += sum(map(is_good, changes))
        painted += len(changes) - sum(map(is_good, changes))
        category = f"{runs[0].key.category}: " if len(first[0].contender.runs) > 1 else ""
        groups += rows(looks, changes, category)
    note = (
        f"No real defect is shown: these are painted into held-out good photos. Of each kind the one that these "
        f"methods find worst, of {painted} whose pictures are kept; then those with the highest scores of {good} good "
        f"photos, the next to raise a false alarm. Found: it scores above every unchanged good photo; those that score "
        f"as high are counted among unchanged and slightly changed ones. From the left: {', '.join(TILES)}; where a "
        "method has no map, the last one alone, without it."
    )
    kept = f"The runs of {listed([*without])} keep no pictures: they are older, or damaged."
    note = " ".join([note] * bool(groups) + [kept] * bool(without))
    title = "Painted defects that the best methods find worst"
    return {"title": title, "note": note, "side_by_side": True, "groups": groups}


def rows(looks: Mapping[str, Look], changes: set[Change], category: str) -> list[dict[str, Any]]:
    """The rows of a data set, as many as fit."""
    names, left, found = short_names(changes), PICTURE_BYTES * METHODS, []
    for change in worst(looks, changes):
        kind = KINDS.get(change[1], change[1])
        photo = names[change]
        what = (
            f"Good photo {photo}, as it is" if is_good(change) else f"{kind[0].upper()}{kind[1:]} painted into {photo}"
        )
        about = f"{category}{what}"
        pictures = {name: encoded(look.files[change], -1, kind, TILES) for name, look in looks.items()}
        shots = [
            shot(picture, name, looks[name].verdict(change), f"{about}, by {name}", TILES)
            for name, picture in pictures.items()
            if picture
        ]
        left -= sum(len(each["source"]) for each in shots)
        if shots and left >= 0:
            found.append({"title": about, "note": "", "shots": shots})
    return found


def worst(looks: Mapping[str, Look], changes: set[Change]) -> list[Change]:
    """Of each kind the painted photo that the methods find worst, hardest first; then good ones, highest first."""

    def found(change: Change) -> tuple[float, float, Change]:
        alarms = np.mean([look.false_alarms(change) / len(look.good) for look in looks.values()])
        return -float(alarms), float(np.mean([look.rank(change) for look in looks.values()])), change

    kinds = {kind for _, kind in changes} - {GOOD[0]}
    painted = [min((change for change in changes if change[1] == kind), key=found) for kind in kinds]
    good = sorted(filter(is_good, changes), key=lambda change: found(change)[1:])
    return [*sorted(painted, key=found), *good[: -HIGHEST - 1 : -1]]


def look_of(run: Run, kinds: tuple[str, ...]) -> Look | None:
    """The scores on held-out photos, and the pictures in `painted/`; None if the run has none of either."""
    rows, scores, files = synthetic_scores(run), dict[Change, float](), dict[Change, Path]()
    folder = run.folder / "painted"
    try:
        for row in read_csv(folder / "index.csv"):
            if row["change"] in (GOOD[0], *kinds):
                change = row["photo"], row["change"]
                scores[change], files[change] = float(row["score"]), folder / Path(row["file"]).name
    except (OSError, ValueError, KeyError):
        return None
    if rows is None or not files:
        return None
    good, unchanged, painted = np.isin(rows.change, GOOD), rows.change == GOOD[0], np.isin(rows.change, kinds)
    if not (unchanged.any() and painted.any()):  # of a damaged table
        return None
    return Look(rows.score[good], rows.score[unchanged], rows.score[painted], scores, files)


def short_names(changes: set[Change]) -> dict[Change, str]:
    """The photos without the folders that they share."""
    paths = sorted({photo for photo, _ in changes})
    try:
        names = dict(zip(paths, names_of(paths), strict=True))
    except ValueError:  # of a damaged table
        names = {path: Path(path).name for path in paths}
    return {change: names[change[0]] for change in changes}


def is_good(change: Change) -> bool:
    """Whether nothing was painted."""
    return change[1] == GOOD[0]


def shot(picture: Thumbnail, name: str, note: str, about: str, tiles: tuple[str, ...]) -> dict[str, Any]:
    """A picture of the page with its caption and, for those who cannot see it, its description."""
    return {
        "name": name, "note": note, "alt": f"{about}, as {', '.join(tiles)}", "width": picture.width,
        "height": picture.height, "source": f"data:image/{picture.type};base64,{picture.data}",
    }  # fmt: skip
