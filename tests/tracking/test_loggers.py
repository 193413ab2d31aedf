"""The W&B logger where the service is missing, rejects the key, or is lost; what it records: test_wandb_content.py."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import wandb

from anomaly_lab.cli import sync
from anomaly_lab.tracking import loggers
from anomaly_lab.tracking.loggers import wandb_logger
from anomaly_lab.tracking.service import answers
from tests.cli.test_sync import Service, service_at
from tests.conftest import variables

ABOUT = {"project": "p", "name": "n", "group": "g", "tags": ["a:b"]}
RUN = """
import os, sys, time
from functools import partial
from anomaly_lab.core.console import print_messages
from anomaly_lab.tracking import loggers, service
print_messages()
loggers.FINISH_SECONDS = 2.0
service.answers = partial(service.answers, seconds=1.0)
began = time.monotonic()
logger = loggers.wandb_logger(sys.argv[1], "p", "n", "g", ["a:b"])
for step in range(5):
    logger.log_metrics({"x": step}, step=step)
if len(sys.argv) > 2:
    open("ready", "w").close()
    while os.path.exists("ready"):
        time.sleep(0.02)
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


def no_key(**_):
    return False


def bad_key(**_):
    raise wandb.errors.AuthenticationError("WANDB_API_KEY invalid:\nhas 3")


@pytest.mark.parametrize(
    ("login", "told"),
    [(no_key, "no key is configured"), (bad_key, "the key is not valid (WANDB_API_KEY invalid: has 3)")],
)
def test_without_a_valid_key_it_logs_offline_and_says_so(modes, monkeypatch, tmp_path, capsys, login, told):
    monkeypatch.setattr(wandb, "login", login)
    wandb_logger(str(tmp_path), **ABOUT)
    assert modes == ["offline"]
    said = capsys.readouterr().out
    assert said.startswith(f"W&B: {told}, logging offline")
    assert said.count("\n") == 1


def test_where_opening_fails_it_logs_offline_and_says_so(modes, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loggers, "obstacle", lambda _: None)
    wandb_logger(str(tmp_path), **ABOUT)
    assert modes == ["online", "offline"]
    said = capsys.readouterr().out
    assert "it cannot be used (CommError: no answer), logging offline" in said
    assert said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "project", "told"),
    [
        ("", "p", "W&B: WANDB_MODE: expected 'online', "),
        ("onlin", "p", "W&B: WANDB_MODE: expected 'online', "),
        ("offline", "a/b", "W&B: it cannot be used (UsageError: Invalid project name 'a/b'"),
        ("offline", "x" * 200, "W&B: it cannot be used (UsageError: Invalid project name"),
    ],
)
def test_a_setting_that_wandb_refuses_is_told_and_the_run_goes_on_offline(
    monkeypatch, tmp_path, capsys, mode, project, told
):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    wandb.teardown()  # its settings are read once in a process
    logger = wandb_logger(str(tmp_path), **{**ABOUT, "project": project, "tags": ["t" * 200]})
    try:
        assert capsys.readouterr().out.startswith(told)
        assert logger.experiment.offline
        assert logger.experiment.id == (tmp_path / loggers.RUN_ID).read_text()
    finally:
        loggers.finish(logger.experiment)
        wandb.teardown()


def test_a_run_that_goes_on_is_one_run_in_wandb(modes, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(wandb, "login", no_key)
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **about: asked.append((about["id"], about["resume"])) or init(**about))
    for folder in ("one", "one", "two"):
        wandb_logger(str(tmp_path / folder), **ABOUT)
    (first, *_), (again, *_), (other, *_) = asked
    assert first == again != other
    assert [resume for _, resume in asked] == [None, "allow", None]


def test_training_goes_on_where_wandbs_process_has_ended(modes, monkeypatch, tmp_path, capsys):
    def broken(*_, **__):
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(wandb, "login", no_key)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "told"),
    [(None, "{} does not answer"), (401, "it cannot be used (CommError: rejected)")],
    ids=["no answer", "a rejected key"],
)
def test_a_service_that_cannot_be_used_costs_a_line_and_seconds(warm_program, black_hole, tmp_path, status, told):
    with Service(status=status) as rejecting:
        url = rejecting.url if status else black_hole
        done = warm_program.run([str(tmp_path)], tmp_path, variables(tmp_path, **service_at(url, tmp_path)), 60, RUN)
    line, seconds = done.stdout.splitlines()
    assert line.startswith(f"W&B: {told.format(url)}, logging offline")
    assert float(seconds.removeprefix("seconds ")) < 15
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
def test_a_service_that_is_lost_in_the_middle_leaves_an_offline_run_that_is_uploaded_later(
    warm_program, tmp_path, monkeypatch
):
    folder, ready = tmp_path / "run", tmp_path / "ready"
    with Service() as service, ThreadPoolExecutor(1) as pool:
        about = variables(tmp_path, **service_at(service.url, tmp_path))
        running = pool.submit(warm_program.run, [str(folder), "wait"], tmp_path, about, 60, RUN)
        while not ready.exists() and not running.done():
            time.sleep(0.02)
        service.__exit__()
        ready.unlink()
        done = running.result()
    assert (done.returncode, done.stderr) == (0, "")
    said, seconds = done.stdout.splitlines()
    assert said.startswith("W&B: the service was lost, the run is kept offline")
    assert float(seconds.removeprefix("seconds ")) < 20
    (run,) = sync.find(folder)
    with Service() as back:
        for name, value in service_at(back.url, tmp_path).items():
            monkeypatch.setenv(name, value)
        sync.upload_all([run], sync.wandb_sync)
    assert sync.is_uploaded(run)
    assert back.uploads[run.name.rpartition("-")[2]] == 1
