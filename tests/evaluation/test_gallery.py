"""The gallery keeps the worst of each kind, whatever the batches and the processes, and no more."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.placement import place
from anomaly_lab.data.samples import Sample
from anomaly_lab.evaluation.drawing import Panel
from anomaly_lab.evaluation.evaluation import Evaluation, Row
from anomaly_lab.evaluation.gallery import Gallery, tiles_of
from tests.conftest import stand_in
from tests.report.synthetic import read_rows

COUNT = 24
METHOD = stand_in(pl.LightningModule)
RANDOM = np.random.default_rng(0)
SCORES = RANDOM.permutation(COUNT).astype(float).tolist()
SAMPLES = [
    Sample(Path(f"{'scratch' if i % 2 else 'good'}/{i:02d}<b>.png"), None, i % 2, "scratch" if i % 2 else "good", "")
    for i in range(COUNT)
]


def shown(tmp_path, gallery, batch_size, order):
    """What is kept of a test in batches of this size."""
    evaluation = stand_in(Evaluation, rows=[])
    trainer = stand_in(
        pl.Trainer, datamodule=stand_in(DataModule, test_samples=SAMPLES), callbacks=[evaluation, gallery], loggers=[],
        is_global_zero=True, default_root_dir=str(tmp_path),
    )  # fmt: skip
    for start in range(0, COUNT, batch_size):
        places = order[start : start + batch_size]
        evaluation.rows += [Row(i, SCORES[i], 0.0, SCORES[i]) for i in places]
        count = len(places)
        images = torch.full((count, 3, 16, 16), 0.5)
        masks = tuple(torch.zeros(1, 16, 16, dtype=torch.bool) for _ in places)
        label = torch.tensor([i % 2 for i in places])
        batch = Batch(images, masks, label, torch.tensor(places), (place(16, 16, 16, "pad"),) * count)
        gallery.on_test_batch_end(trainer, METHOD, Prediction(torch.rand(count, 1, 16, 16), None, None), batch)
        assert max(len(shots) for shots in gallery._kept.values()) <= max(gallery.count, gallery.random)
    gallery.on_test_end(trainer, METHOD)
    return [(row["kind"], row["path"]) for row in read_rows(tmp_path / "gallery" / "index.csv")]


@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_the_worst_are_kept_whatever_the_batches(tmp_path, batch_size):
    found = shown(tmp_path, Gallery(count=3, random=4, side=16), batch_size, list(range(COUNT)))
    rising = sorted(range(COUNT), key=lambda i: SCORES[i])
    misses = [str(SAMPLES[i].path) for i in rising if i % 2][:3]
    alarms = [str(SAMPLES[i].path) for i in rising[::-1] if not i % 2][:3]
    assert [path for kind, path in found if kind == "lowest_defective"] == misses
    assert [path for kind, path in found if kind == "highest_good"] == alarms
    assert len([path for kind, path in found if kind == "random"]) == 4


def test_the_order_of_the_images_changes_nothing(tmp_path):
    one = shown(tmp_path / "1", Gallery(side=16), 5, list(range(COUNT)))
    other = shown(tmp_path / "2", Gallery(side=16), 4, list(range(COUNT))[::-1])
    assert one == other
    assert len(one) == 18


def test_a_file_is_a_strip_of_the_tiles_that_the_index_names(tmp_path):
    shown(tmp_path, Gallery(count=1, random=0, side=16), 8, list(range(COUNT)))
    rows = read_rows(tmp_path / "gallery" / "index.csv")
    assert [row["kind"] for row in rows] == ["lowest_defective", "highest_good"]
    assert [row["tiles"] for row in rows] == ["image map overlay"] * 2  # no mask of the defect, none of a good image
    widths = [cv2.imread(str(tmp_path / "gallery" / row["file"])).shape for row in rows]
    assert widths == [(16, 48, 3)] * 2
    assert sorted(path.name for path in (tmp_path / "gallery").iterdir()) == [
        "highest_good_00.webp", "index.csv", "lowest_defective_00.webp"
    ]  # fmt: skip


def test_tiles_show_image_reconstruction_map_overlay_and_mask():
    gray = np.full((4, 4, 3), 100, np.uint8)
    mask = np.eye(4, dtype=bool)
    tiles = tiles_of(Panel("", gray, gray + 50, np.zeros((4, 4), np.float32), mask), 0.0, 1.0)
    assert list(tiles) == ["image", "reconstruction", "map", "overlay", "mask"]
    assert (tiles["image"] == 100).all()
    assert (tiles["reconstruction"] == 150).all()
    assert tiles["map"].max() < 10  # the darkest colour
    assert (tiles["overlay"] == 50).mean() > 0.5
    assert (tiles["mask"][..., 0] == 255 * mask).all()
    assert list(tiles_of(Panel("", gray, None, None, mask), 0.0, 1.0)) == ["image", "mask"]
    assert "mask" not in tiles_of(Panel("", gray, None, np.zeros((4, 4), np.float32), mask & False), 0.0, 1.0)
