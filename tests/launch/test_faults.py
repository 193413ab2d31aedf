"""Real sweeps that are disturbed, stopped or shared: the same command completes them, with the same results."""

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

from tests.launch.test_job import wait_until

COSTS = {
    *("fit_seconds", "train_images_per_second", "predict_seconds_per_image", "test_seconds", "peak_memory_mb"),
}


def results(root):
    """The metrics of all runs below a folder, by their place, without what they cost."""
    read = {path.parent.relative_to(root): json.loads(path.read_text()) for path in root.rglob("metrics.json")}
    assert read
    return {
        place: {name: value for name, value in metrics.items() if name not in COSTS} for place, metrics in read.items()
    }


@pytest.fixture
def begin(tmp_path):
    """Start a sweep in a process of its own, which does not outlive the test."""
    started = []

    def run(*words):
        process = subprocess.Popen(
            [sys.executable, "-m", "anomaly_lab", *words], cwd=tmp_path, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def at_work(root):
    """The processes that hold a run folder below `root`."""
    found = [re.match(r"process (\d+) ", path.read_text()) for path in root.rglob(".lock")]
    return [int(match[1]) for match in found if match and os.path.exists(f"/proc/{match[1]}")]  # noqa: PTH110


def budgetless(tiny):
    """Without the number of epochs, which methods without a gradient do not have."""
    return [word for word in tiny if "epochs" not in word]


@pytest.mark.slow
def test_a_sweep_under_random_kills_ends_like_an_undisturbed_one(lab, begin, tiny, parts, tmp_path):
    """2 methods x 2 categories x 2 seeds; SIGKILL against jobs and launcher, ctrl-C in between, until it is done."""
    shutil.copytree(parts, parts.with_name("rod"))
    (parts.with_name("rod") / "train/good/009.png").unlink()
    sweep = (
        "-m", "method=ssim_ae,variation_model", "data=folder", f"data.root={parts.parent}", "data.category=all",
        "seed=0,1", *budgetless(tiny), "budget.epochs=3", "checkpoint.every_batches=2", "controls=false",
        "hydra.launcher.jobs=2",
    )  # fmt: skip
    begun = time.monotonic()
    lab(*sweep, "runs_dir=whole")
    undisturbed = time.monotonic() - begun
    whole = results(tmp_path / "whole")
    assert len(whole) == 8

    random = np.random.default_rng(0)
    hits = {"job": 0, "launcher": 0, "ctrl-C": 0}
    order = [str(kind) for _ in range(3) for kind in random.permutation(list(hits))]  # each kind among the first three
    runs = tmp_path / "runs"
    process = begin(*sweep)
    while sum(hits.values()) < len(order) and len(list(runs.rglob("metrics.json"))) < 8:
        time.sleep(random.uniform(0.03, 0.1) * undisturbed)  # three fall within its length on any machine
        if process.poll() is not None:
            process = begin(*sweep)
            continue
        what = order[sum(hits.values())]
        jobs = at_work(runs)
        if what == "job" and jobs:
            os.kill(int(random.choice(jobs)), signal.SIGKILL)
        elif what == "launcher":
            process.kill()
        elif what == "ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            continue
        hits[what] += 1
        if what != "job":
            process.wait(timeout=120)
            process = begin(*sweep)
    process.communicate(timeout=900)
    assert min(hits.values()) > 0, hits
    lab(*sweep)
    assert results(runs) == whole
    assert not list(runs.rglob(".lock"))
    assert not list(runs.rglob(".*.ckpt.*"))


@pytest.mark.slow
def test_ctrl_c_leaves_every_job_resumable(lab, begin, tiny, parts, tmp_path):
    words = ("data=folder", f"data.root={parts}", *budgetless(tiny), "budget.epochs=40", "controls=false")
    process = begin("-m", *words, "seed=0,1,2", "hydra.launcher.jobs=2")
    wait_until(lambda: len(list((tmp_path / "runs").rglob("last.ckpt"))) == 2, 300)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert out.splitlines()[-1] == "interrupted; the same command goes on from the last checkpoint"
    states = [json.loads(path.read_text())["state"] for path in (tmp_path / "runs").rglob("job.json")]
    assert states == ["interrupted"] * 2
    assert "3 jobs: 2 unfinished, 1 to start" in lab("-m", *words, "seed=0,1,2", "dry_run=true").stdout
    again = begin("-m", *words, "seed=0,1,2", "hydra.launcher.jobs=2")
    again.terminate()
    again.communicate(timeout=120)
    assert again.returncode in {143, -signal.SIGTERM}


@pytest.mark.slow
def test_two_sweeps_over_the_same_jobs_do_each_once(begin, tiny, parts, tmp_path):
    """The second waits for the runs that the first has in hand, then finds them finished; so does a single run."""
    words = ("data=folder", f"data.root={parts}", *tiny, "controls=false")
    sweeps = [begin("-m", *words, "seed=0,1", "hydra.launcher.jobs=2") for _ in range(2)]
    wait_until(lambda: at_work(tmp_path / "runs"), 120)
    single = begin(*words, "seed=0")
    told = [process.communicate(timeout=400)[0] for process in (*sweeps, single)]
    assert [process.returncode for process in (*sweeps, single)] == [0, 0, 0]
    logs = [path.read_text() for path in (tmp_path / "runs").rglob("job.log")]
    assert len(logs) == 2
    for log in logs:
        assert log.count("epoch 2/2") <= 1
    everything = "".join([*logs, *told])
    assert everything.count("epoch 2/2") == 2
    assert everything.count("is at this run; waiting until it ends") >= 2
    assert everything.count("already done, skipped") >= 2


@pytest.mark.slow
def test_a_sweep_of_two_device_jobs_gives_what_single_runs_give(lab, tiny, parts, tmp_path):
    words = ("data=folder", f"data.root={parts}", *tiny, "trainer=ddp", "trainer.devices=2", "controls=false")
    lab("-m", *words, "method=cae,ssim_ae", "hydra.launcher.jobs=2")
    for method in ("cae", "ssim_ae"):
        lab(*words, f"method={method}", "runs_dir=single")
    assert results(tmp_path / "runs") == results(tmp_path / "single")
    worlds = [json.loads(path.read_text())["world_size"] for path in (tmp_path / "runs").rglob("environment.json")]
    assert worlds == [2, 2]


@pytest.mark.slow
def test_jobs_of_a_sweep_share_the_decoded_images(lab, tiny, parts, tmp_path):
    lab("-m", "data=folder", f"data.root={parts}", *tiny, "seed=0,1,2", "method=ssim_ae", "controls=false",
        "hydra.launcher.jobs=3")  # fmt: skip
    entries = [path for path in (tmp_path / "cache/anomaly_lab/images").iterdir() if path.is_dir()]
    assert len(entries) == 1
    logs = [path.read_text() for path in (tmp_path / "runs").rglob("job.log")]
    assert len(logs) == 3
    assert all(f"in {entries[0].parent}" in log for log in logs)


@pytest.mark.slow
def test_a_full_disk_is_told_in_a_line_and_the_run_goes_on_with_more_room(lab, tiny, parts, tmp_path):
    """A limit on the size of files stands for the disk: the checkpoint is the first that does not fit."""
    words = ["data=folder", f"data.root={parts}", *tiny, "controls=false"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 4000; exec "$@"', "-", sys.executable, "-m", "anomaly_lab", *words], cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"error: \S+last.ckpt: expected room on the disk, found none \(File too large\)", last)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob(".last.ckpt*"))
    lab(*words)
    assert results(tmp_path / "runs")
