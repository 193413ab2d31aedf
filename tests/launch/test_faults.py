"""Real sweeps that are killed, shared or short of room: the same command completes them, with the same results."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import variables

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
            env=variables(tmp_path),
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


def states(root):
    return [json.loads(path.read_text())["state"] for path in root.rglob("job.json")]


@pytest.mark.slow
def test_a_sweep_under_random_kills_ends_like_one_that_two_launchers_shared(lab, begin, toy, tmp_path):
    """SIGKILL against a job and the launcher, ctrl-C, at random moments, until it is done; two launchers at once."""
    sweep = (
        "-m", *(word for word in toy if "epochs" not in word), "method=slides_cae,variation_model", "budget.epochs=4",
        "data.patches=256", "checkpoint.every_batches=4", "hydra.launcher.jobs=1",
    )  # fmt: skip
    whole = tmp_path / "whole"
    begun = time.monotonic()
    launchers = [begin(*sweep, f"runs_dir={whole}") for _ in range(2)]
    told = [process.communicate(timeout=400)[0] for process in launchers]
    shared = time.monotonic() - begun
    assert [process.returncode for process in launchers] == [0, 0], told
    logs = [path.read_text() for path in whole.rglob("job.log")]
    assert len(logs) == 2
    assert sum(log.count("epoch 4/4:") for log in logs) == 1  # of slides_cae
    assert sum(log.count("already done, skipped") for log in logs) == 2

    random = np.random.default_rng(0)
    order = [str(kind) for kind in random.permutation(["job", "launcher", "ctrl-C"])]
    runs, hits = tmp_path / "runs", []
    process = begin(*sweep)
    while len(hits) < len(order) and len(list(runs.rglob("metrics.json"))) < 2:
        time.sleep(random.uniform(0.05, 0.2) * shared)  # three fall within its length on any machine
        what, jobs = order[len(hits)], at_work(runs)
        if process.poll() is None and what == "job" and jobs:
            os.kill(int(random.choice(jobs)), signal.SIGKILL)
            hits.append(what)
        elif process.poll() is None and what == "launcher":
            process.kill()
            process.wait()
            hits.append(what)
        elif process.poll() is None and what == "ctrl-C" and jobs:
            process.send_signal(signal.SIGINT)
            out = process.communicate(timeout=120)[0]
            assert process.returncode == 130
            assert (
                out.splitlines()[-1]
                == "interrupted; the same command continues from the last checkpoint, if there is one"
            )
            assert "running" not in states(runs)
            hits.append(what)
        if process.poll() is not None:
            process = begin(*sweep)
    process.communicate(timeout=400)
    assert hits == order
    assert lab(*sweep).stdout.startswith("2 jobs: ")
    assert results(runs) == results(whole)
    assert not list(runs.rglob(".lock"))
    assert not list(runs.rglob(".*.ckpt.*"))


@pytest.mark.slow
def test_jobs_of_two_devices_run_beside_each_other_and_share_the_decoded_images(lab, toy, tmp_path):
    lab("-m", *toy, "trainer=ddp", "trainer.devices=2", "seed=0,1", "hydra.launcher.jobs=2")
    runs = [path.parent for path in (tmp_path / "runs").rglob("metrics.json")]
    assert [json.loads((run / "environment.json").read_text())["world_size"] for run in runs] == [2, 2]
    (entry,) = (path for path in (tmp_path / "cache/anomaly_lab/images").iterdir() if path.is_dir())
    assert all(f"in {entry.parent}" in (run / "job.log").read_text() for run in runs)


@pytest.mark.slow
def test_a_full_disk_is_told_in_a_line_and_the_run_goes_on_with_more_room(lab, warm_program, toy, tmp_path):
    """A limit on the size of files stands for the disk: the checkpoint is the first that does not fit."""
    little = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (4_096_000, 4_096_000))"
    program = "runpy.run_module('anomaly_lab', run_name='__main__', alter_sys=True)"
    done = warm_program.run(toy, tmp_path, variables(tmp_path), code=f"{little}; {program}")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"error: \S+last.ckpt: expected room on the disk, found none \(File too large\)", last)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob(".last.ckpt*"))
    lab(*toy)
    assert results(tmp_path / "runs")
