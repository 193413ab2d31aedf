"""The state of a sweep: a live table in a terminal, otherwise one line per start and end of a job."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from anomaly_lab.core.console import duration, say

LOG = "job.log"  # in the run folder: what the process printed
SHOWN = 20  # rows
TAIL = 4096  # bytes at the end of a log that are read


@dataclass
class Entry:
    """A job in the table; times in seconds of time.monotonic()."""

    label: str
    state: str = "waiting"  # waiting, running, done, failed
    note: str = ""
    began: float | None = None
    seconds: float | None = None


class JobTable:
    """Shows the states of jobs, identified by their run folders."""

    def __init__(self, labels: Mapping[Path, str], console: Console | None = None) -> None:
        self.entries = {folder: Entry(label) for folder, label in labels.items()}
        self.at_a_time = 1
        self._console = console or Console()
        self._live = Live(get_renderable=self.table, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "JobTable":
        """Draw the table in a terminal."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the table."""
        self._live.stop()

    def change(self, folder: Path, state: str, note: str = "") -> None:
        """Set the state of a job."""
        entry = self.entries[folder]
        before, entry.state, entry.note = entry.state, state, note
        if before == state:
            return
        if state == "running":
            entry.began = time.monotonic()
        elif state in {"done", "failed"} and entry.began is not None:
            entry.seconds = time.monotonic() - entry.began
        if not self._console.is_terminal:
            counts = Counter(entry.state for entry in self.entries.values())
            ended = f"{counts['done'] + counts['failed']}/{len(self.entries)}"
            took = f" in {duration(entry.seconds)}" if state == "done" and entry.seconds else ""
            say(f"[{ended}] {state}{took}: {entry.label}{f' ({note})' if note else ''}")

    def table(self) -> Table:
        """One row per running or failed job; the others only as counts."""
        now = time.monotonic()
        counts = Counter(entry.state for entry in self.entries.values())
        left = time_left(self.entries.values(), self.at_a_time, now)
        caption = " · ".join(
            [f"{counts[state]} {state}" for state in ("running", "done", "failed", "waiting")]
            + ([f"about {duration(left)} left"] if left is not None else [])
        )
        table = Table("job", "state", "time", "last line", caption=caption, expand=True)
        rows = [(folder, entry) for folder, entry in self.entries.items() if entry.state in {"running", "failed"}]
        for folder, entry in rows[-SHOWN:]:
            seconds = entry.seconds if entry.seconds is not None or entry.began is None else now - entry.began
            last = last_lines(folder / LOG, 1) if entry.state == "running" else entry.note
            table.add_row(entry.label, entry.state, "" if seconds is None else duration(seconds), last)
        return table


def time_left(entries: Iterable[Entry], at_a_time: int, now: float) -> float | None:
    """Seconds until the last job ends, from the mean time of finished jobs; None before the first one."""
    entries = list(entries)
    took = [entry.seconds for entry in entries if entry.state == "done" and entry.seconds is not None]
    if not took:
        return None
    each = sum(took) / len(took)
    running = [max(each - (now - entry.began), 0) for entry in entries if entry.state == "running" and entry.began]
    waiting = sum(entry.state == "waiting" for entry in entries)
    return max(max(running, default=0), (sum(running) + waiting * each) / at_a_time)


def last_lines(path: Path, count: int) -> str:
    """The last lines of a log that are not empty; empty without a log."""
    try:
        with path.open("rb") as file:
            return lines_at_end(file.fileno(), count)
    except FileNotFoundError:
        return ""


def lines_at_end(file: int, count: int, begin: int = 0) -> str:
    """The same after byte `begin` of an open file, which may have been deleted meanwhile."""
    end = os.fstat(file).st_size
    text = os.pread(file, TAIL, max(begin, end - TAIL)).decode(errors="replace")
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
