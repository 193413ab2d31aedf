"""The cache on disk: whole entries or none, one writer, shown and cleared by the command."""

import subprocess
import sys

import pytest

from anomaly_lab.cli import data
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.lock import lock
from anomaly_lab.data import cache


def test_entries_differ_in_everything_that_decides_them(tmp_path, monkeypatch):
    names = {cache.entry(tmp_path, decides) for decides in (["a", 1], ["a", 2], ["b", 1], [["a"], 1])}
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert len({*names, cache.entry(tmp_path, ["a", 1])}) == 5


def test_the_command_shows_and_clears_but_leaves_what_is_being_written(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "images").write_bytes(bytes(2**20))
    (tmp_path / ".three.123").mkdir()  # a killed process left it
    here = f"data.cache_dir={tmp_path}"
    data.main(["cache", here])
    assert "2.0 MB  in 3 entries" in capsys.readouterr().out
    with lock(cache.lock_of(tmp_path / "two"), None):
        holder = "from anomaly_lab.cli import data; import sys; data.main(['cache', 'clear', sys.argv[1]])"
        done = subprocess.run([sys.executable, "-c", holder, here], capture_output=True, text=True, check=True)
    assert "cleared 1.0 of 2.0 MB" in done.stdout
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["two"]
    data.main(["cache", "clear", here])
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_another_word_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="data: expected .* data cache .clear.*, found 'cash'"):
        data.main(["cash"])
    data.main(["--help"])
    assert "data cache [clear]" in capsys.readouterr().out
