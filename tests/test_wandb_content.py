"""What a run tells W&B: read back from an offline run and compared with the files of its folder."""

import csv
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf

from anomaly_lab.cli.dashboard import CURVES, LOSSES, MAPS, METRICS
from anomaly_lab.evaluation.drawing import write_picture
from anomaly_lab.runs.measures import is_loss
from anomaly_lab.tracking import loggers
from anomaly_lab.tracking.loggers import FailSafeWandbLogger, hyperparameters, log_pictures, log_tables
from tests.conftest import SECRET, stand_in
from tests.wandb_record import Record, read

OF_F_ANOGAN = {
    "validation/latent", "discriminator/gradient_penalty", "encoder/latent", "encoder/image", "encoder/features"
}  # fmt: skip


class Run(NamedTuple):
    folder: object
    home: object
    record: Record


@pytest.fixture(scope="module")
def run(toy_run):
    assert "W&B" not in toy_run.said
    assert "sizes do not match" not in toy_run.said
    return Run(toy_run.folder, toy_run.home, read(toy_run.folder / "wandb"))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def picture(path):
    image = cv2.imread(str(path))
    assert image is not None, path
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def shown(run, key):
    """Caption -> picture of a panel."""
    about = run.record.summary[key]
    captions = about.get("captions") or [""] * about["count"]
    files = [run.record.folder / "files" / name for name in about["filenames"]]
    assert {name.relative_to(run.record.folder / "files").as_posix() for name in files} <= set(run.record.files)
    return dict(zip(captions, map(picture, files), strict=True))


def test_group_type_and_tags_say_what_the_run_is(run):
    about = run.record.run
    assert (about.project, about.run_group, about.job_type) == ("anomaly_lab", "sweep7", "train")
    assert set(about.tags) == {"method:ganomaly", "data:folder", "category:bar"}
    assert run.record.exit_code == 0


def test_the_resolved_configuration_has_columns_to_filter_by(run):
    config = run.record.config
    assert config["method"]["name"] == "ganomaly"
    assert config["method"]["optimizer"]["lr"] == 0.0002
    assert config["data"]["category"] == "bar"
    assert config["data"]["patches"] == 64
    assert config["data"]["settings"]["rotation"] == 0
    assert config["seed"] == 0
    assert (config["protocol"], config["learner"]) == ("unsupervised", "ganomaly")
    assert config["environment"] == json.loads((run.folder / "environment.json").read_text())
    assert not {"logger", "callbacks", "run_folder", "hydra"} & set(config)


def test_losses_lie_over_epochs_and_no_row_is_dropped(run):
    rows = rows_of(run.folder / "curves" / "losses.csv")
    assert len(rows) == 2
    for name in rows[0]:
        if name != "epoch":
            column = [(float(row["epoch"]), float(row[name])) for row in rows]
            assert run.record.series({"train/loss": "train/loss_epoch"}.get(name, name)) == column, name
    assert {"generator/adversarial", "discriminator/real", "validation/loss", "samples/diversity"} <= set(rows[0])
    assert [row["_step"] for row in run.record.history] == list(range(len(run.record.history)))
    assert run.record.metrics == {"*": "epoch", "train/loss_step": "trainer/global_step"}


def test_the_summary_has_every_figure_of_the_run_under_its_name(run):
    metrics = json.loads((run.folder / "metrics.json").read_text())
    words = {"precision", "result_version", "result_key"}
    figures = {name: value for name, value in metrics.items() if name not in words}
    assert {"image_auroc", "pixel_aupro", "control_image_auroc", "fit_seconds"} <= set(figures)
    assert {name: run.record.summary[f"test/{name}"] for name in figures} == figures


