"""The `key=value` options of the commands that need no Hydra."""

import glob
from collections.abc import Sequence
from pathlib import Path

from anomaly_lab.data.layouts import nearest
from anomaly_lab.errors import UserError
from anomaly_lab.report.collect import find
from anomaly_lab.run_folder import is_finished

Options = dict[str, str]  # name -> what it is


def parse(arguments: list[str], usage: str, known: Options, needed: Sequence[str]) -> dict[str, str] | None:
    """The options of a command; None when only help was wanted.

    A name with a dot belongs to the known option before the dot: `threshold.rate=0.05`. Raises UserError.
    """
    command, usage = usage.split()[0], f"python -m anomaly_lab {usage}"
    if {"--help", "-h"} & set(arguments):
        print(f"usage: {usage}", *(f"  {name}: {text}" for name, text in known.items()), sep="\n")
        return None
    options = {}
    for argument in arguments:
        name, equals, options[name] = argument.partition("=")
        if not equals or not options[name]:
            raise UserError(f"{command}: expected {usage}, found {argument!r} without a value")
        if name.partition(".")[0] not in known:
            raise UserError(f"{command}: expected {usage}, found {name!r}{nearest(name, known)}")
    for name in needed:
        if name not in options:
            raise UserError(f"{command}: expected {usage}, found no {name}=")
    return options


def switch(options: dict[str, str], name: str, default: bool) -> bool:
    """An option that is true or false. Raises UserError."""
    value = options.get(name, str(default)).lower()
    if value not in {"true", "false"}:
        raise UserError(f"{name}: expected true or false, found {options[name]!r}")
    return value == "true"


def finished_runs(folders: str) -> list[Path]:
    """The finished runs that a text names, each once: folders with commas between them, or with wildcards.

    A folder that is no run stands for the finished runs below it. Raises UserError where one stands for none.
    """
    runs: dict[Path, Path] = {}
    for name in [folders] if Path(folders).expanduser().is_dir() else folders.split(","):
        folder = Path(name).expanduser()
        matches = [folder] if folder.is_dir() else sorted(map(Path, glob.glob(str(folder), recursive=True)))
        found = [run for match in matches if name and match.is_dir() for run in find(match) if is_finished(run)]
        for run in found or [finished_run(name)]:
            runs.setdefault(run.resolve(), run)
    return list(runs.values())


def finished_run(folder: str) -> Path:
    """The folder of a finished run, or a UserError."""
    run = Path(folder).expanduser()
    if not is_finished(run):
        raise UserError(
            "run: expected the folder of a finished run of this version (metrics.json, and job.json with state done), "
            f"found {run}"
        )
    return run
