"""The study of a search: its trials, and which launcher runs which trial.

The study is kept in a storage and outlives its launchers. A launcher holds a lock on every trial that it runs, which
the kernel releases when the launcher ends, however it ends: a running trial whose lock is free was interrupted. It
keeps its number and parameters, and the next launcher continues it in the run folder with its checkpoint. So a search
that was killed ends with the same trials as an uninterrupted one.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.lock import lock
from anomaly_lab.launch.space import SearchRequest, Settings

SQLITE, JOURNAL = "study.db", "study.journal"
FILES = {"sqlite": SQLITE, "journal": JOURNAL}


class Study:
    """The Optuna study in the folder of a sweep, with locks on its running trials.

    Raises UserError if it was started by another search.
    """

    def __init__(self, folder: Path, asked: SearchRequest, settings: Settings) -> None:
        self.folder = folder
        self.asked = asked
        self.settings = settings
        self._locks = folder / ".trials"
        self._locks.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self.alone():
            self.study = optuna.create_study(
                study_name=folder.name,
                storage=storage(folder, settings.storage),
                direction="maximize",
                load_if_exists=True,
            )
            description = {**asked.description(), "objective": settings.objective}
            before = self.study.user_attrs.get("search", description)
            if different := next((key for key in description if description[key] != before[key]), None):
                raise UserError(
                    f"{folder}: expected the search that was begun there, with the {different} "
                    f"{json.dumps(before[different])}, found {json.dumps(description[different])}; set another name="
                )
            self.study.set_user_attr("search", description)
            self._recover()

    def alone(self) -> AbstractContextManager[object]:
        """Exclude other launchers from proposing or taking trials."""
        return lock(self._locks / "study.lock", lambda _: None)

    def trials(self) -> list[FrozenTrial]:
        """All trials, in their order."""
        return self.study.get_trials(deepcopy=False)

    def counts(self) -> Counter[TrialState]:
        """The number of trials per state, without failed ones that have been queued again."""
        trials = self.trials()
        replaced = {trial.user_attrs.get("again") for trial in trials}
        return Counter(trial.state for trial in trials if trial.number not in replaced)

    def best(self) -> FrozenTrial | None:
        """The first trial with the largest value."""
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return max(complete, key=attrgetter("value"), default=None)

    def _recover(self) -> None:
        """Queue failed trials, and those that were interrupted while their parameters were drawn."""
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and set(trial.params) != set(self.asked.space):
                self.study.tell(trial.number, state=TrialState.FAIL)
        trials = self.trials()
        replaced = {trial.user_attrs.get("again") for trial in trials}
        for trial in trials:
            if trial.state == TrialState.FAIL and trial.number not in replaced:
                self.study.enqueue_trial(trial.params, user_attrs={"again": trial.number})

    @contextmanager
    def batch(self, size: int) -> Iterator[dict[int, dict[str, Any]]]:
        """The parameters of the next trials by their numbers, locked for this launcher.

        Interrupted trials come first and alone, so that new ones are proposed from the same values as without
        interruption.
        """
        mine: dict[int, dict[str, Any]] = {}
        with ExitStack() as held:
            with self.alone():
                for trial in self.trials():
                    if trial.state == TrialState.RUNNING and len(mine) < size and self._take(trial.number, held):
                        mine[trial.number] = trial.params
                for _ in range(0 if mine else min(size, self._open())):
                    new = self._ask()
                    self._take(new.number, held)
                    mine[new.number] = new.params
            yield mine

    def _open(self) -> int:
        """The number of trials not yet started."""
        counts = self.counts()
        return counts[TrialState.WAITING] + max(0, self.settings.n_trials - counts.total())

    def _ask(self) -> optuna.Trial:
        """Propose a trial; it follows from the seed and the earlier trials, not from the launcher or the time."""
        source = np.random.SeedSequence([self.settings.seed, len(self.trials())])
        seed = int(source.generate_state(1)[0])
        if self.settings.sampler == "random":
            self.study.sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            self.study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=self.settings.startup_trials, constant_liar=True
            )
        return self.study.ask(self.asked.space)

    def _take(self, number: int, held: ExitStack) -> bool:
        """Hold a trial until its value is told; False where another launcher is at it, or has told it meanwhile."""
        try:
            held.enter_context(lock(self._locks / f"{number}.lock", None))
        except BlockingIOError:
            return False
        return self.trials()[number].state == TrialState.RUNNING

    def tell(self, number: int, value: float | None) -> None:
        """Record the value of a trial, or its failure."""
        if value is None:
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, value)


def storage(folder: Path, name: str) -> BaseStorage:
    """The storage of a study. Raises UserError for an unknown name."""
    if name == "journal":
        backend = JournalFileBackend(str(folder / JOURNAL))
        return JournalStorage(backend)
    if name != "sqlite" and "://" not in name:
        raise UserError(f"hydra.sweeper.storage: expected sqlite, journal or a URL (postgresql://...), found {name!r}")
    url = f"sqlite:///{folder.absolute() / SQLITE}" if name == "sqlite" else name
    wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}  # for other launchers
    return RDBStorage(url, engine_kwargs=wait)
