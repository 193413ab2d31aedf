"""Distillation of a patch network from a pretrained one, on photos of anything: the teachers of two methods.

`pdn_*` as EfficientAD does it (Batzner et al. 2024, appendix A.1, algorithm 3), `patch*` as the Uninformed Students do
it (Bergmann et al. 2020, section 3.1).
"""

import hashlib
import math
import signal
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.console import duration, say, tracked
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_whole
from anomaly_lab.core.lock import lock
from anomaly_lab.data.numbered_images import Batch, Batches, Source
from anomaly_lab.functional.colour import luminance
from anomaly_lab.functional.moments import Moments
from anomaly_lab.networks.backbone import Backbone, aligned
from anomaly_lab.networks.patch_network import Name, PatchNetwork, normalise
from anomaly_lab.networks.pretrained import ORIGIN, header_of
from anomaly_lab.runs.checkpoint import AtomicCheckpointIO, load_checkpoint
from anomaly_lab.training.messages import quiet
from anomaly_lab.training.precision import choose
from anomaly_lab.training.seed import SeedEveryStep

Images = Float[Tensor, "batch 3 height width"]
Vectors = Float[Tensor, "batch feature"]
Scalar = Float[Tensor, ""]
WHOLE = 512  # px, of the images that the pretrained network sees; a PDN sees them at half the size
ENLARGED = 224  # px, of a patch that the pretrained network sees
MEASURED = 10_000  # images, at most, whose features are normalised to mean 0 and deviation 1
SHIFT = 8  # the second of two patches is shifted by at most the side divided by this; ours, as the next two
LIGHT, NOISE = 0.1, 0.05  # its change of brightness, at most, and the deviation of its noise
GRAY = 0.1  # share of the images that are shown gray


