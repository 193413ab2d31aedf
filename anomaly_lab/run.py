"""A configuration -> datamodule, method, callbacks, logger, trainer -> fit, test -> metrics.json."""

import logging
import os
import platform
import shutil
import signal
import subprocess
import time
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.strategies import DDPStrategy
from rich.console import Console
from rich.table import Table

from anomaly_lab import __version__
from anomaly_lab.callbacks.checkpoint import WholeFile, load_checkpoint
from anomaly_lab.callbacks.controls import Controls
from anomaly_lab.callbacks.evaluation import Evaluation
from anomaly_lab.callbacks.synthetic import SyntheticDefects
from anomaly_lab.callbacks.throughput import Throughput
from anomaly_lab.configuration import is_user_mistake
from anomaly_lab.errors import UserError
from anomaly_lab.loggers import finish, log_tables, told
from anomaly_lab.methods.method import Method, StatisticsMethod
from anomaly_lab.precision import choose
from anomaly_lab.report.html import write_report
from anomaly_lab.run_folder import (
    RESULT_VERSION,
    checkpoint_to_resume,
    is_finished,
    is_first_process,
    read_job,
    write_job,
    write_json,
)
from anomaly_lab.strategy import DDP


def run(config: DictConfig, folder: Path) -> None:
    """Train and test one configuration in its folder, unless its result is there already."""
    if is_finished(folder) and not config.rerun:
        print(f"already done, skipped: {folder} (rerun=true does it again)")
        return
    resume = checkpoint_to_resume(folder)
    if resume is None and is_first_process():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of another version: must not be taken over later
    if resume and not is_whole(resume):
        print(f"{resume}: expected a whole checkpoint, found a damaged one; starting from the beginning")
        resume = None
    resume = None if config.rerun else resume
    before, checkpoint = read_job(folder), _identity(folder / "checkpoints" / "last.ckpt")
    first = is_first_process()
    if first:
        write_job(folder, "running", started=time.time())
        for part in folder.rglob(".*.ckpt.*"):  # of a process that was killed while it wrote
            part.unlink()
    try:
        metrics = _fit_and_test(config, folder, resume)
    except BaseException as error:
        terminated = isinstance(error, SystemExit) and not error.code  # SIGTERM, as Lightning tells it
        interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
        if first and checkpoint == _identity(folder / "checkpoints" / "last.ckpt") and before.get("state") == "done":
            write_json(folder / "job.json", before)  # the earlier result is whole and still there
        elif first and is_user_mistake(error) and not checkpoint_to_resume(folder):
            remove(folder, Path(config.runs_dir).absolute())  # nothing came of it
        elif first:
            state = "interrupted" if interrupted or terminated else "failed"
            with suppress(UserError):  # a full disk takes no state either
                write_job(folder, state, error=f"{type(error).__name__}: {error}")
        if interrupted:  # Lightning makes a SystemExit of it
            raise KeyboardInterrupt from error
        if terminated:
            raise SystemExit(128 + signal.SIGTERM) from error
        raise
    if first:
        write_json(folder / "metrics.json", metrics)
        write_job(folder, "done", finished=time.time())
        write_page(folder)
        show(metrics, folder)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be read."""
    try:
        load_checkpoint(checkpoint)
    except UserError:
        return False
    return True


def _identity(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written anew; None without one."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None


def remove(folder: Path, upto: Path) -> None:
    """Remove a folder and those above it that are empty then, `upto` included."""
    shutil.rmtree(folder, ignore_errors=True)  # on a network drive an open log stays until it is closed
    for parent in folder.parents:
        if any(parent.iterdir()):
            return
        parent.rmdir()
        if parent == upto:
            return


def _fit_and_test(config: DictConfig, folder: Path, resume: Path | None) -> dict[str, Any]:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of torch; told in every run
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # of short runs, which are meant to be
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # check_processes sees what is wrong there
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # frozen networks: on purpose
    settings = cast(DictConfig, OmegaConf.merge(config, {"run_folder": str(folder)}))
    resolved = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
    pl.seed_everything(resolved["seed"], verbose=False)

    datamodule = instantiate(resolved["data"]["datamodule"])
    method = build_method(resolved)
    check_manual_optimisation(method, resolved["trainer"])
    callbacks = [instantiate(callback) for callback in resolved["callbacks"].values() if callback]
    evaluation, throughput = Evaluation(instantiate(resolved["threshold"])), Throughput()
    controls = Controls(evaluation) if resolved["controls"] else None
    method.prepare_data()  # weights of a pretrained network
    datamodule.setup("fit")  # before a logger is opened: most mistakes in the data show here
    logger = instantiate(resolved["logger"]) if resolved["logger"] else None
    precision = choose(resolved["trainer"]["precision"], resolved["trainer"]["accelerator"])
    if isinstance(method, StatisticsMethod):  # they do without autocast
        precision = "32-true"
    trainer = instantiate(
        {**resolved["trainer"], "precision": precision},
        callbacks=[evaluation, *([controls] if controls else []), throughput, *callbacks],
        logger=logger or False,
        plugins=[WholeFile()],
        default_root_dir=str(folder),
        _convert_="all",
    )
    check_strategy(method, trainer)
    check_batch_norm(trainer, resolved["trainer"])
    check_processes(trainer)
    about = environment(trainer)
    write_json(folder / "environment.json", about)
    if logger:
        logger.log_hyperparams({**told(settings), "environment": about})

    trainer.fit(method, datamodule, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    trainer.predict(method, datamodule, return_predictions=False)  # normal images: sets the threshold
    if datamodule.test_samples:
        trainer.test(method, datamodule, verbose=False)
    else:
        print("no labelled test images: metrics left out")
    held_out = {
        name: value
        for callback in callbacks
        if isinstance(callback, SyntheticDefects)
        for name, value in callback.metrics.items()
    }
    metrics: dict[str, Any] = {**evaluation.metrics, **(controls.metrics() if controls else {}), **throughput.costs}
    if logger:
        logged = {f"test/{name}": value for name, value in metrics.items()}
        logger.log_metrics(logged | {f"held_out/{name}": value for name, value in held_out.items()})
        logger.finalize("success")
    if isinstance(logger, WandbLogger) and trainer.is_global_zero:
        log_tables(logger, folder)
        finish(logger.experiment)  # a sweep in one process would go on in the same W&B run
    return {**metrics, **held_out, "precision": trainer.precision, "result_version": RESULT_VERSION}


def build_method(resolved: dict[str, Any]) -> Method:
    """The method of a resolved configuration; its `name` is for people and folders."""
    return instantiate({key: value for key, value in resolved["method"].items() if key != "name"}, _convert_="all")


def check_processes(trainer: pl.Trainer) -> None:
    """Refuse to train with other processes than the devices: under SLURM a run would be smaller without a word."""
    devices, nodes = trainer.num_devices, trainer.num_nodes
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # what srun started
    if trainer.world_size != devices * nodes or tasks > trainer.world_size:
        raise UserError(
            f"trainer.devices: expected a process for each of {devices} devices on {nodes} nodes, found "
            f"{max(trainer.world_size, tasks)}; in SLURM hydra/launcher=slurm starts them (or srun --nodes={nodes} "
            f"--ntasks-per-node={devices}), elsewhere trainer=ddp"
        )


def check_manual_optimisation(method: Method, trainer: dict[str, Any]) -> None:
    """Refuse what the trainer cannot do for a method that steps its optimizers itself, or that has none."""
    if method.automatic_optimization:
        return
    name, clip = type(method).__name__, trainer.get("gradient_clip_val")
    if (batches := trainer.get("accumulate_grad_batches", 1)) != 1:
        raise UserError(
            f"trainer.accumulate_grad_batches: expected 1, because {name} learns from every batch by itself, found "
            f"{batches}; set data.batch_size"
        )
    if clip is not None:
        instead = "; set method.gradient_clip" if hasattr(method, "gradient_clip") else ""
        raise UserError(
            f"trainer.gradient_clip_val: expected null, because {name} learns from every batch by itself, found "
            f"{clip}{instead}"
        )


def check_batch_norm(trainer: pl.Trainer, settings: dict[str, Any]) -> None:
    """Refuse batch norm over processes where there is no GPU: PyTorch's SyncBatchNorm would end in a traceback."""
    device = trainer.strategy.root_device.type
    if settings.get("sync_batchnorm") and device != "cuda":
        raise UserError(f"trainer.sync_batchnorm: expected false, because it needs GPUs, found true on {device}")


