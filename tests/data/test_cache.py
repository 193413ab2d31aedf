"""The cache on disk: whole entries or none, one writer, shown and cleared by the command."""

import os

import pytest

from anomaly_lab.cli import data
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.lock import lock
from anomaly_lab.data import cache
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.layouts import mvtec_ad
from anomaly_lab.data.store import open_store


def test_entries_differ_in_everything_that_decides_them(tmp_path, monkeypatch):
    names = {cache.entry(tmp_path, decides) for decides in (["a", 1], ["a", 2], ["b", 1], [["a"], 1])}
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert len({*names, cache.entry(tmp_path, ["a", 1])}) == 5


@pytest.fixture
def here(tmp_path):
    """The word for a cache with two entries without notes, and what a killed process left."""
    for name in ("one", "two"):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "images").write_bytes(bytes(2**20))
    (tmp_path / "cache" / ".three.123").mkdir()
    return f"data.cache_dir={tmp_path / 'cache'}"


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


def test_the_command_clears_but_leaves_what_is_being_written(here, tmp_path, capsys):
    with lock(cache.lock_of(tmp_path / "cache/two"), None):
        data.main(["cache", "clear", here])
        with pytest.raises(UserError, match="expected an entry that no process uses, found 1 in use"):
            data.main(["cache", "clear", "two", here])
    assert "cleared 1.0 MB of 2.0 MB, 2 entries of " in capsys.readouterr().out
    assert left(tmp_path) == ["two"]
    data.main(["cache", "clear", here])
    assert not left(tmp_path)


def test_entries_are_shown_with_their_data_the_last_used_first(here, tmp_path, parts, capsys):
    samples, folder = mvtec_ad(str(parts.parent), "bar").train, tmp_path / "cache"
    for data_folder in (parts, tmp_path / "moved"):  # the same photos, found in two places
        open_store(samples, Decoding(64, 1), 0, "disk", folder, data_folder=data_folder)
    (name,) = set(left(tmp_path)) - {"one", "two", ".three.123"}
    (folder / "damaged").mkdir()
    (folder / "damaged/used.json").write_text("[")
    os.utime(folder / "damaged/used.json", (0, 0))
    capsys.readouterr()
    data.main(["cache", here])
    heading, *rows, total = capsys.readouterr().out.splitlines()
    assert heading.split() == ["entry", "last", "used", "size", "content", "data"]
    assert rows[0].startswith(f"{name[:10]}  20")
    assert rows[0].endswith(f"10 images, 64 x 64 px, gray  {tmp_path / 'moved'}, {parts}")
    assert [row.split()[0] for row in rows][-1] == "damaged"
    assert " ".join(next(row for row in rows if row.startswith("one")).split()) == "one unknown 1.0 MB unknown unknown"
    assert total.startswith("2.0 MB in 5 entries of ")


def test_one_entry_is_cleared_by_the_beginning_of_its_name_or_by_its_data_unless_it_is_in_use(here, tmp_path, parts):
    samples, folder = mvtec_ad(str(parts.parent), "bar").train, tmp_path / "cache"
    store = open_store(samples, Decoding(64, 1), 0, "disk", folder, data_folder=parts / "train")
    with pytest.raises(UserError, match="expected an entry that no process uses, found 1 in use"):
        data.main(["cache", "clear", str(parts), here])
    assert len(store.samples) == 10
    del store
    data.main(["cache", "clear", str(parts), here])
    data.main(["cache", "clear", "on", here])
    assert left(tmp_path) == [".three.123", "two"]
    (folder / "twins").mkdir()
    for word, message in (
        ("tw", "the beginning of one entry's name, found 'tw' of tw"),
        ("x", "found 'x'; "),
        ("", "''"),
    ):
        with pytest.raises(UserError, match=message):
            data.main(["cache", "clear", word, here])
    assert left(tmp_path) == [".three.123", "twins", "two"]


def test_what_a_killed_process_left_is_cleared_by_name_unless_it_is_written(here, tmp_path):
    (tmp_path / "cache/.one.123").mkdir()
    with lock(cache.lock_of(tmp_path / "cache/one"), None), pytest.raises(UserError, match="found 2 in use"):
        data.main(["cache", "clear", "one", here])
    data.main(["cache", "clear", "one", here])
    data.main(["cache", "clear", "thr", here])
    assert left(tmp_path) == ["two"]


def test_another_word_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="data: expected .* data cache .clear.*, found 'cash'"):
        data.main(["cash"])
    for words, meant in (("chek", "check"), ("cach clear", "cache"), ("--check", "check"), ("cache cler", "clear")):
        with pytest.raises(UserError, match=f"found {words!r}; did you mean {meant!r}"):
            data.main(words.split())
    data.main(["--help"])
    assert "data cache [clear" in capsys.readouterr().out
