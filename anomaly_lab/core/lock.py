"""Lock files: one process at a time. The kernel opens a lock when its holder ends, however it ends."""

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
    """Hold a lock file, which is gone afterwards; yields it, empty, for a line about the holder.

    Where another process holds it, `wait` is called with the line of that process before the wait begins. Raises
    BlockingIOError instead without `wait`.
    """
    while True:
        with _opened(path) as file:
            _hold(file, path, wait)
            if not _is(file, path):  # the holder before has removed it: hold the one that is there now
                continue
            file.truncate(0)
            try:
                yield file
            finally:
                path.unlink(missing_ok=True)  # still held: those who wait see that it is not the file any more
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
    """Whether a path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file, or whether that cannot be found out. Writes nothing."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True
