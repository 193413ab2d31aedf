"""TIFF maps: place, size and type; MVTec's algorithm over the files gives the same AU-PRO."""

import json

import numpy as np
import pytest
import pytorch_lightning as pl
import tifffile
import torch

from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.formats import read_photo
from anomaly_lab.data.layouts import mvtec_ad
from anomaly_lab.data.masks import read_mask
from anomaly_lab.data.placement import place
from anomaly_lab.evaluation.anomaly_maps import AnomalyMaps
from tests.conftest import stand_in
from tests.metrics.test_pixel_metrics import reference


def test_mvtecs_algorithm_over_the_files_gives_the_same_aupro(toy_run):
    samples = mvtec_ad(str(toy_run.photos.parent), "bar").test
    files = [toy_run.folder / "maps/bar/test" / s.defect / f"{s.path.stem}.tiff" for s in samples]
    assert sorted(files) == sorted((toy_run.folder / "maps").rglob("*.tiff"))
    maps = [tifffile.imread(file) for file in files]
    masks = [read_mask(s.mask_path, read_photo(s.path, 1).shape[:2]) for s in samples]
    aupro = json.loads((toy_run.folder / "metrics.json").read_text())["pixel_aupro"]
    assert reference(maps, masks)["aupro"] == pytest.approx(aupro, abs=1e-6)


def test_half_precision_is_an_option(parts, tmp_path):
    data = stand_in(DataModule, test_samples=mvtec_ad(str(parts.parent), "bar").test[:1])
    trainer = stand_in(pl.Trainer, datamodule=data, default_root_dir=str(tmp_path))
    image, one = torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)
    batch = Batch(image, (), one, one, (place(140, 140, 32, "pad"),))
    found = Prediction(torch.rand(1, 1, 32, 32), None, None)
    AnomalyMaps("bar", "float16").on_test_batch_end(trainer, stand_in(pl.LightningModule), found, batch, 0)
    written = tifffile.imread(tmp_path / "maps/bar/test/good/000.tiff")
    assert (written.shape, written.dtype) == ((140, 140), np.float16)


def test_one_number_an_image_is_no_map(parts, tmp_path):
    data = stand_in(DataModule, test_samples=mvtec_ad(str(parts.parent), "bar").test[:1])
    trainer = stand_in(pl.Trainer, datamodule=data, default_root_dir=str(tmp_path))
    one = torch.zeros(1, dtype=torch.long)
    batch = Batch(torch.zeros(1, 3, 32, 32), (), one, one, (place(140, 140, 32, "pad"),))
    blind = stand_in(pl.LightningModule, localises=False)
    AnomalyMaps("bar").on_test_batch_end(trainer, blind, Prediction(torch.ones(1, 1, 32, 32), None, None), batch, 0)
    assert not (tmp_path / "maps").exists()
