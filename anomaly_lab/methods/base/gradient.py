"""Methods that descend one loss with one optimizer."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch.nn.parameter import Parameter

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.method import Method, OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import Schedule, scheduled
from anomaly_lab.methods.base.tiling import Tiling


def summed(parts: dict[str, Scalar]) -> dict[str, Scalar]:
    """Several losses, and their sum as the `loss` that is descended."""
    return {"loss": torch.stack(list(parts.values())).sum(), **parts}


class GradientMethod(Method):
    """A network that learns by gradient descent; a method writes `losses` and `predict`, this class the rest.

    `schedule`: "constant"; "cosine": the learning rate falls to zero over the run; "exponential": to a
    twentieth; "early_drop": to a tenth after a
    third of it; "drop": to a tenth near its end; "two_drops": to a fifth of it, and again, in its last fifth.
    """

    rates: ClassVar[tuple[str, ...]] = ("optimizer",)

    def __init__(self, tiling: Tiling, optimizer: OptimizerFactory, schedule: Schedule = "constant") -> None:
        super().__init__(tiling)
        self.optimizer = optimizer
        self.schedule = schedule

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """The losses of a batch of normal images, means over the batch: `loss` is descended, all are logged."""

    def trained(self) -> Iterable[Parameter]:
        """The parameters that the optimizer steps: by default all that require a gradient."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        """One step down the loss."""
        losses = self.losses(batch)
        loss, size = losses.pop("loss"), len(batch.image)
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=size)
        parts = {f"train/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=size)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same losses on held-out normal images, unaugmented."""
        losses = self.losses(self.windows(batch))
        self.log_dict({f"validation/{name}": loss for name, loss in losses.items()}, batch_size=len(batch.image))

    def windows(self, batch: Batch) -> Batch:
        """Whole images as they look in training, synthetic defects included.

        Every window is an image with a number of its own, which follows from that of its image: the noise of a held-out
        image follows from its number.
        """
        cut = self.tiling.training_like
        image, count = cut(batch.image), len(batch.image)
        each = len(image) // count  # windows of an image, the first ones of all images first
        number = torch.arange(each, device=image.device).repeat_interleave(count)
        index, label = batch.index.repeat(each) * each + number, batch.label.repeat(each)
        clean = None if batch.clean is None else cut(batch.clean)
        defect = None if batch.defect is None else cut(batch.defect.float()).bool()
        return batch._replace(image=image, index=index, label=label, clean=clean, defect=defect)

    def rehearse(self, batch: Batch) -> Scalar:
        """The loss of a step."""
        return self.losses(batch)["loss"]

    def configure_optimizers(self) -> Any:
        """The optimizer of the configuration, with its schedule."""
        optimizer = self.optimizer(self.trained())
        if self.schedule == "constant":
            return optimizer
        return [optimizer], [scheduled(optimizer, self.schedule, self.trainer)]
