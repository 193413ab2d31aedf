"""TIFF maps: place, size and type; MVTec's algorithm over the files gives the same AU-PRO."""

import json

import numpy as np
import pytest
import tifffile

from anomaly_lab.data.images import read_mask, read_photo
from anomaly_lab.data.layouts import mvtec_ad
from tests.metrics.test_pixel_metrics import reference


def test_mvtecs_algorithm_over_the_files_gives_the_same_aupro(lab, tiny, parts, tmp_path):
    lab("data=folder", f"data.root={parts}", *tiny, "callbacks.pictures=null")
    (run,) = (path.parent for path in (tmp_path / "runs").rglob("metrics.json"))
    samples = mvtec_ad(str(parts.parent), "bar").test
    files = [run / "maps/bar/test" / s.defect / f"{s.path.stem}.tiff" for s in samples]
    assert sorted(files) == sorted((run / "maps").rglob("*.tiff"))
    maps = [tifffile.imread(file) for file in files]
    masks = [read_mask(s.mask_path, read_photo(s.path, 1).shape[:2]) for s in samples]
    aupro = json.loads((run / "metrics.json").read_text())["pixel_aupro"]
    assert reference(maps, masks)["aupro"] == pytest.approx(aupro, abs=1e-6)
    assert not (run / "pictures").exists()


def test_half_precision_is_an_option(lab, tiny, parts, tmp_path):
    lab("data=folder", f"data.root={parts}", *tiny, "callbacks.anomaly_maps.dtype=float16")
    assert tifffile.imread(next((tmp_path / "runs").rglob("*.tiff"))).dtype == np.float16
