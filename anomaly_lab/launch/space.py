"""The request for a search: the keys of its sweeper, and the searched words of a command line."""

import json
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from pydantic import NonNegativeInt, PositiveInt

from anomaly_lab.config.check import check_node
from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.launch.jobs import Words

Space = dict[str, BaseDistribution]
SYNTHETIC = ("synthetic_pixel_aupro", "synthetic_pixel_auroc", "synthetic_image_auroc")
OF_THE_TEST = (
    "image_auroc", "image_aupr", "image_f1max", "pixel_auroc", "pixel_aupr", "pixel_aupro", "pixel_aupimo",
    "pixel_f1max", "pixel_auroc_smoothed", "pixel_aupr_smoothed", "pixel_aupro_smoothed", "pixel_aupimo_smoothed",
    "pixel_f1max_smoothed",
)  # fmt: skip
ORACLE = {f"oracle_{name}": name for name in OF_THE_TEST}
REPEATED = ("seed", "data", "data.category", "data.root")  # several values: a trial is the mean over them
NO_SEARCH = ("dry_run", "rerun", "logger", "runs_dir", "data.root", "data.workers", "data.cache", "data.cache_dir")


@dataclass(frozen=True)
class Settings:
    """The keys of conf/hydra/sweeper/optuna.yaml."""

    objective: str = SYNTHETIC[0]
    n_trials: PositiveInt = 30
    storage: str = "sqlite"
    sampler: Literal["tpe", "random"] = "tpe"
    startup_trials: PositiveInt = 10
    at_a_time: PositiveInt | Literal["auto"] = "auto"
    seed: NonNegativeInt = 0
    params: dict[str, str] | None = None

    @property
    def metric(self) -> str:
        """The name of the objective in metrics.json."""
        return ORACLE.get(self.objective, self.objective)


def checked(keys: dict[str, Any]) -> Settings:
    """The settings from the keys of the file. Raises UserError for an invalid one."""
    check_node("hydra.sweeper", {"_target_": f"{Settings.__module__}.{Settings.__name__}", **keys})
    settings = Settings(**keys)
    if settings.objective not in (*SYNTHETIC, *ORACLE):
        names = f"{', '.join(SYNTHETIC)} or, chosen on the test set, {', '.join(ORACLE)}"
        hint = nearest(settings.objective, (*SYNTHETIC, *ORACLE))
        raise UserError(f"hydra.sweeper.objective: expected one of {names}, found {settings.objective!r}{hint}")
    return settings


@dataclass(frozen=True)
class SearchRequest:
    """The search that the words of a command line describe."""

    fixed: Words  # in every job
    space: Space  # by key
    repeats: list[Words]  # a trial has a job for each, and their mean counts

    @staticmethod
    def of(overrides: list[Override], settings: Settings) -> "SearchRequest":
        """Separate searched from fixed overrides. Raises UserError if nothing is searched."""
        fixed: dict[str, str] = {}
        space: Space = {}
        repeats: dict[str, list[str]] = {}
        for override in overrides:
            key = override.get_key_element()
            for earlier in (fixed, space, repeats):
                earlier.pop(key, None)
            if not override.is_sweep_override():
                fixed[key] = str(override.input_line)
            elif override.is_choice_sweep() and len(values := list(override.sweep_string_iterator())) == 1:
                fixed[key] = f"{key}={values[0]}"  # a word for one of several methods
            elif key in REPEATED:
                repeats[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                space[key] = distribution(override)
        if not space:
            raise UserError(
                "hydra/sweeper=optuna: expected a key to search, such as 'budget.learning_rate=tag(log,"
                "interval(1e-4,1e-2))' or data.batch_size=8,16, found none"
            )
        if settings.metric in SYNTHETIC and "callbacks" not in fixed:
            fixed["callbacks"] = "callbacks=synthetic"
        return SearchRequest(tuple(fixed.values()), space, list(product(*repeats.values())))

    def jobs(self, params: dict[str, Any]) -> list[Words]:
        """The words of the jobs of a trial."""
        chosen = tuple(f"{key}={value}" for key, value in params.items())
        return [(*self.fixed, *repeat, *chosen) for repeat in self.repeats]

    def description(self) -> dict[str, Any]:
        """The parts of the request that must not change within a study."""
        fixed = sorted(word for word in self.fixed if word.partition("=")[0] not in NO_SEARCH)
        space = {key: json.loads(distribution_to_json(each)) for key, each in sorted(self.space.items())}
        repeats = [word for words in self.repeats for word in words if word.partition("=")[0] not in NO_SEARCH]
        return {"words": fixed, "space": space, "repeats": repeats}


def distribution(override: Override) -> BaseDistribution:
    """The Optuna distribution of an override with several values; the values of a choice are texts for Hydra."""
    key, value = override.get_key_element(), override.value()
    logarithmic = isinstance(value, IntervalSweep | RangeSweep) and "log" in value.tags
    try:
        if isinstance(value, IntervalSweep):
            assert value.start is not None
            assert value.end is not None
            if isinstance(value.start, int):  # int(interval(1,8)): both ends
                return IntDistribution(value.start, int(value.end), log=logarithmic)
            return FloatDistribution(value.start, value.end, log=logarithmic)
        if isinstance(value, RangeSweep):
            values, step = list(value.range()), value.step
            if logarithmic:
                raise ValueError("a range has steps of equal size, tag(log, ...) wants an interval")
            if all(isinstance(each, int) for each in values):
                return IntDistribution(min(values), max(values), step=abs(int(step)))
            return FloatDistribution(float(min(values)), float(max(values)), step=abs(float(step)))
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    except ValueError as error:
        raise UserError(f"{key}: expected values that can be searched, found {override.input_line}: {error}") from error


def ends(each: BaseDistribution) -> list[Any]:
    """The values whose validity implies that of all: both ends, or every choice."""
    if isinstance(each, CategoricalDistribution):
        return list(each.choices)
    assert isinstance(each, FloatDistribution | IntDistribution)
    return [each.low, each.high]