def test_panels_show_the_gallery_tile_by_tile(run):
    index = rows_of(run.folder / "gallery" / "index.csv")
    for kind in ("lowest_defective", "highest_good", "random"):
        rows = [row for row in index if row["kind"] == kind]
        panel = shown(run, f"gallery/{kind}")
        assert len(panel) == len(rows) >= 5
        most = max(len(row["tiles"].split()) for row in rows)
        for row, (caption, pixels) in zip(rows, panel.items(), strict=True):
            tiles = row["tiles"].split()
            assert tiles == ["image", "reconstruction", "map", "overlay", *["mask"] * (row["label"] == "1")]
            score = f"score {float(row['decision_score']):.4g}"
            assert caption == f"{row['defect']} {Path(row['path']).name}, {score}: {' | '.join(tiles)}"
            kept = picture(run.folder / "gallery" / row["file"])  # compressed with loss
            assert pixels.shape == (160, 160 * most, 3)  # a wide photo, and fewer tiles, have a black margin there
            assert kept.shape == (95 if "wide" in row["path"] else 160, 160 * len(tiles), 3)
            assert np.abs(pixels[: len(kept), : kept.shape[1]].astype(int) - kept).mean() < 6


def test_curves_and_pictures_are_those_of_the_folder(run):
    for path in [*(run.folder / "curves").glob("*.png"), *(run.folder / "samples").glob("*0002.png")]:
        key = "samples/drawn" if path.parent.name == "samples" else f"curves/{path.stem}"
        (pixels,) = shown(run, key).values()
        assert np.array_equal(pixels, picture(path)), key
    assert {"curves/scores", "curves/losses", "curves/features"} <= set(run.record.summary)
    assert [row["epoch"] for row in run.record.history if "samples/drawn" in row] == [1, 2]
    for name, pixels in shown(run, "pictures/first").items():
        assert np.array_equal(pixels, picture(run.folder / "pictures" / f"{name}.png"))


def test_the_table_of_scores_is_scores_csv(run):
    rows, table = rows_of(run.folder / "scores.csv"), run.record.table("tables/scores")
    assert table["columns"] == [*rows[0], "picture"]
    assert len(table["data"]) == len(rows) == 11
    for row, values in zip(rows, table["data"], strict=True):
        found = dict(zip(table["columns"], values, strict=True))
        assert row["path"].endswith(f"/test/{found['path']}")
        assert (found["defect"], found["decision"]) == (row["defect"], row["decision"])
        for name in ("label", "score", "mean", "scaled", "decision_score", "threshold"):
            assert found[name] == float(row[name])
    assert table["data"][0][0] == "good/000.png"


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_plots_that_lie_over_those_of_other_runs(run, name):
    table = run.record.table(f"Custom Chart Tables/plots/{name}_table")
    rows = rows_of(run.folder / "curves" / f"{name}.csv")
    x, y = CURVES[name]
    assert table["columns"] == [x, y]
    assert table["data"] == [[float(row[x]), float(row[y])] for row in rows]
    chart = run.record.config["_wandb"]["visualize"][f"plots/{name}"]["panel_config"]
    assert chart["panelDefId"] == "wandb/line/v0"
    assert (chart["fieldSettings"]["x"], chart["fieldSettings"]["y"]) == (x, y)


def test_neither_home_nor_command_nor_environment_leave_the_machine(run):
    uploaded = [run.record.raw, *((run.record.folder / "files" / name).read_bytes() for name in run.record.files)]
    everything = b"\n".join(uploaded)
    assert len(uploaded) > 30
    for kept in (str(run.home), SECRET, sys.executable, "anomaly_lab.__main__", "PHOTOS=", "data.root="):
        assert kept.encode() not in everything, kept
    assert run.record.config["data"]["root"] == "${oc.env:PHOTOS}"
    assert not [
        path for path in run.home.rglob("*") if "wandb" in path.name and path.is_file()
    ]  # nothing is left there


def test_the_dashboard_shows_what_is_recorded(run):
    recorded = set(run.record.summary)
    losses = {name for names in LOSSES.values() for name in names}
    assert losses - recorded <= OF_F_ANOGAN
    of_networks = {name for name in recorded if name.startswith(("generator/", "discriminator/"))}
    assert of_networks - losses == {"discriminator/reinitialisations"}
    assert set(MAPS.values()) <= recorded
    assert {f"test/{prefix}{name}" for name in METRICS.values() for prefix in ("", "control_")} <= recorded
    assert all(is_loss(name) or name == "samples/diversity" for name in losses)


# Without a run


class Kept(FailSafeWandbLogger):
    """Keeps what it is asked to log."""

    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)


