"""The installed package carries its configuration, works from any folder, and needs no more than it declares."""

import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import METHODS, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), str(ROOT)]
    subprocess.run(command, check=True)
    (path,) = target.glob("*.whl")
    return path


def run(command, folder, **environment):
    environment = {**os.environ, "PYTHONPATH": "", **environment}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needed(requirements: Iterable[str]) -> dict[str, Distribution]:
    """What pip would install for these requirements, by name, from what is installed here in a version that fits."""
    found, waiting = {}, [(text, ("",)) for text in requirements]
    for text, extras in waiting:  # grows
        requirement = Requirement(text)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        here = distribution(requirement.name)
        assert requirement.specifier.contains(here.version, prereleases=True), f"{text}: found {here.version}"
        if found.setdefault((requirement.name, *requirement.extras), here) is here:
            waiting += [(more, ("", *requirement.extras)) for more in here.requires or ()]
    return {name: here for (name, *_), here in found.items()}


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
def test_the_wheel_and_what_it_requires_are_enough(wheel, tmp_path):
    """In an environment of the wheel and of links to the packages that follow from its requirements, to no others."""
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin/python"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", wheel], check=True)
    (installed,) = environment.glob("lib/*/site-packages")
    about = Distribution.at(next(installed.glob("anomaly_lab-*.dist-info")))
    for package in needed(about.requires).values():
        for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (installed / top).exists():
                (installed / top).symlink_to(package.locate_file(top))
    there = {path.name for path in installed.iterdir()}
    assert {"torch", "wandb", "yaml"} <= there
    assert not {"pytest", "optuna", "onnx", "submitit"} & there
    train_and_look(environment / "bin", tmp_path / "elsewhere")
