"""Controls beside a result: what they find, and which metrics they are not beaten in."""

import csv
import json

import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.core.files import write_json
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.evaluation.controls import COMPARED, Controls, controls_file, not_beaten, strongest
from anomaly_lab.evaluation.evaluation import Evaluation
from anomaly_lab.metrics.thresholds import Area
from tests.conftest import stand_in

FOUND = {
    "brightness": {"image_auroc": 0.1},
    "mean_image": {"image_auroc": 0.7, "pixel_auroc": 0.8},
    "gray_ssim": {"image_auroc": 0.6, "pixel_auroc": 0.85},
}


def test_the_strongest_control_counts_and_a_number_of_the_image_in_either_direction():
    assert strongest("pixel_auroc", FOUND) == ("gray_ssim", 0.85)
    assert strongest("image_auroc", FOUND) == ("low brightness", 0.9)


def test_what_is_not_above_the_strongest_control_is_told():
    assert not_beaten({"image_auroc": 0.95, "pixel_auroc": 0.84}, FOUND) == {"pixel_auroc": ("gray_ssim", 0.85)}
    assert not_beaten({"image_auroc": 0.9}, FOUND) == {"image_auroc": ("low brightness", 0.9)}
    assert not_beaten({"pixel_auroc": float("nan")}, FOUND) == {"pixel_auroc": ("gray_ssim", 0.85)}


def test_a_run_says_that_it_does_not_beat_them_and_equals_the_control_as_a_method(lab, tiny, parts, tmp_path):
    """The defects are white squares on gray bars: their images are brighter, and no training is needed to see it."""
    arguments = ("data=folder", f"data.root={parts}", *tiny)
    done = lab(*arguments)
    run = next((tmp_path / "runs").rglob("controls.csv")).parent
    with (run / "controls.csv").open() as file:
        rows = {row["control"]: row for row in csv.DictReader(file)}
    assert len(rows) == 7
    assert float(rows["brightness"]["image_auroc"]) == 1.0
    found = json.loads((run / "metrics.json").read_text())
    told = [name for name in COMPARED if f"{name} {found[name]:.3f} does not beat the control" in done.stdout]
    assert told == [name for name in COMPARED if not found[name] > found[f"control_{name}"]]
    assert "image_auroc" in told  # no image can score above a control that is perfect
    assert len(list((tmp_path / "cache" / "anomaly_lab" / "controls").iterdir())) == 1  # for the next run
    arguments = [argument for argument in arguments if "epochs" not in argument]
    for kind in ("mean_image", "brightness", "pca"):
        lab(*arguments, "method=control", f"method.kind={kind}", f"name={kind}")
        (path,) = (tmp_path / "runs" / kind).rglob("scores.csv")
        metrics = json.loads((path.parent / "metrics.json").read_text())
        assert not (path.parent / "controls.csv").exists()
        for name in ("image_auroc", "pixel_auroc", "pixel_aupro_smoothed"):
            if rows[kind][name]:
                assert metrics[name] == pytest.approx(float(rows[kind][name]), abs=1e-9), (kind, name)


def test_figures_that_are_known_are_not_computed_again(tmp_path, capsys):
    cache = controls_file(tmp_path / "cache", ["train", "test", 64])
    assert cache != controls_file(tmp_path / "cache", ["train", "other", 64])
    write_json(cache, FOUND)
    evaluation = Evaluation(Area(0.1))
    evaluation.metrics = {"image_auroc": 0.8, "pixel_auroc": 0.9}
    controls = Controls(evaluation, cache)
    trainer = stand_in(pl.Trainer, default_root_dir=str(tmp_path), is_global_zero=True)  # no data to look at
    controls.on_test_start(trainer, pl.LightningModule())
    prediction, index = Prediction(torch.zeros(1, 1, 2, 2), None, None), torch.zeros(1).long()
    controls.on_test_batch_end(
        trainer, pl.LightningModule(), prediction, Batch(torch.zeros(1, 3, 2, 2), (), index, index, ())
    )
    controls.on_test_epoch_end(trainer, pl.LightningModule())
    assert controls.metrics() == {"control_image_auroc": 0.9, "control_pixel_auroc": 0.85}
    assert capsys.readouterr().out == "image_auroc 0.800 does not beat the control low brightness, 0.900\n"
    with (tmp_path / "controls.csv").open() as file:
        assert {row["control"]: row["image_auroc"] for row in csv.DictReader(file)}["mean_image"] == "0.7"


def test_controls_see_textures_whole(lab, tiny, parts, tmp_path):
    arguments = [argument for argument in tiny if "epochs" not in argument and "image_size" not in argument]
    lab(
        "data=folder", f"data.root={parts}", *arguments, "data.kind=texture", "data.image_size=140", "method=control",
        "method.kind=mean_image",
    )  # fmt: skip
    (path,) = (tmp_path / "runs").rglob("metrics.json")
    assert json.loads(path.read_text())["pixel_auroc"] > 0.9
