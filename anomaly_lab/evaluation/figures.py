"""Figures of curves, scores, losses and features; matplotlib without its global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Picture = UInt8[np.ndarray, "height width 3"]
NORMAL, ABNORMAL = "#0072b2", "#d55e00"  # blue and vermilion of Okabe and Ito
HUES = (NORMAL, ABNORMAL, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a7fbd", "#7f7f7f")
QUIET = "#666b70"


class Panel:
    """A figure with axes side by side in one or more rows, in one plain style; `width` and `height` of each in inch."""

    def __init__(self, panels: int = 1, width: float = 4.6, height: float = 3.6, rows: int = 1) -> None:
        self.figure = Figure(figsize=(width * panels, height * rows), dpi=100, layout="constrained")
        self.canvas = FigureCanvasAgg(self.figure)
        self.axes: list[Axes] = [self.figure.add_subplot(rows, panels, i + 1) for i in range(rows * panels)]
        for axes in self.axes:
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            axes.grid(color="#e4e4df", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=8, colors=QUIET)

    def picture(self) -> Picture:
        """The figure as RGB pixels."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()

    def write(self, path: Path, suffix: str) -> None:
        """Write the figure as .pdf, .svg or .png, the same bytes for the same figure; texts of a PDF stay texts."""
        dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
        with matplotlib.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "anomaly_lab"}):
            self.figure.savefig(
                path, format=suffix[1:], dpi=200, metadata=dates.get(suffix), bbox_inches="tight", pad_inches=0.03
            )


def curve(
    x: Float[np.ndarray, " point"],
    y: Float[np.ndarray, " point"],
    title: str,
    names: tuple[str, str],
    limit: float = 1.0,
    chance: bool = False,
) -> Picture:
    """A curve between shares in [0, 1]; `names` are the axes, `limit` ends the x axis, `chance` draws the diagonal."""
    panel = Panel()
    (axes,) = panel.axes
    if chance:
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle="--")
    axes.plot(x, y, color=NORMAL, linewidth=1.8)
    axes.set(xlim=(0, limit), ylim=(0, 1.02))
    _label(axes, title, *names)
    return panel.picture()


def scores(values: Mapping[str, Float[np.ndarray, " image"]], normal: set[str], threshold: float) -> Picture:
    """Box plots of the scores by defect type, beside histograms of normal and abnormal images; `values` by type."""
    panel = Panel(2, height=max(3.6, 1.2 + 0.32 * len(values)))
    boxes, bars = panel.axes
    kinds = list(values)[::-1]
    artists = boxes.boxplot([values[kind] for kind in kinds], orientation="horizontal", widths=0.6, patch_artist=True)
    for patch, kind in zip(artists["boxes"], kinds, strict=True):
        patch.set(facecolor=NORMAL if kind in normal else ABNORMAL, alpha=0.55, edgecolor=QUIET)
    for line in artists["medians"]:
        line.set(color="black")
    for marks in artists["fliers"]:
        marks.set(markersize=3, markeredgecolor=QUIET)
    boxes.set_yticks(range(1, len(kinds) + 1), [_plain(kind, 24) for kind in kinds])
    good = [part for kind, part in values.items() if kind in normal]
    bad = [part for kind, part in values.items() if kind not in normal]
    everything = np.concatenate(list(values.values()))
    edges = np.linspace(everything.min(), max(everything.max(), everything.min() + 1e-12), 31)
    for parts, color, name in ((good, NORMAL, "normal"), (bad, ABNORMAL, "abnormal")):
        if parts:
            bars.hist(np.concatenate(parts), edges.tolist(), color=color, alpha=0.6, label=name)
    for axes in (boxes, bars):
        if np.isfinite(threshold):
            axes.axvline(threshold, color="black", linewidth=1.1, linestyle="--")
    _label(boxes, "scores by kind; dashed: the threshold", "decision score", "")
    _label(bars, "histogram", "decision score", "images")
    bars.legend(fontsize=8, frameon=False)
    return panel.picture()


def losses(series: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Picture:
    """Losses by epoch, name -> (epochs, values); on a logarithmic axis if they fall by more than a factor of 20."""
    panel = Panel(width=6.4)
    (axes,) = panel.axes
    everything = [value for _, values in series.values() for value in values]
    for i, (name, (epochs, values)) in enumerate(series.items()):
        style = ("-", "--", ":")[i // len(HUES) % 3]
        marker = "o" if len(epochs) == 1 else ""
        axes.plot(epochs, values, color=HUES[i % len(HUES)], linestyle=style, marker=marker, linewidth=1.6, label=name)
    if min(everything) > 0 and max(everything) > 20 * min(everything):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axes, "losses", "epoch", "")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return panel.picture()


def feature_map(
    points: Float[np.ndarray, "image 2"], label: Int[np.ndarray, " image"], title: str, names: tuple[str, str]
) -> Picture:
    """One point per image: circles for normal images, triangles for abnormal ones."""
    panel = Panel()
    (axes,) = panel.axes
    for value, color, marker, name in ((0, NORMAL, "o", "normal"), (1, ABNORMAL, "^", "abnormal")):
        here = points[label == value]
        if len(here):
            axes.scatter(here[:, 0], here[:, 1], s=18, color=color, marker=marker, alpha=0.7, linewidths=0, label=name)
    _label(axes, title, *names)
    axes.legend(fontsize=8, frameon=False)
    return panel.picture()


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(x, fontsize=8, color=QUIET)
    axes.set_ylabel(y, fontsize=8, color=QUIET)


def _plain(text: str, width: int) -> str:
    """A name without formulas (matplotlib reads $...$), cut to a width."""
    return (text if len(text) <= width else f"{text[: width - 1]}…").replace("$", "\\$")
