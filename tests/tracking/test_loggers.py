"""The W&B logger where the service is missing, rejects the key, or is lost; what it records: test_wandb_content.py."""

import os
import socket
import subprocess
import sys
import time

import pytest
import wandb

from anomaly_lab.cli import sync
from anomaly_lab.tracking import loggers
from anomaly_lab.tracking.loggers import wandb_logger
from anomaly_lab.tracking.service import answers
from tests.cli.test_sync import KEY, Service

ABOUT = {"project": "p", "name": "n", "group": "g", "tags": ["a:b"]}
RUN = """
import sys, time
from anomaly_lab.core.console import print_messages
from anomaly_lab.tracking import loggers
print_messages()
loggers.FINISH_SECONDS = 2.0
began = time.monotonic()
logger = loggers.wandb_logger(sys.argv[1], "p", "n", "g", ["a:b"])
for step in range(5):
    logger.log_metrics({"x": step}, step=step)
if len(sys.argv) > 2:
    print("ready", flush=True)
    sys.stdin.readline()
    logger.log_metrics({"x": 6}, step=6)
loggers.finish(logger.experiment)
print("seconds", time.monotonic() - began, flush=True)
"""


@pytest.fixture
def modes(monkeypatch):
    """Record the modes that `wandb.init` is asked for; `online` finds no service."""
    asked = []
    real = wandb.init

    def init(mode=None, **settings):
        asked.append(mode)
        if mode != "offline":
            raise wandb.errors.CommError("no\nanswer")
        return real(mode="disabled", **settings)

    monkeypatch.setattr(wandb, "init", init)
    for name in ("WANDB_ERROR_REPORTING", "WANDB_DATA_DIR"):  # restores what the logger sets
        monkeypatch.setenv(name, "false")
    monkeypatch.setattr(wandb, "setup", lambda settings: type("Session", (), {"settings": wandb.Settings()}))
    return asked


def environment(tmp_path, url):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, "HOME": str(tmp_path), "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "OMP_NUM_THREADS": "1"}


def test_without_a_key_it_logs_offline_and_says_so(modes, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    wandb_logger(str(tmp_path), **ABOUT)
    assert modes == ["offline"]
    said = capsys.readouterr().out
    assert said.startswith("W&B: no key is configured")
    assert said.count("\n") == 1


def test_with_an_invalid_key_it_logs_offline_and_says_so(modes, monkeypatch, tmp_path, capsys):
    def login(**_):
        raise wandb.errors.AuthenticationError("WANDB_API_KEY invalid:\nhas 3")

    monkeypatch.setattr(wandb, "login", login)
    wandb_logger(str(tmp_path), **ABOUT)
    assert modes == ["offline"]
    said = capsys.readouterr().out
    assert said.startswith("W&B: the key is not valid (WANDB_API_KEY invalid: has 3), logging offline")
    assert said.count("\n") == 1


def test_where_opening_fails_it_logs_offline_and_says_so(modes, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loggers, "obstacle", lambda _: None)
    wandb_logger(str(tmp_path), **ABOUT)
    assert modes == ["online", "offline"]
    said = capsys.readouterr().out
    assert "cannot be used (CommError: no answer), logging offline" in said
    assert said.count("\n") == 1


def test_training_goes_on_where_wandbs_process_has_ended(modes, monkeypatch, tmp_path, capsys):
    def broken(*_, **__):
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(wandb, "login", lambda **_: False)
    logger = wandb_logger(str(tmp_path), **ABOUT)
    monkeypatch.setattr(logger.experiment, "log", broken)
    monkeypatch.setattr(logger.experiment, "finish", broken)
    logger.log_metrics({"x": 1}, step=1)
    logger.log_metrics({"x": 2}, step=2)
    loggers.finish(logger.experiment)
    _, said = capsys.readouterr().out.splitlines()
    assert said == "W&B: logging has ended (ConnectionResetError: Connection lost), the run goes on without it"


@pytest.fixture
def black_hole():
    """A service that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_what_counts_as_an_answer(black_hole):
    with Service() as service:
        assert answers(service.url)
        assert answers(f"{service.url}/nothing-here")  # 404
    began = time.monotonic()
    assert not answers("http://127.0.0.1:9")
    assert not answers(service.url)
    assert not answers("no address")
    assert not answers(black_hole, seconds=0.5)
    assert time.monotonic() - began < 20  # s: all that a dead network may cost


def start(folder, url, *arguments):
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), *arguments], env=environment(folder, url),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_no_answer_costs_less_than_20_seconds_and_a_rejected_key_one_line(black_hole, tmp_path):
    with Service(status=401) as rejecting:
        urls = {"silent": black_hole, "rejecting": rejecting.url}
        processes = {name: start(tmp_path / name, url) for name, url in urls.items()}
        done = {name: process.communicate(timeout=60) for name, process in processes.items()}
    said = {"silent": f"{black_hole} does not answer", "rejecting": "the service cannot be used (CommError: rejected)"}
    for name, (output, errors) in done.items():
        line, seconds = output.splitlines()
        assert line.startswith(f"W&B: {said[name]}, logging offline"), name
        assert float(seconds.removeprefix("seconds ")) < 15, name
        assert not errors, name
        assert processes[name].returncode == 0, name
        assert list(tmp_path.glob(f"{name}/wandb/offline-run-*/*.wandb")), name


def test_a_service_that_is_lost_in_the_middle_leaves_an_offline_run_that_is_uploaded_later(tmp_path, monkeypatch):
    with Service() as service:
        process = start(tmp_path / "run", service.url, "wait")
        assert process.stdout.readline() == "ready\n"
    output, errors = process.communicate("\n", timeout=60)
    assert process.returncode == 0, errors
    said, seconds = output.splitlines()
    assert said.startswith("W&B: the service was lost, the run is kept offline")
    assert float(seconds.removeprefix("seconds ")) < 20
    assert not errors
    (run,) = sync.find(tmp_path)
    with Service() as back:
        for name, value in environment(tmp_path, back.url).items():
            monkeypatch.setenv(name, value)
        sync.upload_all([run], sync.wandb_sync)
    assert sync.is_uploaded(run)
    assert back.uploads[run.name.rpartition("-")[2]] == 1
