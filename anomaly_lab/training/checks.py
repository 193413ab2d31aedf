"""Checks of trainer settings against the method and the machine."""

import os
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.machine import memory_of_machine
from anomaly_lab.data.corruption import textures_of
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.samples import digests
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.networks.dcgan import refuse_one_image
from anomaly_lab.training.strategy import DDP


def check_processes(trainer: pl.Trainer) -> None:
    """Refuse a number of processes that differs from the devices: under SLURM a run would be smaller silently."""
    devices, nodes = trainer.num_devices, trainer.num_nodes
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # what srun started
    if trainer.world_size != devices * nodes or tasks > trainer.world_size:
        raise UserError(
            f"trainer.devices: expected a process for each of {devices} devices on {nodes} nodes, found "
            f"{max(trainer.world_size, tasks)}; in SLURM hydra/launcher=slurm starts them (or srun --nodes={nodes} "
            f"--ntasks-per-node={devices}), elsewhere trainer=ddp"
        )


def check_memory(method: Method, images: int) -> None:
    """Refuse statistics of so many training images that do not fit into the memory of the machine."""
    if isinstance(method, FittedMethod):
        method.check_memory(images, memory_of_machine())


def check_images(method: Method, images: int) -> None:
    """Refuse fewer good training images than the method needs in the end, before hours are spent."""
    if images < method.fewest and isinstance(method.tiling, WholeImage):
        raise UserError(
            f"data: expected {method.fewest} training images at least, because {type(method).__name__} estimates how "
            f"they differ, found {images}"
        )


def check_foreign_photos(method: Method, data: DataModule) -> None:
    """Refuse foreign photos that are photos of the run: good ones would be unlearnt, test images learnt from."""
    painted = [photo for textures in textures_of(data.corruption) for photo in textures.photos]
    foreign = {"method.foreign_images": method.foreign_photos, "data.foreign_images": painted}
    if not any(foreign.values()):
        return
    paths = [sample.path for sample in data.all_samples]
    known = dict(zip(digests(paths), paths, strict=True))
    for key, photos in foreign.items():
        if found := [known[digest] for digest in digests(list(photos)) if digest in known]:
            raise UserError(
                f"{key}: expected photos of anything else, found {len(found)} of this data set, such as {found[0]}; "
                "name another folder, or procedural"
            )


def check_manual_optimisation(method: Method, trainer: dict[str, Any]) -> None:
    """Refuse trainer settings that have no effect on methods with manual optimisation or without optimizers."""
    if method.automatic_optimization:
        return
    name, clip = type(method).__name__, trainer.get("gradient_clip_val")
    if (batches := trainer.get("accumulate_grad_batches", 1)) != 1:
        raise UserError(
            f"trainer.accumulate_grad_batches: expected 1, because {name} steps on every batch itself, found "
            f"{batches}; set data.batch_size"
        )
    if clip is not None:
        instead = "; set method.gradient_clip" if method.clips_gradients else ""
        raise UserError(
            f"trainer.gradient_clip_val: expected null, because {name} steps on every batch itself, found "
            f"{clip}{instead}"
        )


def check_batch_norm(trainer: pl.Trainer, settings: dict[str, Any]) -> None:
    """Refuse batch norm over processes without a GPU: PyTorch's SyncBatchNorm would end in a traceback."""
    device = trainer.strategy.root_device.type
    if settings.get("sync_batchnorm") and device != "cuda":
        raise UserError(f"trainer.sync_batchnorm: expected false, because it needs GPUs, found true on {device}")


def check_batches(method: Method, data: DataModule, processes: int) -> None:
    """Refuse batches of one image for batch norm that learns from them, before anything is measured on one.

    A batch of the only training image is none that was asked for. Several versions of it (`Method.copies`) are enough.
    """
    if data.passes is None:
        size = (
            min(data.batch_size, data.patches or len(data.train_samples)) if data.sees == "patches" else data.batch_size
        )
        refuse_one_image(method.train(), size // processes * method.copies)


def check_strategy(method: Method, trainer: pl.Trainer) -> None:
    """Refuse Lightning's own DDP strategy for methods that step their optimizers themselves."""
    strategy = trainer.strategy
    if not method.automatic_optimization and isinstance(strategy, DDPStrategy) and not isinstance(strategy, DDP):
        raise UserError(
            f"trainer.strategy: expected that of trainer=ddp, because {type(method).__name__} steps its optimizers "
            f"itself, found {type(strategy).__name__}; set trainer=ddp"
        )
