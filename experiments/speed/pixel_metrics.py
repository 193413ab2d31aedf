"""Cost and error of `PixelMetrics` beside its peers: `python experiments/speed/pixel_metrics.py --peers DIR`.

Figures go to pixel_metrics.json and .csv beside this file; a size that is run again replaces only its own.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when the libraries are loaded

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torchmetrics.classification import BinaryAUROC

from anomaly_lab.metrics import PixelMetrics

SIZES = {"small": (50, 256), "medium": (160, 512), "large": (160, 1024)}  # images, side
NAMES = ("auroc", "aupr", "f1max", "aupro")
BATCH = 8
LIMIT = 0.3  # of the false positive rate, for AU-PRO
RESULTS = Path(__file__).with_suffix(".json")

RATIO_AIMS = {
    "small": {"adeval": 3},
    "medium": {"adeval": 5},
    "large": {"adeval": 6, "mvtec": 80, "torchmetrics_auroc": 100},
}
MEMORY_AIM = 64  # MiB
ERROR_AIMS = {"auroc": 5e-6, "aupr": 5e-5, "f1max": 5e-5, "aupro": 5e-6}
EXACT_SETS = ("float16", "levels8")  # error must be 0
ROUNDING = 1e-12  # what float64 sums of 1e8 terms may differ in their order

Values = dict[str, float]
Method = Callable[[np.ndarray, np.ndarray], Values]


class Run(NamedTuple):
    """A method and how many rounds of it are worth their time."""

    method: Method
    rounds: int


# Data


def make_image(index: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """An anomaly map (smooth noise and blurred bumps where defects are) and its mask; three of ten have no defect."""
    generator = np.random.default_rng((20, side, index))
    noise = cv2.GaussianBlur(generator.standard_normal((side, side), dtype=np.float32), (0, 0), side / 128)
    scores = 1 + 0.15 * noise / noise.std()
    mask = np.zeros((side, side), dtype=np.uint8)
    for _ in range(0 if index % 10 < 3 else int(generator.integers(1, 6))):
        bump = draw_ellipse(generator, side)
        mask |= bump
        height = generator.uniform(0.1, 1)
        scores += height * cv2.GaussianBlur(bump.astype(np.float32), (0, 0), side / 128)
    return scores, mask.astype(bool)


def draw_ellipse(generator: np.random.Generator, side: int) -> np.ndarray:
    """A region of 0.02 to 3 % of the image, somewhere in it; the border may cut it."""
    area = np.exp(generator.uniform(np.log(2e-4), np.log(3e-2))) * side**2
    stretch = np.exp(generator.uniform(-0.7, 0.7))
    radius = np.sqrt(area / np.pi)
    axes = max(1, round(radius * stretch)), max(1, round(radius / stretch))
    center = [int(place) for place in generator.integers(0, side, 2)]
    canvas = np.zeros((side, side), dtype=np.uint8)
    return cv2.ellipse(canvas, center, axes, generator.uniform(0, 180), 0, 360, 1, thickness=-1)


def make_set(images: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps (float32) and masks (bool), filled in place to need no second copy."""
    maps, masks = np.empty((images, side, side), np.float32), np.empty((images, side, side), bool)
    for index in range(images):
        maps[index], masks[index] = make_image(index, side)
    return maps, masks


def to_levels(maps: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(maps, 0.5, 2.49) * 4).astype(np.float32)


TRANSFORMS = {  # name -> the same maps on another scale
    "float32": lambda maps: maps,
    "float16": lambda maps: maps.astype(np.float16),
    "levels8": to_levels,
    "exp(6s)": lambda maps: np.exp(6 * maps),
    "1000+0.01s": lambda maps: np.float32(1000) + np.float32(0.01) * maps,
    "s-mean": lambda maps: maps - maps.mean(dtype=np.float64).astype(np.float32),
    "sigmoid(8s-8)": lambda maps: 1 / (1 + np.exp(8 - 8 * maps)),
}


# Methods


def feed(metrics: PixelMetrics, maps: np.ndarray, masks: np.ndarray) -> dict:
    for start in range(0, len(maps), BATCH):
        batch = slice(start, start + BATCH)
        metrics.update(torch.from_numpy(maps[batch]), torch.from_numpy(masks[batch]))
    return metrics.compute()


def ours(maps: np.ndarray, masks: np.ndarray) -> Values:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of wide bounds: the table shows their width
        values = feed(PixelMetrics(), maps, masks)
    widths = {f"{name}_width": float(high - low) for name, (low, high) in values["bounds"].items()}
    return {name: values[name] for name in NAMES} | widths


def ours_exact(maps: np.ndarray, masks: np.ndarray) -> Values:
    values = feed(PixelMetrics(mode="exact"), maps, masks)
    return {name: values[name] for name in NAMES}