class Plan(NamedTuple):
    """A distillation, in numbers."""

    paths: list[Path]  # of the photos; none: procedural textures
    images: str  # the same in words
    steps: int
    batch_size: int
    rate: float  # of learning
    seed: int

    @property
    def part(self) -> int:
        """So many steps are one of Lightning's epochs: at its end a checkpoint is written."""
        return max(1, min(100, self.steps // 20))


class Distillation(pl.LightningModule, ABC):
    """A network learns from a pretrained one, on images of `side` px that show `patch` px of a photo, or all of it."""

    def __init__(self, backbone: Backbone, network: PatchNetwork, plan: Plan, side: int, patch: int | None) -> None:
        super().__init__()
        self.backbone, self.network, self.plan = backbone, network, plan
        self.about: dict[str, str] = {}  # what the file will say of itself
        self.source = Source(plan.paths, side, patch, plan.seed)

    @abstractmethod
    def losses(self, images: Images) -> dict[str, Scalar]:
        """What the network loses on a batch; all are added."""

    def measure(self) -> None:
        """Look at some images before the first step; the default looks at none."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say of which command it is."""
        checkpoint["teacher"] = self.about

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        """One step down the loss."""
        images = self.source.batch(batch[0], batch[1:])
        is_gray = torch.rand((len(images), 1, 1, 1), device=images.device) < GRAY
        losses = self.losses(torch.where(is_gray, luminance(images), images))
        loss = torch.stack(list(losses.values())).sum()
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(images))
        self.log_dict({name: value.detach() for name, value in losses.items()}, on_step=False, on_epoch=True,
                      batch_size=len(images))  # fmt: skip
        return loss

    def train_dataloader(self) -> Batches:
        """The batches of the present part; the last part may be shorter."""
        start = self.current_epoch * self.plan.part
        return Batches(self.source, start, min(self.plan.part, self.plan.steps - start), self.plan.batch_size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with the weight decay of both papers."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, lr=self.plan.rate, weight_decay=1e-5)


class DenseDistillation(Distillation):
    """A PDN learns the maps of the pretrained network for whole images (EfficientAD, algorithm 3).

    These are the maps of all layers, averaged over 3 x 3 places, on the grid of the first, pooled to the network's
    number of channels; each channel is normalised to mean 0 and deviation 1. (nelson1425/EfficientAD, a
    re-implementation, averages as the code of PatchCore does, for some layers over half of the 3 x 3 places.)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, network: PatchNetwork, plan: Plan) -> None:
        super().__init__(backbone, network, plan, WHOLE, None)
        self.register_buffer("mean", torch.zeros(1, network.channels, 1, 1))
        self.register_buffer("std", torch.ones(1, network.channels, 1, 1))

    def pooled(self, images: Images) -> Float[Tensor, "batch channel _ _"]:
        """What the pretrained network says, before it is normalised."""
        maps = aligned([functional.avg_pool2d(layer, 3, 1, 1) for layer in self.backbone(images)])
        return functional.adaptive_avg_pool1d(maps.flatten(2).mT, self.network.channels).mT.unflatten(2, maps.shape[2:])

    @torch.no_grad()
    def measure(self) -> None:
        """Mean and deviation of the channels over a tenth of the images, at most 10 000."""
        size = self.plan.batch_size
        count = max(1, min(MEASURED, self.plan.steps * size // 10) // size)
        moments, batches = Moments(), (batch for batch in Batches(self.source, 0, count, size))
        with closing(tracked(batches, "features of the pretrained network", count)) as shown:
            for batch in shown:
                numbers, *images = (part.to(self.device) for part in batch)
                moments.add(self.pooled(self.source.batch(numbers, images)))
        self.mean.copy_(moments.mean.view_as(self.mean))
        self.std.copy_(moments.deviation.view_as(self.std))

    def losses(self, images: Images) -> dict[str, Scalar]:
        """The mean squared difference; the network sees the images at half the size."""
        with torch.no_grad():
            target = (self.pooled(images) - self.mean) / self.std
        smaller = functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
        found = self.network.padded(normalise(smaller))
        if target.shape != found.shape:
            target = functional.interpolate(target, found.shape[2:], mode="bilinear")
        return {"distance": (found - target).float().square().mean()}


class PatchDistillation(Distillation):
    """A network learns the vector of the pretrained network for an enlarged patch (Uninformed Students, section 3.1).

    Three losses: the squared distance of a linear decoder's answer from the mean of the deepest layer over its places;
    a triplet loss, with a shifted, brighter or darker and noisy copy and with another patch; and the correlations of
    the components. How far, how bright and how noisy is ours: the paper does not say. It adds up the correlations of
    all 16 256 pairs, which leaves nothing of the two other losses; here they are averaged.
    """

    def __init__(self, backbone: Backbone, network: PatchNetwork, plan: Plan) -> None:
        self.shift = network.patch // SHIFT
        super().__init__(backbone, network, plan, network.patch + 2 * self.shift, network.patch)
        self.decoder = nn.Linear(network.channels, backbone.channels[-1])

    def losses(self, images: Images) -> dict[str, Scalar]:
        """Knowledge distillation, metric learning and compactness (equations 1 to 3)."""
        count, patch = len(images), self.network.patch
        still = torch.full((count, 2), self.shift, device=images.device)
        moved = torch.randint(0, 2 * self.shift + 1, (count, 2), device=images.device)
        anchor, near = cut(images, still, patch), cut(images, moved, patch)
        light = 1 + LIGHT * (2 * torch.rand((count, 1, 1, 1), device=images.device) - 1)
        near = (light * near + NOISE * torch.randn_like(near)).clamp(0, 1)
        described = self.network(normalise(torch.cat([anchor, near])))[..., 0, 0]
        vectors, shifted = described.float().chunk(2)
        with torch.no_grad():
            enlarged = functional.interpolate(anchor, (ENLARGED, ENLARGED), mode="bilinear")
            known = self.backbone(enlarged)[-1].float().mean(dim=(2, 3))
        return {
            "distance": (self.decoder(vectors).float() - known).square().sum(dim=1).mean(),
            "triplet": triplet(vectors, shifted, vectors.roll(1, 0)),
            "correlation": correlation(vectors),
        }


def cut(images: Images, corners: Int[Tensor, "batch 2"], side: int) -> Float[Tensor, "batch 3 {side} {side}"]:
    """A square of each image, from the row and column of its upper left corner."""
    steps = torch.arange(side, device=images.device)
    rows, columns = (corners[:, axis, None] + steps for axis in (0, 1))
    number = torch.arange(len(images), device=images.device)[:, None, None]
    return images.movedim(1, 3)[number, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def triplet(anchor: Vectors, near: Vectors, far: Vectors) -> Scalar:
    """By how much the copy is not nearer than the other patch is to both of them, with a margin of 1 (equation 2)."""
    to_near = (anchor - near).square().sum(dim=1)
    to_far = torch.minimum((anchor - far).square().sum(dim=1), (near - far).square().sum(dim=1))
    return (1 + to_near - to_far).clamp_min(0).mean()


def correlation(vectors: Vectors) -> Scalar:
    """The mean absolute correlation of two different components over the batch (equation 3 has the sum)."""
    centred = vectors - vectors.mean(dim=0)
    unit = functional.normalize(centred, dim=0)
    pairs = unit.shape[1] * (unit.shape[1] - 1)
    return (unit.T @ unit).fill_diagonal_(0).abs().sum() / pairs


class Progress(pl.Callback):
    """Writes a checkpoint after each part, and a line where no terminal draws a bar."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._start, self._first = 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Distillation) -> None:
        """Start the clock."""
        self._start, self._first = time.perf_counter(), trainer.global_step
        if trainer.global_step:
            say(f"going on at step {trainer.global_step} of {pl_module.plan.steps}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Distillation) -> None:
        """Save, print, and stop where the loss is no number: UserError."""
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "loss_step"}
        loss = values.pop("loss_epoch", values.pop("loss", math.nan))
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} before step {trainer.global_step}: stopped; lower learning_rate")
        trainer.save_checkpoint(self.checkpoint)
        if not Console().is_terminal:
            done, steps = trainer.global_step, pl_module.plan.steps
            each = (time.perf_counter() - self._start) / (done - self._first)
            parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "loss")
            left = f", {duration(each * (steps - done))} left" if done < steps else ""
            say(
                f"step {done}/{steps}: loss {loss:.4g} ({parts}), {pl_module.plan.batch_size / each:.2g} images/s{left}"
            )


