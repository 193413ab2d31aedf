"""One process at a time in a run folder; what another one reads there."""

import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from threading import Event

import pytest

from anomaly_lab.core.files import write_json
from anomaly_lab.runs import lock
from anomaly_lab.runs.folder import write_job
from anomaly_lab.runs.lock import LOCK, exclusive, follow, is_left, step

SELF = f"process {os.getpid()} on {socket.gethostname()}"


def test_the_second_waits_and_says_for_whom(tmp_path, monkeypatch):
    said = Event()
    monkeypatch.setattr(lock, "say", lambda text: (texts.append(text), said.set()))
    texts = []

    def again():
        with exclusive(tmp_path):
            return (tmp_path / LOCK).read_text()

    with ThreadPoolExecutor(1) as pool:
        with exclusive(tmp_path):
            second = pool.submit(again)
            assert said.wait(60)
        assert second.result(60) == SELF
    assert texts == [f"{tmp_path}: {SELF} is working on this run; waiting until it ends"]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_nobody_of_this_host_holds_is_left(tmp_path):
    assert not is_left(tmp_path)
    with exclusive(tmp_path):
        assert not is_left(tmp_path)
    for holder, left in ((SELF, True), (f"{SELF} step 7.0.0", True), ("process 1 on another-host", False), ("", False)):
        (tmp_path / LOCK).write_text(holder)
        assert is_left(tmp_path) == left


@pytest.mark.parametrize("finished", [False, True])
def test_other_tasks_of_slurm_wait_until_the_first_holds_it_or_has_found_it_finished(tmp_path, monkeypatch, finished):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert step() == "step 7.0.0"
    (tmp_path / LOCK).write_text("process 1 on n1 step 6.0.0")  # another job is at the same run
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(follow, tmp_path)
        with pytest.raises(TimeoutError):
            other.result(timeout=0.5)
        if finished:
            write_json(tmp_path / "metrics.json", {"score": 1})
            write_job(tmp_path, "done")
        else:
            with exclusive(tmp_path):
                assert re.search(" step 7.0.0$", (tmp_path / LOCK).read_text())
                other.result(60)
        other.result(60)


def test_the_other_processes_of_a_run_hold_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with exclusive(tmp_path / "nowhere"):  # started by the first, which holds it by then: no wait
        assert not (tmp_path / "nowhere").exists()