def adeval(maps: np.ndarray, masks: np.ndarray) -> Values:
    from adeval import auroc_aupr_aupro

    with np.errstate(invalid="ignore"):  # 0 / 0 where it has no strip, which it treats itself
        values = auroc_aupr_aupro(maps.astype(np.float32, copy=False), masks.view(np.uint8))
    return dict(zip(("auroc", "aupr", "aupro"), values, strict=True))


def torchmetrics_auroc(maps: np.ndarray, masks: np.ndarray) -> Values:
    metric = BinaryAUROC()
    for start in range(0, len(maps), BATCH):
        batch = slice(start, start + BATCH)
        metric.update(torch.from_numpy(maps[batch]), torch.from_numpy(masks[batch]).long())
    return {"auroc": float(metric.compute())}


def sklearn_auroc(maps: np.ndarray, masks: np.ndarray) -> Values:
    return {"auroc": float(roc_auc_score(masks.ravel(), maps.ravel()))}


def sklearn_aupr(maps: np.ndarray, masks: np.ndarray) -> Values:
    return {"aupr": float(average_precision_score(masks.ravel(), maps.ravel()))}


def sklearn_f1max(maps: np.ndarray, masks: np.ndarray) -> Values:
    precision, recall, _ = precision_recall_curve(masks.ravel(), maps.ravel())
    return {"f1max": float((2 * precision * recall / np.maximum(precision + recall, 1e-300)).max())}


def mvtec(maps: np.ndarray, masks: np.ndarray) -> Values:
    """The algorithm of the script that comes with MVTec AD: sort every score, then sum up to each."""
    normal, share = np.zeros(maps.shape, np.uint32), np.zeros(maps.shape)
    regions = 0
    for index, mask in enumerate(masks):
        region, count = label(mask, np.ones((3, 3)))
        regions += count
        normal[index] = region == 0
        for number in range(1, count + 1):
            inside = region == number
            share[index][inside] = 1 / inside.sum()
    scores, normal, share = maps.ravel(), normal.ravel(), share.ravel()
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    rate = np.cumsum(normal[order]) / normal.sum()
    overlap = np.cumsum(share[order]) / regions
    last_of_tie = np.append(np.diff(scores) != 0, True)
    rate, overlap = np.append(0, rate[last_of_tie]), np.append(0, overlap[last_of_tie])
    return {"aupro": area_up_to(rate, overlap, LIMIT) / LIMIT}


