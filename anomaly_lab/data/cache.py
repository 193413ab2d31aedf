"""Where decoded images are kept between runs, and the command that shows and clears them.

An entry is a folder named after the hash of everything that decides its contents. It is there when it is whole; a lock
beside it lets one process write while others wait.
Neither torch nor NumPy is imported here.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

VERSION = 1  # of what an entry holds: raise it when decoding changes, and older entries are never read again


def default_folder() -> Path:
    """`anomaly_lab/images` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomaly_lab" / "images"


def entry(folder: Path, decides: list[Any]) -> Path:
    """The entry for what decides its contents."""
    return folder / hashlib.sha256(repr([VERSION, *decides]).encode()).hexdigest()[:20]


def lock_of(path: Path) -> Path:
    """The file whose lock is held while an entry is made."""
    return path.with_name(f"{path.name}.lock")


def size(path: Path) -> int:
    """Bytes of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
