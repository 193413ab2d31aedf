"""Figures for papers: the same photos, and the curves, of all methods. Loads no matplotlib before it draws."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from scipy.stats import rankdata

from anomaly_lab.core.console import printable, say
from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.report.groups import Column, Groups
from anomaly_lab.report.html import curve_points
from anomaly_lab.report.sheets import number, titles
from anomaly_lab.runs.collect import Image, Run
from anomaly_lab.runs.measures import BY_KEY

if TYPE_CHECKING:
    from anomaly_lab.evaluation.figures import Panel

KINDS = ("photos", "curves")
CHOICES = ("first", "worst", "best", "random")
# Of the outlines in `pictures/`: mask, what was found, and the border around both.
GREEN, ORANGE, BLACK = (0, 255, 0), (255, 140, 0), (0, 0, 0)
DRAWN_GREEN = (0, 158, 115)  # Okabe and Ito
CURVES = {
    "image_roc": ("ROC of images", "image_auroc", 1.0, ("false positive rate", "true positive rate")),
    "pixel_pro": ("PRO", "pixel_aupro", 0.3, ("false positive rate of pixels", "overlap with the regions")),
}
DASHES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
Picture = UInt8[np.ndarray, "height width 3"]


class FigureRequest(NamedTuple):
    """A figure: its kind, its categories (none: all), and which photos of each are shown."""

    kind: str
    categories: tuple[str, ...] = ()
    photos: int | None = None  # None: 4, of several categories 1
    choose: str = "first"


class Tiles(NamedTuple):
    """The parts of a picture of `pictures/`."""

    photo: Picture
    overlay: Picture  # of the map over the photo
    mask: Bool[np.ndarray, "height width"]  # the outline of the mask


def figure_of(groups: Groups, request: FigureRequest, names: Sequence[str] = ()) -> "Panel":
    """The figure, with the rows of `groups` in the order of `names`. Raises UserError if there is nothing to draw."""
    known = {column.category for column in groups.columns}
    for category in request.categories:
        if category not in known:
            expected = ", ".join(sorted(known))
            raise UserError(f"--category: expected one of {expected}, found {category!r}{nearest(category, known)}")
    columns = [column for column in groups.columns if not request.categories or column.category in request.categories]
    title_of = titles(groups, names)
    placed = sorted((row.control, *title_of(row.label, row.method), row) for row in groups.rows)
    runs = {
        column: {name: groups.cells[row, column][0] for *_, name, row in placed if (row, column) in groups.cells}
        for column in columns
    }
    return _photos(runs, request) if request.kind == "photos" else _curves(runs, groups)


def _curves(runs: dict[Column, dict[str, Run]], groups: Groups) -> "Panel":
    """A row of axes per category: the ROC of images and, where there are masks, the PRO, of the first seed."""
    from matplotlib.lines import Line2D

    from anomaly_lab.evaluation.figures import HUES, QUIET, Panel

    found = {
        (column, name, kind): line
        for column, of_column in runs.items() for name, run in of_column.items() for kind in CURVES
        if (line := curve_points(run.folder / "curves" / f"{kind}.csv"))
    }  # fmt: skip
    kinds = [kind for kind in CURVES if any(there == kind for *_, there in found)]
    _say_what_is_missing(runs, {(column, name) for column, name, _ in found}, "curves/", "callbacks.curves")
    panel = Panel(len(kinds), width=3.0 + 3.2 / len(kinds), height=3.2, rows=len(runs))  # 3.2 inch of legend
    order = list(dict.fromkeys(name for of_column in runs.values() for name in of_column))
    look = {name: (HUES[i % len(HUES)], DASHES[(i + i // len(HUES)) % len(DASHES)]) for i, name in enumerate(order)}
    for row, (column, of_column) in enumerate(runs.items()):
        several = any(len(members) > 1 for (_, at), members in groups.cells.items() if at == column)
        seed = f", seed {next(iter(of_column.values())).key.seed}" if several else ""
        for axes, kind in zip(panel.axes[row * len(kinds) :], kinds, strict=False):
            title, _, limit, labels = CURVES[kind]
            axes.plot([0, limit], [0, 1], color=QUIET, linewidth=0.8) if limit == 1 else None
            for name in of_column:
                x, y = np.array(found.get((column, name, kind), [[np.nan, np.nan]])).T
                color, dashes = look[name]
                axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.6)
            axes.set(xlim=(0, limit), ylim=(0, 1.02), box_aspect=1)
            axes.set_xlabel(labels[0], fontsize=8, color=QUIET)
            axes.set_ylabel(labels[1], fontsize=8, color=QUIET)
            axes.set_title(f"{column.title}{seed}: {title}", fontsize=9, loc="left", parse_math=False)
        measures = [BY_KEY[CURVES[kind][1]] for kind in kinds]
        texts = {
            name: " | ".join(number(run.metrics[one.key], one) if one.key in run.metrics else "–" for one in measures)
            for name, run in of_column.items()
        }
        handles = [Line2D([], [], color=look[name][0], linestyle=look[name][1], linewidth=1.6) for name in texts]
        legend = axes.legend(
            handles, [f"{fill(name, 28)}  {text}" for name, text in texts.items()], fontsize=8, frameon=False,
            loc="upper left", bbox_to_anchor=(1.02, 1), handlelength=2.8, alignment="left", title_fontsize=8,
            title=f"area: {' | '.join(measure.name for measure in measures)}",
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
    return panel


def _photos(runs: dict[Column, dict[str, Run]], request: FigureRequest) -> "Panel":
    """A row per photo: the photo, the outline of its mask, and the map of every method over it."""
    from anomaly_lab.evaluation.figures import QUIET, Panel

    count = request.photos or (4 if len(runs) == 1 else 1)
    there = {(column, name): files for column, of_column in runs.items() for name, run in of_column.items()
             if (files := _files(run))}  # fmt: skip
    _say_what_is_missing(runs, set(there), "pictures/", "callbacks.pictures")
    names = list(dict.fromkeys(name for of_column in runs.values() for name in of_column
                               if any(there_name == name for _, there_name in there)))  # fmt: skip
    rows: list[tuple[Column, Image, dict[str, Tiles]]] = []
    for column, of_column in runs.items():
        shown = {name: run for name, run in of_column.items() if (column, name) in there}
        for image in chosen(shown, [there[column, name] for name in shown], request.choose)[:count]:
            read = {name: tiles_of(there[column, name][image]) for name in shown}
            rows.append((column, image, {name: tiles for name, tiles in read.items() if tiles is not None}))
    rows = [row for row in rows if row[2]]
    if not rows:
        raise UserError("--figure: expected a defective photo that pictures/ of all methods show, found none")
    height = max(tiles.photo.shape[0] / tiles.photo.shape[1] for *_, of in rows for tiles in of.values())
    heads = [fill(title, 18) for title in ("photo", "mask", *names)]
    lines = 1 + max(head.count("\n") for head in heads)
    panel = Panel(len(heads), width=1.3, height=1.3 * height + 0.16 * lines / len(rows), rows=len(rows))
    panel.figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for axes in panel.axes:
        axes.grid(visible=False)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(False)
    for axes, head in zip(panel.axes, heads, strict=False):
        axes.set_title(head, fontsize=8, parse_math=False)
    for row, (column, image, of) in enumerate(rows):
        first, *others = panel.axes[row * len(heads) : (row + 1) * len(heads)]
        best = max(of.values(), key=lambda tiles: (tiles.mask.any(), np.ptp(tiles.photo, axis=2).max()))  # in colour
        first.imshow(best.photo)
        label = [*[column.title] * (len(runs) > 1 or bool(column.protocol)), image.defect, Path(image.name).name[-18:]]
        first.set_ylabel("\n".join(fill(part, 18) for part in label), fontsize=7, color=QUIET, parse_math=False)
        others[0].imshow(_outlined(best))
        for axes, name in zip(others[1:], names, strict=True):
            if name in of:
                axes.imshow(of[name].overlay)
    return panel


def chosen(runs: dict[str, Run], files: Sequence[dict[Image, Path]], choose: str) -> list[Image]:
    """The defective images that all runs have pictures of, in the order in which they are shown.

    `first`: by name, one of each kind of defect before a second one. `worst`, `best`: by the mean over the runs of the
    rank of the decision score among all test images, the lowest or the highest first. `random`: always the same order.
    """
    common = sorted(set.intersection(*map(set, files))) if files else []
    if choose == "random":
        return [common[i] for i in np.random.default_rng(0).permutation(len(common))]
    if choose == "first":
        before = [sum(other.defect == image.defect for other in common[:i]) for i, image in enumerate(common)]
        return [image for _, image in sorted(zip(before, common, strict=True))]
    ranks = [dict(zip(run.images, rankdata(run.decision_scores).tolist(), strict=True)) for run in runs.values()]
    sign = 1 if choose == "worst" else -1
    return sorted(common, key=lambda image: (sign * fmean(rank[image] for rank in ranks), image))


def tiles_of(path: Path) -> Tiles | None:
    """The parts of a picture `image | [reconstruction] | map | image with outlines`; None if it is no such picture."""
    read = cv2.imread(str(path))
    if read is None:
        return None
    picture = cv2.cvtColor(read, cv2.COLOR_BGR2RGB)
    for count in (3, 4):  # without and with a reconstruction: the last part is the first one with outlines
        if picture.shape[1] % count:
            continue
        photo, *_, heat, outlined = np.split(picture, count, axis=1)
        green, orange, black = ((outlined == color).all(axis=2) for color in (GREEN, ORANGE, BLACK))
        if ((photo == outlined).all(axis=2) | green | orange | black).all():
            return Tiles(photo, cv2.addWeighted(photo, 0.5, heat, 0.5, 0), green & (photo != outlined).any(axis=2))
    return None


def _outlined(tiles: Tiles) -> Picture:
    """The photo with the outline of its mask, wide enough for print."""
    wide = cv2.dilate(tiles.mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return np.where(wide[..., None], np.array(DRAWN_GREEN, np.uint8), tiles.photo)


def _files(run: Run) -> dict[Image, Path]:
    """The pictures of the defective images of a run."""
    named = {image: run.folder / "pictures" / f"{image.defect}_{Path(image.name).stem}.png" for image in run.images}
    return {image: path for image, path in named.items() if image.label == 1 and path.is_file()}


def _say_what_is_missing(
    runs: dict[Column, dict[str, Run]], there: set[tuple[Column, str]], folder: str, key: str
) -> None:
    """One line that names the runs without a part. Raises UserError if no run has it."""
    missing = [f"{name} on {at.label}" for at, of in runs.items() for name in of if (at, name) not in there]
    if not there:
        raise UserError(f"--figure: expected runs with {folder}, found none; run them without {key}=null")
    if missing:
        say(printable(f"figure: left out, no {folder} ({key}=null): {', '.join(missing)}"))
