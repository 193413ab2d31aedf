"""Folders of runs as the program leaves them, made of random scores in milliseconds."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from anomaly_lab.core.files import write_csv
from anomaly_lab.metrics.image_metrics import by_defect, decision_metrics, ranking_metrics
from anomaly_lab.runs.folder import FORMAT, RESULT_VERSION

CONTROLS = ("brightness", "sharpness", "mean_image", "pca")


def config(method: str, dataset: str, category: str, seed: int, name: str, **changes: Any) -> dict[str, Any]:
    """A configuration with the references of a real one; `changes` are dotted keys with `__` for the dot."""
    made: dict[str, Any] = {
        "seed": seed, "name": name, "runs_dir": "/home/somebody/runs", "rerun": False, "controls": True,
        "logger": {"_target_": "anomaly_lab.tracking.loggers.wandb_logger", "api_key": "0123secret"},
        "data": {
            "name": dataset, "category": category, "root": "/home/somebody/photos", "image_size": 256,
            "patches": 100000, "settings": "${data.categories.${data.category}}", "cache_dir": "/home/somebody/cache",
            "categories": {category: {"kind": "object", "rotation": 180}}, "datamodule": {"seed": "${seed}"},
        },
        "augmentation": {"rotation": "${data.settings.rotation}"},
        "callbacks": {"pictures": {"per_defect": 4}},
        "trainer": {"max_epochs": 20, "accelerator": "cpu"},
        "threshold": {"_target_": "anomaly_lab.metrics.thresholds.FalseAlarms", "rate": 0.01},
        "method": {
            "name": method, "_target_": f"anomaly_lab.methods.{method}.X", "size": "${data.image_size}", "latent": 100,
            "seed": "${seed}", "weights": "/home/somebody/weights.safetensors", "told": "${oc.env:HOME}",
        },
    }  # fmt: skip
    for key, value in changes.items():
        *path, last = key.split("__")
        node = made
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return made


def write_run(
    root: Path,
    method: str = "cae",
    dataset: str = "mvtec_ad",
    category: str = "screw",
    seed: int = 0,
    name: str = "sweep",
    digest: str = "0123456789",
    *,
    state: str = "done",
    error: str = "",
    strength: float = 1.5,
    images: int = 40,
    names: list[str] | None = None,
    aupro: float | None = None,
    pictures: int = 0,
    **changes: Any,
) -> Path:
    """A run whose abnormal images score higher by `strength` deviations; `names` replace those of the files."""
    folder = root / name / method / dataset / category / f"seed={seed}" / digest
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(
        yaml.safe_dump(config(method, dataset, category, seed, name, **changes))
    )
    job = {"state": state, "format": FORMAT} | ({"error": error} if error else {})
    (folder / "job.json").write_text(json.dumps(job))
    if state != "done":
        return folder
    random = np.random.default_rng([seed, len(method), sum(map(ord, category + method))])
    label = np.arange(images) % 2
    defects = ["good" if not value else ("scratch", "hole")[i % 4 // 2] for i, value in enumerate(label)]
    score = random.normal(size=images) + strength * label
    threshold = 1.0
    names = names or [f"{i:03d}.png" for i in range(images)]
    paths = [
        f"/home/somebody/photos/{category}/test/{defect}/{name}" for defect, name in zip(defects, names, strict=True)
    ]
    rows = [
        (
            path,
            defect,
            value,
            number,
            number / 2,
            number,
            number,
            threshold,
            "abnormal" if number >= threshold else "normal",
        )
        for path, defect, value, number in zip(paths, defects, label.tolist(), score.tolist(), strict=True)
    ]
    header = ("path", "defect", "label", "score", "mean", "scaled", "decision_score", "threshold", "decision")
    write_csv(folder / "scores.csv", header, rows)
    found = by_defect(score, score >= threshold, label, defects)
    columns = ("images", "accuracy", "auroc", "auroc_low", "auroc_high")
    lines = [[kind, *(values.get(column, "") for column in columns)] for kind, values in found.items()]
    write_csv(folder / "defects.csv", ("defect", *columns), lines)
    ranked, decided = ranking_metrics(score, label), decision_metrics(score >= threshold, label)
    controls = dict(zip(CONTROLS, (0.7, 0.6, 0.7, 0.75), strict=True))
    metrics: dict[str, Any] = {f"image_{key}": value for key, value in (ranked | decided).items()}
    metrics |= {"threshold": threshold, "control_image_auroc": 0.75, "fit_seconds": 60.0 * (len(method) + seed),
                "predict_seconds_per_image": len(method) / 100, "test_seconds": 1.0, "precision": "32-true",
                "result_version": RESULT_VERSION}  # fmt: skip
    if aupro is not None:
        metrics |= {"pixel_aupro": aupro, "control_pixel_aupro": 0.5, "pixel_auroc": (1 + aupro) / 2}
        points = np.linspace(0, 0.3, 50)
        write_csv(folder / "curves" / "pixel_pro.csv", ("false_positive_rate", "overlap", "threshold"),
                  zip(points, points ** (1 - aupro), -points, strict=True))  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_csv(folder / "controls.csv", ("control", "image_auroc"), controls.items())
    line = {
        "name": "false_alarms",
        "decided_by": "score",
        "image": threshold,
        "pixel": 2.0,
        "minimum_area": 0.001,
        "normals": 20,
    }
    (folder / "threshold.json").write_text(json.dumps([line]))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.7", "git": "abc1234"}))
    losses = [(epoch, 1 / epoch, 1.1 / epoch) for epoch in range(1, 21)]
    write_csv(folder / "curves" / "losses.csv", ("epoch", "train/loss", "validation/loss"), losses)
    _write_gallery(folder, paths, defects, label.tolist(), score, pictures, random)
    return folder


def write_folds(root: Path, values: dict[int, float], folds: int = 5, **settings: Any) -> None:
    """A supervised run for each fold, which tests photos of its own, with its pixel AU-PRO."""
    for fold, value in values.items():
        names = [f"{fold} {i:03d}.png" for i in range(40)]
        changes = {"data__fold": fold, "data__folds": folds, "digest": f"{fold:010d}", "names": names, "aupro": value}
        folder = write_run(root, **{**changes, **settings})
        (folder / "metrics.json").write_text(json.dumps(read_metrics(folder) | {"protocol": "supervised"}))


def _write_gallery(folder: Path, paths: list[str], defects: list[str], label: list[int], score: np.ndarray,
                   count: int, random: np.random.Generator) -> None:  # fmt: skip
    """Strips of three tiles with as much detail as photos of parts have."""
    if not count:
        return
    (folder / "gallery").mkdir()
    rising = np.argsort(score).tolist()
    kinds = [
        ("lowest_defective", [i for i in rising if label[i]]),
        ("highest_good", [i for i in rising[::-1] if not label[i]]),
    ]
    rows = []
    for kind, order in [*kinds, ("random", rising[::2])]:
        for number, i in enumerate(order[:count]):
            coarse = random.integers(0, 255, (20, 60, 3), dtype=np.uint8)
            picture = cv2.resize(coarse, (480, 160), interpolation=cv2.INTER_CUBIC)
            encoded = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 80])[1]
            (folder / "gallery" / f"{kind}_{number:02d}.webp").write_bytes(encoded.tobytes())
            rows.append(
                (f"{kind}_{number:02d}.webp", kind, paths[i], defects[i], label[i], score[i], "image overlay mask")
            )
    write_csv(folder / "gallery" / "index.csv",
              ("file", "kind", "path", "defect", "label", "decision_score", "tiles"), rows)  # fmt: skip


def write_sweep(
    root: Path, methods: int = 7, categories: int = 5, seeds: int = 3, pictures: int = 6, images: int = 150
) -> int:
    """A sweep of so many methods, categories and seeds; how many runs that is."""
    known = ("cae", "ssim_ae", "anogan", "f_anogan", "ganomaly", "skip_ganomaly", "cnn_dictionary")[:methods]
    parts = ("carpet", "bottle", "cable", "screw", "zipper")[:categories]
    for i, method in enumerate(known):
        for k, category in enumerate(parts):
            for seed in range(seeds):
                write_run(root, method, "mvtec_ad", category, seed, strength=0.4 + 0.4 * i + 0.1 * k, pictures=pictures,
                          images=images, aupro=0.5 + 0.05 * i + 0.01 * seed * k)  # fmt: skip
    return len(known) * len(parts) * seeds


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json."""
    return json.loads((folder / "metrics.json").read_text())


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
