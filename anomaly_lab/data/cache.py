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

from filelock import FileLock, Timeout

from anomaly_lab.errors import UserError

VERSION = 1  # of what an entry holds: raise it when decoding changes, and older entries are never read again
LOCK = ".lock"
USAGE = "python -m anomaly_lab data cache [clear] [data.cache_dir=FOLDER]"


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


def main(arguments: list[str]) -> None:
    """Show what is kept, or clear it; entries that are being written are left alone."""
    if {"--help", "-h"} & set(arguments) or not arguments:
        print(f"usage: {USAGE}")
        return
    folder = default_folder()
    if arguments[-1].startswith("data.cache_dir="):
        folder = Path(arguments[-1].partition("=")[2]).expanduser()
        arguments = arguments[:-1]
    if arguments not in (["cache"], ["cache", "clear"]):
        raise UserError(f"data: expected {USAGE}, found {' '.join(arguments)!r}")
    entries = [path for path in sorted(folder.glob("*")) if path.is_dir()]
    total = sum(size(path) for path in entries)
    if arguments == ["cache"]:
        for path in entries:
            print(f"{size(path) / 2**20:10.1f} MB  {path}")
        print(f"{total / 2**20:10.1f} MB  in {len(entries)} entries of {folder}")
        return
    cleared = sum(_clear(path) for path in entries)
    for file in folder.glob(f"*{LOCK}"):
        file.unlink()
    print(f"cleared {cleared / 2**20:.1f} of {total / 2**20:.1f} MB in {folder}")


def _clear(path: Path) -> int:
    """Remove an entry, or what a killed process left of one, unless it is being written; bytes that came free."""
    name = path.name.removeprefix(".").partition(".")[0]
    try:
        with lock(path.with_name(name)).acquire(timeout=0):
            freed = size(path)
            shutil.rmtree(path)
            return freed
    except Timeout:
        return 0
