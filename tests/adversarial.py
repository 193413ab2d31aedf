"""Shared by tests of training: toy adversarial methods, patches, a trainer, two processes."""

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.config.overrides import searched
from anomaly_lab.core.types import Batch
from anomaly_lab.methods import anogan as of_anogan
from anomaly_lab.methods import f_anogan as of_f_anogan
from anomaly_lab.methods import ganomaly as of_ganomaly
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.skip_ganomaly import SkipGANomaly
from anomaly_lab.training.finite_loss import FiniteLoss
from anomaly_lab.training.seed import SeedEveryStep
from anomaly_lab.training.strategy import DDP
from tests.warm import in_processes

OUTSIDE = Path(folder).absolute() if (folder := os.environ.get("ANOMALY_LAB_METHODS")) else None
COMMON = {"optimizer": partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999)), "tiling": WholeImage()}
SIZE = {"image_size": 32, "channels": 3, "latent_size": 8, "width": 4}
RMSPROP = partial(torch.optim.RMSprop, lr=1e-3, alpha=0.9, eps=1e-10)


def anogan(width: int = 2, **changes: Any) -> of_anogan.AnoGAN:
    """An AnoGAN of a few thousand weights for 32 px."""
    torch.manual_seed(0)
    networks = of_anogan.Generator(32, 3, 8, width), of_anogan.Discriminator(32, 3, width)
    return of_anogan.AnoGAN(*networks, **COMMON | {"search_steps": 10, "search_rate": 0.05} | changes)


def f_anogan(**changes: Any) -> of_f_anogan.FAnoGAN:
    """An f-AnoGAN of a few thousand weights for 32 px."""
    torch.manual_seed(0)
    networks = of_f_anogan.Generator(32, 3, 16, 2), of_f_anogan.Critic(32, 3, 2), of_f_anogan.Encoder(32, 3, 16, 2)
    return of_f_anogan.FAnoGAN(*networks, **COMMON | {"encoder_optimizer": RMSPROP} | changes)


def ganomaly(**changes: Any) -> of_ganomaly.GANomaly:
    """A GANomaly of a few thousand weights for 32 px."""
    torch.manual_seed(0)
    return of_ganomaly.GANomaly(**COMMON | SIZE | changes)


def skip_ganomaly(**changes: Any) -> SkipGANomaly:
    """A Skip-GANomaly of a few thousand weights for 32 px."""
    torch.manual_seed(0)
    return SkipGANomaly(**COMMON | SIZE | changes)


GANS = anogan, f_anogan, ganomaly, skip_ganomaly


def configured(*overrides: str) -> dict[str, Any]:
    """A checked configuration, of `conf/` or the folder of somebody's own methods (`tests/contract.py`)."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", [*overrides, *searched(OUTSIDE)]))


class Patches:
    """Batches of images that follow from their numbers; goes on where it was, as the loader of a run."""

    def __init__(
        self, batches: int = 4, batch_size: int = 4, side: int = 32, place: tuple[int, int] = (0, 1), channels: int = 3
    ) -> None:
        self.batches, self.batch_size, self.side, self.channels = batches, batch_size, side, channels
        self.place, self.done = place, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.done % self.batches, self.batches):
            self.done = number + 1
            rank, world_size = self.place
            batch = Batch.of(self.images(number))
            image, index = batch.image[rank::world_size], number * self.batch_size + batch.index[rank::world_size]
            yield Batch(image, (), torch.zeros_like(index), index, (), index)

    def size(self, batch: int) -> int:
        return self.batch_size

    def images(self, number: int) -> torch.Tensor:
        """The images of a batch: noise around a level of their own."""
        random = torch.Generator().manual_seed(number)
        level = torch.rand((self.batch_size, self.channels, 1, 1), generator=random)
        noise = torch.rand((self.batch_size, self.channels, self.side, self.side), generator=random)
        return (level + 0.1 * noise) / 1.1

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


class Losses(pl.Callback):
    """Keeps what was logged for each step and at the end."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.last: dict[str, float] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if "train/loss" in trainer.callback_metrics:  # methods without a gradient have none
            self.steps.append(trainer.callback_metrics["train/loss"].item())

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.last = {name: float(value) for name, value in trainer.callback_metrics.items()}


def fit(method: pl.LightningModule, folder: Path, epochs: int = 2, patches: Patches | None = None,
        held_out: Patches | None = None, resume: Path | None = None, callbacks: tuple[pl.Callback, ...] = (),
        **options: Any) -> pl.Trainer:  # fmt: skip
    """Train without anything around it."""
    torch.set_num_threads(1)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[SeedEveryStep(0), FiniteLoss(), *callbacks], default_root_dir=folder,
        num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(method, patches or Patches(), held_out or Patches(1), ckpt_path=resume, weights_only=True)
    return trainer


def in_two_processes(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What two processes return that can meet; each calls `work` with its rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return in_processes(2, partial(_process, work, port), folder)


def _process(work: Callable[[int], Any], port: int, rank: int) -> Any:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return work(rank)


def shared() -> dict[str, Any]:
    """The options of a trainer of one of two processes."""
    return {"strategy": DDP(process_group_backend="gloo"), "devices": 2}


def two_processes(build: Callable[[], pl.LightningModule], folder: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of two processes that trained on halves of each batch of 8."""
    return in_two_processes(partial(_trained, build, folder), folder)


def _trained(build: Callable[[], pl.LightningModule], folder: Path, rank: int) -> dict[str, torch.Tensor]:
    method = build()
    fit(method, folder, 2, Patches(batch_size=8, place=(rank, 2)), **shared())
    return method.state_dict()
