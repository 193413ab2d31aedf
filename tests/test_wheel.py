"""The installed package carries its configuration and works from any folder."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import METHODS, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), str(ROOT)]
    subprocess.run(command, check=True)
    (path,) = target.glob("*.whl")
    return path


def run(command, folder, **environment):
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train_and_look(binaries: Path, folder: Path):
    """Help and a short demo run in an empty folder."""
    folder.mkdir()
    assert f"method: {', '.join(METHODS)}" in run([binaries / "anomaly-lab", "--help"], folder)
    demo = ["experiment=demo", "data.patches=64", "trainer.max_epochs=1", "controls=false"]
    run([binaries / "anomaly-lab", *demo], folder, XDG_CACHE_HOME=str(folder / "cache"))
    assert len(list((folder / "runs").rglob("metrics.json"))) == 1
    assert len(list((folder / "runs").rglob("report.html"))) == 1  # the files of the page are in the wheel
    sweep = [binaries / "anomaly-lab", "-m", *demo, "seed=0,1", "dry_run=true"]  # its launcher is a plugin of Hydra
    listed = run(sweep, folder, XDG_CACHE_HOME=str(folder / "cache"))
    assert "2 jobs: 1 finished, 1 to start" in listed
    origin = run([binaries / "python", "-c", "import anomaly_lab; print(anomaly_lab.__file__)"], folder)
    assert str(ROOT / "anomaly_lab") not in origin


@pytest.mark.slow
def test_the_wheel_installs_into_an_empty_environment(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    command = [environment / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile"]  # what is used is, later
    subprocess.run([*command, "--constraint", ROOT / "constraints.txt", wheel], check=True)
    train_and_look(environment / "bin", tmp_path / "elsewhere")