def test_secrets_places_and_wiring_are_left_out_of_the_configuration(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("MINE", SECRET)
    config = OmegaConf.create(
        {
            "logger": {"api_key": SECRET}, "callbacks": {}, "tilings": {}, "run_folder": "/a", "seed": 1,
            "data": {"root": "/home/somebody/photos", "categories": {}, "layout": {}, "datamodule": {}, "n": "${seed}"},
            "method": {"token": SECRET, "weights": "~/w.pt", "note": "${oc.env:MINE}", "sizes": [1, "/x/y"]},
        }
    )  # fmt: skip
    assert hyperparameters(config) == {
        "seed": 1,
        "data": {"root": "…/photos", "n": 1},
        "method": {"weights": "…/w.pt", "note": "${oc.env:MINE}", "sizes": [1, "…/y"]},
    }


def test_of_a_very_large_test_set_the_table_shows_a_part_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loggers, "TABLE_ROWS", 4)
    lines = ["path,defect,score,decision", *(f"/a/{'bad' if i > 5 else 'good'}/{i},x,{i},normal" for i in range(10))]
    (tmp_path / "scores.csv").write_text("\n".join(lines))
    logger = Kept()
    log_tables(logger, tmp_path)
    ((table,),) = [row.values() for row in logger.rows]
    assert table.data == [[f"{'bad' if i > 5 else 'good'}/{i}", "x", float(i), "normal"] for i in (0, 3, 6, 9)]
    said = capsys.readouterr().out
    assert said == "W&B: its table shows 4 of 10 images, evenly drawn; scores.csv has all\n"


def test_scores_that_are_no_numbers_are_kept(tmp_path):
    (tmp_path / "scores.csv").write_text("path,score\na/1,nan\nb/2,inf\n")
    logger = Kept()
    log_tables(logger, tmp_path)
    (_, first), (_, second) = logger.rows[0]["tables/scores"].data
    assert math.isnan(first)
    assert second == math.inf


def test_images_that_have_a_picture_show_it_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "TABLE_PICTURES", 2)
    (tmp_path / "scores.csv").write_text("path,defect,score\n" + "".join(f"/a/cut/{i}.png,cut,{i}\n" for i in range(4)))
    for name in ("gallery/lowest_defective_00.webp", "pictures/cut_1.png", "pictures/cut_2.png"):
        write_picture(tmp_path / name, np.full((10, 640, 3), 90, np.uint8))
    (tmp_path / "gallery/index.csv").write_text("file,path\nlowest_defective_00.webp,/a/cut/3.png\n")
    logger = Kept()
    log_tables(logger, tmp_path)
    table = logger.rows[0]["tables/scores"]
    assert table.columns == ["path", "defect", "score", "picture"]
    sizes = [row[3] and (*row[3].image.size, row[3].format) for row in table.data]
    assert sizes == [None, (320, 5, "jpg"), None, (320, 5, "jpg")]


def test_without_labelled_images_there_is_no_table(tmp_path):
    logger = Kept()
    log_tables(logger, tmp_path)
    assert logger.rows == []


def test_pictures_of_a_panel_are_made_equally_large():
    logger = Kept()
    small, large = np.full((2, 3, 3), 7, np.uint8), np.full((4, 2, 3), 9, np.uint8)
    log_pictures([logger], {"gallery/lowest_defective": {"a": small, "b": large}}, epoch=5)
    (row,) = logger.rows
    assert row["epoch"] == 4  # Lightning's count
    pictures = [np.asarray(image.image) for image in row["gallery/lowest_defective"]]
    assert [picture.shape for picture in pictures] == [(4, 3, 3)] * 2
    assert (pictures[0][:2] == 7).all()
    assert not pictures[0][2:].any()
    assert [image._caption for image in row["gallery/lowest_defective"]] == ["a", "b"]


def test_tensorboard_shows_every_picture():
    names = []
    logger = stand_in(pl.loggers.TensorBoardLogger)
    logger.experiment.add_image = lambda name, picture, epoch, dataformats: names.append((name, epoch, dataformats))
    pixels = np.zeros((2, 2, 3), np.uint8)
    log_pictures([logger], {"curves/scores": {"": pixels}, "gallery/lowest_defective": {"a": pixels, "b": pixels}})
    assert names == [
        ("curves/scores", None, "HWC"),
        ("gallery/lowest_defective/a", None, "HWC"),
        ("gallery/lowest_defective/b", None, "HWC"),
    ]
