"""The cache of decoded images and of the figures of the controls.

An entry is a folder named after the hash of everything that decides its contents. It appears when it is complete; a
lock beside it lets one process write while others wait. Neither torch nor NumPy is imported here.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

VERSION = 1  # of the entries: raise it when decoding changes, so that older ones are never read again


def default_folder() -> Path:
    """`anomaly_lab/images` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomaly_lab" / "images"


def entry(folder: Path, decides: list[Any]) -> Path:
    """The folder of the entry with the contents that these values decide."""
    return folder / hashlib.sha256(repr([VERSION, *decides]).encode()).hexdigest()[:20]


def lock_of(path: Path) -> Path:
    """The lock file of an entry, held while it is written."""
    return path.with_name(f"{path.name}.lock")


def size(path: Path) -> int:
    """The size of a folder in bytes."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
