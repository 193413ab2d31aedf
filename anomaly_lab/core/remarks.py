"""Remarks about single images, collected and counted."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from anomaly_lab.core.console import printable

NAMED = 5  # a message names at most so many images


class Remark(NamedTuple):
    """A remark of a method on one image."""

    path: str
    text: str


class RemarkCounter:
    """The number of images per remark and the names of the first few; memory does not grow with the images."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def add(self, text: str, path: Path) -> None:
        """Count the remark `text` on an image."""
        self._counts[text] += 1
        names = self._first.setdefault(text, [])
        if len(names) < NAMED:
            names.append(printable(f"{path.parent.name}/{path.name}"))

    def lines(self) -> list[str]:
        """One line per text: `3 not aligned: good/000.png, good/001.png, good/007.png`."""
        return [
            f"{count} {text}: {', '.join(self._first[text])}{', ...' if count > NAMED else ''}"
            for text, count in self._counts.items()
        ]
