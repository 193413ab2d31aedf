"""Messages and progress bars beside Lightning's own. Imports nothing heavy, because a sweep uses it too."""

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anomaly_lab.core.distributed import is_first_process

if TYPE_CHECKING:
    import pytorch_lightning
    from rich.progress import Progress
Item = TypeVar("Item")
_shown: ContextVar["Progress | None"] = ContextVar("_shown", default=None)  # the bar of a command without a trainer


LOGGER = logging.getLogger("anomaly_lab")
PACKAGE = Path(__file__).parents[1]
_show_other = warnings.showwarning


class _ToStandardOutput(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(printable_lines(self.format(record)), flush=True)  # to the present sys.stdout


def say(text: str) -> None:
    """Log a message at level INFO to the logger `anomaly_lab`; the command line prints it unchanged."""
    LOGGER.info("%s", text)


def say_first(text: str) -> None:
    """Log a message that is not empty, in the first process alone."""
    if text and is_first_process():
        say(text)


def print_messages() -> None:
    """Print the messages of `say` and our own warnings to standard output, a line each.

    For the command line, which owns its process.
    """
    if not any(isinstance(handler, _ToStandardOutput) for handler in LOGGER.handlers):
        LOGGER.addHandler(_ToStandardOutput())
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    warnings.showwarning = _show


class _Outlet(io.RawIOBase):
    """A file descriptor to write to. Nobody reads it any longer, as behind `| head -1`: what is left goes nowhere."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def fileno(self) -> int:
        return self.number

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self.number)

    def write(self, data: Any, /) -> int:
        try:
            return os.write(self.number, data)
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.EIO}:  # a pipe or a terminal that is gone
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.number)
            os.close(nowhere)
            return len(data)


def never_fail_to_print() -> None:
    """Let no run end because its output cannot be read, or cannot be written in the encoding of the terminal.

    Characters that the encoding lacks are written as escapes. For the command line, which owns its process.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):  # else it is a notebook's
            stream.flush()
            writer = io.BufferedWriter(_Outlet(stream.fileno()))
            lines = stream.line_buffering or stream.write_through or name == "stderr"  # write_through: python -u
            own = io.TextIOWrapper(writer, stream.encoding, "backslashreplace", line_buffering=lines)
            setattr(sys, name, own)


def _show(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> None:
    """Say a warning of this package as its other messages, without the place in the code; show others as they are."""
    if not (issubclass(category, UserWarning) and PACKAGE in Path(filename).parents):
        _show_other(message, category, filename, *where, **more)
        return
    of_data = PACKAGE / "data" in Path(filename).parents
    say(("data: " if of_data else "") + printable(str(message)))


def tracked(items: Generator[Item, None, None], what: str, total: int | None = None) -> Generator[Item, None, None]:
    """Yield items under a progress bar with their number and rate; `total` None: the bar has no end.

    `counted` steps within an item appear in a second bar. Close the generator if the loop over it may end early.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with closing(items), bar as progress:
        token = _shown.set(progress)
        try:
            yield from progress.track(items, total=total, description=what)
        finally:
            _shown.reset(token)


def counted(trainer: "pytorch_lightning.Trainer | None", steps: int, what: str) -> Iterator[int]:
    """Count the steps of long work inside a batch, with a second bar if the batches have one."""
    from pytorch_lightning.callbacks import RichProgressBar

    bar = trainer.progress_bar_callback if trainer else None
    progress = bar.progress if isinstance(bar, RichProgressBar) else None if trainer else _shown.get()
    if progress is None or not progress.live.is_started:
        yield from range(steps)
        return
    task = progress.add_task(what, total=steps, inside=True)
    try:
        for step in range(steps):
            yield step
            progress.advance(task)
            if refresh := getattr(progress, "soft_refresh", None):  # Lightning's bar does not refresh by itself
                refresh()
    finally:
        progress.remove_task(task)


def printable(text: str) -> str:
    """A text in one printable line: file names may contain line breaks, escapes and invalid UTF-8."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """A text of several lines without anything that a terminal obeys but line breaks and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else printable(c) for c in text)


def duration(seconds: float) -> str:
    """Seconds in words: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
