"""What `doctor` finds on machines that lack something."""

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from anomaly_lab.cli import doctor
from anomaly_lab.networks import backbone


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub whose cache holds a file or none, and that answers or does not."""

    def have(cached, answers):
        def download(*_, **__):
            if not cached:
                raise LocalEntryNotFoundError("no")
            return str(tmp_path / "model.safetensors")

        def answer(_):
            if not answers:
                raise OSError("unreachable")

        monkeypatch.setattr(backbone, "hf_hub_download", download)
        monkeypatch.setattr(backbone, "answer", answer)

    return have


@pytest.mark.parametrize(
    ("cached", "answers", "words"),
    [
        (True, False, "resnet18.tv_in1k is in the cache of timm's hub: "),
        (False, True, "timm's hub answers"),
        (False, False, "timm's hub does not answer; pretrained networks need method.backbone=offline"),
    ],
)
def test_weights(hub, cached, answers, words):
    hub(cached, answers)
    assert doctor.weights("resnet18.tv_in1k").startswith(words)


def test_a_folder_that_is_full_or_cannot_be_written(monkeypatch, tmp_path):
    assert doctor.disk(tmp_path / "deep" / "er").startswith(f"{tmp_path / 'deep' / 'er'}: ")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9})())
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert doctor.disk(tmp_path) == f"{tmp_path}: only 1 GB free; {tmp_path} cannot be written"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WANDB_API_KEY": "k" * 40}, "an API key is there"),
        ({"WANDB_MODE": "offline"}, "WANDB_MODE=offline, no API key"),
    ],
)
def test_wandb(monkeypatch, tmp_path, environment, words):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert words in doctor.wandb()


def test_every_finding_is_a_line(hub, capsys):
    hub(True, False)
    doctor.main([])
    said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert said[0] == "version"
    assert {"GPU", "CPU", "runs", "cache", "weights", "[export]", "W&B"} <= set(said)
