"""Shared by tests of training: tiny adversarial methods, patches, a trainer, runs that break off and go on."""

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning.plugins import MixedPrecision
from torch import multiprocessing, nn

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.core.types import Batch
from anomaly_lab.methods import anogan as of_anogan
from anomaly_lab.methods import f_anogan as of_f_anogan
from anomaly_lab.methods import ganomaly as of_ganomaly
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.skip_ganomaly import SkipGANomaly
from anomaly_lab.training.finite_loss import FiniteLoss
from anomaly_lab.training.seed import SeedEveryStep
from anomaly_lab.training.strategy import DDP

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
RMSPROP = partial(torch.optim.RMSprop, lr=1e-3, alpha=0.9, eps=1e-10)


def anogan(channels: int = 3, width: int = 2, **changes: Any) -> of_anogan.AnoGAN:
    """An AnoGAN of a few thousand weights for 32 px."""
    torch.manual_seed(0)
    networks = of_anogan.Generator(32, channels, 8, width), of_anogan.Discriminator(32, channels, width)
    return of_anogan.AnoGAN(*networks, **_common() | {"search_steps": 10, "search_rate": 0.05} | changes)


def f_anogan(channels: int = 3, width: int = 2, **changes: Any) -> of_f_anogan.FAnoGAN:
    """An f-AnoGAN of a few thousand weights for 32 px."""
    torch.manual_seed(0)
    generator, critic = of_f_anogan.Generator(32, channels, 16, width), of_f_anogan.Critic(32, channels, width)
    encoder = of_f_anogan.Encoder(32, channels, 16, width)
    return of_f_anogan.FAnoGAN(generator, critic, encoder, **_common() | {"encoder_optimizer": RMSPROP} | changes)


def ganomaly(**changes: Any) -> of_ganomaly.GANomaly:
    """A GANomaly of a few thousand weights for 32 px."""
    torch.manual_seed(0)
    return of_ganomaly.GANomaly(**_common() | _size() | changes)


def skip_ganomaly(**changes: Any) -> SkipGANomaly:
    """A Skip-GANomaly of a few thousand weights for 32 px."""
    torch.manual_seed(0)
    return SkipGANomaly(**_common() | _size() | changes)


def _common() -> dict[str, Any]:
    return {"optimizer": ADAM, "tiling": WholeImage()}


def _size() -> dict[str, Any]:
    return {"image_size": 32, "channels": 3, "latent_size": 8, "width": 4}


GANS: dict[str, Any] = {
    "anogan": anogan, "f_anogan": f_anogan, "ganomaly": ganomaly, "skip_ganomaly": skip_ganomaly
}  # fmt: skip
RATES = {"anogan": 0.1, "f_anogan": 1e-4, "ganomaly": 0.05, "skip_ganomaly": 0.01}


def small(name: str, **changes: Any) -> Any:
    """A method by its name, whose generator learns from the first steps on."""
    return GANS[name](**({"critic_steps": 2} if name == "f_anogan" else {}), **changes)


def descending(name: str, **changes: Any) -> Any:
    """One that descends plainly: Adam would make large steps of the last digits of small gradients."""
    descent = partial(torch.optim.SGD, lr=RATES[name])
    optimizers = {"optimizer": descent} | ({"encoder_optimizer": descent} if name == "f_anogan" else {})
    return small(name, gradient_clip=1.0, **optimizers, **changes)


def apart(name: str) -> Any:
    """One for a part of a batch: without batch norm, whose statistics are those of the part.

    That all processes start from the same weights is not left to the seed. Some steps initialise a discriminator again.
    """
    of_ganomaly.WON = {"ganomaly": 0.6935, "skip_ganomaly": 1.405}.get(name, 0.0)
    method = without_batch_norm(descending(name))
    if os.environ.get("LOCAL_RANK") == "1":
        nn.init.ones_(next(method.generator.parameters()))
    return method


