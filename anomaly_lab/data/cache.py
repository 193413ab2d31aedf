"""Where decoded images are kept between runs, and the command that shows and clears them.

An entry is a folder named after the hash of everything that decides its contents. It is made under another name and
renamed when it is whole, so that nobody ever reads half of one; a lock beside it lets one process write while others
wait.
Neither torch nor NumPy is imported here.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

VERSION = 1  # of what an entry holds: raise it when decoding changes, and older entries are never read again
LOCK = ".lock"


def default_folder() -> Path:
    """`anomaly_lab/images` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomaly_lab" / "images"


def entry(folder: Path, decides: list[Any]) -> Path:
    """The entry for what decides its contents."""
    return folder / hashlib.sha256(repr([VERSION, *decides]).encode()).hexdigest()[:20]


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes `path` when the block ends well, and is removed when it does not."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(path, ignore_errors=True)  # an entry that is not whole
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def lock(path: Path) -> FileLock:
    """The lock of an entry; it opens when its holder ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}{LOCK}"))


def size(path: Path) -> int:
    """Bytes of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