def check_strategy(method: Method, trainer: pl.Trainer) -> None:
    """Refuse Lightning's own strategy for several processes where a method steps its optimizers itself."""
    strategy = trainer.strategy
    if not method.automatic_optimization and isinstance(strategy, DDPStrategy) and not isinstance(strategy, DDP):
        raise UserError(
            f"trainer.strategy: expected that of trainer=ddp, because {type(method).__name__} steps its optimizers "
            f"itself, found {type(strategy).__name__}; set trainer=ddp"
        )


def environment(trainer: pl.Trainer) -> dict[str, Any]:
    """What the result was computed with."""
    packages = ("torch", "pytorch-lightning", "numpy", "kornia", "opencv-python-headless", "pillow")
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    cuda = trainer.strategy.root_device.type == "cuda"
    return {
        "versions": {"anomaly_lab": __version__, **{package: version(package) for package in packages}},
        "python": platform.python_version(),
        "git": git.stdout.strip() or None,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "world_size": trainer.world_size,
    }


def write_page(folder: Path) -> None:
    """Write report.html; a mistake there must not cost a result that took hours."""
    try:
        write_report(folder)
    except Exception as error:
        print(f"report.html: left out ({type(error).__name__}: {error}); python -m anomaly_lab compare {folder}")


def show(metrics: dict[str, Any], folder: Path) -> None:
    """Print the metrics and say where the pictures lie."""
    table = Table("metric", "value")
    for name, value in metrics.items():
        if name != "result_version":
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console = Console()
    console.print(table)
    for name, what in (
        ("pictures", "pictures"),
        ("scores.csv", "scores"),
        ("metrics.json", "metrics"),
        ("report.html", "report"),
    ):
        if (folder / name).exists():
            print(f"{what}: {folder / name}")
