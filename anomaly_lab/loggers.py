"""The default logger: W&B, online where a key is configured, else offline with one line that says so."""

import os
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger

from anomaly_lab.run_folder import is_first_process


def wandb_logger(
    save_dir: str, project: str, name: str, group: str, tags: list[str], job_type: str = "train"
) -> WandbLogger:
    """A W&B run in the run folder.

    Without a key, or where the service does not answer, the run is recorded offline: logging must not cost a run.
    """
    if not is_first_process():
        return WandbLogger(save_dir=save_dir)  # never opens a run: rank 0 records for all
    mode = os.environ.get("WANDB_MODE")
    if mode is None and not wandb.api.api_key:
        mode = "offline"
        print(f"W&B: no key is configured, logging offline; upload later: wandb sync {save_dir}/wandb/offline-run-*")
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(init_timeout=15, silent=True)
    about: dict[str, Any] = {
        "project": project, "name": name, "group": group, "tags": tags,
        "job_type": job_type, "dir": save_dir, "settings": settings,
    }  # fmt: skip
    try:
        run = wandb.init(mode=mode, **about)  # type: ignore[arg-type]
    except wandb.Error as error:
        print(f"W&B: the service does not answer ({type(error).__name__}), logging offline")
        run = wandb.init(mode="offline", **about)
    run.define_metric("epoch")
    run.define_metric("validation/*", step_metric="epoch")
    return WandbLogger(experiment=run, save_dir=save_dir)
