"""Lock files: one process at a time. The kernel releases a lock when its holder ends, however it ends."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from anomaly_lab.core.console import say

ATTEMPTS = 100  # to open a file in a folder that others remove


@contextmanager
def lock(path: Path, wait: Callable[[str], None] | None) -> Iterator[IO[str]]:
    """Hold a lock file and remove it afterwards; yields the empty file, for one line about the holder.

    If another process holds it, `wait` is called with the line of that process before waiting. Raises BlockingIOError
    instead if `wait` is None.
    """
    while True:
        with _opened(path) as file:
            _hold(file, path, wait)
            if not _is(file, path):  # the previous holder has removed it: hold the present one
                continue
            file.truncate(0)
            try:
                yield file
            finally:
                path.unlink(missing_ok=True)  # while still held: waiting processes see that the path has changed
            return


def _opened(path: Path) -> IO[str]:
    """The file, in its folder; both may be removed at any moment by somebody who is done."""
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("a+")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+")


def _hold(file: IO[str], path: Path, wait: Callable[[str], None] | None) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if wait is None:
            raise
        file.seek(0)
        wait(file.read())
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # a file system without locks
        say(f"{path}: cannot be locked ({error}); do not start the same work twice")


def _is(file: IO[str], path: Path) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def share(file: IO[bytes]) -> None:
    """Mark an open file as in use until it and every mapping of it are closed; many processes may do so at a time."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_held(path: Path, shared: bool = False) -> bool:
    """Whether a process holds a lock file, or, for `shared`, has marked a file as in use.

    True also if that cannot be determined. Writes nothing.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, (fcntl.LOCK_EX if shared else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True
