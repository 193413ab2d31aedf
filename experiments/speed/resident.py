"""Steps through Lightning on resident batches, and their seconds; shared by the scripts of steps."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.training.finite_loss import FiniteLoss
from anomaly_lab.training.seed import SeedEveryStep

warnings.filterwarnings("ignore", ".*not.* have a.*validation.*|.*val_dataloader.*|.*many workers.*")


class Resident(list):
    """Batches that the trainer takes for one loader; a plain list is several to it."""


def ours(method: GradientMethod, images: list[torch.Tensor], precision: Any = "32-true") -> None:
    """A training of one epoch, with the callbacks of a run that work in a step."""
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, precision=precision, callbacks=[SeedEveryStep(0), FiniteLoss()],
    )  # fmt: skip
    trainer.fit(method, Resident(Batch.of(batch) for batch in images))


def seconds(work: Callable[..., object], *given: object) -> float:
    """CPU seconds."""
    start = time.process_time()
    work(*given)
    return time.process_time() - start
