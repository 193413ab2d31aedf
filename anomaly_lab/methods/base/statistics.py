"""Methods without a gradient."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from anomaly_lab.core.console import say
from anomaly_lab.core.types import Batch, Images
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.tiling import Tiling


class StatisticsMethod(Method):
    """A method without a gradient: it sees every training image once, unaugmented, and then closes its statistics.

    The configuration of such a method sets `data.plan: images_once`, `trainer.max_epochs: 1` and
    `trainer.limit_val_batches: 0`. What decides a result ends up in buffers, so that the checkpoint carries it; their
    size may follow from the data. Under several processes each sees its share of the images, and `fit` runs in all of
    them: it brings the shares together (`Reservoir.rows`, `of_all_processes`) and comes to the same result everywhere.
    """

    def __init__(self, tiling: Tiling) -> None:
        super().__init__(tiling)
        self.automatic_optimization = False

    def on_fit_start(self) -> None:
        """Say how much memory the statistics will take."""
        images = len(self.trainer.datamodule.train_samples)  # type: ignore[attr-defined]
        if self.trainer.is_global_zero:
            kept = self.memory(images) / 2**20
            say(f"{type(self).__name__}: takes up to {kept:.0f} MiB of memory for {images} training images")

    @abstractmethod
    def memory(self, images: int) -> int:
        """At most how many bytes of so many training images are kept until `fit` has closed the statistics."""

    @abstractmethod
    def update(self, images: Images, index: Int[Tensor, " batch"]) -> None:
        """See some training images, whole and at the working size; `index` numbers them."""

    @abstractmethod
    def fit(self) -> None:
        """Close the statistics after the last image."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """See a batch."""
        with torch.autocast(self.device.type, enabled=False):
            self.update(batch.image, batch.index)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """After the last image and before anything is validated."""
        if self.trainer.is_last_batch:
            self.fit()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """There is no loss to look at; `trainer.limit_val_batches: 0` in the configuration spares the reading."""

    def configure_optimizers(self) -> list:
        """There is nothing to optimise."""
        return []

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Give every buffer the size that the training data gave it."""
        for name, buffer in self.named_buffers(recurse=False):
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
