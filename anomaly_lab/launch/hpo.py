"""Search for hyperparameters: Optuna proposes, a launcher runs, metrics.json has the value. The largest value wins.

The objective comes from held-out normal images with synthetic defects (evaluation/synthetic_defects.py); an objective
on the test set must be requested by a name that says `oracle`.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from anomaly_lab.config.overrides import of_method
from anomaly_lab.core.console import say
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_csv
from anomaly_lab.launch.jobs import Job, Words, unpainted
from anomaly_lab.launch.machine import visible_gpus
from anomaly_lab.launch.space import ORACLE, SYNTHETIC, SearchRequest, Settings, checked, ends
from anomaly_lab.launch.study import FILES, Study, storage
from anomaly_lab.launch.sweep import Composer, plan

Planned = Callable[[list[Words]], list[Path]]  # the run folders of jobs; raises UserError for jobs that cannot be
FIRST = 3  # trials: if all of them fail, so will the others


@runtime_checkable
class Launch(Protocol):
    """A Hydra launcher: runs jobs, given by their overrides, and returns one result per job in order."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch."""
        ...


def search(
    context: HydraContext, task: TaskFunction, config: DictConfig, keys: dict[str, Any], arguments: list[str]
) -> None:
    """Run or continue the study of this sweep; print the best trial and the command that repeats it.

    Raises UserError before the first job for an invalid value, and at the end if trials failed.
    """
    settings = checked(keys)
    parser = OverridesParser.create(config_loader=context.config_loader)
    in_file = [f"{key}={value}" for key, value in (settings.params or {}).items()]
    asked = SearchRequest.of(parser.parse_overrides([*in_file, *arguments]), settings)
    with open_dict(config.hydra.launcher):
        config.hydra.launcher.objective = settings.metric
    if config.hydra.launcher.get("wait", True) is False:
        raise UserError("hydra.launcher.wait: expected true in a search, which needs the results, found false")
    jobs = check_values(context.config_loader, config, asked)
    if settings.metric in SYNTHETIC:
        refuse_different_kinds({word: unpainted(job.config) for word, job in jobs.items()})
    folder = Path(config.hydra.sweep.dir)
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    if settings.objective in ORACLE:
        say(
            f"{settings.objective}: hyperparameters are chosen on the test set, so the test figures of the best trial "
            "say nothing about new images"
        )
    if config.dry_run:
        dry_run(launcher, asked, settings, folder)
        return
    study = Study(folder, asked, settings)
    compose = Composer(context.config_loader, config)

    def planned(jobs: list[Words]) -> list[Path]:
        return [job.folder for job in plan(compose, jobs)]

    failed = run(study, launcher, trials_at_a_time(settings, config.hydra.launcher, len(asked.repeats)), planned)
    write_trials(study, planned)
    print_best(study, planned)
    if failed:
        raise UserError(f"{failed} trials failed; the same command tries them again")


def check_values(loader: ConfigLoader, config: DictConfig, asked: SearchRequest) -> dict[str, Job]:
    """Reject a value that is invalid with both the first and the last values of the other keys.

    Returns a job for each value, and one for each choice of a method with a corruption: both decide what is painted.
    """
    compose, jobs = Composer(loader, config), {}
    first, last = ({key: ends(each)[at] for key, each in asked.space.items()} for at in (0, -1))
    for key, each in asked.space.items():
        for value in ends(each):
            try:
                jobs[f"{key}={value}"] = plan(compose, asked.jobs({**first, key: value}))[0]
            except UserError as error:
                try:
                    jobs[f"{key}={value}"] = plan(compose, asked.jobs({**last, key: value}))[0]
                except UserError:
                    raise error from None
    paint = {key: ends(each) for key, each in asked.space.items() if key == "method" or "corruption" in key}
    for values in product(*paint.values()) if len(paint) > 1 else ():
        chosen = dict(zip(paint, values, strict=True))
        with suppress(UserError):  # the trial will say so
            jobs[" ".join(f"{key}={value}" for key, value in chosen.items())] = plan(
                compose, asked.jobs({**first, **chosen})
            )[0]
    return jobs


def refuse_different_kinds(kinds: Mapping[str, frozenset[str]]) -> None:
    """Raise UserError if some trials would be judged on other kinds of painted defects than others, by a word of each.

    A method is not judged on the kinds that it was trained with, and some kinds are harder to find than others.
    """
    words: dict[frozenset[str], str] = {}
    for word, judged in kinds.items():
        words.setdefault(judged, word)
    if len(words) > 1:
        found = " and ".join(f"{', '.join(sorted(judged)) or 'none'} ({word})" for judged, word in words.items())
        raise UserError(
            "hydra.sweeper.objective: expected trials that are judged on the same kinds of painted defects, found "
            f"{found}; search these apart, or compare them with select, which takes the kinds that they share"
        )