def distil(name: Name, width: float, backbone: Backbone, plan: Plan, out: Path) -> None:
    """Write the weights of a patch network when all steps are done; a checkpoint lies beside the file until then.

    A second process for the same file waits. Raises UserError where the file, or the checkpoint, is of another command,
    and where it cannot be written.
    """
    backbone.load()
    origin = (
        f"distilled from {backbone.name} ({', '.join(backbone.layers)}) on {plan.images}, {plan.steps} steps of "
        f"{plan.batch_size} images; published: on ImageNet"
    )
    about = {
        ORIGIN: origin, "network": name, "width": f"{width:g}", "seed": str(plan.seed), "rate": f"{plan.rate:g}",
        "photos": identity(plan.paths), "weights": backbone.sha256.numpy().tobytes().hex(),
    }  # fmt: skip
    with ExitStack() as stack:
        try:
            stack.enter_context(
                lock(out.with_suffix(".lock"), lambda _: say(f"{out}: another process makes it; waiting"))
            )
        except OSError as error:
            raise UserError(f"out: expected a file that can be written, found {out} ({error.strerror})") from error
        if not out.exists():
            write_weights(out, name, width, backbone, plan, about)
        elif header_of(out) == about:
            say(f"{out}: done already, {origin}")
        else:
            raise UserError(
                f"out: expected a new file, found {out}, of another command; remove it or choose another name"
            )


def identity(paths: list[Path]) -> str:
    """A hash of names and sizes: the content of a million photos would take hours to read."""
    return hashlib.sha256(repr([(path.name, path.stat().st_size) for path in paths]).encode()).hexdigest()


def write_weights(
    out: Path, name: Name, width: float, backbone: Backbone, plan: Plan, about: dict[str, str]
) -> None:  # fmt: skip
    """Train, or go on, and write the file."""
    torch.manual_seed(plan.seed)
    kind = DenseDistillation if name.startswith("pdn") else PatchDistillation
    module = kind(backbone, PatchNetwork(name, width), plan)
    module.about = about
    checkpoint = out.with_suffix(".ckpt")
    resume = resumable(checkpoint, about)
    quiet()
    trainer = pl.Trainer(
        max_epochs=-(-plan.steps // plan.part), precision=cast(Any, choose("auto", "auto")), devices=1, logger=False,
        callbacks=[RichProgressBar(), SeedEveryStep(plan.seed), Progress(checkpoint)], enable_checkpointing=False,
        enable_model_summary=False, reload_dataloaders_every_n_epochs=1, plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    say(f"{name}: {about[ORIGIN]}; on {trainer.strategy.root_device.type}")
    if resume is None:
        module.to(trainer.strategy.root_device).measure()
    try:
        trainer.fit(module, ckpt_path=resume, weights_only=True)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt("interrupted; the same command continues from the last checkpoint") from error
        if isinstance(error, SystemExit) and not error.code:  # SIGTERM, as Lightning tells it
            say("stopped by SIGTERM; the same command continues from the last checkpoint")
            raise SystemExit(128 + signal.SIGTERM) from error
        raise
    state = {key: value.detach().cpu().contiguous() for key, value in module.network.state_dict().items()}
    write_whole(out, lambda part: part.write_bytes(save(state, about)))
    checkpoint.unlink(missing_ok=True)
    loss = trainer.callback_metrics.get("loss_epoch")  # none: all steps were done before
    left_out = f"; photos left out that cannot be read: {len(module.source.left_out)}" if module.source.left_out else ""
    say(
        f"teacher: {out}"
        + (f"; its loss was {float(loss):.4g} over the last steps" if loss is not None else "")
        + left_out
    )


def resumable(checkpoint: Path, about: dict[str, str]) -> Path | None:
    """The checkpoint, if there is one. Raises UserError where it is damaged or of another command."""
    if not checkpoint.exists():
        return None
    try:
        found = load_checkpoint(checkpoint)
    except UserError as error:
        raise UserError(
            f"out: expected a checkpoint of this command, found {checkpoint}: damaged; remove it"
        ) from error
    if not isinstance(found, dict) or found.get("teacher") != about:
        raise UserError(f"out: expected a checkpoint of this command, found {checkpoint} of another one; remove it")
    return checkpoint
