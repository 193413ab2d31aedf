"""A run from the outside: its folder, skip, resume, bad data, kills; and its life without a training, in process."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import tifffile
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.config.resolvers import register
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.data.corruption import AnyOf, Blob, PerlinTexture
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.samples import Sample
from anomaly_lab.data.textures import ForeignTextures
from anomaly_lab.evaluation import controls
from anomaly_lab.launch.portfolio import minutes_of
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage
from anomaly_lab.methods.efficient_ad import EfficientAD
from anomaly_lab.methods.ganomaly import GANomaly
from anomaly_lab.methods.patchcore import PatchCore
from anomaly_lab.metrics.ranking import rank
from anomaly_lab.runs.folder import read_job, seconds_of, write_job
from anomaly_lab.runs.naming import folder_of as folder_for
from anomaly_lab.training import lifecycle
from anomaly_lab.training.checks import (
    check_batch_norm,
    check_batches,
    check_foreign_photos,
    check_images,
    check_memory,
    check_processes,
    check_strategy,
)
from anomaly_lab.training.run import fit_and_test, learner_of
from anomaly_lab.training.strategy import DDP
from tests.conftest import QUIET, stand_in, variables
from tests.features import Pixels
from tests.launch.test_job import wait_until
from tests.wandb_record import read as read_record

COMPARED = {
    "image_auroc", "pixel_auroc", "pixel_aupr", "pixel_aupro", "pixel_aupimo", "pixel_auroc_smoothed",
    "pixel_aupr_smoothed", "pixel_aupro_smoothed", "pixel_aupimo_smoothed",
}  # fmt: skip
NAMES = {
    "threshold", "pixel_threshold", "image_auroc_low", "image_auroc_high", "image_aupr", "image_f1max",
    "image_recall_at_95_specificity", "image_auroc_mean", "image_accuracy", "image_accuracy_majority",
    "image_accuracy_normal", "image_accuracy_abnormal",
    "image_balanced_accuracy", "image_precision", "image_recall", "image_f1", "pixel_f1max", "pixel_f1max_smoothed",
    "pixel_overlap", "pixel_overlap_all", "pixel_iou", "pixel_precision", "pixel_recall", "fit_seconds",
    "train_images_per_second",
    "predict_seconds_per_image", "test_seconds", "peak_memory_mb", "precision", "result_version",
    "result_key",
    *COMPARED, *(f"control_{name}" for name in COMPARED),
}  # fmt: skip
COSTS = {"fit_seconds", "train_images_per_second", "predict_seconds_per_image", "test_seconds", "peak_memory_mb"}


def folder_of(tmp_path):
    (job,) = (tmp_path / "runs").rglob("job.json")
    return job.parent


def read(folder):
    return json.loads((folder / "metrics.json").read_text())


def rows_of(folder):
    with (folder / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def without_costs(metrics):
    return {name: value for name, value in metrics.items() if name not in COSTS}


def test_a_run_fills_its_folder(toy_run):
    folder, metrics, rows = toy_run.folder, read(toy_run.folder), rows_of(toy_run.folder)
    assert re.search(r"8 training images|9 training images", toy_run.said)
    assert set(metrics) == NAMES
    assert read_job(folder)["state"] == "done"
    assert read_job(folder)["versions"] == {"method": GANomaly.version, "weights": 1}
    assert {"versions", "git", "device"} <= set(json.loads((folder / "environment.json").read_text()))
    torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert json.loads((folder / "photos.json").read_text())["good_photos"] == 10  # held-out ones among them

    assert [row["defect"] for row in rows] == ["good"] * 6 + ["hole"] * 5
    scores = np.array([float(row["score"]) for row in rows])
    assert metrics["image_auroc"] == pytest.approx(rank(scores[:6], scores[6:]).auroc().value, abs=1e-6)
    for row in rows:
        assert row["decision"] == ("abnormal" if float(row["score"]) >= metrics["threshold"] else "normal")
        name = Path(row["path"]).stem
        anomaly_map = tifffile.imread(folder / "maps/bar/test" / row["defect"] / f"{name}.tiff")
        assert anomaly_map.shape == ((90, 150) if name == "wide" else (140, 140))
        assert anomaly_map.dtype == np.float32
        assert anomaly_map.mean() == pytest.approx(float(row["mean"]), rel=0.05)
    assert len(list((folder / "pictures").glob("*.png"))) == 4 + 4 + 1


def test_a_finished_run_is_skipped_or_tested_again_or_done_again(toy_run, lab, tmp_path):
    """Nothing is trained where another threshold is asked for, and nothing of the earlier test is left."""
    folder, first = toy_run.copy(tmp_path), read(toy_run.folder)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    state = checkpoint.stat().st_ino, checkpoint.stat().st_mtime_ns
    same = lab(*toy_run.words, "controls=true", "data.workers=1", "logger=csv")  # none of these can change a result
    assert same.stdout.startswith("already done, skipped:")

    stale = folder / "pictures" / "of_the_first_test.png"
    stale.touch()
    again = lab(*toy_run.words, "threshold=area")
    assert again.stdout.count("trained already, tested again from its checkpoint") == 1
    assert "epoch 1/2" not in again.stdout
    second = read(folder)
    assert second["result_key"] != first["result_key"]
    assert second["threshold"] != first["threshold"]
    assert second["image_auroc"] == first["image_auroc"]
    assert (checkpoint.stat().st_ino, checkpoint.stat().st_mtime_ns) == state
    for name in ("fit_seconds", "train_images_per_second"):  # of the training, whoever tells them
        assert second[name] == first[name] > 0
    assert not stale.exists()
    assert not (folder / "maps").exists()

    write_job(folder, "running")  # killed in its test
    (folder / "metrics.json").unlink()
    lab(*toy_run.words)
    third = read(folder)
    assert {name: third[name] for name in ("fit_seconds", "threshold")} == {
        name: first[name] for name in ("fit_seconds", "threshold")
    }

    assert "epoch 1/2" in lab(*toy_run.words, "rerun=true").stdout
    assert checkpoint.stat().st_mtime_ns != state[1]
    assert without_costs(read(folder)) == without_costs(third)
    assert third.items() >= {name: first[name] for name in third if name not in {*COSTS, "result_key"}}.items()


@pytest.mark.slow
def test_good_images_alone_train_and_set_the_threshold(lab, toy, parts, tmp_path):
    done = lab(*toy, f"data.root={parts / 'train/good'}")
    assert "no labelled test images: metrics left out" in done.stdout
    metrics = read(folder_of(tmp_path))
    assert metrics["threshold"] > 0
    assert not {name for name in metrics if name.startswith(("image_", "pixel_auroc", "control_"))}
    assert "good" in str(folder_of(tmp_path))


@pytest.mark.slow
def test_good_beside_bad_without_a_split_and_without_masks_is_judged_on_the_image_level(lab, toy, parts, tmp_path):
    root = tmp_path / "mixed"
    shutil.copytree(parts / "train/good", root / "good")
    shutil.copytree(parts / "test/hole", root / "bad")
    lab(*toy, f"data.root={root}")
    assert {row["defect"] for row in rows_of(folder_of(tmp_path))} == {"good", "bad"}
    metrics = read(folder_of(tmp_path))
    assert "image_auroc" in metrics
    assert {name for name in metrics if "pixel_" in name} == {"pixel_threshold"}


@pytest.mark.slow
def test_textures_are_cropped_and_tiled(lab, toy, tmp_path):
    lab(*toy, "data.kind=texture", "data.image_size=80", "data.patch_size=64", "data.stride=16")
    assert set(read(folder_of(tmp_path))) == {name for name in NAMES if not name.startswith("control_")}


@pytest.mark.slow
def test_an_unreadable_image_ends_in_one_line_and_nothing_is_left_not_even_folders(lab, toy, parts, tmp_path):
    (parts / "test/hole/002.png").write_bytes(b"junk")
    done = lab(*toy, code=1)
    assert re.match(r"error: .*002.png: expected a readable image", done.stderr.strip().splitlines()[-1])
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_a_long_training_for_which_a_shorter_one_is_named(lab, toy, tmp_path):
    done = lab(*toy, "method.optimizer.lr=1e30", "data.patches=100000", "trainer.max_epochs=200", code=1)
    assert "shorter: " in done.stdout
    assert re.search(r"error: the loss is (nan|inf) at batch \d of epoch 1: training stopped", done.stderr)
    assert not list((tmp_path / "runs").rglob("job.json"))  # nothing came of it


# Its life, whatever is trained


def configured(*words, **options):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(words), **options)


class Life(NamedTuple):
    folder: Path
    start: Callable[..., None]  # with what takes the place of the training, and changes of the configuration


@pytest.fixture
def life(toy, tmp_path, monkeypatch):
    config = configured(*toy, f"runs_dir={tmp_path / 'runs'}")
    folder = folder_for(check(config))
    monkeypatch.setattr(lifecycle, "show", lambda metrics, folder: None)

    def start(training, **changes):
        monkeypatch.setattr(lifecycle, "fit_and_test", training)
        lifecycle.run(OmegaConf.merge(config, changes), folder)

    return Life(folder, start)


@pytest.mark.parametrize(
    ("content", "about", "changes", "resumed"),
    [
        (None, {}, {}, False),
        ({"state_dict": {}}, {}, {}, True),
        ({"state_dict": {}}, {}, {"rerun": True}, False),
        ({"state_dict": {}}, {"format": 0}, {}, False),
        (b"half", {}, {}, False),
    ],
    ids=["nothing there", "whole", "rerun", "another version", "damaged"],
)
def test_a_whole_checkpoint_of_this_version_is_taken_over(life, capsys, content, about, changes, resumed):
    checkpoint = life.folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    write_job(life.folder, "running")
    write_json(life.folder / "job.json", read_job(life.folder) | about)
    if isinstance(content, bytes):
        checkpoint.write_bytes(content)
    elif content:
        torch.save(content, checkpoint)

    def training(config, folder, resume):
        assert resume == (checkpoint if resumed else None)
        assert checkpoint.exists() == bool(content and not about)  # else it would be taken over later
        return {"threshold": 1.0}

    life.start(training, **changes)
    told = "last.ckpt: expected a whole checkpoint, found a damaged one; starting from the beginning"
    assert (told in capsys.readouterr().out) == (content == b"half")
    assert read_job(life.folder)["state"] == "done"
    assert read(life.folder)["threshold"] == 1.0


def raising(error):
    def training(config, folder, resume):
        raise error

    return training


@pytest.mark.parametrize(
    ("error", "code", "state", "reason"),
    [
        (SystemExit(), 128 + signal.SIGTERM, "interrupted", "by SIGTERM"),  # as Lightning tells of SIGTERM
        (KeyboardInterrupt(), None, "interrupted", "by Ctrl-C"),
        (RuntimeError("no"), None, "failed", "RuntimeError: no"),
    ],
)
def test_what_ended_a_run_is_its_state(life, error, code, state, reason):
    with pytest.raises(type(error)) as raised:
        life.start(raising(error))
    assert code is None or raised.value.code == code
    job = read_job(life.folder)
    assert (job["state"], job["error"]) == (state, reason)


def test_the_time_of_a_run_is_that_of_all_attempts_at_it(life, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(lifecycle, "time", SimpleNamespace(time=lambda: clock[0]))
    checkpoint = life.folder / "checkpoints" / "last.ckpt"

    def training(seconds, error=None):
        def train(config, folder, resume):
            clock[0] += seconds
            checkpoint.parent.mkdir(exist_ok=True)
            torch.save({"state_dict": {}}, checkpoint)
            os.utime(checkpoint, (clock[0], clock[0]))
            if error:
                raise error
            return {"threshold": 1.0}

        return train

    def minutes(*attempt, **changes):
        life.start(training(*attempt), **changes)
        clock[0] += 9999  # until the command is repeated
        return minutes_of(read_job(life.folder))

    def killed(seconds):
        before = read_job(life.folder)
        write_job(life.folder, "running", started=clock[0], earlier_seconds=seconds_of(before))
        os.utime(checkpoint, (clock[0] + seconds, clock[0] + seconds))
        clock[0] += seconds + 9999

    with pytest.raises(KeyboardInterrupt):
        minutes(60, KeyboardInterrupt())
    clock[0] += 9999
    killed(120)  # after its last checkpoint nothing was kept
    with pytest.raises(RuntimeError):
        minutes(30, RuntimeError("no"))
    assert minutes(90) == 5
    assert minutes(60, rerun="judge") == 6
    write_job(life.folder, "interrupted", seconds=seconds_of(read_job(life.folder)))  # as a sweep does, to test again
    assert minutes(60) == 7
    assert minutes(60, rerun=True) == 1  # from the beginning


def test_of_a_mistake_of_the_user_nothing_is_left(life, tmp_path):
    with pytest.raises(UserError, match="no luck"):
        life.start(raising(UserError("no luck")))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("rerun", [True, "judge"])
def test_a_rerun_that_fails_leaves_the_earlier_result(life, rerun):
    """With its configuration, which the run writes itself, under the lock: Hydra would write it before."""
    config = life.folder / lifecycle.CONFIG
    assert configured(return_hydra_config=True).hydra.output_subdir is None

    def trained(settings, folder, resume):
        (folder / "checkpoints").mkdir()
        torch.save({"state_dict": {}}, folder / "checkpoints/last.ckpt")
        return {"threshold": 1.0}

    def refused(settings, folder, resume):
        assert f"rerun: {str(rerun).lower()}" in config.read_text()
        raise UserError("no luck")

    life.start(trained)
    assert "rerun: false" in config.read_text()
    before = {path: path.read_bytes() for path in (life.folder / "job.json", life.folder / "metrics.json", config)}
    with pytest.raises(UserError, match="no luck"):
        life.start(refused, rerun=rerun)
    assert {path: path.read_bytes() for path in before} == before


def test_names_of_groups_in_a_table_do_not_matter(toy, parts, tmp_path):
    folders = set()
    for name in ("part", "zzz"):
        rows = [f"{parts}/train/good/{i:03d}.png,good,train,{name}{i // 2}" for i in range(10)]
        table = tmp_path / name / "table.csv"
        table.parent.mkdir()
        table.write_text("\n".join(["path,label,split,group", *rows]))
        folders.add(
            folder_for(
                check(configured(*toy, "data=csv", f"data.root={table}", "data.category=bar", f"runs_dir={tmp_path}"))
            )
        )
    assert len(folders) == 1


def test_methods_without_a_gradient_see_every_image_once(toy):
    told = "trainer.max_epochs: expected 1, because Control sees every training image once, found 2"
    with pytest.raises(UserError, match=told):
        check(configured(*toy, "method=control"))


def test_the_control_untrained_has_the_weights_from_before_the_training(toy, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(controls, "figures_of", lambda trainer, kinds: {})
    monkeypatch.setattr(controls, "untrained_figures", lambda trainer, method: seen.append(method) or {})
    words = *toy, "method=deep_svdd", "method.pretraining_epochs=0", "trainer.max_epochs=1", "data.patches=16"
    fit_and_test(configured(*words, "controls=true"), tmp_path, None)
    trained = torch.load(tmp_path / "checkpoints/last.ckpt")["state_dict"]
    (untrained,) = seen
    assert trained["centre"].any()
    assert not untrained.centre.any()
    for name, weight in untrained.encoder.named_parameters():
        assert not torch.equal(weight, trained[f"encoder.{name}"]), name


@pytest.mark.slow
def test_a_control_of_the_untrained_network_changes_no_training_and_is_there_when_it_is_tested_again(
    lab, toy, tmp_path
):
    words = (*toy, "method=deep_svdd", "method.pretraining_epochs=1", "data.held_out=0.2")
    lab(*words)
    folder = folder_of(tmp_path)
    weights, alone = torch.load(folder / "checkpoints/last.ckpt")["state_dict"], read(folder)
    assert "does not beat" in lab(*words, "controls=true").stdout  # tested again, from the weights of the first run
    again = read(folder)
    lab(*words, "controls=true", "rerun=true")
    for name, value in torch.load(folder / "checkpoints/last.ckpt")["state_dict"].items():
        assert torch.equal(value, weights[name]), name
    both = without_costs(read(folder))
    assert both == without_costs(again)
    new = {"result_key", "control_image_auroc", "control_untrained_image_auroc"}
    assert {name: both[name] for name in both.keys() - new} == {
        name: alone[name] for name in without_costs(alone).keys() - new
    }
    assert new <= set(both)
    rows = csv.DictReader((folder / "controls.csv").read_text().splitlines())
    untrained = [float(row["image_auroc"]) for row in rows if row["control"] == "untrained"]
    assert untrained == [both["control_untrained_image_auroc"]]


# Killed, and in several processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "method"), [(1, ("method=ganomaly", "method.width=4")), (2, ("method=slides_cae",))]
)
def test_killed_at_any_moment_a_run_ends_like_one_that_was_not(lab, warm_program, toy, tmp_path, processes, method):
    """While it starts, decodes, trains, writes, tests: to the bit, whether it has one optimizer or two."""
    several = ("trainer=ddp", "trainer.devices=2") if processes == 2 else ()
    arguments = (*toy, *method, *several, "trainer.max_epochs=3", "data.patches=512", "checkpoint.every_batches=5")
    begun = time.monotonic()
    lab(*arguments, "runs_dir=whole")
    whole, runs = time.monotonic() - begun, tmp_path / "runs"

    def terminate():
        wait_until(lambda: list(runs.rglob("last.ckpt")))
        (lock,) = runs.rglob(".lock")
        os.kill(int(re.match(r"process (\d+) ", lock.read_text())[1]), signal.SIGTERM)

    if processes == 1:
        threading.Thread(target=terminate, daemon=True).start()
        lab(*arguments, code=128 + signal.SIGTERM)
        assert read_job(folder_of(tmp_path))["state"] == "interrupted"
    killed = 0
    for share in sorted(np.random.default_rng(0).uniform(0.05, 0.9, 6)):  # the first, wherever it gets faster
        try:
            warm_program.run(arguments, tmp_path, variables(tmp_path), timeout=share * whole)
        except subprocess.TimeoutExpired:
            killed += 1
        if list(runs.rglob("metrics.json")):
            break
    assert killed >= 2
    lab(*arguments)
    ours, theirs = (next(path.rglob("metrics.json")).parent for path in (runs, tmp_path / "whole"))
    assert without_costs(read(ours)) == without_costs(read(theirs))
    weights, expected = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for folder in (ours, theirs)
    )
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    losses = [(folder / "curves/losses.csv").read_text().splitlines() for folder in (ours, theirs)]
    assert losses[0][0] == losses[1][0]
    for row, other in zip(losses[0][1:], losses[1][1:], strict=True):  # of an epoch that was killed: of its last part
        assert (row.split(",")[0], row.split(",")[-1]) == (other.split(",")[0], other.split(",")[-1])
    assert len(losses[0]) == 1 + 3
    assert not list(runs.rglob(".*.ckpt.*"))


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_and_leave_one_run_of_wandb(lab, toy, tmp_path):
    arguments = [word for word in toy if word not in QUIET]
    lab(*arguments, "runs_dir=one")
    several = "logger=[wandb,csv,tensorboard]"
    done = lab(*arguments, "runs_dir=two", "trainer=ddp", "trainer.devices=2", several, WANDB_MODE="offline")
    assert "Traceback" not in done.stdout + done.stderr
    ((one, two), (rows, others)) = (
        [read_one(tmp_path / name) for name in ("one", "two")] for read_one in (read_folder, rows_of_folder)
    )
    assert json.loads(next((tmp_path / "two").rglob("environment.json")).read_text())["world_size"] == 2
    for row, other in zip(rows, others, strict=True):  # sums in another order: the last digits differ
        assert float(row["score"]) == pytest.approx(float(other["score"]), rel=1e-3)
    assert one["threshold"] == pytest.approx(two["threshold"], rel=1e-3)
    assert one["pixel_auroc"] == pytest.approx(two["pixel_auroc"], abs=1e-3)
    galleries = [
        sorted(line.split(",")[1:5] for line in path.read_text().splitlines())
        for path in sorted(tmp_path.rglob("gallery/index.csv"))
    ]
    assert galleries[0] == galleries[1]
    features = [len(path.read_text().splitlines()) for path in tmp_path.rglob("curves/features.csv")]
    assert features == [11, 11]

    assert len(list((tmp_path / "two").rglob("*.wandb"))) == 1
    folder = next((tmp_path / "two").rglob("metrics.json")).parent
    record = read_record(folder / "wandb")
    assert record.config["environment"]["world_size"] == 2
    assert record.summary["test/pixel_aupro"] == two["pixel_aupro"]
    with (folder / "curves" / "losses.csv").open() as file:
        losses = [(float(row["epoch"]), float(row["train/loss"])) for row in csv.DictReader(file)]
    assert record.series("train/loss_epoch") == losses
    assert len(record.table("tables/scores")["data"]) == 10
    assert record.config["data"]["root"] == "…/bar"
    lines = list(csv.DictReader((folder / "csv" / "metrics.csv").read_text().splitlines()))  # so have the others
    assert float(lines[-1]["test/pixel_aupro"]) == two["pixel_aupro"]
    assert list((folder / "tensorboard").glob("events.*"))


@pytest.mark.slow
def test_one_and_three_processes_test_to_the_same_digits(lab, toy, tmp_path):
    """The same weights, tested by shares that differ in size: five normal and five defective images in batches of 2."""
    arguments = (*(word for word in toy if word not in QUIET), "data.test_batch_size=2", "data.batch_size=24")
    lab(*arguments)
    folder = folder_of(tmp_path)
    one, scores, controls = read(folder), (folder / "scores.csv").read_bytes(), (folder / "controls.csv").read_bytes()
    for name in ("metrics.json", "scores.csv", "controls.csv", "maps", "pictures"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    lab(*arguments, "trainer=ddp", "trainer.devices=3")  # from the last checkpoint: it only tests
    assert json.loads((folder / "environment.json").read_text())["world_size"] == 3
    assert (folder / "scores.csv").read_bytes() == scores
    assert (folder / "controls.csv").read_bytes() == controls
    assert without_costs(read(folder)) == without_costs(one)
    assert len(list((folder / "maps").rglob("*.tiff"))) == 10
    assert len(list((folder / "pictures").glob("*.png"))) == 9


@pytest.mark.slow
def test_a_method_without_a_gradient_finds_the_same_with_two_processes_one_of_which_tests_nothing(lab, toy, tmp_path):
    arguments = (*toy, "method=control", "method.kind=pca", "trainer.max_epochs=1", "data.test_batch_size=20")
    folders = [tmp_path / "one", tmp_path / "two"]
    lab(*arguments, f"runs_dir={folders[0]}")
    done = lab(*arguments, f"runs_dir={folders[1]}", "trainer=ddp", "trainer.devices=2")
    assert done.stdout.count("MiB of memory for them") == 1
    one, two = (next(folder.rglob("checkpoints/last.ckpt")) for folder in folders)
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in (one, two)]
    assert len(weights[0]) > 2
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    rows, others = (rows_of(path.parents[1]) for path in (one, two))
    assert len(others) == 10
    for row, other in zip(rows, others, strict=True):  # the same weights; other images share a batch
        assert float(row["score"]) == pytest.approx(float(other["score"]), rel=1e-5)


@pytest.mark.parametrize(
    ("devices", "nodes", "world", "tasks"), [(2, 1, 1, "1"), (1, 2, 1, "1"), (1, 1, 1, "2"), (2, 2, 2, "2")]
)
def test_other_processes_than_devices_are_refused(monkeypatch, devices, nodes, world, tasks):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    trainer = stand_in(pl.Trainer, num_devices=devices, num_nodes=nodes, world_size=world)
    with pytest.raises(
        UserError, match=f"trainer.devices: expected a process for each of {devices} devices on {nodes}"
    ):
        check_processes(trainer)
    trainer.world_size = devices * nodes
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", str(devices * nodes))
    check_processes(trainer)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    check_processes(trainer)


def read_folder(root):
    return read(next(root.rglob("metrics.json")).parent)


def rows_of_folder(root):
    return rows_of(next(root.rglob("metrics.json")).parent)


def test_lightnings_own_strategy_is_refused_for_methods_that_step_their_optimizers(tmp_path):
    def trainer(strategy):
        return pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, default_root_dir=tmp_path)

    manual = stand_in(Method, automatic_optimization=False)
    with pytest.raises(UserError, match="trainer.strategy: expected that of trainer=ddp, .* found DDPStrategy"):
        check_strategy(manual, trainer(DDPStrategy()))
    check_strategy(manual, trainer(DDP()))
    check_strategy(stand_in(Method, automatic_optimization=True), trainer(DDPStrategy()))


def test_statistics_that_do_not_fit_into_the_memory_of_the_machine_are_refused(monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1024}[name], raising=False)
    method = PatchCore(WholeImage(), Pixels(), 64, 0.1, 9, 3, 10**6, 0)  # 1024 patches of 6 features
    check_memory(method, 20)
    with pytest.raises(UserError, match=r"memory of this machine, 0.0 GiB, .* for 30 training images; set method.max_"):
        check_memory(method, 30)
    check_memory(stand_in(Method), 10**9)  # of patches: nothing is kept


def test_batch_norm_over_processes_needs_gpus():
    devices = {kind: stand_in(DDP, root_device=torch.device(kind)) for kind in ("cpu", "cuda")}
    check_batch_norm(stand_in(pl.Trainer, strategy=devices["cuda"]), {"sync_batchnorm": True})
    check_batch_norm(stand_in(pl.Trainer, strategy=devices["cpu"]), {"sync_batchnorm": False})
    with pytest.raises(UserError, match="trainer.sync_batchnorm: expected false, .* found true on cpu"):
        check_batch_norm(stand_in(pl.Trainer, strategy=devices["cpu"]), {"sync_batchnorm": True})


@pytest.mark.parametrize(
    ("sees", "batch_size", "patches", "processes", "refused"),
    [
        ("patches", 1, 40, 1, True),
        ("patches", 8, 1, 1, True),
        ("patches", 2, None, 2, True),
        ("images", 1, 40, 1, True),
        ("patches", 2, 40, 1, False),
        ("images", 2, 1, 1, False),
    ],
)
def test_batches_of_one_image_are_refused_before_anything_is_measured_on_one(
    sees, batch_size, patches, processes, refused
):
    data = stand_in(
        DataModule, passes=None, sees=sees, batch_size=batch_size, patches=patches, train_samples=[None] * 7
    )
    frozen, learns = nn.Sequential(nn.BatchNorm1d(3)).eval(), nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    check_batches(stand_in(Method, train=lambda: frozen, copies=1), data, processes)
    check_batches(stand_in(Method, train=lambda: learns, copies=2), data, processes)
    if not refused:
        check_batches(stand_in(Method, train=lambda: learns, copies=1), data, processes)
        return
    with pytest.raises(UserError, match="data.batch_size: expected at least 2 images for each process, .* found 1"):
        check_batches(stand_in(Method, train=lambda: learns, copies=1), data, processes)


@pytest.mark.parametrize(
    ("tiling", "fewest", "images", "refused"),
    [
        (WholeImage(), 2, 1, True),
        (WholeImage(), 2, 2, False),
        (WholeImage(), 1, 1, False),
        (SlidingWindow(32, 32), 2, 1, False),
    ],
)
def test_too_few_images_for_what_comes_last_are_refused_first(tiling, fewest, images, refused):
    method = stand_in(Method, tiling=tiling, fewest=fewest)
    if not refused:
        check_images(method, images)
        return
    with pytest.raises(UserError, match="^data: expected 2 training images at least, because .*, found 1$"):
        check_images(method, images)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["egbad", "lsa"])
def test_of_batches_of_one_image_a_run_says_a_line(method, lab, toy, tmp_path):
    done = lab(*toy, f"method={method}", "data.batch_size=1", code=1)
    assert done.stderr.strip().splitlines()[-1].startswith("error: data.batch_size: expected at least 2 images")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("how", ["itself", "a link", "a copy", "something else"])
@pytest.mark.parametrize("key", ["method", "data"])
def test_foreign_photos_are_no_photos_of_the_run(tmp_path, write, split, how, key):
    samples = {
        name: write(tmp_path / f"{name}.png", np.full((8, 8, 3), 9 * i, np.uint8))
        for i, name in enumerate(("train", "test"))
    }
    foreign, own = write(tmp_path / "foreign/x.png", np.full((8, 8, 3), 200, np.uint8)), samples[split]
    there = {
        "itself": lambda path: own,
        "a link": lambda path: path.symlink_to(own) or path,
        "a copy": lambda path: shutil.copy(own, path),
        "something else": lambda path: foreign,
    }[how](tmp_path / "foreign/y.png")
    textures = ForeignTextures(str(tmp_path / "foreign"))
    textures.folder.__dict__["_found"] = [foreign, Path(there)], 2
    data = stand_in(
        DataModule,
        all_samples=[Sample(path, None, label, "", "") for label, path in enumerate(samples.values())],
        corruption=AnyOf([Blob(), PerlinTexture(textures)]) if key == "data" else None,
    )
    method = stand_in(EfficientAD, foreign_photos=[foreign, Path(there)] if key == "method" else [])
    if how == "something else":
        check_foreign_photos(method, data)
        check_foreign_photos(stand_in(PatchCore, foreign_photos=()), data)
        return
    with pytest.raises(
        UserError,
        match=rf"{key}.foreign_images: .*found 1 of this data set, such as {own}; name another folder, or procedural",
    ):
        check_foreign_photos(method, data)


def test_a_method_that_knew_more_than_good_photos_has_another_name_beside_others():
    names = [learner_of("cavga", protocol) for protocol in ("unsupervised", "weakly_supervised", "supervised")]
    assert names == ["cavga", "cavga, weakly supervised", "cavga, supervised"]
