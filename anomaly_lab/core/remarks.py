"""Remarks about single images, collected and counted."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from anomaly_lab.core.console import printable

NAMED = 5  # images, at most, that a message names


class Remark(NamedTuple):
    """What a method has to say about one image."""

    path: str
    text: str


class RemarkCounter:
    """How many images a remark holds for, and the names of the first of them: all that is kept of a million."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def add(self, text: str, path: Path) -> None:
        """Note that `text` is said of an image."""
        self._counts[text] += 1
        names = self._first.setdefault(text, [])
        if len(names) < NAMED:
            names.append(printable(f"{path.parent.name}/{path.name}"))

    def lines(self) -> list[str]:
        """A line a text: `3 not aligned: good/000.png, good/001.png, good/007.png`."""
        return [
            f"{count} {text}: {', '.join(self._first[text])}{', ...' if count > NAMED else ''}"
            for text, count in self._counts.items()
        ]
