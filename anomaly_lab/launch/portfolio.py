"""The methods that `select` tries: which of them fit the machine and the time, and their runs as jobs of a sweep."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
import yaml
from omegaconf import DictConfig
from rich.table import Table

from anomaly_lab.config.files import CONF
from anomaly_lab.core.console import duration
from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.core.messages import explain, is_user_mistake
from anomaly_lab.launch.jobs import Job, Outcome, Words
from anomaly_lab.launch.local import Local
from anomaly_lab.launch.sweep import Composer, plan
from anomaly_lab.launch.table import JobTable
from anomaly_lab.networks.offline import OFFLINE, is_installed
from anomaly_lab.report.ranking import IMAGE_LEVEL, Contender
from anomaly_lab.runs.collect import read
from anomaly_lab.runs.folder import read_job, refuse_unwritable, seconds_of, state_of
from anomaly_lab.runs.measures import BY_KEY

GROUP = "select"  # of conf/
PAINTED = "synthetic_image_auroc"
SHOWN = ("image_auroc", "pixel_aupro", PAINTED)
Need = Literal["imagenet", "own_weights", "gpu"]
Name = Annotated[str, pydantic.Field(pattern=r"^\w[\w.+-]*$")]


class Candidate(pydantic.BaseModel, extra="forbid", frozen=True):
    """An entry of conf/select/*.yaml."""

    words: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    needs: frozenset[Need] = frozenset()
    seconds: pydantic.PositiveFloat  # of a run on two cores, without photos
    per_photo: pydantic.PositiveFloat


class Entry(NamedTuple):
    """A candidate with its jobs; without any if it is left out."""

    name: str
    candidate: Candidate
    jobs: list[Job]
    obstacle: str = ""  # why it is left out
    words: tuple[str, ...] = ()  # of its command, those that were typed among them


def portfolio(name: str, folder: Path | None) -> dict[str, Candidate]:
    """The candidates of `<name>.yaml` in conf/select or in somebody's own folder. Raises UserError for a bad file."""
    roots = [root / GROUP for root in (folder, CONF) if root]
    path = next((found for root in roots if (found := root / f"{name}.yaml").is_file()), None)
    if path is None:
        known = sorted({found.stem for root in roots for found in root.glob("*.yaml")})
        raise UserError(f"portfolio: expected one of {', '.join(known)}, found {name!r}{nearest(name, known)}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        return pydantic.TypeAdapter(dict[Name, Candidate]).validate_python(found, strict=False)
    except (yaml.YAMLError, pydantic.ValidationError, OSError, UnicodeDecodeError) as error:
        mistakes = error.errors() if isinstance(error, pydantic.ValidationError) else []
        places = [".".join(map(str, mistake["loc"])) or "the file" for mistake in mistakes]
        where = f"{places[0]}: {mistakes[0]['msg']}" if mistakes else " ".join(str(error).split())
        raise UserError(f"{path}: expected candidates with words, seconds and per_photo, found {where}") from error


def chosen(candidates: Mapping[str, Candidate], methods: Sequence[str]) -> dict[str, Candidate]:
    """The controls and the candidates of these names or methods (none: all).

    Raises UserError for one that the portfolio has not: nobody knows how long it takes. Also where controls alone are
    left, which would be compared with nothing.
    """
    rivals = [name for name, each in candidates.items() if not is_control(each)]
    if not rivals:
        raise UserError(
            f"portfolio: expected methods beside the controls, found {', '.join(candidates) or 'none'} alone; controls "
            "are what methods are compared with"
        )
    if not methods:
        return dict(candidates)
    called = {name: {name, *(word.removeprefix("method=") for word in each.words)} for name, each in candidates.items()}
    known = sorted({*candidates, *(word for name in called for word in called[name] if "=" not in word)} - {"control"})
    if unknown := [method for method in methods if not any(method in names for names in called.values())]:
        raise UserError(
            f"method: expected some of {', '.join(known)}, found {unknown[0]!r}{nearest(unknown[0], known)}; a file "
            "select/NAME.yaml in --config-dir adds others, with the seconds that they take (portfolio=NAME)"
        )
    if not any(called[name] & {*methods} for name in rivals):
        raise UserError(
            f"method: expected some of {', '.join(rivals)}, found {', '.join(methods)} alone; controls run beside all "
            "of them and are what these are compared with"
        )
    return {name: each for name, each in candidates.items() if called[name] & {"control", *methods}}


class Fitting:
    """Which candidates fit this machine, and with which words."""

    def __init__(self, typed: Sequence[str], gpu: bool, weights_of: Callable[[str], str | None]) -> None:
        self.typed = typed
        self.gpu = gpu
        self.weights_of = weights_of  # where the weights of a timm model can be had; None: nowhere
        self._sources: dict[str, str | None] = {}

    def words(self, candidate: Candidate, compose: Callable[[Sequence[str]], DictConfig]) -> tuple[list[str], str]:
        """The words of the command for this candidate, and what keeps it from running."""
        typed = list(self.typed)
        if is_control(candidate):
            typed = [word for word in typed if not is_of_training(word)]
        elif "imagenet" not in candidate.needs:
            typed = [word for word in typed if not is_of_backbone(word)]
        elif "own_weights" in candidate.needs:
            typed = [word for word in typed if not (is_of_backbone(word) and word.endswith(f"={OFFLINE}"))]
        words = [*candidate.words, *typed]
        if "gpu" in candidate.needs and not self.gpu:
            return [], "needs a GPU"
        if not candidate.needs & {"imagenet", "own_weights"} or any(map(gives_weights, words)):
            return words, ""
        backbone = compose(words).method.get("backbone")
        if backbone is None:
            return words, ""
        name = str(backbone.name)
        if backbone.weights is not None:
            return words, ""
        if name not in self._sources:
            self._sources[name] = self.weights_of(name)
        if self._sources[name]:
            return words, ""
        if "own_weights" not in candidate.needs and is_installed() and not any(map(is_of_backbone, typed)):
            return [*words, f"method.backbone={OFFLINE}"], ""
        offline = "" if "own_weights" in candidate.needs else "; pip install 'anomaly_lab[offline]', or type"
        key = method_of(candidate) if "own_weights" in candidate.needs else "method"
        return [], f"the weights of {name} are out of reach{offline or '; type'} {key}.backbone.weights=FILE"


def method_of(candidate: Candidate) -> str:
    """The method of a candidate."""
    return next((word.removeprefix("method=") for word in candidate.words if word.startswith("method=")), "")


def is_control(candidate: Candidate) -> bool:
    """Whether it is there to be beaten."""
    return method_of(candidate) == "control"


def is_of_training(word: str) -> bool:
    """Whether a word sets a key of the method or of its training, which not all methods have."""
    return word.lstrip("+~").startswith(("method.", "budget."))


def is_of_backbone(word: str) -> bool:
    """Whether a word sets the pretrained network, which is for methods that can have any."""
    return word.lstrip("+~").startswith(("method.backbone.", "method.backbone="))


def gives_weights(word: str) -> bool:
    """Whether a word says where the weights of the pretrained network are, so that nobody need look for them."""
    return word.lstrip("+").startswith(("method.backbone.weights=", "method.backbone="))


def refuse_unread(typed: Sequence[str], candidates: Mapping[str, Candidate]) -> None:
    """Raise UserError for a pretrained network that no candidate takes."""
    words = [word for word in typed if is_of_backbone(word)]
    if words and not any("imagenet" in candidate.needs for candidate in candidates.values()):
        key = words[0].lstrip("+~").removeprefix("method.")
        raise UserError(
            f"{words[0].partition('=')[0]}: expected a candidate that takes any network of ImageNet, found none; "
            f"NAME.{key} sets that of the method NAME"
        )


def entries(
    candidates: Mapping[str, Candidate],
    words_of: Callable[[Candidate], tuple[list[str], str]],
    compose: Composer,
    spread: Callable[[Sequence[str]], list[Words]],
) -> list[Entry]:
    """The candidates with their checked jobs, one per data set of `spread`.

    A candidate whose words make no run, such as a key that its method does not have, is left out with the reason.
    Raises UserError if all of them are, or all but controls, with the most frequent reason.
    """
    found = []
    for name, candidate in candidates.items():
        words, jobs = list[str](), list[Job]()
        try:
            words, obstacle = words_of(candidate)
            if not obstacle:
                jobs = [job._replace(label=name) for job in plan(compose, spread(words))]
        except Exception as error:
            if not is_user_mistake(error):
                raise
            obstacle = str(explain(error)).partition(" (in the job")[0]
        found.append(Entry(name, candidate, jobs, obstacle, tuple(words)))
    rivals = [entry for entry in found if not is_control(entry.candidate)] or found
    if not any(entry.jobs for entry in rivals):
        reason = Counter(entry.obstacle for entry in rivals).most_common(1)[0][0]
        raise UserError(f"select: expected a candidate that can run, found none; {reason}")
    return found


class Board(JobTable):
    """The table of `select`: every candidate, with its figures as soon as it has them; `shown`: which."""

    def __init__(self, names: Mapping[Path, str], shown: Sequence[str] = SHOWN) -> None:
        super().__init__(names)
        self.shown = shown

    def change(self, folder: Path, state: str, note: str = "") -> None:
        """Set the state of a job; of a finished one the figures are read."""
        if state == "done":
            run = read(folder, folder)
            values = {key: run.metrics[key] for key in self.shown if key in run.metrics}
            if self.entries[folder].label in IMAGE_LEVEL and "image_auroc" in values:  # turned as in the ranking
                values["image_auroc"] = max(values["image_auroc"], 1 - values["image_auroc"])
            names = {
                key: BY_KEY[key].name if key in BY_KEY else "AUROC of painted against unchanged photos"
                for key in values
            }
            note = ", ".join(f"{names[key]} {value:.3f}" for key, value in values.items())
        super().change(folder, state, note)

    def table(self) -> Table:
        """One row per job."""
        now = time.monotonic()
        table = Table("method", "state", "time", "result", expand=True)
        for entry in self.entries.values():
            running = None if entry.began is None else now - entry.began
            seconds = running if entry.seconds is None else entry.seconds
            table.add_row(entry.label, entry.state, "" if seconds is None else duration(seconds), entry.note)
        return table


def expected(entry: Entry, photos: int) -> float:
    """Seconds of a whole candidate on the machine of the file, for so many photos over all data sets."""
    return len(entry.jobs) * entry.candidate.seconds + entry.candidate.per_photo * photos


def announced(found: Sequence[Entry], photos: int, seconds: float) -> list[str]:
    """A line per candidate: what would run within so many seconds and about how long, or why it would not."""
    lines = []
    for entry in found:
        states = Counter(state_of(job.folder, job.result_key) for job in entry.jobs)
        of_jobs = ", ".join(f"{count} {state}" if len(entry.jobs) > 1 else state for state, count in states.items())
        to_do = sum(count for state, count in states.items() if state != "finished")
        likely = expected(entry, photos) * to_do / max(1, len(entry.jobs))
        fits = likely <= seconds
        seconds -= likely if fits else 0
        about = f"{of_jobs}, about {duration(expected(entry, photos))} on two cores" if states else entry.obstacle
        lines.append(f"  {entry.name}: {about}{'' if fits else ', which does not fit into what is left'}")
    return lines


def contend(
    found: Sequence[Entry], launcher: Local, config: DictConfig, seconds: float, photos: int, began: float,
    labels: bool = True,
) -> list[Contender]:  # fmt: skip
    """Run the candidates one after another; what is finished is skipped. No candidate starts that would end too late.

    `seconds`: from `began` (time.monotonic) to the end. How long the next one takes is estimated from its file and
    from how long the others took here, in this call if there are any. A failed one does not end the others.
    """
    pace, earlier = list[float](), list[float]()
    contenders = [Contender(entry.name, state="left out", note=entry.obstacle) for entry in found]
    names = {job.folder: entry.name for entry in found for job in entry.jobs}
    with Board(names, SHOWN if labels else (PAINTED,)) as board:
        for entry, contender in zip(found, contenders, strict=True):
            if not entry.jobs:
                continue
            usual = expected(entry, photos)
            to_do = [job for job in entry.jobs if state_of(job.folder, job.result_key) != "finished"]
            left = seconds - (time.monotonic() - began)
            likely = usual * median(pace or earlier or [1.0]) * len(to_do) / len(entry.jobs)
            if to_do and likely > left:
                contender.note = f"would take about {duration(likely)}, and {duration(max(left, 0))} are left"
                continue
            outcomes = {job.folder: Outcome("done") for job in entry.jobs}
            if to_do:
                refuse_unwritable(to_do[0].folder)
                start = time.monotonic()
                outcomes |= launcher.execute(to_do, config, board)
                if all(outcome.state == "done" for outcome in outcomes.values()):
                    pace.append((time.monotonic() - start) / (usual * len(to_do) / len(entry.jobs)))
            elif all(known := [seconds_of(read_job(job.folder)) for job in entry.jobs]):
                # Without the start of their processes: no sign of a fast machine, but one of a slow machine.
                earlier.append(max(1.0, sum(filter(None, known)) / usual))
            for job in entry.jobs:
                if job not in to_do:
                    board.change(job.folder, "done")
            settle(contender, entry, outcomes)
    return contenders


def settle(contender: Contender, entry: Entry, outcomes: Mapping[Path, Outcome]) -> None:
    """Enter how a candidate ended: its runs, or why it has none."""
    failed = [outcomes[job.folder] for job in entry.jobs if outcomes[job.folder].state == "failed"]
    contender.state = "failed" if failed else "done"
    if failed:
        last = failed[0].last_lines.strip().splitlines()[-1:]
        contender.note = " ".join([*last, f"({failed[0].note})"])
        return
    contender.note = ""
    contender.runs = [read(job.folder, job.folder) for job in entry.jobs]
    contender.minutes = sum(minutes_of(read_job(job.folder)) for job in entry.jobs)


def minutes_of(job: Mapping[str, Any]) -> float:
    """How long a run took by its job.json, with all attempts, in minutes; nan if it does not say."""
    seconds = seconds_of(job)
    return math.nan if seconds is None else seconds / 60
