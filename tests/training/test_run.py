"""The main job from the outside: the run folder, skip, resume, reproducibility, bad data."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import pytorch_lightning as pl
import tifffile
import torch
from pytorch_lightning.strategies import DDPStrategy

from anomaly_lab.core.errors import UserError
from anomaly_lab.inference.detector import Detector
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.cae import CAE
from anomaly_lab.metrics.ranking import rank
from anomaly_lab.runs.folder import write_job
from anomaly_lab.training.checks import check_batch_norm, check_processes, check_strategy
from anomaly_lab.training.strategy import DDP
from tests.conftest import stand_in

COMPARED = {
    "image_auroc", "pixel_auroc", "pixel_aupr", "pixel_aupro", "pixel_auroc_smoothed", "pixel_aupr_smoothed",
    "pixel_aupro_smoothed",
}  # fmt: skip
NAMES = {
    "threshold", "pixel_threshold", "image_auroc_low", "image_auroc_high", "image_aupr", "image_f1max",
    "image_recall_at_95_specificity", "image_auroc_mean", "image_accuracy_normal", "image_accuracy_abnormal",
    "image_balanced_accuracy", "image_precision", "image_recall", "image_f1", "pixel_f1max", "pixel_f1max_smoothed",
    "pixel_overlap", "pixel_iou", "pixel_precision", "pixel_recall", "fit_seconds", "train_images_per_second",
    "predict_seconds_per_image", "test_seconds", "peak_memory_mb", "precision", "result_version",
    "result_key",
    *COMPARED, *(f"control_{name}" for name in COMPARED),
}  # fmt: skip
WITHOUT_A_GRADIENT = [
    ("method=cnn_dictionary", "method.backbone.layers=[layer2]", "method.evaluation=dense", "method.vectors=500"),
    pytest.param(("method=control", "method.kind=pca"), marks=pytest.mark.slow),
    pytest.param(
        ("method=texture_inspection", "method.levels=2", "method.components=2", "method.images=3"),
        marks=pytest.mark.slow,
    ),
    pytest.param(("method=variation_model", "method.alignment=translation"), marks=pytest.mark.slow),
]
COSTS = {
    *("fit_seconds", "train_images_per_second", "predict_seconds_per_image", "test_seconds", "peak_memory_mb"),
}


def folder_of(tmp_path):
    (job,) = (tmp_path / "runs").rglob("job.json")
    return job.parent


def read(folder):
    return json.loads((folder / "metrics.json").read_text())


def rows_of(folder):
    with (folder / "scores.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_fills_its_folder_and_a_second_call_is_skipped(lab, tiny, parts, tmp_path):
    arguments = ("data=folder", f"data.root={parts}", *tiny)
    first = lab(*arguments)
    assert re.search(r"8 training images|9 training images", first.stdout)
    assert "128 patches of 128 px in 2 epochs · about" in first.stdout
    folder = folder_of(tmp_path)
    metrics, rows = read(folder), rows_of(folder)
    assert set(metrics) == NAMES
    assert json.loads((folder / "job.json").read_text())["state"] == "done"
    assert {"versions", "git", "device"} <= set(json.loads((folder / "environment.json").read_text()))
    torch.load(folder / "checkpoints/last.ckpt", weights_only=True)

    assert [row["defect"] for row in rows] == ["good"] * 5 + ["hole"] * 5
    scores = np.array([float(row["score"]) for row in rows])
    assert metrics["image_auroc"] == pytest.approx(rank(scores[:5], scores[5:]).auroc().value, abs=1e-6)
    for row in rows:
        assert row["decision"] == ("abnormal" if float(row["score"]) >= metrics["threshold"] else "normal")
        anomaly_map = tifffile.imread(folder / "maps/bar/test" / row["defect"] / f"{row['path'][-7:-4]}.tiff")
        assert anomaly_map.shape == (140, 140)
        assert anomaly_map.dtype == np.float32
        assert anomaly_map.mean() == pytest.approx(float(row["mean"]), rel=0.05)
    assert len(list((folder / "pictures").glob("*.png"))) == 4 + 4 + 1

    changed = (folder / "metrics.json").stat().st_mtime_ns
    again = lab(*arguments, "data.workers=1", "logger=csv")  # neither can change a result
    assert again.stdout.startswith("already done, skipped:")
    assert (folder / "metrics.json").stat().st_mtime_ns == changed
    lab(*arguments, "rerun=true")
    assert (folder / "metrics.json").stat().st_mtime_ns > changed
    repeated = read(folder)
    assert {k: v for k, v in repeated.items() if k not in COSTS} == {k: v for k, v in metrics.items() if k not in COSTS}
    lab(*arguments, "seed=1")
    assert len(list((tmp_path / "runs").rglob("metrics.json"))) == 2


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(lab, tiny, parts, tmp_path):
    arguments = ("data=folder", f"data.root={parts}", *tiny, "trainer.max_epochs=4", "method=ssim_ae")
    lab(*arguments, "runs_dir=whole")
    (whole,) = (tmp_path / "whole").rglob("last.ckpt")
    process = subprocess.Popen(
        [sys.executable, "-m", "anomaly_lab", *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (found := list((tmp_path / "runs").rglob("last.ckpt"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert found, "no checkpoint was written"
    assert not list((tmp_path / "runs").rglob("metrics.json"))
    resumed = lab(*arguments)
    assert re.search(r" in [123] epochs", resumed.stdout)
    ours, theirs = (torch.load(path, weights_only=True) for path in (found[0], whole))
    assert ours["epoch"] == theirs["epoch"]
    for key, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][key], value), key
    losses = [path.parents[1].joinpath("curves/losses.csv").read_text() for path in (found[0], whole)]
    assert losses[0] == losses[1]  # of the epochs before the kill too
    assert len(losses[0].splitlines()) == 1 + 4


def test_another_threshold_tests_the_finished_run_again(lab, tiny, parts, tmp_path, write):
    """Nothing is trained, nothing of the earlier test is left, and a mistake leaves the earlier result."""
    mask = np.full((140, 140), 255, np.uint8)
    mask[:, :20] = 0
    region = write(tmp_path / "mask.png", mask)
    arguments = ("data=folder", f"data.root={parts}", *tiny, "controls=false",
                 f"data.region={region}")  # fmt: skip
    begun = time.monotonic()
    lab(*arguments)
    whole = time.monotonic() - begun
    folder = folder_of(tmp_path)
    first, checkpoint = read(folder), folder / "checkpoints" / "last.ckpt"
    state = checkpoint.stat().st_ino, checkpoint.stat().st_mtime_ns
    assert 0 < first["fit_seconds"] < whole
    assert json.loads((folder / "job.json").read_text())["versions"] == {"method": CAE.version, "weights": 1}

    stale = folder / "pictures" / "of_the_first_test.png"
    stale.touch()
    again = lab(*arguments, "threshold=area", "callbacks.anomaly_maps=null")
    assert again.stdout.count("trained already, tested again from its checkpoint") == 1
    assert "epoch 1/2" not in again.stdout
    second = read(folder_of(tmp_path))  # the same folder
    assert second["result_key"] != first["result_key"]
    assert second["threshold"] != first["threshold"]
    assert second["image_auroc"] == first["image_auroc"]
    assert (checkpoint.stat().st_ino, checkpoint.stat().st_mtime_ns) == state
    for name in ("fit_seconds", "train_images_per_second"):  # of the training, whoever tells them
        assert second[name] == first[name]
    assert not stale.exists()
    assert not (folder / "maps").exists()
    assert lab(*arguments, "threshold=area").stdout.startswith("already done, skipped:")

    files = [folder / name for name in ("job.json", "metrics.json", "scores.csv", "threshold.json")]
    before = [path.read_bytes() for path in (*files, folder / ".hydra/config.yaml")]
    lab(*arguments, "rerun=judge", "threshold=sigma", "trainer.accelerator=tpu", code=1)
    assert [path.read_bytes() for path in (*files, folder / ".hydra/config.yaml")] == before

    # Killed in its test: the times of the training are those of the training. The mask image is gone by then.
    write_job(folder, "running")
    (folder / "metrics.json").unlink()
    write(region, mask)
    lab(*arguments)
    third = read(folder)
    assert {name: third[name] for name in ("fit_seconds", "threshold")} == {
        name: first[name] for name in ("fit_seconds", "threshold")
    }
    region.unlink()
    detector = Detector.load(folder, device="cpu")
    assert detector.decoding.region == str(folder / "region.png")
    row = rows_of(folder)[0]
    assert detector.predict(row["path"]).score == pytest.approx(float(row["score"]), rel=1e-5)


def test_good_images_alone_train_and_set_the_threshold(lab, tiny, parts, tmp_path):
    done = lab("data=folder", f"data.root={parts / 'train/good'}", *tiny)
    assert "no labelled test images: metrics left out" in done.stdout
    metrics = read(folder_of(tmp_path))
    assert metrics["threshold"] > 0
    assert not {name for name in metrics if name.startswith(("image_", "pixel_auroc", "control_"))}
    assert "good" in str(folder_of(tmp_path))


def test_images_without_masks_are_judged_on_the_image_level(lab, tiny, parts, tmp_path):
    shutil.rmtree(parts / "ground_truth")
    lab(f"data.root={parts.parent}", "data=folder", f"data.root={parts}", *tiny)
    metrics = read(folder_of(tmp_path))
    assert "image_auroc" in metrics
    assert {name for name in metrics if "pixel_" in name} == {"pixel_threshold"}


def test_textures_are_cropped_and_tiled(lab, tiny, parts, tmp_path):
    """Test images of differing shapes, a window smaller than the image."""
    lab("data=folder", f"data.root={parts}", *tiny, "data.kind=texture", "data.image_size=140", "data.stride=12")
    assert set(read(folder_of(tmp_path))) == NAMES


@pytest.mark.parametrize("resize", ["pad", "stretch", "crop"])
def test_photos_that_are_not_square(lab, tiny, parts, tmp_path, write, resize):
    write(parts / "test/good/wide.png", np.full((90, 150, 3), 90, np.uint8))
    lab("data=folder", f"data.root={parts}", *tiny, f"data.resize={resize}")
    anomaly_map = tifffile.imread(folder_of(tmp_path) / "maps/bar/test/good/wide.tiff")
    assert anomaly_map.shape == (90, 150)


@pytest.mark.parametrize(
    ("where", "content", "message"),
    [
        ("train/good/002.png", b"", "002.png: expected a readable image, found: empty file"),
        ("test/hole/002.png", b"junk", "002.png: expected a readable image"),
    ],
)
def test_an_unreadable_image_ends_in_one_line(lab, tiny, parts, tmp_path, where, content, message):
    (parts / where).write_bytes(content)
    done = lab("data=folder", f"data.root={parts}", *tiny, code=1)
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()  # nothing half-written


def test_a_category_with_one_image_ends_in_one_line(lab, tiny, parts):
    for i in range(1, 10):
        (parts / f"train/good/{i:03d}.png").unlink()
    done = lab("data=folder", f"data.root={parts}", *tiny, code=1)
    assert "expected at least 2 normal images" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(lab, tiny, parts, tmp_path):
    done = lab("data=folder", f"data.root={parts}", *tiny, "method.optimizer.lr=1e30", code=1)
    assert re.search(r"error: the loss is (nan|inf) at batch \d of epoch \d: training stopped", done.stderr)
    assert not list((tmp_path / "runs").rglob("job.json"))  # nothing came of it


def test_a_rerun_that_fails_leaves_the_earlier_result(lab, tiny, parts, tmp_path):
    arguments = ("data=folder", f"data.root={parts}", *tiny)
    lab(*arguments)
    folder = folder_of(tmp_path)
    before = {path: path.read_bytes() for path in (folder / "job.json", folder / "metrics.json")}
    lab(*arguments, "rerun=true", "trainer.accelerator=tpu", code=1)
    assert {path: path.read_bytes() for path in before} == before
    assert lab(*arguments).stdout.startswith("already done, skipped:")
    lab("predict", f"run={folder}", f"source={parts}/test/good")


def test_sigterm_is_told_by_the_exit_code_and_the_run_goes_on(lab, tiny, parts, tmp_path):
    arguments = ("data=folder", f"data.root={parts}", *tiny, "trainer.max_epochs=10")
    process = subprocess.Popen(
        [sys.executable, "-m", "anomaly_lab", *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert json.loads((folder_of(tmp_path) / "job.json").read_text())["state"] == "interrupted"
    assert re.search(r"in \d+ epochs", lab(*arguments).stdout)


def test_a_damaged_checkpoint_is_told_and_the_run_starts_anew(lab, tiny, parts, tmp_path):
    arguments = ("data=folder", f"data.root={parts}", *tiny)
    lab(*arguments)
    (folder_of(tmp_path) / "metrics.json").unlink()
    (folder_of(tmp_path) / "checkpoints/last.ckpt").write_bytes(b"half")
    told = lab(*arguments).stdout
    assert "last.ckpt: expected a whole checkpoint, found a damaged one; starting from the beginning" in told
    assert "epoch 1/2" in told


def test_after_a_mistake_in_the_data_nothing_is_left_not_even_folders(lab, tiny, parts, tmp_path):
    (parts / "train/good/002.png").write_bytes(b"junk")
    lab("data=folder", f"data.root={parts}", *tiny, code=1)
    assert not (tmp_path / "runs").exists()


def test_a_table_with_groups_runs_and_names_do_not_matter(lab, tiny, parts, tmp_path):
    rows = ["path,label,split,mask,group"]
    rows += [f"bar/train/good/{i:03d}.png,good,train,,part{i // 2}" for i in range(10)]
    for i in range(5):
        rows.append(f"bar/test/good/{i:03d}.png,good,test,,")
        rows.append(f"bar/test/hole/{i:03d}.png,hole,test,bar/ground_truth/hole/{i:03d}_mask.png,")
    table = parts.parent / "table.csv"
    table.write_text("\n".join(rows))
    lab("data=csv", f"data.root={table}", *tiny)
    assert "pixel_aupro" in read(folder_of(tmp_path))
    table.write_text("\n".join(rows).replace("part", "zzz"))
    assert lab("data=csv", f"data.root={table}", *tiny).stdout.startswith("already done, skipped:")


def test_good_beside_bad_without_a_split_runs(lab, tiny, parts, tmp_path):
    root = tmp_path / "mixed"
    shutil.copytree(parts / "train/good", root / "good")
    shutil.copytree(parts / "test/hole", root / "bad")
    lab("data=folder", f"data.root={root}", *tiny)
    assert {row["defect"] for row in rows_of(folder_of(tmp_path))} == {"good", "bad"}


def test_weights_of_another_version_are_not_taken_over(lab, tiny, parts, tmp_path):
    arguments = ("data=folder", f"data.root={parts}", *tiny)
    lab(*arguments)
    job = folder_of(tmp_path) / "job.json"
    job.write_text(json.dumps({"state": "done", "result_version": 0}))
    (folder_of(tmp_path) / "metrics.json").unlink()
    assert "epoch 1/2" in lab(*arguments).stdout


def weights_of(root):
    (path,) = root.rglob("last.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


def results_of(root):
    (path,) = root.rglob("metrics.json")
    return {name: value for name, value in read(path.parent).items() if name not in COSTS}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_until_it_is_done(lab, tiny, parts, tmp_path, processes):
    """While it imports, decodes, trains, writes, tests: the end is that of an undisturbed run, to the bit."""
    several = ("trainer=ddp", "trainer.devices=2") if processes == 2 else ()
    arguments = ("data=folder", f"data.root={parts}", *tiny, *several, "trainer.max_epochs=3", "data.patches=256",
                 "checkpoint.every_batches=2", "method=ssim_ae")  # fmt: skip
    begun = time.monotonic()
    lab(*arguments, "runs_dir=whole", XDG_CACHE_HOME=str(tmp_path / "cache"))  # a fresh interpreter, like the others
    whole = time.monotonic() - begun
    random = np.random.default_rng(0)
    killed = 0
    for share in sorted(random.uniform(0.05, 0.9, 8)):  # the first are kills wherever the machine gets faster
        process = subprocess.Popen(
            [sys.executable, "-m", "anomaly_lab", *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cold")},
        )  # fmt: skip
        try:
            process.wait(timeout=share * whole)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        if list((tmp_path / "runs").rglob("metrics.json")):
            break
    assert killed >= 2
    lab(*arguments)
    assert results_of(tmp_path / "runs") == results_of(tmp_path / "whole")
    ours, theirs = weights_of(tmp_path / "runs"), weights_of(tmp_path / "whole")
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert not list((tmp_path / "runs").rglob(".*.ckpt.*"))


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


@pytest.mark.slow
def test_a_sweep_fills_the_folders_of_single_runs(lab, tiny, parts, tmp_path):
    arguments = ("data=folder", f"data.root={parts}", *tiny)
    lab("-m", "seed=0,1", *arguments)
    assert len(list((tmp_path / "runs").rglob("metrics.json"))) == 2
    assert lab(*arguments, "seed=1").stdout.startswith("already done, skipped:")


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(lab, tiny, parts, tmp_path):
    arguments = ("data=folder", f"data.root={parts}", *tiny, "trainer.precision=32-true")
    lab(*arguments, "runs_dir=one")
    lab(*arguments, "runs_dir=two", "trainer=ddp", "trainer.devices=2")
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


@pytest.mark.slow
def test_one_two_and_three_processes_test_to_the_same_digits(lab, tiny, parts, tmp_path):
    """The same weights, tested by shares that differ in size: five normal and five defective images in batches of 2."""
    arguments = ("data=folder", f"data.root={parts}", *tiny, "data.test_batch_size=2", "data.batch_size=24")
    lab(*arguments)
    folder = folder_of(tmp_path)
    one, scores, controls = read(folder), (folder / "scores.csv").read_bytes(), (folder / "controls.csv").read_bytes()
    for processes in (2, 3):
        for name in ("metrics.json", "scores.csv", "controls.csv", "maps", "pictures"):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        lab(
            *arguments, "trainer=ddp", f"trainer.devices={processes}"
        )  # goes on from the last checkpoint, so only tests
        assert json.loads((folder / "environment.json").read_text())["world_size"] == processes
        assert (folder / "scores.csv").read_bytes() == scores
        assert (folder / "controls.csv").read_bytes() == controls
        several = read(folder)
        assert {k: v for k, v in several.items() if k not in COSTS} == {k: v for k, v in one.items() if k not in COSTS}
        assert len(list((folder / "maps").rglob("*.tiff"))) == 10
        assert len(list((folder / "pictures").glob("*.png"))) == 9


@pytest.mark.slow
def test_more_processes_than_test_batches(lab, tiny, parts, tmp_path):
    lab("data=folder", f"data.root={parts}", *tiny, "trainer=ddp", "trainer.devices=2", "data.test_batch_size=20")
    assert len(rows_of(folder_of(tmp_path))) == 10


@pytest.mark.parametrize("method", WITHOUT_A_GRADIENT)
def test_methods_without_a_gradient_find_the_same_with_two_processes(lab, tiny, parts, tmp_path, weights, method):
    arguments = ["data=folder", f"data.root={parts}", *(a for a in tiny if "epochs" not in a), *method]
    if "cnn_dictionary" in str(method):
        arguments.append(f"method.backbone.weights={weights}")
    folders = [tmp_path / "one", tmp_path / "two"]
    lab(*arguments, f"runs_dir={folders[0]}")
    done = lab(*arguments, f"runs_dir={folders[1]}", "trainer=ddp", "trainer.devices=2")
    assert done.stdout.count("MiB of memory for them") == 1
    one, two = (next(folder.rglob("checkpoints/last.ckpt")) for folder in folders)
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in (one, two)]
    assert len(weights[0]) > 2
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (two.parents[1] / "scores.csv").read_bytes() == (one.parents[1] / "scores.csv").read_bytes()


def test_methods_without_a_gradient_see_every_image_once(lab, tiny, parts):
    done = lab("data=folder", f"data.root={parts}", *tiny, "method=control", code=1)
    assert (
        "error: trainer.max_epochs: expected 1, because Control sees every training image once, found 2" in done.stderr
    )


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


def test_batch_norm_over_processes_needs_gpus():
    devices = {kind: stand_in(DDP, root_device=torch.device(kind)) for kind in ("cpu", "cuda")}
    check_batch_norm(stand_in(pl.Trainer, strategy=devices["cuda"]), {"sync_batchnorm": True})
    check_batch_norm(stand_in(pl.Trainer, strategy=devices["cpu"]), {"sync_batchnorm": False})
    with pytest.raises(UserError, match="trainer.sync_batchnorm: expected false, .* found true on cpu"):
        check_batch_norm(stand_in(pl.Trainer, strategy=devices["cpu"]), {"sync_batchnorm": True})