def configured(*overrides: str) -> dict[str, Any]:
    """A checked configuration."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", list(overrides)))


class Patches:
    """Batches of random images that follow from their numbers; goes on where it was, as the loader of a run."""

    def __init__(self, batches: int = 4, batch_size: int = 4, side: int = 32, place: tuple[int, int] = (0, 1)) -> None:
        self.batches, self.batch_size, self.side, self.place, self.done = batches, batch_size, side, place, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.done % self.batches, self.batches):
            self.done = number + 1
            random = torch.Generator().manual_seed(number)
            level = torch.rand((self.batch_size, 3, 1, 1), generator=random)
            images = (level + 0.1 * torch.rand((self.batch_size, 3, self.side, self.side), generator=random)) / 1.1
            rank, world_size = self.place
            image = images[rank::world_size]
            nothing = torch.zeros(len(image), dtype=torch.long)
            yield Batch(image, (), nothing, nothing, ())

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


def bars(count: int, seed: int, defective: bool = False, side: int = 32) -> torch.Tensor:
    """Images of a bar that differ in two brightnesses; defects are black or white squares on it."""
    random = torch.Generator().manual_seed(seed)
    ground, light = torch.rand((2, count, 1, 1, 1), generator=random)
    images = (0.2 + 0.2 * ground).repeat(1, 3, side, side)
    images[..., side // 4 : side // 2] += 0.2 + 0.3 * light
    for image in images if defective else ():
        y, x, white = torch.randint(4, side - 12, (3,), generator=random).tolist()
        image[:, y : y + 8, x : x + 8] = white % 2
    return images


class BrokenOffError(Exception):
    """Power is gone."""


class StopAt(pl.Callback):
    """Write a checkpoint after a batch, and break off."""

    def __init__(self, epoch: int, batch: int, path: Path) -> None:
        self.epoch, self.batch, self.path = epoch, batch, path

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        if (trainer.current_epoch, rest[-1]) == (self.epoch, self.batch):
            trainer.save_checkpoint(self.path)
            raise BrokenOffError


class Losses(pl.Callback):
    """Keeps what was logged for each step and at the end."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.last: dict[str, float] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.steps.append(trainer.callback_metrics["train/loss"].item())

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.last = {name: float(value) for name, value in trainer.callback_metrics.items()}


def fit(method: pl.LightningModule, folder: Path, epochs: int = 2, patches: Any = None, resume: Path | None = None,
        callbacks: tuple[pl.Callback, ...] = (), **options: Any) -> pl.Trainer:  # fmt: skip
    """Train without anything around it."""
    torch.set_num_threads(1)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[SeedEveryStep(0), FiniteLoss(), *callbacks], default_root_dir=folder,
        num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(method, patches or Patches(), Patches(1), ckpt_path=resume, weights_only=True)
    return trainer


class Scaled(MixedPrecision):
    """The loss scale of float16 without float16."""

    def forward_context(self) -> AbstractContextManager[None]:
        return nullcontext()


def scaled() -> Scaled:
    """A precision whose scale doubles after every step."""
    return Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1))


def without_batch_norm(method: pl.LightningModule) -> pl.LightningModule:
    """The method with group norm: batch statistics of a part of the batch are not those of the whole."""
    for module in list(method.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(1, layer.num_features))
    return method


def state_of(trainer: pl.Trainer, folder: Path) -> dict[str, torch.Tensor]:
    """Weights, buffers and everything that the optimizers remember, by name."""
    trainer.save_checkpoint(folder / "state.ckpt")
    saved = torch.load(folder / "state.ckpt", weights_only=True)
    state = dict(saved["state_dict"])
    for number, optimizer in enumerate(saved["optimizer_states"]):
        for weight, values in optimizer["state"].items():
            state |= {f"{number}.{weight}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return state


def broken_off(build: Any, folder: Path, epoch: int, batch: int, epochs: int, *patches: Any) -> dict[str, torch.Tensor]:
    """The state after a run that broke off after a batch and was taken up again, with patches of its own."""
    path = folder / "last.ckpt"
    first, second = patches or (None, None)
    try:
        fit(build(), folder, epochs, first, callbacks=(StopAt(epoch, batch, path),))
    except BrokenOffError:
        return state_of(fit(build(), folder, epochs, second, resume=path), folder)
    raise AssertionError("it did not break off")


def _process(rank: int, build: Any, port: int, folder: Path) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    method, strategy = build(), DDP(process_group_backend="gloo")
    fit(method, folder, 2, Patches(batch_size=8, place=(rank, 2)), strategy=strategy, devices=2)
    torch.save(method.state_dict(), folder / f"{rank}.pt")


def two_processes(build: Any, folder: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of two processes that trained on halves of each batch of 8."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, "pytest"])  # imported once for all
    multiprocessing.start_processes(_process, (build, port, folder), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
