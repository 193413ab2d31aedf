"""The jobs of a sweep: overrides -> checked configurations -> run folders -> results for the sweeper.

All jobs are composed and checked before the first one starts. A job is a separate process, `python -m anomaly_lab
<overrides>`, in the same folder as the single run: finished runs are skipped, unfinished ones continue. local.py and
slurm.py run the processes. Nothing heavier than Hydra is imported here.
"""

import copy
import gc
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anomaly_lab.config.check import check, check_node, refuse_unread
from anomaly_lab.config.overrides import composed, of_method
from anomaly_lab.core.console import duration, say
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.messages import explain, is_user_mistake
from anomaly_lab.data.layouts import POOLS, categories, of_pool, textures_of
from anomaly_lab.data.one_class import classes
from anomaly_lab.launch.jobs import Job, Outcome, Words
from anomaly_lab.launch.table import JobTable
from anomaly_lab.runs.folder import read_job, refuse_unwritable, seconds_of, state_of, write_job
from anomaly_lab.runs.naming import place_of

Settings = TypeVar("Settings")
POOL_WORDS = {f"data.category={pool}": pool for pool in POOLS}


@runtime_checkable
class Launcher(Protocol):
    """The checked settings of a launcher, and its way to run jobs."""

    objective: str | None
    jobs: int | str  # at a time; auto: the launcher finds out

    def execute(self, jobs: list[Job], config: DictConfig, board: JobTable) -> dict[Path, Outcome]:
        """Run the jobs of a sweep with this configuration; returns run folder -> outcome."""
        ...


