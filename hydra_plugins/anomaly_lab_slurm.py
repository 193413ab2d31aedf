"""The launcher `slurm`. It lies here because Hydra accepts plugins from this folder only."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):
    """Runs jobs on a SLURM cluster."""

    def __init__(self, **keys: Any) -> None:
        self.keys = keys

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `launch` needs; the task function is not called, a job is a process."""
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs; an answer for each, in the same order."""
        from anomaly_lab.launch import slurm, sweep

        settings = sweep.checked(slurm.Slurm, self.keys)
        return sweep.launch(self.loader, self.config, job_overrides, settings)