def trials_at_a_time(settings: Settings, launcher: DictConfig, jobs_a_trial: int) -> int:
    """The number of parallel trials that keeps the launcher busy."""
    if settings.at_a_time != "auto":
        return settings.at_a_time
    jobs = launcher.get("jobs", 1)
    if jobs == "auto":
        jobs = max(1, len(visible_gpus()) * launcher.get("jobs_per_gpu", 1))
    return max(1, min(-(-jobs // jobs_a_trial), settings.startup_trials))


def run(study: Study, launcher: Launch, at_a_time: int, planned: Planned) -> int:
    """Run trials until there are enough; returns the number that failed. Raises UserError if all fail."""
    ended = failed = 0
    while True:
        with study.batch(at_a_time) as trials:
            if not trials:
                return failed
            values = dict.fromkeys(trials, None) | evaluate(study, launcher, trials, planned)
            for number, value in values.items():
                study.tell(number, value)
                ended, failed = ended + 1, failed + (value is None)
        write_trials(study, planned)
        if failed == ended >= FIRST and study.best() is None:
            raise UserError(f"the first {ended} trials failed, all of them; the search ends here")


def evaluate(
    study: Study, launcher: Launch, trials: dict[int, dict[str, Any]], planned: Planned
) -> dict[int, float | None]:
    """The values of some trials; None if a job failed. Invalid trials are recorded as failed, with the reason."""
    jobs: list[tuple[int, Words]] = []
    for number, params in trials.items():
        try:
            planned(study.asked.jobs(params))
        except UserError as error:
            say(f"trial {number}: {error}")
        else:
            jobs += [(number, words) for words in study.asked.jobs(params)]
    if not jobs:
        return {}
    names = f"trials {', '.join(map(str, trials))}" if len(trials) > 1 else f"trial {next(iter(trials))}"
    say(f"{names} of {study.settings.n_trials}")
    answers = launcher.launch([words for _, words in jobs], initial_job_idx=0)
    found: dict[int, list[float | None]] = {}
    for (number, _), answer in zip(jobs, answers, strict=True):
        value = answer._return_value if answer.status == JobStatus.COMPLETED else None
        if value is None:
            say(f"trial {number}: {answer._return_value}")
        found.setdefault(number, []).append(value)
    values = {number: mean(each) for number, each in found.items()}
    for number, value in values.items():
        say(f"trial {number}: {'failed' if value is None else f'{study.settings.objective} {value:.4f}'}")
    return values


def mean(values: list[float | None]) -> float | None:
    """The mean; None if a value is missing."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if len(there) == len(values) else None


def write_trials(study: Study, planned: Planned) -> None:
    """Write trials.csv, one row per trial, whole or not at all."""
    keys = list(study.asked.space)
    header = ("trial", "state", study.settings.objective, *keys, "again", "folders")
    rows = []
    for trial in study.trials():
        folders: list[Path] = []
        if set(trial.params) == set(keys):
            with suppress(UserError):
                folders = planned(study.asked.jobs(trial.params))
        values = [trial.params.get(key, "") for key in keys]
        value = trial.values[0] if trial.values else ""
        again = trial.user_attrs.get("again", "")
        rows.append((trial.number, trial.state.name.lower(), value, *values, again, " ".join(map(str, folders))))
    write_csv(study.folder / "trials.csv", header, rows)


def print_best(study: Study, planned: Planned) -> None:
    """Print the best trial and the command that repeats it. Raises UserError if no trial is complete."""
    best, counts = study.best(), study.counts()
    if best is None:
        raise UserError("no trial of the search is complete")
    elsewhere = counts[TrialState.RUNNING] + counts[TrialState.WAITING]
    of_others = f", {elsewhere} run in another launcher" if elsewhere else ""
    say(f"\n{counts[TrialState.COMPLETE]} of {study.settings.n_trials} trials complete{of_others}")
    say(f"best: trial {best.number}, {study.settings.objective} {best.value:.4f}")
    jobs = study.asked.jobs(best.params)
    for words, folder in zip(jobs, planned(jobs), strict=False):
        say(f"  python -m anomaly_lab {shlex.join(of_method(words))}\n    {folder}")
    say(f"all trials: {study.folder / 'trials.csv'}")


def dry_run(launcher: Launch, asked: SearchRequest, settings: Settings, folder: Path) -> None:
    """Print the search space, the number of remaining trials and the jobs of a first trial. Writes nothing."""
    complete = 0
    if settings.storage in FILES and (folder / FILES[settings.storage]).is_file():
        study = optuna.load_study(study_name=folder.name, storage=storage(folder, settings.storage))
        complete = sum(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False))
    for key, each in asked.space.items():
        values = each.choices if isinstance(each, CategoricalDistribution) else f"{each}"
        say(f"searched: {key}: {values}")
    left = max(0, settings.n_trials - complete)
    say(f"{settings.n_trials} trials, {complete} complete, {left} to do, with jobs such as these:")
    launcher.launch(asked.jobs({key: ends(each)[0] for key, each in asked.space.items()}), initial_job_idx=0)
    say(f"the search: {left} times that")
