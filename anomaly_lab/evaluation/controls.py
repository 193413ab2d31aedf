"""Trivial detectors beside every result; a method that does not beat them has shown nothing."""

import json
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from anomaly_lab.core.console import say
from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_csv, write_json, writing
from anomaly_lab.core.lock import lock
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.cache import FIGURES, lock_of, note_use
from anomaly_lab.data.datamodule import data_of
from anomaly_lab.data.placement import content
from anomaly_lab.data.table_module import TableModule
from anomaly_lab.evaluation.evaluation import Evaluation
from anomaly_lab.evaluation.maps import PixelEvaluation
from anomaly_lab.functional.scores import default_score
from anomaly_lab.methods.base.method import Method, evaluating
from anomaly_lab.methods.base.tiling import WholeImage, enlarge
from anomaly_lab.methods.control import IMAGE_LEVEL_CONTROLS, KINDS, OF_CLASSES, WITHOUT_MAP, Control, Kind
from anomaly_lab.methods.table_control import TableControl
from anomaly_lab.metrics.ranking import rank
from anomaly_lab.runs.measures import UNTRAINED, strongest

COMPARED = (
    "image_auroc", "pixel_auroc", "pixel_aupr", "pixel_aupro", "pixel_aupimo",
    "pixel_auroc_smoothed", "pixel_aupr_smoothed", "pixel_aupro_smoothed", "pixel_aupimo_smoothed",
)  # fmt: skip
Figures = dict[str, dict[str, float]]  # of each control, by the name of the metric
Answer = Callable[[Batch], Prediction]


class Controls(pl.Callback):
    """Evaluate controls of some `kinds` on the same test images, write controls.csv, and name the metrics they reach.

    Their figures depend only on data and decoding. The first run computes them, before its own test, and writes them to
    the cache entry `cache`; other runs read them there, and wait while another process computes them. The image AUROC
    of brightness and sharpness is that of the better direction: darker is as easy to detect as brighter.

    `untrained` is the method with the weights before its training. It is tested in every run, as one more control.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        cache: Path | None = None,
        kinds: tuple[Kind, ...] = KINDS,
        untrained: Method | None = None,
    ) -> None:
        self.evaluation = evaluation
        self.cache = cache
        self.kinds = kinds
        self.untrained = untrained
        self.found: Figures = {}
        self.beaten_by: dict[str, tuple[str, float]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Read or compute the figures before the test. Collective."""
        if stage != "test":
            return
        whole = trainer.limit_test_batches == 1.0 and isinstance(trainer.limit_test_batches, float)
        with ExitStack() as stack:
            cache = self.cache if trainer.is_global_zero and whole else None  # the first process, for all
            try:
                if cache is not None:
                    stack.enter_context(lock(lock_of(cache), _wait))
            except OSError as error:
                say(f"cache: {cache} cannot be used ({error}); the controls are computed for this run alone")
                cache = None
            self.found = of_all_processes([_read(cache)])[0]
            if not self.found:
                self.found = figures_of(trainer, self.kinds)
                if cache is not None:
                    _write(cache, self.found)
            if cache is not None:
                note_use(cache, data_of(trainer).data_folder)
        if self.untrained is not None:
            self.found |= untrained_figures(trainer, self.untrained)
            self.untrained = None  # and its memory with it

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare and write; `Evaluation` precedes this callback and has its metrics."""
        self.beaten_by = not_beaten(self.evaluation.metrics, self.found)
        if trainer.is_global_zero:
            rows_of_file = [[kind, *(values.get(name, "") for name in COMPARED)] for kind, values in self.found.items()]
            write_csv(Path(trainer.default_root_dir) / "controls.csv", ("control", *COMPARED), rows_of_file)
            for name, (control, value) in self.beaten_by.items():
                say(f"{name} {self.evaluation.metrics[name]:.3f} does not beat the control {control}, {value:.3f}")

    def metrics(self) -> dict[str, float]:
        """The best control of each metric, as `control_<metric>`; `untrained` as `control_untrained_<metric>` too."""
        best = strongest_ones(self.evaluation.metrics, self.found)
        untrained = {name: value for name, value in self.found.get(UNTRAINED, {}).items() if name in best}
        return {f"control_{name}": value for name, (_, value) in best.items()} | {
            f"control_{UNTRAINED}_{name}": value for name, value in untrained.items()
        }


def not_beaten(metrics: dict[str, float], found: Figures) -> dict[str, tuple[str, float]]:
    """The metrics that a control reaches or exceeds: name -> strongest control, its value."""
    return {name: best for name, best in strongest_ones(metrics, found).items() if not metrics[name] > best[1]}


def strongest_ones(metrics: dict[str, float], found: Figures) -> dict[str, tuple[str, float]]:
    """The strongest control, and its value, for each metric that the method and a control have."""
    return {
        name: strongest(name, found)
        for name in COMPARED
        if name in metrics and any(name in figures for figures in found.values())
    }


@torch.inference_mode()
def figures_of(trainer: pl.Trainer, kinds: tuple[Kind, ...] = KINDS) -> Figures:
    """The figures of controls of these kinds, from the training and the test images or rows. Collective."""
    data = data_of(trainer)
    control: Control | TableControl
    if isinstance(data, TableModule):
        control = TableControl(WholeImage(), len(data.columns), "norm")
    else:
        most: Kind = next((kind for kind in kinds if kind in OF_CLASSES), kinds[0])  # what learns most learns for all
        control = Control(WholeImage(), data.decoding.image_size, data.decoding.channels, most)
    for batch in data.whole_training_images(trainer.global_rank, trainer.world_size):
        control.update(batch.image, batch.index)
    control.fit()
    control.to(trainer.strategy.root_device)

    def answer(kind: Any, batch: Batch) -> Prediction:
        anomaly_map = enlarge(control.answer(kind, batch.image), batch.image)
        return Prediction(anomaly_map, default_score(anomaly_map, content(batch.placement, batch.image)), None)

    answers: dict[str, Answer] = {kind: partial(answer, kind) for kind in kinds}
    local = [kind for kind in kinds if kind not in WITHOUT_MAP and not isinstance(data, TableModule)]
    figures = tested(trainer, answers, local)
    for kind in IMAGE_LEVEL_CONTROLS:
        if "image_auroc" in figures.get(kind, {}):
            auroc = figures[kind]["image_auroc"]
            figures[kind]["image_auroc"] = max(auroc, 1 - auroc)
    return figures


@torch.no_grad()
def untrained_figures(trainer: pl.Trainer, method: Method) -> Figures:
    """The figures of a method that looks at the training images and takes no step, as `untrained`. Collective."""
    data, device = data_of(trainer), trainer.strategy.root_device
    method.training_images = partial(data.whole_training_images, device=device)
    with evaluating(method.to(device)):
        method.prepare(method.training_images())
        learn_statistics(method, method.training_images())
        method.conclude(method.training_images())
        method.calibrate(data.held_out_images(device))
        answers: dict[str, Answer] = {UNTRAINED: lambda batch: method.test_step(batch, 0)}
        return tested(trainer, answers, [UNTRAINED] * method.localises)


def learn_statistics(method: Method, images: Iterable[Batch]) -> None:
    """Give batch norms that have seen nothing the statistics of the training images, as any training would. Collective.

    With a mean of 0 and a variance of 1 they would normalise nothing, and the control would be too weak.
    """
    norms = [part for part in method.modules() if isinstance(part, _BatchNorm) and is_new(part)]
    for norm in norms:
        norm.train().momentum = None  # the mean over all batches
    for batch in images if norms else ():
        if len(batch.image) > 1:
            method.test_step(batch, 0)
    for norm in norms:
        norm.eval()
        for buffer in map(norm.get_buffer, ("running_mean", "running_var")):
            buffer.copy_(torch.stack(of_all_processes([buffer.cpu()])).mean(dim=0))


def is_new(norm: _BatchNorm) -> bool:
    """Whether a batch norm has the statistics from which it starts."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not mean.any() and bool(variance.eq(1).all())


