"""Which finished run a text names: a folder, `last`, the name of an experiment, or the beginning of a hash."""

import glob
from pathlib import Path

from anomaly_lab.config.schema import MissingPackageError
from anomaly_lab.core.errors import UserError
from anomaly_lab.runs import settings
from anomaly_lab.runs.collect import find
from anomaly_lab.runs.folder import is_finished, maker_of, read_job
from anomaly_lab.runs.naming import versions_of

RUNS = Path("runs")  # where names are looked up: `runs_dir` unless it is typed


def finished_runs(text: str) -> list[Path]:
    """The finished runs that a text names, each once: folders or names separated by commas, or with wildcards.

    A folder that is not a run, or the name of an experiment, stands for the finished runs below it. Raises UserError
    if there are none.
    """
    runs: dict[Path, Path] = {}
    for name in [text] if Path(text).expanduser().is_dir() else text.split(","):
        folder = Path(name).expanduser()
        matches = [folder] if folder.exists() else sorted(map(Path, glob.glob(str(folder), recursive=True)))
        below = [run for match in matches or by_name(name) if name and match.is_dir() for run in find(match)]
        found = [run for run in below if is_finished(run) and not changed_method(run)]
        for run in found or [finished_run(name)]:
            runs.setdefault(run.resolve(), run)
    return list(runs.values())


def finished_run(text: str) -> Path:
    """The folder of the finished run that a text names. Raises UserError if it names none, several, or an older one."""
    run = Path(text).expanduser()
    if not run.exists() and (named := by_name(text)):
        if len(named) > 1:
            raise UserError(
                f"run: expected one run, found {len(named)} that are named {text}: {', '.join(map(str, named[:3]))}"
                f"{', ...' if len(named) > 3 else ''}"
            )
        (run,) = named
    if maker := maker_of(run):
        raise UserError(
            f"run: expected a run folder of this version, found one that {maker} made: {run}; run its command again"
        )
    if not is_finished(run):
        raise UserError(f"run: {what_is_wrong(run)}")
    if change := changed_method(run):
        raise UserError(f"run: {change}")
    return run


def by_name(text: str) -> list[Path]:
    """The finished runs below `runs/` that are named so: the `last`, those of an experiment, or by their hash."""
    if not text or Path(text).name != text or not RUNS.is_dir():
        return []
    finished = (run for run in find(RUNS) if is_finished(run))
    runs = sorted(finished, key=lambda run: (run / "metrics.json").stat().st_mtime_ns)
    if text == "last":
        return runs[-1:]
    return [run for run in runs if text in run.relative_to(RUNS).parts[:-1]] or [
        run for run in runs if run.name.startswith(text)
    ]


def what_is_wrong(run: Path) -> str:
    """Why a path is not the folder of a finished run, and what to type instead."""
    if run.is_file():
        inside = next((folder for folder in run.parents if is_finished(folder)), None)
        hint = f"; type run={inside}" if inside else ""
        return f"expected the folder of a finished run, found a file: {run}{hint}"
    if not run.exists():
        return f"expected the folder of a finished run, the name of one below {RUNS}/, or last, found nothing at {run}"
    if state := read_job(run).get("state"):
        return f"expected the folder of a finished run, found one that is {state}: {run}; its command goes on with it"
    return f"expected the folder of a finished run (job.json and metrics.json), found {run}"


def changed_method(run: Path) -> str:
    """How the code of the method differs from that at training, and what to do; empty if its version is the same.

    If it does, the weights belong to other code, and their predictions now would be a result of neither version.
    """
    before = read_job(run).get("versions")
    if not isinstance(before, dict):
        return ""
    try:
        config = settings.read(run / ".hydra" / "config.yaml")
        now, name, found = versions_of(config)["method"], config["method"]["name"], before.get("method")
    except MissingPackageError as error:
        return f"expected the package of its method, found {error}: {run}"
    except UserError as error:
        return f"expected a run of a method of this version, found another ({error}): {run}; run its command again"
    except (OSError, ValueError, LookupError, TypeError):
        return ""  # whoever loads the run says what is wrong with it
    change = f"expected a run of version {now} of {name}, found version {found}: {run}; run its command again"
    return "" if found == now else change
