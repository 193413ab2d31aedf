"""The `key=value` options of the commands that need no Hydra."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from anomaly_lab.config.build import trusted
from anomaly_lab.core.errors import UserError, nearest, without_dashes

Number = TypeVar("Number", int, float)
Options = dict[str, str]  # name -> description
TRUST: Options = {"trust": "packages whose classes a run may name beside ours, separated by commas"}


def parse(arguments: list[str], usage: str, known: Options, needed: Sequence[str]) -> dict[str, str] | None:
    """The options of a command; None after printing its help.

    A name with a dot belongs to the known option before the dot: `threshold.rate=0.05`. Raises UserError for an unknown
    option, a missing value or a missing option of `needed`.
    """
    command, usage = usage.split()[0], f"python -m anomaly_lab {usage}"
    if {"--help", "-h"} & set(arguments):
        print(f"usage: {usage}", *(f"  {name}: {text}" for name, text in known.items()), sep="\n")
        return None
    options = {}
    for argument in arguments:
        name, equals, options[name] = argument.partition("=")
        if not equals and Path(argument).exists():
            raise UserError(
                f"{command}: expected key=value, found the file {argument!r} alone; a pattern, or a path with spaces, "
                "stands in quotes: 'source=photos/*.png'"
            )
        if not equals or not options[name]:
            raise UserError(f"{command}: expected {usage}, found {argument!r} without a value")
        if name.startswith("-"):
            raise without_dashes(argument)
        if name.partition(".")[0] not in known:
            raise UserError(f"{command}: expected {usage}, found {name!r}{nearest(name, known)}")
    for name in needed:
        if name not in options:
            raise UserError(f"{command}: expected {usage}, found no {name}=")
    return options


def switch(options: dict[str, str], name: str, default: bool) -> bool:
    """The value of an option that is true or false. Raises UserError for anything else."""
    value = options.get(name, str(default)).lower()
    if value not in {"true", "false"}:
        raise UserError(f"{name}: expected true or false, found {options[name]!r}")
    return value == "true"


def number(options: dict[str, str], name: str, default: Number, lowest: float, highest: float = 2**32 - 1) -> Number:
    """The value of an option that is a number like its default. Raises UserError for another one, and out of range."""
    kind = type(default)
    try:
        value = kind(options.get(name, default))
    except ValueError:
        value = kind(-1)
    if not lowest <= value <= highest:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{name}: expected {what} from {lowest:g} to {highest:.10g}, found {options[name]!r}")
    return value


def packages(options: dict[str, str]) -> list[str]:
    """The packages that the user trusts."""
    return trusted(options.get("trust", ""))