def tested(trainer: pl.Trainer, answers: dict[str, Answer], local: Iterable[str]) -> Figures:
    """The figures of answers to the test images, by name; pixel metrics of those in `local`. Collective."""
    data, limit = data_of(trainer), trainer.limit_test_batches
    device, samples, loader = trainer.strategy.root_device, data.test_samples, data.test_dataloader()
    scores: dict[str, list[tuple[int, float]]] = {name: [] for name in answers}
    maps = {name: PixelEvaluation() for name in local}
    most = limit if isinstance(limit, int) else int(limit * len(loader))
    for batch in islice(loader, most):
        batch = data.moved(batch, device)
        for name, answer in answers.items():
            said = answer(batch)
            assert said.score is not None
            scores[name] += zip(batch.index.tolist(), said.score.tolist(), strict=True)
            if name in maps:
                maps[name].update(said, batch, samples)
    figures: Figures = {}
    for name in answers:
        rows = sorted(of_all_processes(scores[name]))
        label, score = np.array([samples[index].label for index, _ in rows]), np.array([score for _, score in rows])
        figures[name] = maps[name].compute(samples) if name in maps else {}
        if (label == 0).any() and (label == 1).any():
            figures[name]["image_auroc"] = rank(score[label == 0], score[label == 1]).auroc().value
    return figures


def _wait(_: str) -> None:
    say("cache: another process computes the controls of these images, waiting for it")


def _read(cache: Path | None) -> Figures:
    """The figures of a complete entry; {} without one."""
    try:
        found = json.loads((cache / FIGURES).read_text()) if cache is not None else {}
        return {
            kind: {name: math.nan if value is None else float(value) for name, value in figures.items()}
            for kind, figures in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # missing or damaged
        return {}


def _write(cache: Path, found: Figures) -> None:
    try:
        with writing(cache) as part:
            write_json(part / FIGURES, found)
    except (OSError, UserError) as error:  # a UserError: the disk is full
        say(f"cache: {cache} cannot be written ({error}); the next run computes the controls again")
