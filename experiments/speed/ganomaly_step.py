"""A training step of `ganomaly` at 128 px, batch 32: `python experiments/speed/ganomaly_step.py`, CSV out.

`lightning`: the method by the trainer with the callbacks of every run, on a resident batch. `bare`: the same networks
and losses as a plain loop on that batch. `twice`: a plain loop as it is usually written, which lets the discriminator
see images and reconstructions twice and computes gradients that nobody uses. In turns in one process, so that what else
the machine does meets all, in CPU seconds; medians of the turns after a first one. `speed_of_bare` is the median of the
ratios of turns. An argument sets the steps in a turn.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when the libraries are loaded

import logging
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from functools import partial

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.ganomaly import GANomaly
from anomaly_lab.training.finite_loss import FiniteLoss
from anomaly_lab.training.seed import SeedEveryStep
from anomaly_lab.training.throughput import Throughput

SIZE, BATCH, TURNS = 128, 32, 5
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
ADAM = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))
torch.manual_seed(0)
IMAGES = torch.rand(BATCH, 3, SIZE, SIZE)


def new() -> GANomaly:
    """The method, drawn anew."""
    torch.manual_seed(0)
    return GANomaly(image_size=SIZE, channels=3, optimizer=ADAM, tiling=WholeImage())


def real_or_fake(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator."""
    return (cross_entropy(real, torch.ones_like(real)) + cross_entropy(fake, torch.zeros_like(fake))) / 2


def of_generator(x: Tensor, x_hat: Tensor, z: Tensor, z_hat: Tensor, f: Tensor, f_hat: Tensor) -> Tensor:
    """Loss of the generator."""
    return (f - f_hat).square().mean() + 50 * (x - x_hat).abs().mean() + (z - z_hat).square().mean()


def bare() -> Iterator[float]:
    """The discriminator sees all once; each loss goes back to its own weights."""
    method = new()
    generator, discriminator = method.generator, method.discriminator
    steps = ADAM(generator.parameters()), ADAM(discriminator.parameters())
    x = (2 * IMAGES - 1).contiguous(memory_format=torch.channels_last)
    while True:
        start = time.process_time()
        for _ in range(STEPS):
            x_hat, z, z_hat = generator(x)
            real, f = discriminator(x)
            fake, f_hat = discriminator(x_hat)
            steps[0].zero_grad()
            loss = of_generator(x, x_hat, z, z_hat, f, f_hat)
            loss.backward(inputs=list(generator.parameters()), retain_graph=True)
            steps[0].step()
            steps[1].zero_grad()
            real_or_fake(real, fake).backward(inputs=list(discriminator.parameters()))
            steps[1].step()
        yield (time.process_time() - start) / STEPS


def twice() -> Iterator[float]:
    """As it is usually written."""
    method = new()
    generator, discriminator = method.generator, method.discriminator
    steps = ADAM(generator.parameters()), ADAM(discriminator.parameters())
    x = (2 * IMAGES - 1).contiguous(memory_format=torch.channels_last)
    while True:
        start = time.process_time()
        for _ in range(STEPS):
            x_hat, z, z_hat = generator(x)
            real, fake = discriminator(x)[0], discriminator(x_hat.detach())[0]
            steps[0].zero_grad()
            of_generator(x, x_hat, z, z_hat, discriminator(x)[1], discriminator(x_hat)[1]).backward()
            steps[0].step()
            steps[1].zero_grad()
            real_or_fake(real, fake).backward()
            steps[1].step()
        yield (time.process_time() - start) / STEPS


class Resident:
    """One batch again and again; between turns it waits until it is asked."""

    def __init__(self) -> None:
        self.batch = Batch(IMAGES, (), torch.zeros(BATCH).long(), torch.arange(BATCH), ())

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * STEPS)


def lightning() -> Iterator[float]:
    """An epoch a turn, by the trainer; its set-up is outside the clock, as that of the loops is."""
    method, seconds = new(), []

    class Clock(pl.Callback):
        def on_train_epoch_start(self, *_) -> None:
            self.start = time.process_time()

        def on_train_epoch_end(self, *_) -> None:
            seconds.append((time.process_time() - self.start) / STEPS)

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Clock(), Throughput(), SeedEveryStep(0), FiniteLoss()],
    )  # fmt: skip
    method.validation_step = None  # the trainer then asks for no held-out images
    while True:
        trainer.fit(method, Resident())
        yield seconds[-1]
        trainer.fit_loop.max_epochs += 1


logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
ways = {function.__name__: function() for function in (lightning, bare, twice)}
for way in ways.values():
    next(way)
rows: dict[str, list[float]] = {name: [] for name in ways}
for _ in range(TURNS):
    for name, way in ways.items():
        rows[name].append(next(way))
print(f"# threads 1, load {os.getloadavg()[0]:.1f}, medians of {TURNS} turns of {STEPS} steps")
print("way,cpu_seconds_per_step,speed_of_bare")
for name, seconds in rows.items():
    share = statistics.median(one / other for one, other in zip(rows["bare"], seconds, strict=True))
    print(f"{name},{statistics.median(seconds):.3f},{share:.3f}")
