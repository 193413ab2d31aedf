"""Files that are whole or not there, JSON without NaN, CSV that is read as it was written."""

import csv
import errno
import json
import math
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from anomaly_lab.core.errors import UserError, full_disk
from anomaly_lab.core.files import finite, growing_csv, read_csv, write_csv, write_json, write_whole, writing
from anomaly_lab.core.messages import explain, is_user_mistake


def test_what_is_no_number_is_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.0, float("inf")], "c": {"d": 2.5}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.0, None], "c": {"d": 2.5}}


def test_an_infinite_number_may_have_a_place():
    assert finite({1: (math.inf, -math.inf, math.nan)}, 9.0) == {"1": [9.0, -9.0, None]}


def test_files_are_whole_or_the_old_ones(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"x": 1.5})

    def fails(part):
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "deep" / "a.json", fails)
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"x": 1.5}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_two_processes_may_write_one_file_at_once(tmp_path, monkeypatch):
    path, names = tmp_path / "a.json", []

    def second(part):
        names.append(part.name)
        part.write_text("2")

    def first(part):
        part.write_text("1")
        names.append(part.name)
        monkeypatch.setattr("os.getpid", lambda: 1)  # the other process, while the first has not finished
        write_whole(path, second)
        assert path.read_text() == "2"
        assert part.read_text() == "1"

    write_whole(path, first)
    assert path.read_text() == "1"
    assert len(set(names)) == 2


def test_a_folder_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "entry"

    def fails():
        with writing(path) as part:
            part.mkdir()
            (part / "images").write_bytes(b"half")
            raise OSError("disk full")

    for before in ([], ["entry"]):
        with pytest.raises(OSError, match="disk full"):
            fails()
        assert [found.name for found in path.parent.iterdir()] == before
        with writing(path) as part:
            part.mkdir()
            (part / f"images{len(before)}").write_bytes(b"whole")
            assert path.exists() == bool(before)
        assert [found.name for found in path.iterdir()] == [f"images{len(before)}"]  # in place of the earlier one


def test_a_full_disk_is_the_users_to_mend(tmp_path):
    def fails(part):
        part.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    write_json(tmp_path / "a.json", 1)
    with pytest.raises(UserError, match=r"a.json: expected room on the disk, found none \(No space left on device\)"):
        write_whole(tmp_path / "a.json", fails)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["1\n"]
    wrapped = RuntimeError("unexpected pos")
    wrapped.__context__ = OSError(errno.EDQUOT, "Disk quota exceeded", "maps/001.tiff")
    assert is_user_mistake(wrapped)
    assert str(explain(wrapped)).startswith(
        "maps/001.tiff: expected room on the disk, found none (Disk quota exceeded)"
    )
    assert full_disk(OSError(errno.EACCES, "Permission denied")) is None
    for error in (OSError("65536 requested and 15292 written"), RuntimeError("[enforce fail] unexpected pos 64 vs 0")):
        assert "expected room on the disk, found none" in str(full_disk(error, tmp_path))
    assert full_disk(ValueError("expected a number")) is None


@pytest.mark.parametrize("write", [
    lambda part: tifffile.imwrite(part, np.zeros((200, 200), np.float32)),
    lambda part: np.zeros(40_000).tofile(part),
    lambda part: torch.save(torch.zeros(40_000), part),
    lambda part: part.write_bytes(bytes(200_000)),
])  # fmt: skip
def test_every_writer_on_a_full_disk_ends_in_one_line(tmp_path, write):
    """A limit on the size of files stands for the disk: the kernel cuts the write short in the same way."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_292, before[1][1]))
    try:
        with pytest.raises(UserError, match=r"a.bin: expected room on the disk, found none"):
            write_whole(tmp_path / "a.bin", write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "'=1", "\t=1", "=HYPERLINK(1).png"])
def test_a_spreadsheet_computes_nothing_and_the_text_comes_back(tmp_path, text):
    write_csv(tmp_path / "a.csv", ("path", "score"), [(text, -0.5)])
    with growing_csv(tmp_path / "b.csv", ("path", "score")) as add:
        add((Path(text), -0.5))
    for name in ("a.csv", "b.csv"):
        with (tmp_path / name).open(newline="") as file:
            ((cell, score),) = list(csv.reader(file))[1:]
        assert (cell, score) == (f"'{text}", "-0.5")
        assert read_csv(tmp_path / name) == [{"path": text, "score": "-0.5"}]


@pytest.mark.parametrize("text", ["-0.5", "'quoted'", "a=b", "", "+1e-3"])
def test_numbers_and_other_texts_are_written_as_they_are(tmp_path, text):
    write_csv(tmp_path / "a.csv", ("x",), [(text,)])
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == [text]


def test_csv(tmp_path):
    path = tmp_path / "a.csv"
    write_csv(path, ("path", "score"), [("a, b.png", 0.5), ('a "b"\nc', 1)])
    assert path.read_bytes() == b'path,score\r\n"a, b.png",0.5\r\n"a ""b""\nc",1\r\n'
    assert read_csv(path) == [{"path": "a, b.png", "score": "0.5"}, {"path": 'a "b"\nc', "score": "1"}]
    for content, rows in ((b"", []), (b"path,score\r\n", [])):
        path.write_bytes(content)
        assert read_csv(path) == rows
    for damaged in (b"path,score\na\n", b"path,score\na,1,2\n", b"path\n\xff\n", b"path\n" + b"x" * 200_000):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"shorter|longer|decode|field larger"):
            read_csv(path)
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "none.csv")


def test_a_table_that_grows_has_its_name_when_it_is_whole(tmp_path):
    path, part = tmp_path / "deep/scores.csv", tmp_path / "deep/scores.csv.part"
    with growing_csv(path, ("path", "score")) as add:
        add(("größe\udcff,.png", 0.5))
        assert part.read_bytes() == b'path,score\r\n"gr\xc3\xb6\xc3\x9fe\\udcff,.png",0.5\r\n'  # at once
        assert not path.exists()
    whole = path.read_bytes()
    assert not part.exists()
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert path.read_bytes() == whole
    assert part.read_bytes() == b"path,score\r\nb.png,1\r\n"


def interrupted(path):
    with growing_csv(path, ("path", "score")) as add:
        add(("b.png", 1))
        raise KeyboardInterrupt


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="expected a folder that can be written, found .*/file/deep"):
        interrupted(tmp_path / "file/deep/scores.csv")


class Full:
    def __str__(self):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_of_a_table_that_grows(tmp_path):
    told = pytest.raises(UserError, match=r"scores.csv.part: expected room on the disk")
    with told, growing_csv(tmp_path / "scores.csv", ("path",)) as add:
        add((Full(),))
