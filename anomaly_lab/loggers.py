"""The default logger: W&B, online where a key is configured, else offline with one line that says so."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger

from anomaly_lab.run_folder import is_first_process
from anomaly_lab.sync import obstacle

INIT_SECONDS = 8.0  # beside the seconds of `obstacle`: a run is offline 20 s after its start, or sooner
FINISH_SECONDS = 60.0  # for what is not uploaded when a run ends
LATER = "upload later: python -m anomaly_lab sync"
LOST = (OSError, wandb.Error)  # what wandb raises where its own background process has ended


class SteadyWandbLogger(WandbLogger):
    """Logs to W&B; where W&B breaks down, it says so once and training goes on."""

    broken = False

    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration."""
        with self._steady():
            super().log_hyperparams(params)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log metrics, or pictures, which come here too."""
        with self._steady():
            super().log_metrics(metrics, step)

    @contextmanager
    def _steady(self) -> Iterator[None]:
        try:
            yield
        except LOST as error:
            if not self.broken:
                print(f"W&B: logging has ended ({type(error).__name__}: {error}), the run goes on without it")
            self.broken = True


def wandb_logger(
    save_dir: str, project: str, name: str, group: str, tags: list[str], job_type: str = "train"
) -> WandbLogger:
    """A W&B run in the run folder.

    Without a key, or where the service does not answer, the run is recorded offline: logging must not cost a run.
    """
    if not is_first_process():
        return WandbLogger(save_dir=save_dir)  # never opens a run: rank 0 records for all
    session = wandb.setup(wandb.Settings(silent=True)).settings
    mode = session.mode
    if mode == "online" and (reason := obstacle(session)):
        mode = "offline"
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to the same service: 12 s more at the very end
        print(f"W&B: {reason}, logging offline; {LATER}")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, silent=True)
    about: dict[str, Any] = {
        "project": project, "name": name, "group": group, "tags": tags,
        "job_type": job_type, "dir": save_dir, "settings": settings,
    }  # fmt: skip
    try:
        run = wandb.init(mode=mode, **about)  # type: ignore[arg-type]
    except (wandb.Error, TimeoutError) as error:
        said = " ".join(str(error).split())
        print(f"W&B: the service cannot be used ({type(error).__name__}: {said:.100}), logging offline; {LATER}")
        run = wandb.init(mode="offline", **about)
    run.define_metric("epoch")
    run.define_metric("validation/*", step_metric="epoch")
    return SteadyWandbLogger(experiment=run, save_dir=save_dir)


def finish(run: wandb.Run) -> None:
    """End a W&B run after at most FINISH_SECONDS.

    Where that was not enough, the service was lost: the run becomes an offline run, which `sync` finds.
    """
    folder = Path(run.settings.sync_dir)
    began = time.monotonic()
    try:
        run.finish()
        lost = time.monotonic() - began >= FINISH_SECONDS
    except LOST:
        lost = True
    if lost and folder.name.startswith("run-") and folder.is_dir():
        folder.rename(folder.with_name(f"offline-{folder.name}"))
        print(f"W&B: the service was lost, the run is kept offline; {LATER}")
