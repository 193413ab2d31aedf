"""Methods without a gradient: they look at the training images and fit statistics."""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anomaly_lab.core.console import say
from anomaly_lab.core.distributed import is_first_process
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.statistics import MemoryBank, Statistic, resize_buffers
from anomaly_lab.methods.base.tiling import Tiling


class FittedMethod(Method):
    """A method that sees the training images, whole, and then fits its statistics.

    A method whose statistics are `Statistic`s declares them as attributes and writes `rows`; update, fit, memory and
    checkpoints follow from them. A method with other statistics writes `update`, `fit` and `memory` itself and keeps
    what decides a result in buffers; their size may follow from the data. Under several processes each sees its share
    of the images, and `fit` runs in all of them and comes to the same result everywhere (`Reservoir.rows`,
    `sum_of_all_processes`).

    It sees each image once and unaugmented, unless a subclass sets `passes` and `augmented` otherwise.
    """

    sees: ClassVar[Literal["patches", "images"]] = "images"
    passes: ClassVar[int | None] = 1
    augmented: ClassVar[bool] = False
    autocast: ClassVar[bool] = False
    resumable: ClassVar[bool] = False
    validation: ClassVar[float] = 0.0

    def __init__(self, tiling: Tiling) -> None:
        super().__init__(tiling)
        self.automatic_optimization = False

    @property
    def statistics(self) -> dict[str, Statistic]:
        """The statistics among the attributes, by name."""
        return {name: child for name, child in self.named_children() if isinstance(child, Statistic)}

    def rows(self, image: Float[Tensor, "1 channel height width"]) -> dict[str, Float[Tensor, "row feature"]]:
        """What each statistic sees of a training image, by its name.

        Images come one by one, because the last bits of a network's answer may depend on the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} writes neither rows nor update")

    def update(self, images: Images, index: Int[Tensor, " batch"]) -> None:
        """See some training images at the working size; `index` numbers them."""
        for image, number in zip(images.split(1), index.tolist(), strict=True):
            for name, rows in self.rows(image).items():
                self.statistics[name].update(rows, number)

    def fit(self) -> None:
        """Fit the statistics after the last image; collective."""
        for statistic in self.statistics.values():
            statistic.fit()

    def memory(self, images: int) -> int:
        """The bytes, at most, that are kept of so many training images until `fit` is done."""
        return sum(statistic.memory(images) for statistic in self.statistics.values())

    def check_memory(self, images: int, available: int) -> None:
        """Say where banks keep a sample only, and refuse what does not fit into `available` bytes: UserError."""
        banks = [statistic for statistic in self.statistics.values() if isinstance(statistic, MemoryBank)]
        for line in dict.fromkeys(bank.left_out(images) for bank in banks):
            if line and is_first_process():
                say(line)
        if (needed := self.memory(images)) <= available:
            return
        key, remedy = "data", "take fewer training images or a smaller data.image_size"
        if banks:
            key = "method.max_images" if banks[0].rows == 1 else "method.max_vectors"
            remedy = f"set {key}={available // sum(bank.row_memory for bank in banks)} or less"
        raise UserError(
            f"{key}: expected what fits into the memory of this machine, {available / 2**30:.1f} GiB, found up to "
            f"{needed / 2**30:.1f} GiB for {images} training images; {remedy}"
        )

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """See a batch."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            self.update(batch.image, batch.index)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Fit after the last batch of the last pass."""
        if self.trainer.is_last_batch and self.current_epoch + 1 == self.trainer.max_epochs:
            self.fit()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """There is no loss to compute; a method without this step makes Lightning warn in every run."""

    def configure_optimizers(self) -> list:
        """There is nothing to optimise."""
        return []

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        resize_buffers(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)
