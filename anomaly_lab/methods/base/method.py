"""The base class of all methods: a LightningModule that learns from normal images and predicts anomaly maps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeGuard

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from anomaly_lab.core.console import say
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Placement, Prediction
from anomaly_lab.data import corruption
from anomaly_lab.data.placement import content
from anomaly_lab.functional.scores import default_score
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.pretrained import PretrainedNetwork

OptimizerFactory = Callable[[Iterable[Parameter]], torch.optim.Optimizer]
Scalar = Float[Tensor, ""]
PADDED = (
    "the score includes the padding around the photo, or what lies outside data.region (data.resize=crop: no padding)"
)


class Method(pl.LightningModule, ABC):
    """One paper: `training_step` learns from a batch of normal images, `predict` answers for images or tiles.

    A subclass is a `GradientMethod`, an `AdversarialMethod` or a `FittedMethod`. It draws from torch's global generator
    only (seeded at every step) and never sees a file, a metric, or a mask of a test image. Tiling, scores, thresholds,
    metrics and pictures are outside and know only `forward`.

    A frozen or fine-tuned `Backbone` among its modules has its weights before the training.

    Class facts, read from the source before torch is imported:

    - `version`: raise it when a change to the code changes the weights that a configuration leads to. Runs of this
      method, and of no other, are then trained again.
    - `reads`: "photos", "tables" (`data=table`) or both.
    - `sees`: "patches" that are cropped and augmented, or whole "images" as they are.
    - `passes`: how often it sees every image; None: `budget.epochs`.
    - `autocast`: whether it trains in the precision of the trainer; False: always in float32.
    - `validation`: the share of the held-out images on which it computes a loss after each epoch.
    - `augmented`: whether the training images are varied as `augmentation` says.
    - `resumable`: whether a checkpoint before the end of training is of use.
    - `synthetic`: the kinds of synthetic defects (`data.corruption`) that it makes itself and trains with.
    - `labelled`: whether it can learn from labelled abnormal images too (`data.labelled_abnormal`).
    - `control_untrained`: whether its weights before the training, with all that it keeps of the training images, are a
      detector that the trained ones must beat; a run then has it as a control.
    - `masks`: whether it learns from their masks, too; training batches then have them in `defect`.
    - `supervised`: whether it learns from labelled images of both kinds, in folds (`data.fold`), and from nothing else.
    - `clips_gradients`: whether there is a key `method.gradient_clip`.
    - `rates`: the keys of its optimizers.
    - `own_line`: what its maps reach where the method itself calls a pixel defective (`threshold=own`); None: no line.
    - `own_line_for`: the values of its arguments with which it has that line; with others it has none.

    Attributes, which may depend on its arguments: `localises`; False: one number an image, of which no pixel metric is
    made. `fewest`: whole training images without which it cannot end; windows of one are several. `scaled_line`: what
    the paper's scores, scaled to [0, 1] over the test, reach where it calls an image defective; None: no line. It is
    reported as `oracle_<method>_*` and decides nothing.
    """

    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("photos",)
    sees: ClassVar[Literal["patches", "images"]] = "patches"
    passes: ClassVar[int | None] = None
    autocast: ClassVar[bool] = True
    augmented: ClassVar[bool] = True
    resumable: ClassVar[bool] = True
    validation: ClassVar[float] = 1.0
    synthetic: ClassVar[frozenset[corruption.Kind]] = frozenset()
    labelled: ClassVar[bool] = False
    control_untrained: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    supervised: ClassVar[bool] = False
    clips_gradients: ClassVar[bool] = False
    rates: ClassVar[tuple[str, ...]] = ()
    own_line: ClassVar[float | None] = None
    own_line_for: ClassVar[dict[str, Any]] = {}

    copies: int = 1  # of each image that its network sees at once, so that a batch of one image has several
    localises: bool = True  # False: one number an image; nothing scores its pixels
    fewest: int = 1
    scaled_line: float | None = None
    search_steps: int = 0  # gradient steps that `predict` takes for every image
    stage: int = 0  # of a training in several stages, the one of the present epoch
    # All training images as `prepare` gets them, for a look between stages; set by the run.
    training_images: Callable[[], Iterable[Batch]] = tuple

    def __init__(self, tiling: Tiling) -> None:
        super().__init__()
        self.tiling = tiling
        self.remarks: dict[int, str] = {}  # what people should know of single training images, by their number

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        """Learn from a batch of normal images."""

    @abstractmethod
    def predict(self, images: Images) -> Prediction:
        """Map, score (None: the default score is meant) and reconstruction of images or tiles, in one forward pass."""

    def prepare(self, images: Iterable[Batch]) -> None:
        """Look once at all training images, whole, unaugmented and in [0, 1] on the device, before the first step.

        What it finds belongs into buffers: a resumed run does not call it again. Every process looks at all of them.
        The default looks at none.
        """

    def conclude(self, images: Iterable[Batch]) -> None:
        """Look once at all training images, as `prepare` does, after the last step.

        As for `calibrate`, what it finds belongs into buffers and must follow from the weights and these images alone.
        Every process looks at all of them. The default looks at none.
        """

    def calibrate(self, normals: Iterable[Batch]) -> None:
        """Look once at the held-out normal images, on the device, after that and before the threshold.

        What it finds belongs into buffers, which the checkpoint keeps, and must follow from the weights and these
        images alone: a run that was broken off here calls it again. The default looks at none.
        """

    def check_training(self, epochs: int, painted: bool) -> None:
        """Raise UserError where it can learn nothing in so many epochs, or from images that are painted or not.

        `painted`: with synthetic defects (`data.corruption`). A run calls it before anything else, and so does
        `dry_run=true`. By default there is nothing to raise.
        """

    def prepare_data(self) -> None:
        """Read the weights of frozen backbones, before hours are spent on anything else."""
        self._load_backbones()

    def setup(self, stage: str) -> None:
        """Read them in every process."""
        if stage == "fit":
            self._load_backbones()

    def load_local_weights(self) -> None:
        """Read the weights that need no hub, to see whether they fit."""
        for network in self.modules():
            if needs_weights(network) and network.is_local:
                network.load()

    def _load_backbones(self) -> None:
        for backbone in self.modules():
            if not needs_weights(backbone):
                continue
            if unused := backbone.load():
                above = ", ".join(sorted({name.split(".")[0] for name in unused}))
                self.say(f"{backbone.name}: weights above {backbone.layers[-1]} not used ({above})")
            if backbone.origin:
                self.say(f"{backbone.name}: {backbone.origin}")
                backbone.origin = ""  # once

    @property
    def substitutes(self) -> Sequence[str]:
        """What stands in for something that the paper has, a line each, for people at the start of a training."""
        return ()

    @property
    def foreign_photos(self) -> Sequence[Path]:
        """Photos of anything else that it learns from; none of them may be of the run's data."""
        return ()

    def embed(self, images: Images) -> Float[Tensor, "batch feature"] | None:
        """A vector for each image or tile, for a map of the test images; None: there is none."""
        return None

    def samples(self, images: Images) -> Images | None:
        """As many images in [0, 1] as these, drawn or reconstructed, for pictures in training; None: there are none."""
        return None

    @property
    def export_obstacle(self) -> str | None:
        """Why `export` cannot write `predict` as one forward pass over any number of images; None: it can."""
        return None

    def forward(self, images: Images, placement: tuple[Placement, ...] = ()) -> Prediction:
        """Predict for images of any size; padding counts neither in a score of the map nor, later, in the metrics.

        A score that the method itself computes (codes, features, means) cannot leave it out: such images get a remark.
        """
        prediction = self.tiling(self.predict, images)
        if prediction.score is None:
            return prediction._replace(score=default_score(prediction.anomaly_map, content(placement, images)))
        whole = (0, 0, *images.shape[-2:])
        remarks = ["" if place.target == whole and place.valid is None else PADDED for place in placement]
        return prediction._replace(remarks=tuple(remarks)) if any(remarks) else prediction

    def rehearse(self, batch: Batch) -> Float[Tensor, ""]:
        """A number that costs about as much as a training step, for the estimate before a training."""
        return self.predict(batch.image).anomaly_map.mean()

    def memory(self, images: int) -> int:
        """The bytes, at most, that are kept of so many training images while it looks at them."""
        return 0

    def say(self, line: str) -> None:
        """Log a message for people, once however many processes there are."""
        if self._trainer is None or self._trainer.is_global_zero:
            say(line)

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Answer in float32 whatever the precision of training, so that a score does not depend on its batch."""
        with torch.autocast(self.device.type, enabled=False):
            return self(batch.image, batch.placement)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """The same answer as in the test."""
        return self.test_step(batch, batch_idx)


def refuse_unpainted(method: str, painted: bool) -> None:
    """Raise UserError for images without synthetic defects."""
    if not painted:
        raise UserError(f"data.corruption: expected painted defects, from which {method} learns, found null")


def needs_weights(module: nn.Module) -> TypeGuard[PretrainedNetwork]:
    """Whether a part of a method starts from the weights of others."""
    return isinstance(module, PretrainedNetwork) and (module.fine_tuned or not module.trainable)


@contextmanager
def evaluating(method: Method) -> Iterator[None]:
    """Batch norm and the like as at test time; afterwards every part is in its own mode again, a frozen one too."""
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
