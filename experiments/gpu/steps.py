"""Steps of a training, in a run, with a resident batch, and bare: rows of `steps.csv`.

Everything is assembled as a run assembles it; only what a row does not measure is left out (`QUIET`).
"""

import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import save_file

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.core.types import Batch
from anomaly_lab.data.datamodule import DataModule, data_of
from anomaly_lab.evaluation.evaluation import Evaluation
from anomaly_lab.methods.base.adversarial import AdversarialMethod
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.method import Method, evaluating
from anomaly_lab.networks.patch_network import Name, PatchNetwork
from anomaly_lab.training.cost import peak_memory
from anomaly_lab.training.precision import choose
from anomaly_lab.training.throughput import Throughput

NO_PICTURES = (
    "callbacks.anomaly_maps=null", "callbacks.pictures=null", "callbacks.curves=null", "callbacks.gallery=null",
    "callbacks.samples=null",
)  # fmt: skip
QUIET = (*NO_PICTURES, "callbacks.checkpoint=null", "callbacks.budget=null", "trainer.limit_val_batches=0")
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
for message in (".*LeafSpec.*", ".*`srun` command is available.*", ".*in eval mode at the start of training.*"):
    warnings.filterwarnings("ignore", message)  # as in a run


class Counts(NamedTuple):
    """Steps of a row. The check of the losses waits for the accelerator every 50 steps, so `watched` sees it once."""

    warm: int = 20
    timed: int = 60
    watched: int = 50

    @property
    def total(self) -> int:
        """Through the data path: warm, timed, watched. With a resident batch: warm, timed."""
        return 2 * (self.warm + self.timed) + self.watched


def now() -> float:
    """The time at which the accelerator has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def forget_peak() -> None:
    """Start the peak of the accelerator's memory anew; that of a process cannot be."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class Synchronisations:
    """Counts where the host waits for the accelerator, by the lines that make it wait; none without one."""

    def __init__(self) -> None:
        self.caught: list[warnings.WarningMessage] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Synchronisations":
        if torch.cuda.is_available():
            self.caught = self._stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            self._stack.callback(torch.cuda.set_sync_debug_mode, "default")
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def columns(self, steps: int) -> dict[str, Any]:
        """Their number in a step, and the five lines with most of them; empty where nothing was watched."""
        if not torch.cuda.is_available() or not steps:
            return {}
        waits = [each for each in self.caught if "synchronizing" in str(each.message)]
        places = Counter("/".join(Path(each.filename).parts[-2:]) + f":{each.lineno}" for each in waits)
        where = "; ".join(f"{place} x {count / steps:.2g}" for place, count in places.most_common(5))
        return {"synchronisations": len(waits) / steps, "where": where}


