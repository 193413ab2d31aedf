"""The software and hardware of a run."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from anomaly_lab import __version__


def environment(trainer: pl.Trainer) -> dict[str, Any]:
    """Versions, commit, device, threads and processes of the run."""
    packages = ("torch", "pytorch-lightning", "numpy", "kornia", "opencv-python-headless", "pillow")
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    cuda = trainer.strategy.root_device.type == "cuda"
    return {
        "versions": {"anomaly_lab": __version__, **{package: version(package) for package in packages}},
        "python": platform.python_version(),
        "git": git.stdout.strip() or None,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "world_size": trainer.world_size,
    }
