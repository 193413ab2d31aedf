"""The W&B logger without a key and without an answer; what a run records is read back in test_run.py."""

import pytest
import wandb

from anomaly_lab.loggers import wandb_logger

ABOUT = {"project": "p", "name": "n", "group": "g", "tags": ["a:b"]}


@pytest.fixture
def modes(monkeypatch):
    """Record the modes that `wandb.init` is asked for; `online` finds no service."""
    asked = []
    real = wandb.init

    def init(mode=None, **settings):
        asked.append(mode)
        if mode != "offline":
            raise wandb.errors.CommError("no answer")
        return real(mode="disabled", **settings)

    monkeypatch.setattr(wandb, "init", init)
    return asked


def test_without_a_key_it_logs_offline_and_says_so(modes, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(type(wandb.api), "api_key", property(lambda _: None))
    wandb_logger(str(tmp_path), **ABOUT)
    assert modes == ["offline"]
    assert capsys.readouterr().out.count("\n") == 1


def test_without_an_answer_it_logs_offline_and_says_so(modes, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(type(wandb.api), "api_key", property(lambda _: "k" * 40))
    wandb_logger(str(tmp_path), **ABOUT)
    assert modes == [None, "offline"]
    assert "does not answer (CommError), logging offline" in capsys.readouterr().out