def area_up_to(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Area under a piecewise linear curve, the last piece cut at the limit."""
    inside = int(np.searchsorted(x, limit, side="right"))
    end = np.interp(limit, x, y)
    return float(np.trapezoid(np.append(y[:inside], end), np.append(x[:inside], limit)))


# Measurements


def measure(runs: dict[str, Run], maps: np.ndarray, masks: np.ndarray) -> dict[str, dict]:
    """Values and seconds; the methods take turns, so that load falls on all of them."""
    found: dict[str, dict] = {name: {"cpu": [], "wall": []} for name in runs}
    for turn in range(max(run.rounds for run in runs.values())):
        for name, run in runs.items():
            if turn < run.rounds:
                cpu, wall = time.process_time(), time.perf_counter()
                found[name]["values"] = run.method(maps, masks)
                found[name]["cpu"].append(time.process_time() - cpu)
                found[name]["wall"].append(time.perf_counter() - wall)
    return found


def warm(runs: dict[str, Run]) -> None:
    maps, masks = make_set(10, 64)
    for name, transform in TRANSFORMS.items():
        for run in runs.values():
            if name == "float32" or run.method in (ours, ours_exact):
                run.method(transform(maps), masks)


def extra_memory(maps: np.ndarray, masks: np.ndarray) -> float:
    """MiB that a fresh process needs above loaded data and warm code.

    ru_maxrss of a child starts from the parent's peak (Linux), which would hide everything; VmHWM is the child's own.
    Any earlier peak above what lies there now counts too, so the figure is never too small.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/maps.npy", maps)
        np.save(f"{folder}/masks.npy", masks)
        command = [sys.executable, __file__, "--child", folder]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(answer.stdout)


def report_memory(folder: str) -> None:
    """In the fresh process."""
    maps, masks = np.load(f"{folder}/maps.npy"), np.load(f"{folder}/masks.npy")
    warm({"ours": Run(ours, 1)})
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of imports and warming, is forgotten
    before = kib_of("VmRSS")
    ours(maps, masks)
    print((kib_of("VmHWM") - before) / 1024)


def kib_of(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def run_size(size: str, rounds: int, slow_rounds: int) -> list[dict]:
    """All sets of one size, a row a method and set; the slow peers see only the first set."""
    images, side = SIZES[size]
    maps, masks = make_set(images, side)
    fast = {"ours": Run(ours, rounds), "adeval": Run(adeval, rounds), "ours_exact": Run(ours_exact, slow_rounds)}
    slow = {
        method.__name__: Run(method, slow_rounds)
        for method in (mvtec, torchmetrics_auroc, sklearn_auroc, sklearn_aupr, sklearn_f1max)
    }
    warm(fast | slow)
    memory = extra_memory(maps, masks)
    rows = []
    for name, transform in TRANSFORMS.items():
        runs = fast | slow if name == "float32" else fast
        load = os.getloadavg()[0]
        rows += to_rows(size, name, load, measure(runs, transform(maps), masks))
    rows[0]["extra_mib"] = memory
    rows[0]["defect_share"] = float(masks.mean())
    return rows


def to_rows(size: str, name: str, load: float, found: dict[str, dict]) -> list[dict]:
    """Medians of the seconds, ratio to ours, error against the exact mode."""
    exact = found["ours_exact"]["values"]
    base = statistics.median(found["ours"]["cpu"])
    rows = []
    for method, figures in found.items():
        cpu = statistics.median(figures["cpu"])
        row = {"size": size, "set": name, "method": method, "rounds": len(figures["cpu"]), "load": load}
        row |= {"cpu": cpu, "cpu_min": min(figures["cpu"]), "wall": statistics.median(figures["wall"])}
        row |= {"ratio": cpu / base} | figures["values"]
        row |= {f"{key}_error": abs(figures["values"][key] - exact[key]) for key in NAMES if key in figures["values"]}
        rows.append(row)
    return rows


# Tables


def judge(rows: list[dict]) -> list[tuple[str, str, float, float, bool]]:
    """Size, what, aim, found, whether it is reached."""
    lines = []
    for row in rows:
        size, name, method = row["size"], row["set"], row["method"]
        if name == "float32" and method in RATIO_AIMS[size]:
            aim = RATIO_AIMS[size][method]
            lines.append((size, f"CPU of {method} / ours, at least", aim, row["ratio"], row["ratio"] >= aim))
        if method != "ours":
            continue
        if "extra_mib" in row:
            found = row["extra_mib"]
            lines.append((size, "extra memory, MiB, at most", MEMORY_AIM, found, found <= MEMORY_AIM))
        for key in NAMES:
            aim = 0 if name in EXACT_SETS else ERROR_AIMS[key]
            found = row[f"{key}_error"]
            lines.append((size, f"error of {key} on {name}", aim, found, found <= aim + ROUNDING))
    return lines


def show(rows: list[dict]) -> None:
    print(f"{'set':14}{'method':20}{'cpu s':>8}{'wall s':>8}{'ratio':>8}  errors and widths: " + ", ".join(NAMES))
    for row in rows:
        errors = " ".join(f"{row[f'{key}_error']:.0e}" if key in row else "  -  " for key in NAMES)
        widths = " ".join(f"{row[f'{key}_width']:.0e}" for key in NAMES if f"{key}_width" in row)
        seconds = f"{row['cpu']:8.3f}{row['wall']:8.3f}{row['ratio']:8.2f}"
        print(f"{row['set']:14}{row['method']:20}{seconds}  {errors} {'| ' if widths else ''}{widths}")
    print(f"\n{'size':8}{'aim':42}{'aim':>8}{'found':>10}")
    for size, what, aim, found, reached in judge(rows):
        print(f"{size:8}{what:42}{aim:8.2g}{found:10.2g}{'' if reached else '  MISSED'}")


def save(rows: list[dict]) -> None:
    """JSON keeps everything; CSV is the same as a table."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    new = {row["size"] for row in rows}
    known = [row for row in known if row["size"] not in new] + rows
    known.sort(key=lambda row: list(SIZES).index(row["size"]))  # stable: sets and methods keep their order
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    columns = list(dict.fromkeys(column for row in known for column in row))
    with RESULTS.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{x:.6g}" if isinstance(x, float) else x for key, x in row.items()} for row in known)


def prepare(peers: Path) -> None:
    """Install ADEval beside the project's environment, not into it; what it needs is there already."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(peers), "adeval==1.1.0"]
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="folder that holds ADEval")
    parser.add_argument("--prepare", action="store_true", help="install ADEval into that folder first")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=7, help="of ours and ADEval")
    parser.add_argument("--slow-rounds", type=int, default=1, help="of the peers that take minutes on the large set")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.child:
        report_memory(options.child)
        return
    if options.peers is None:
        parser.error("--peers DIR is needed: a folder for ADEval")
    if options.prepare:
        prepare(options.peers)
    np.trapz = np.trapezoid  # ADEval 1.1.0 calls what numpy 2.4 has no more
    sys.path.append(str(options.peers))
    for size in options.sizes:
        load = " ".join(f"{value:.2f}" for value in os.getloadavg())
        print(f"\n{size}: {SIZES[size]}, threads {torch.get_num_threads()}, cv2 {cv2.getNumThreads()}, load {load}")
        rows = run_size(size, options.rounds, options.slow_rounds)
        show(rows)
        save(rows)


if __name__ == "__main__":
    main()
