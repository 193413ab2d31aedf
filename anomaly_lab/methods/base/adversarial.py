"""Adversarial methods: several networks, each with its own optimizer, that learn in turns."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from anomaly_lab.core.console import duration, say
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images
from anomaly_lab.methods.base.method import Method, OptimizerFactory, Scalar
from anomaly_lab.methods.base.schedule import CURVES, Schedule
from anomaly_lab.methods.base.tiling import Tiling
from anomaly_lab.networks.dcgan import refuse_one_image

Codes = Float[Tensor, "batch latent"]
PerImage = Float[Tensor, " batch"]
Residual = Literal["l2", "l1"]
Purpose = Literal["training", "validation", "search", "samples"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


class Turn(NamedTuple):
    """One step of the optimizer of one network; the gradient reaches the parameters of that network alone."""

    name: str  # of the network
    loss: Scalar
    parts: dict[str, Scalar]  # logged as `<name>/<part>`, means over an epoch
    keep_graph: bool = False  # a later turn goes back through the same graph


class AdversarialMethod(Method):
    """Networks against each other. A method names its networks and yields its turns; this class does the rest.

    A turn is: gradients to zero, backward into the parameters of its network, clipping, a step. The loss of each turn
    is computed when the turn is asked for, so a later turn sees the weights after the earlier steps. Each backward pass
    stands directly before its own step, because a loss scaler changes its scale with every step.

    A training may have several `stages` (`stage_ends`): each has its own schedule, and the seconds of each are logged.
    Random numbers follow from `seed`, their purpose and the place in the run (`random_at`). All processes draw
    the same numbers and each takes its rows of them (`random_rows`), so that the number of processes changes nothing.
    """

    clips_gradients: ClassVar[bool] = True
    rates: ClassVar[tuple[str, ...]] = ("optimizer",)
    stages: tuple[str, ...] = ("training",)
    # For each stage the network whose loss is `train/loss`, in steps in which it has a turn.
    leaders: tuple[str, ...] = ("generator",)
    image_size: int  # px, of the images that the networks are built for
    channels: int

    def __init__(
        self,
        tiling: Tiling,
        optimizer: OptimizerFactory,
        schedule: Schedule = "constant",
        gradient_clip: PositiveFloat | None = None,
        log_gradient_norms: bool = False,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(tiling)
        self.automatic_optimization = False
        self.optimizer = optimizer
        self.schedule = schedule
        self.gradient_clip = gradient_clip
        self.log_gradient_norms = log_gradient_norms
        self.seed = seed
        self._seconds: list[float] = []  # of each stage, up to the last checkpoint or epoch
        self._since = 0.0

    # What a method defines.

    def networks(self) -> dict[str, nn.Module]:
        """The networks that take turns, at least two, by the names under which they log."""
        return dict(self.named_children())

    @abstractmethod
    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """The turns of one training step on normal images in [-1, 1]; `step` counts from the start of the training."""

    @abstractmethod
    def validation_losses(self, images: Images, stage: int, random: torch.Generator) -> dict[str, Scalar]:
        """Losses of held-out normal images in [-1, 1], logged as `validation/<name>`; one of them is `loss`."""

    def after_turns(self, losses: dict[str, Scalar]) -> None:
        """Called after the turns of a step with the last loss of each network."""

    def stage_ends(self) -> tuple[int, ...]:
        """The number of epochs that are done at the end of each stage."""
        return (self.trainer.max_epochs or 1,)

    # Training.

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Scalar]:
        """All turns of one step; the last loss of each network.

        Raises UserError for a batch of one image, from which batch norm cannot learn, and for images of a wrong size.
        """
        images = self.signed(batch.image)
        refuse_one_image(self, len(images) * self.copies)
        stage, batches = self.stage, int(self.trainer.num_training_batches)
        if self.schedule != "constant":
            start, end = (0, *self.stage_ends())[stage : stage + 2]
            share = (self.current_epoch - start + batch_idx / batches) / (end - start)
            lower_learning_rates(self.trainer.optimizers, share, self.schedule)

        networks = self.networks()
        optimizers: dict[str, Any] = dict(zip(networks, cast(list, self.optimizers()), strict=True))
        random = self.random_at("training", self.current_epoch, batch_idx)
        losses: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        for turn in self.turns(images, stage, self.current_epoch * batches + batch_idx, random):
            optimizers[turn.name].zero_grad()
            own = [weight for weight in networks[turn.name].parameters() if weight.requires_grad]
            self.manual_backward(turn.loss, inputs=own, retain_graph=turn.keep_graph)
            optimizers[turn.name].step()
            losses[turn.name] = turn.loss.detach()
            parts |= {f"{turn.name}/{part}": value.detach() for part, value in turn.parts.items()}

        size = len(images)
        self.log_epoch(parts, size)
        if (loss := losses.get(self.leaders[stage])) is not None:
            self.log("train/loss", loss, on_step=True, on_epoch=True, sync_dist=True, batch_size=size)
        self.after_turns(losses)
        return losses

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients of a network and log their norm before that.

        Here they are averaged over the processes and free of a loss scale, whatever the precision.
        """
        if self.gradient_clip is None and not self.log_gradient_norms:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self.gradient_clip is None:
            norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        else:
            norm = clip_grad_norm_(parameters, self.gradient_clip)
        if self.log_gradient_norms:
            name = list(self.networks())[self.trainer.optimizers.index(optimizer)]
            self.log_epoch({f"{name}/gradient_norm": norm})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Losses on held-out normal images."""
        images = self.signed(self.tiling.training_like(batch.image))
        losses = self.validation_losses(images, self.stage, self.random_at("validation", batch_idx))
        self.log_dict({f"validation/{name}": loss for name, loss in losses.items()}, batch_size=len(images))

    def log_epoch(self, values: dict[str, Scalar], size: int = 1, reduce_fx: str = "mean") -> None:
        """Log the mean, or another reduction, over an epoch and over all processes; a step counts as `size` images."""
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=size, reduce_fx=reduce_fx)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimizer per network."""
        return [self.optimizer(network.parameters()) for network in self.networks().values()]

    def rehearse(self, batch: Batch, stage: int = 0) -> Scalar:
        """The sum of the losses of a first step of a stage, without any step."""
        turns = self.turns(self.signed(batch.image), stage, 0, self.random_at("training"))
        return torch.stack([turn.loss for turn in turns]).sum()

    # Stages.

    @property
    def stage(self) -> int:
        """The stage of the present epoch; 0 without a trainer."""
        if self._trainer is None:
            return 0
        return sum(end <= self.current_epoch for end in self.stage_ends()[:-1])

    def on_train_start(self) -> None:
        """Start the clock."""
        self._seconds = self._seconds or [0.0] * len(self.stages)
        self._since = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Report the seconds of a stage after its last batch, where there are several stages."""
        if len(self.stages) == 1 or not self.trainer.is_last_batch or self.current_epoch + 1 not in self.stage_ends():
            return
        self._stop_clock()
        seconds, name = self._seconds[self.stage], self.stages[self.stage]
        key = f"seconds/{name.replace(' ', '_')}"
        self.log(key, seconds, on_step=False, on_epoch=True, rank_zero_only=True, batch_size=1)
        if self.trainer.is_global_zero:
            say(f"{name}: done in {duration(seconds)}")

    def on_train_epoch_end(self) -> None:
        """Add the rest of the epoch, its validation, to the time of its stage."""
        self._stop_clock()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the seconds of each stage."""
        if self.trainer.training:
            self._stop_clock()
        checkpoint["stage_seconds"] = list(self._seconds)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the seconds of each stage."""
        self._seconds = list(checkpoint["stage_seconds"])

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self._seconds[self.stage] += now - self._since
        self._since = now

    # Images and random numbers.

    def signed(self, images: Images) -> Images:
        """From [0, 1] to the [-1, 1] of a tanh.

        Raises UserError where the networks are built for other images.
        """
        found, *sides = images.shape[1:]
        if found != self.channels:
            raise UserError(
                f"data.channels: expected {self.channels}, for which the network was built, found images of {found}"
            )
        if sides != [self.image_size, self.image_size]:
            raise UserError(
                f"data.patch_size: expected {self.image_size} px, for which the network was built, found "
                f"{sides[0]} x {sides[1]}"
            )
        return 2 * images - 1

    def random_at(self, purpose: Purpose, *place: int) -> torch.Generator:
        """A generator on the host for a purpose and a place in the run; no two purposes share any numbers."""
        sequence = np.random.SeedSequence((self.seed, PURPOSES.index(purpose) + 1, *place))
        return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]))

    def random_rows(
        self, distribution: Callable[..., Tensor], count: int, *shape: int, random: torch.Generator, alone: bool = False
    ) -> Float[Tensor, "count ..."]:
        """Random numbers for `count` images, on the device: this process's rows of those for the whole batch.

        With `alone` every process gets the same `count` rows.
        """
        split = not alone and self._trainer is not None
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if split else (0, 1)
        rows = distribution((count * world_size, *shape), generator=random)[rank::world_size]
        return rows.to(self.device, non_blocking=self.device.type == "cuda")  # else the host waits for the device


def lower_learning_rates(
    optimizers: Iterable[torch.optim.Optimizer], share: float, schedule: Schedule = "cosine"
) -> None:
    """Set the learning rates of a schedule for a share of the training that is done, 0 to 1.

    Computed from the place in the run, so nothing has to be saved. (A scheduler of PyTorch needs the number of steps
    before there is a loader. Lightning then makes one early, and a run resumed in its first epoch starts that epoch's
    data from the beginning.)
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * CURVES[schedule](share)


def refuse_unlike(**networks: nn.Module) -> None:
    """Raise UserError where networks of a method are for other images or codes than the first of them."""
    (first, one), *others = networks.items()
    for name, other in others:
        for key in ("image_size", "channels", "latent_size"):
            expected, found = getattr(one, key), getattr(other, key, None)
            if found is not None and found != expected:
                raise UserError(f"method.{name}.{key}: expected {expected}, that of method.{first}, found {found}")


def unsigned(images: Images) -> Images:
    """From [-1, 1] to [0, 1], in float32."""
    return (images.float() + 1) / 2


def residual_map(photos: Images, generated: Images, kind: Residual) -> Float[Tensor, "batch 1 height width"]:
    """Squared (`l2`) or absolute (`l1`) difference at each pixel, averaged over the channels."""
    difference = photos - generated
    return (difference.square() if kind == "l2" else difference.abs()).mean(dim=1, keepdim=True)


class AsyncScalar:
    """A number that an accelerator copies to the host while it works on."""

    def __init__(self, value: Scalar) -> None:
        self._value = value.to("cpu", non_blocking=value.is_cuda)
        self._arrived = torch.cuda.Event() if value.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def item(self) -> float:
        """The number; waits until it has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._value.item()
