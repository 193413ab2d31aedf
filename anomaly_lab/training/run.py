"""Assembly of a run: configuration -> datamodule, method, callbacks, logger, trainer -> fit, test -> metrics."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from anomaly_lab.config.build import build
from anomaly_lab.config.check import loggers_of
from anomaly_lab.core.console import say
from anomaly_lab.core.distributed import is_first_process
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.data.cache import entry
from anomaly_lab.data.corruption import textures_of
from anomaly_lab.data.datamodule import DataModule, Knowledge
from anomaly_lab.data.seen import FILE
from anomaly_lab.evaluation.controls import Controls
from anomaly_lab.evaluation.evaluation import Evaluation
from anomaly_lab.evaluation.synthetic_defects import SyntheticDefects
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.method import Method, evaluating
from anomaly_lab.methods.control import KINDS, Control
from anomaly_lab.methods.table_control import TableControl
from anomaly_lab.metrics.thresholds import ThresholdRule
from anomaly_lab.runs.checkpoint import AtomicCheckpointIO
from anomaly_lab.runs.folder import RESULT_VERSION, keep_region, remove_result
from anomaly_lab.runs.naming import decoding_key, fingerprints_of
from anomaly_lab.tracking.loggers import finish, hyperparameters, log_tables
from anomaly_lab.training.checks import (
    check_batch_norm,
    check_batches,
    check_foreign_photos,
    check_images,
    check_manual_optimisation,
    check_memory,
    check_processes,
    check_strategy,
)
from anomaly_lab.training.environment import environment
from anomaly_lab.training.losses import Losses
from anomaly_lab.training.messages import quiet
from anomaly_lab.training.precision import choose
from anomaly_lab.training.throughput import Throughput

THRESHOLDS = ("threshold", "pixel_threshold")  # all that a run without labelled images has to say


def fit_and_test(config: DictConfig, folder: Path, resume: Path | None) -> dict[str, Any]:
    """Train, or continue from a checkpoint, then set the threshold and test; returns the metrics."""
    quiet()
    settings = cast(DictConfig, OmegaConf.merge(config, {"run_folder": str(folder)}))
    resolved = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))
    pl.seed_everything(resolved["seed"], verbose=False)

    keep_region(resolved["data"], folder)
    datamodule = made("data.datamodule", resolved["data"]["datamodule"], DataModule)
    method = build_method(resolved, resolved["trust"])
    check_manual_optimisation(method, resolved["trainer"])
    method.check_training(resolved["trainer"]["max_epochs"], datamodule.corruption is not None)
    callbacks = [made(f"callbacks.{name}", node, pl.Callback) for name, node in resolved["callbacks"].items() if node]
    evaluation, throughput = (
        Evaluation(build(resolved["threshold"], ThresholdRule, "threshold", resolved["trust"])),
        Throughput(),
    )
    has_labels = bool(datamodule.test_samples)
    compares = resolved["controls"] and has_labels
    kinds = tuple(resolved["data"]["controls"] or KINDS)
    check_images(method, len(datamodule.good))
    check_memory(method, len(datamodule.good))
    method.prepare_data()  # weights of a pretrained network
    untrained = deepcopy(method) if compares and method.control_untrained else None
    controls = Controls(evaluation, controls_cache(resolved, datamodule), kinds, untrained) if compares else None
    datamodule.setup("fit")  # before a logger is opened: most mistakes in the data show here
    if resume is None:
        check_foreign_photos(method, datamodule)
        painted = [f"painted defects: {textures.in_words}" for textures in textures_of(datamodule.corruption)]
        for line in (*method.substitutes, *painted):
            method.say(line)
    if is_first_process():
        good = len(datamodule.good) + len(datamodule.held_out_samples)
        write_json(folder / FILE, {**datamodule.seen(), "good_photos": good})
    loggers = [made(key, node, Logger) for key, node in loggers_of(resolved["logger"]).items()]
    precision = choose(resolved["trainer"]["precision"], resolved["trainer"]["accelerator"])
    if not method.autocast:
        precision = "32-true"
    trainer = made(
        "trainer",
        {**resolved["trainer"], "precision": precision},
        pl.Trainer,
        callbacks=[throughput, evaluation, *([controls] if controls else []), *callbacks, Losses()],  # of them all
        logger=loggers or False,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
    )
    check_strategy(method, trainer)
    check_batch_norm(trainer, resolved["trainer"])
    check_batches(method, datamodule, trainer.world_size)
    check_processes(trainer)
    about = environment(trainer)
    write_json(folder / "environment.json", about)
    learner = {"protocol": datamodule.protocol, "learner": learner_of(resolved["method"]["name"], datamodule.protocol)}
    known = {"environment": about, "weights_key": folder.name, **learner}
    for logger in loggers:
        logger.log_hyperparams({**hyperparameters(settings), **known})
    if resolved["trainer"].get("profiler"):  # else it prints to a logger that is silent
        trainer.profiler.dirpath, trainer.profiler.filename = str(folder / "profile"), "profile"
        say(f"profile: {folder / 'profile'}")

    device = trainer.strategy.root_device
    method.training_images = partial(datamodule.whole_training_images, device=device)
    if resume is None:  # else its findings are in the checkpoint
        with evaluating(method.to(device)), torch.no_grad():
            method.prepare(method.training_images())
    try:
        trainer.fit(method, datamodule, ckpt_path=resume, weights_only=True)
    except MisconfigurationException as error:  # a callback or an option that cannot work with this method
        raise UserError(" ".join(str(error).split())) from error
    with evaluating(method.to(device)), torch.no_grad():  # fit has left it on the host
        method.conclude(method.training_images())
        method.calibrate(datamodule.held_out_images(device))
    looks = type(method).calibrate is not Method.calibrate or type(method).conclude is not Method.conclude
    if resume is None or throughput.has_trained or looks:  # else the checkpoint is that of a whole training
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    if trainer.is_global_zero:
        remove_result(folder)  # of an earlier test of this run
    trainer.predict(method, datamodule, return_predictions=False)  # normal images: sets the threshold
    if not has_labels:
        say("no labelled test images: metrics left out, held-out photos shown")
        datamodule.test_samples = datamodule.held_out_samples
    if datamodule.test_samples:
        trainer.test(method, datamodule, verbose=False)
    figures = (
        evaluation.metrics
        if has_labels
        else {name: value for name, value in evaluation.metrics.items() if name in THRESHOLDS}
    )
    held_out = {
        name: value
        for callback in callbacks
        if isinstance(callback, SyntheticDefects)
        for name, value in callback.metrics.items()
    }
    metrics: dict[str, Any] = {**figures, **(controls.metrics() if controls else {}), **throughput.costs}
    logged = {f"test/{name}": value for name, value in metrics.items()}
    for logger in loggers:
        logger.log_metrics(logged | {f"held_out/{name}": value for name, value in held_out.items()})
        logger.finalize("success")
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            log_tables(logger, folder)
            finish(logger.experiment)  # a sweep in one process would go on in the same W&B run
    marks = {} if datamodule.protocol == "unsupervised" else {"protocol": datamodule.protocol}
    return {**metrics, **held_out, "precision": trainer.precision, **marks}


def learner_of(method: str, protocol: Knowledge) -> str:
    """The method, as one that is compared with no other: with its protocol where it knew more than good photos."""
    return method if protocol == "unsupervised" else f"{method}, {protocol.replace('_', ' ')}"


def made(key: str, node: dict[str, Any], kind: type, **arguments: Any) -> Any:
    """The object that a node of the configuration describes. Raises UserError if it is of another kind."""
    found = instantiate(node, _convert_="all", **arguments)
    if not isinstance(found, kind):
        raise UserError(f"{key}: expected a {kind.__name__}, found {node.get('_target_')!r}")
    return found


def controls_cache(resolved: dict[str, Any], datamodule: DataModule) -> Path:
    """The entry of the cache with what the controls reach on these data, decoded in this way.

    They learn from the training images, so the split decides too.
    """
    split = [resolved["data"]["datamodule"][name] for name in ("held_out", "split_seed", "on_error")]
    versions = ["controls", RESULT_VERSION, Control.version, TableControl.version, resolved["data"]["controls"]]
    decides = [*versions, *fingerprints_of(resolved), decoding_key(resolved), split]
    return entry(datamodule.cache_dir, decides)
