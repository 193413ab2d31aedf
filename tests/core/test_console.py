"""Durations as people say them, and the bar of what is long inside a batch."""

import io
import os
import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.progress import Progress

from anomaly_lab.core import console
from anomaly_lab.core.console import (
    _Outlet,
    counted,
    duration,
    never_fail_to_print,
    print_messages,
    printable,
    printable_lines,
    tracked,
)
from tests.conftest import ROOT, stand_in


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_durations_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text


def test_our_own_warnings_are_said_in_one_line_and_others_shown_as_they_are(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    others = []
    monkeypatch.setattr(console, "_show_other", lambda message, *where: others.append(str(message)))
    print_messages()
    print_messages()  # of a sweep: not twice as much
    ours = Path(console.__file__).parents[1]
    for text, kind, file in (
        ("a.tif: 2 pages\n\x1b[2J", UserWarning, ours / "data/x.py"),
        ("no pixel metrics", UserWarning, ours / "metrics/x.py"),
        ("foreign", UserWarning, Path("/lib/x.py")),
        ("old", DeprecationWarning, ours / "data/x.py"),
    ):
        warnings.showwarning(kind(text), kind, str(file), 7)
    assert capsys.readouterr().out == "data: a.tif: 2 pages\\n\\x1b[2J\nno pixel metrics\n"
    assert others == ["foreign", "old"]


def with_bar(progress):
    class Drawn(Progress):
        def soft_refresh(self):
            self.refresh()

    drawn = Drawn(console=progress)
    bar = stand_in(RichProgressBar, progress=drawn)
    return drawn, stand_in(pl.Trainer, progress_bar_callback=bar)


def test_steps_inside_a_batch_have_a_bar_of_their_own_that_goes_away():
    written = io.StringIO()
    progress, trainer = with_bar(Console(file=written, force_terminal=True, width=80))
    seen = []
    with progress:
        progress.add_task("Testing", total=2)
        for step in counted(trainer, 5, "latent search"):
            (task,) = (task for task in progress.tasks if task.description == "latent search")
            seen.append((step, task.completed, task.total))
        assert [task.description for task in progress.tasks] == ["Testing"]
    assert seen == [(step, step, 5) for step in range(5)]
    assert "latent search" in written.getvalue()


def test_without_a_bar_steps_are_only_counted():
    progress, trainer = with_bar(Console(file=io.StringIO()))
    assert list(counted(trainer, 3, "latent search")) == [0, 1, 2]  # not started
    assert not progress.tasks
    assert list(counted(None, 3, "latent search")) == [0, 1, 2]
    assert list(counted(stand_in(pl.Trainer, progress_bar_callback=SimpleNamespace()), 2, "")) == [0, 1]


def test_what_is_tracked_passes_under_a_bar_and_so_do_steps_inside(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # what rich asks before it draws
    monkeypatch.setenv("COLUMNS", "120")
    closed = []

    def photos():
        try:
            for photo in "abc":
                assert list(counted(None, 2, "latent search")) == [0, 1]
                yield photo
        finally:
            closed.append(True)

    assert list(tracked(photos(), "judging")) == ["a", "b", "c"]
    assert "judging" in (drawn := capsys.readouterr().out)
    assert "latent search" in drawn
    with closing(tracked(photos(), "judging", total=3)) as early:
        next(early)
    assert closed == [True, True]
    assert list(counted(None, 2, "latent search")) == [0, 1]
    assert "latent search" not in capsys.readouterr().out.rpartition("judging")[2]


def test_without_a_terminal_nothing_is_drawn(monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    assert list(tracked((letter for letter in "ab"), "judging")) == ["a", "b"]
    assert capsys.readouterr().out == ""


def test_names_are_shown_in_one_line_whatever_they_hold():
    assert printable("größe, 2 µm.png") == "größe, 2 µm.png"
    assert printable_lines("a\n\tb\x1b]0;c\x07\r") == "a\n\tb\\x1b]0;c\\x07\\r"
    assert printable("a\nb\x1b[31m\udcff\t.png") == r"a\nb\x1b[31m\udcff\t.png"


def printed(code, encoding="utf-8", gone=False, unbuffered=""):
    """What a process of its own writes; nobody reads its output if the reader has `gone`."""
    words = [
        sys.executable,
        "-c",
        f"from anomaly_lab.core.console import *; import os, sys; never_fail_to_print(); {code}",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    reader, writer = os.pipe()
    if gone:
        os.close(reader)
    done = subprocess.run(words, stdout=writer if gone else PIPE, stderr=PIPE, env=environment, check=False)
    for end in (writer,) if gone else (reader, writer):
        os.close(end)
    return done.returncode, (done.stdout or b"").decode(encoding), done.stderr.decode(encoding)


def test_a_reader_that_has_gone_ends_nothing():
    code = "[print('x' * 9999, flush=True) for _ in range(99)]; print('still here', file=sys.stderr)"
    assert printed(code, gone=True) == (0, "", "still here\n")
    assert printed("print('read')") == (0, "read\n", "")


def test_a_terminal_that_has_gone_ends_nothing():
    keeper, terminal = os.openpty()
    os.close(keeper)
    assert _Outlet(terminal).write(b"lost") == 4  # EIO, and nothing but a terminal or a pipe is let go
    os.close(terminal)
    with pytest.raises(OSError, match="Bad file descriptor"):
        _Outlet(terminal).write(b"lost")


def test_output_that_is_not_buffered_comes_at_once():
    code = "print('first'); os._exit(0)"
    assert printed(code, unbuffered="1") == (0, "first\n", "")
    assert printed(code) == (0, "", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_that_a_terminal_lacks_are_written_as_escapes(encoding):
    code = r"print('\u65e5\u672c'); print('\u25cf', file=sys.stderr)"
    assert printed(code, encoding) == (0, "\\u65e5\\u672c\n", "\\u25cf\n")


def test_the_output_of_a_notebook_is_left_alone(monkeypatch):
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own)
    never_fail_to_print()
    assert sys.stdout is own