def configured(*words: str) -> dict[str, Any]:
    """The checked configuration of these words."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", list(words)))


def random_weights(name: str, work: Path) -> Path:
    """A file of weights of a timm model that were drawn, not trained: enough to measure time."""
    path = work / f"{name}.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        save_file(timm.create_model(name.partition(".")[0], pretrained=False).state_dict(), path)
    return path


def random_teacher(name: Name, width: float, work: Path) -> Path:
    """The same of a patch network."""
    path = work / f"{name}_{width:g}.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        state = PatchNetwork(name, width).state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def assembled(
    resolved: dict[str, Any], folder: Path, *last: pl.Callback, evaluates: bool = False
) -> tuple[DataModule, Method, pl.Trainer]:
    """Data, method and trainer in the order of a run: the images are decoded before there is a trainer."""
    pl.seed_everything(0, verbose=False)
    data, method = instantiate(resolved["data"]["datamodule"], _convert_="all"), build_method(resolved)
    method.prepare_data()
    data.setup("fit")
    first = [Throughput(), *([Evaluation(instantiate(resolved["threshold"]))] if evaluates else [])]
    settings = resolved["trainer"]
    precision = choose(settings["precision"], settings["accelerator"]) if method.autocast else "32-true"
    trainer = instantiate(
        {**settings, "precision": precision},
        callbacks=[*first, *(instantiate(node) for node in resolved["callbacks"].values() if node), *last],
        logger=False, default_root_dir=str(folder), _convert_="all",
    )  # fmt: skip
    device = trainer.strategy.root_device
    with evaluating(method.to(device)), torch.no_grad():
        method.prepare(data.whole_training_images(device=device))
    return data, method, trainer


class StepClock(pl.Callback):
    """Times steps of one stage: through the data path, then with the last batch resident on the device."""

    def __init__(self, counts: Counts, stage: int) -> None:
        self.counts, self.stage = counts, stage
        self.done, self.start = 0, 0.0
        self.fit = self.resident = 0.0  # seconds of a step
        self.waits = Synchronisations()
        self.batch: Batch | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Method, outputs: Any, batch: Batch, _: int) -> None:
        if pl_module.stage != self.stage:
            return
        self.done += 1
        warm, timed, watched = self.counts
        if self.done == warm or self.done == 2 * warm + timed + watched:
            self.start = now()
        elif self.done == warm + timed:
            self.fit = (now() - self.start) / timed
            self.waits.__enter__()
        elif self.done == warm + timed + watched:
            self.waits.__exit__()
            self.batch = batch
            data_of(trainer).transfer_batch_to_device = lambda *_: batch
        elif self.batch is not None and batch is not self.batch:
            raise RuntimeError("expected the resident batch, found another")
        elif self.done == self.counts.total:
            self.resident = (now() - self.start) / timed
            trainer.should_stop = True


def bare_step(method: Method, batch: Batch, stage: int, bf16: bool) -> Callable[[int], None]:
    """The same losses and optimizers in a plain loop, without Lightning, data or callbacks."""
    autocast = torch.autocast(batch.image.device.type, torch.bfloat16, enabled=bf16)
    method.train()
    if not isinstance(method, AdversarialMethod):
        optimizer = method.optimizer(method.trained())

        def step(_: int) -> None:
            optimizer.zero_grad()
            with autocast:
                loss = method.losses(batch)["loss"]
            loss.backward()
            optimizer.step()

        return step
    optimizers = dict(zip(method.networks(), method.configure_optimizers(), strict=True))
    weights = {name: list(network.parameters()) for name, network in method.networks().items()}

    def turns(number: int) -> None:
        with autocast:
            images, random = method.signed(batch.image), method.random_at("training", 0, number)
            for turn in method.turns(images, stage, number, random):
                optimizers[turn.name].zero_grad()
                own = [weight for weight in weights[turn.name] if weight.requires_grad]
                turn.loss.backward(inputs=own, retain_graph=turn.keep_graph)
                optimizers[turn.name].step()

    return turns


def seconds_of_bare(method: Method, batch: Batch, stage: int, bf16: bool, counts: Counts) -> float:
    """Of one step."""
    step = bare_step(method, batch, stage, bf16)
    start = 0.0
    for number in range(counts.warm + counts.timed):
        if number == counts.warm:
            start = now()
        step(number)
    return (now() - start) / counts.timed


def steps(words: Sequence[str], folder: Path, counts: Counts, stage: int = 0) -> dict[str, Any]:
    """A row of `steps.csv`: milliseconds of a step in a run, with a resident batch, and bare."""
    resolved = configured(*words, *QUIET, "trainer.max_epochs=2", f"run_folder={folder}")
    if resolved["data"]["datamodule"]["sees"] == "images":  # an epoch is one pass over them, however short
        resolved["trainer"]["max_epochs"] = counts.total
    resolved["data"]["datamodule"]["patches"] = resolved["data"]["batch_size"] * counts.total
    forget_peak()
    clock = StepClock(counts, stage)
    data, method, trainer = assembled(resolved, folder, clock)
    try:
        trainer.fit(method, data)
    finally:
        clock.waits.__exit__()
    batch = clock.batch
    assert batch is not None, f"the training ended after {clock.done} of {counts.total} steps"
    found = {"peak_mib": peak_memory(batch.image.device) / 2**20, **clock.waits.columns(counts.watched)}
    method.cpu()
    bare = build_method(resolved)
    bare.load_state_dict(method.state_dict())  # of frozen networks, and what the method has prepared
    bf16 = trainer.precision == "bf16-mixed"
    bare_seconds = seconds_of_bare(bare.to(batch.image.device), batch, stage, bf16, counts)
    return {
        "batch": len(batch.image), "side": batch.image.shape[-1], "steps": counts.timed,
        "fit_ms": 1000 * clock.fit, "resident_ms": 1000 * clock.resident, "bare_ms": 1000 * bare_seconds,
        "images_per_second": len(batch.image) / clock.fit, "speed_of_bare": bare_seconds / clock.fit,
        "data_wait": max(0.0, 1 - clock.resident / clock.fit), **found,
    }  # fmt: skip