class Composer:
    """Composes the configurations of jobs; jobs that differ only in plain values share one reading of the files."""

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader = loader
        self.config = config
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._composed: dict[Words, DictConfig] = {}

    def __call__(self, words: Words) -> DictConfig:
        """The configuration that a separate process would compose from these words. Raises the exceptions of Hydra."""
        overrides = [self._parse(word) for word in words]
        if any(override.type != OverrideType.CHANGE for override in overrides):
            return self._load(words)  # +a=1, ~a: their order counts
        groups = tuple(str(override.input_line) for override in overrides if self._is_group(override))
        if groups not in self._composed:
            self._composed[groups] = self._load(groups)
        config = copy.deepcopy(self._composed[groups])
        try:
            for override in overrides:
                if not self._is_group(override):
                    OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return self._load(words)  # tells what is wrong in Hydra's words
        return config

    def _parse(self, word: str) -> Override:
        if word not in self._parsed:
            (self._parsed[word],) = self._parser.parse_overrides([word])
        return self._parsed[word]

    def _is_group(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = bool(self.loader.get_group_options(key))
        return override.package is not None or self._groups[key]

    def _load(self, words: Words) -> DictConfig:
        loaded, _ = composed(lambda overrides: self.loader.load_sweep_config(self.config, overrides), words)
        config = OmegaConf.masked_copy(loaded, [str(key) for key in loaded if key != "hydra"])
        OmegaConf.set_struct(config, True)
        return config


def plan(compose: Composer, asked: Sequence[Sequence[str]]) -> list[Job]:
    """The jobs for the overrides of a sweeper, each checked and with its run folder.

    Raises UserError naming the first job with a mistake.
    """
    methods = {word.partition("=")[2] for words in asked for word in words if word.startswith("method=")}
    asked = [of_method(words, methods) for words in asked]
    several: list[tuple[int, Words]] = []
    for number, (words, label) in enumerate(zip(asked, labels(asked), strict=True)):
        with _naming(label):
            several += [(number, each) for each in expanded(compose, tuple(words))]
    jobs = []
    for (number, words), label in zip(several, labels([words for _, words in several]), strict=True):
        with _naming(label):
            composed = compose(words)
            refuse_unread(words, composed)
            config = check(composed)
            place = place_of(config)
            jobs.append(Job(words, label, place.folder, config, number, place.result_key))
    return jobs


def expanded(compose: Composer, words: Words) -> list[Words]:
    """Expand `data.category=all|textures|objects` to the existing categories; other jobs stay as they are."""
    word = next((word for word in words if word in POOL_WORDS), None)
    if word is None:
        return [words]
    pool, data = POOL_WORDS[word], compose(words).data
    if "categories" in data:
        known = [str(name) for name in data.categories if name not in POOLS]
        textures = textures_of(data.categories)
        names = categories(data.root, pool, textures) if data.root else of_pool(known, pool, textures)
        return [tuple(f"data.category={name}" if each == word else each for each in words) for name in names]
    if "protocol" in data and pool == "all":
        quoted = [QuotedString(path.name, Quote.single).with_quotes() for path in classes(data.root)]  # 0 is a name
        return [tuple(f"data.category={name}" if each == word else each for each in words) for name in quoted]
    if data.name != "folder":
        raise UserError(f"data.category: expected a single category in a sweep over data={data.name}, found {pool!r}")
    rest = [each for each in words if each != word and not each.startswith("data.root=")]
    paths = [str(Path(data.root) / name) for name in categories(data.root, pool)]
    quoted = [QuotedString(path, Quote.single).with_quotes() for path in paths]
    return [(*rest, f"data.root={path}") for path in quoted]


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The label of each job: the overrides that not all jobs share."""
    common = set(jobs[0]).intersection(*jobs[1:]) if len(jobs) > 1 else set()
    return [" ".join(word for word in words if word not in common) or " ".join(words) for words in jobs]


@contextmanager
def _naming(label: str) -> Iterator[None]:
    """Prefix a UserError with the job that causes it."""
    try:
        yield
    except Exception as error:
        if not is_user_mistake(error):
            raise
        raise UserError(f"{explain(error)} (in the job {label}; no job was started)") from error


def launch(
    loader: ConfigLoader, config: DictConfig, asked: Sequence[Sequence[str]], launcher: Launcher
) -> list[JobReturn]:
    """Plan the jobs of a sweeper, skip finished ones and run the others; returns one JobReturn per requested job.

    Raises UserError before anything starts.
    """
    began = time.monotonic()
    jobs = plan(Composer(loader, config), asked)
    gc.enable()  # __main__ composes without it
    runs: dict[Path, Job] = {}
    for job in jobs:
        if runs.setdefault(job.folder, job) is not job:
            if runs[job.folder].result_key != job.result_key:
                raise UserError(
                    f"{job.label}: expected jobs that train weights of their own, found one that only judges those of "
                    f"{runs[job.folder].label} in another way; a run folder holds one result, set another name="
                )
            say(f"the same run twice, done once: {job.label}")
    states = {job.folder: state_of(job.folder, job.result_key, job.config["rerun"]) for job in runs.values()}
    counts = Counter(states.values())
    say(f"{len(runs)} jobs: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    to_do = [job for job in runs.values() if states[job.folder] != "finished"]
    if config.dry_run:
        for job in runs.values():
            say(f"  {states[job.folder]}: {job.label}\n    {job.folder}")
        from anomaly_lab.launch.cost import estimate

        say("\n".join(estimate(to_do, launcher.jobs if isinstance(launcher.jobs, int) else None)))
        return [JobReturn(words, status=JobStatus.COMPLETED) for words in asked]
    outcomes = {folder: Outcome("done") for folder in runs}
    for job in to_do:
        if states[job.folder] == "to test again":
            # a launcher takes a finished run for a job that has ended
            write_job(job.folder, "interrupted", seconds=seconds_of(read_job(job.folder)))
    if to_do:
        refuse_unwritable(to_do[0].folder)
        with JobTable({job.folder: job.label for job in to_do}) as board:
            outcomes |= launcher.execute(to_do, config, board)
        report(to_do, outcomes, time.monotonic() - began)
    return [
        answer(words, [job for job in jobs if job.asked == number], outcomes, launcher.objective)
        for number, words in enumerate(asked)
    ]


def checked(settings: type[Settings], keys: dict[str, Any]) -> Settings:
    """The settings of a launcher from the keys of its file. Raises UserError for an invalid one."""
    keys = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(keys), resolve=True))
    check_node("hydra.launcher", {"_target_": f"{settings.__module__}.{settings.__name__}", **keys})
    return settings(**keys)


def report(jobs: list[Job], outcomes: dict[Path, Outcome], seconds: float) -> None:
    """Print the outcomes of the jobs, and the last lines of failed ones."""
    for job in jobs:
        outcome = outcomes[job.folder]
        if outcome.state == "failed":
            say(f"\nfailed: {job.label} ({outcome.note})\n  {job.folder}\n{outcome.last_lines}")
    counts = Counter(outcomes[job.folder].state for job in jobs)
    say(f"{', '.join(f'{count} {state}' for state, count in counts.items())} after {duration(seconds)}")


def answer(asked: Sequence[str], jobs: list[Job], outcomes: dict[Path, Outcome], objective: str | None) -> JobReturn:
    """The result for one requested job; for a pool of categories, the mean."""
    returned = JobReturn(asked, status=JobStatus.COMPLETED)
    returned.working_dir = str(jobs[0].folder) if len(jobs) == 1 else None
    try:
        for job in jobs:
            if outcomes[job.folder].state == "failed":
                raise UserError(f"{job.label}: {outcomes[job.folder].note}")
        if objective is not None and all(outcomes[job.folder].state == "done" for job in jobs):
            values = [metric(job.folder, objective) for job in jobs]
            returned.return_value = sum(values) / len(values)
    except UserError as error:
        returned.status, returned.return_value = JobStatus.FAILED, error
    return returned


def metric(folder: Path, name: str) -> float:
    """A metric of a finished run. Raises UserError if it does not have it."""
    metrics = json.loads((folder / "metrics.json").read_text())
    if not isinstance(metrics.get(name), int | float):
        raise UserError(f"hydra.launcher.objective: expected one of {', '.join(metrics)}, found {name!r}")
    return float(metrics[name])
