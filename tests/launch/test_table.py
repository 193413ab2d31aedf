"""The table of a sweep: the time left, the last lines of a log, and what stands where there is no terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from anomaly_lab.launch.table import Entry, JobTable, last_lines, lines_at_end, time_left


def entry(state, began=None, seconds=None):
    return Entry("x", state, began=began, seconds=seconds)


def test_the_time_left_is_that_of_what_is_to_do_at_the_mean_speed():
    done = [entry("done", 0, 8.0), entry("done", 0, 12.0)]
    assert time_left([entry("running", began=0.0)], 1, 5.0) is None
    assert time_left([*done, entry("waiting"), entry("waiting")], 1, 0.0) == 20.0
    assert time_left([*done, entry("waiting"), entry("waiting")], 2, 0.0) == 10.0
    assert time_left([*done, entry("running", began=100.0), entry("waiting")], 2, 104.0) == pytest.approx((6 + 10) / 2)
    assert time_left([*done, entry("running", began=100.0)], 4, 104.0) == pytest.approx(6)  # one job is not shared
    assert time_left([*done, entry("running", began=1.0)], 1, 500.0) == 0.0
    assert time_left([*done, entry("failed")], 1, 0.0) == 0.0


def test_the_last_lines_of_a_log(tmp_path):
    log = tmp_path / "job.log"
    assert last_lines(log, 3) == ""
    log.write_bytes(b"before\n" + b"first\n\nsecond\r\nbar 1\rbar 2\rbar 3\n   \n")
    assert last_lines(log, 2) == "bar 2\nbar 3"
    with log.open("rb") as file:
        assert lines_at_end(file.fileno(), 9, len(b"before\n")) == "first\nsecond\nbar 1\nbar 2\nbar 3"
    log.write_bytes(b"\xff" + b"x" * 10000)
    assert last_lines(log, 1) == "x" * 4096


def board(terminal, folders):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    return JobTable({folder: folder.name for folder in folders}, console), console


def test_lines_where_there_is_no_terminal(capsys):
    a, b = Path("a"), Path("b")
    with board(False, [a, b])[0] as lines:
        lines.change(a, "running")
        lines.change(b, "running")
        lines.change(b, "running")
        lines.change(a, "done")
        lines.change(b, "failed", "exit code 3")
    assert capsys.readouterr().out.splitlines() == [
        "[0/2] running: a", "[0/2] running: b", "[1/2] done in 0 s: a", "[2/2] failed: b (exit code 3)"
    ]  # fmt: skip


def test_the_table_shows_what_runs_and_what_failed(tmp_path, capsys):
    folders = [tmp_path / name for name in ("one", "two", "three", "four")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "job.log").write_text("epoch 1/9\nepoch 2/9\n")
    live, console = board(True, folders)
    with live:
        live.change(folders[0], "running")
        live.change(folders[1], "running")
        live.change(folders[1], "failed", "killed (signal 9)")
        live.change(folders[2], "running")
        live.change(folders[2], "done")
        console.print(live.table())
    shown = console.file.getvalue()
    for text in ("one", "epoch 2/9", "two", "killed (signal 9)", "1 running · 1 done · 1 failed · 1 waiting", "left"):
        assert text in shown
    assert not {"three", "four", "epoch 1/9"} & set(shown.split())
    assert capsys.readouterr().out == ""
