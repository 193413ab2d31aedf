"""Lock files: held by threads, which open their own files as processes do, and by one real process that is killed."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from anomaly_lab.core.lock import is_held, lock

HOLD = """
import sys, time
from pathlib import Path
from anomaly_lab.core.lock import lock
with lock(Path(sys.argv[1]), None):
    print("in", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("remove", [False, True])
def test_one_at_a_time_and_nothing_is_left(tmp_path, remove):
    """Also where a holder removes the folder: those who waited hold the file that is there, not that which is gone."""
    path, log, holders, written, released = tmp_path / "run" / ".lock", [], [], Event(), Event()

    def hold(name):
        def wait(holder):
            holders.append(holder)
            released.set()

        with lock(path, wait) as file:
            file.write(name)
            file.flush()
            written.set()
            log.append("in")
            assert released.wait(60)  # the first leaves when another waits
            log.append("out")
            if remove:
                shutil.rmtree(path.parent, ignore_errors=True)  # the next may be in it already

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(hold, "a")
        assert written.wait(60)  # whoever comes later reads the name
        list(pool.map(hold, "bcd"))
        first.result()
    assert log == ["in", "out"] * 4
    assert "a" in holders
    assert not path.exists()


def test_a_killed_process_leaves_it_free(tmp_path):
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        assert is_held(path)
        with pytest.raises(BlockingIOError), lock(path, None):
            pass
        process.kill()
    assert path.exists()
    assert not is_held(path)
    with lock(path, None) as file:
        assert file.read() == ""


def test_a_mistake_inside_opens_it(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="inside"), lock(tmp_path / "a" / ".lock", None):
            raise RuntimeError("inside")
    assert not is_held(tmp_path / "a" / ".lock")
    assert list((tmp_path / "a").iterdir()) == []


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with lock(tmp_path / ".lock", None):
        assert is_held(tmp_path / ".lock")
    assert "cannot be locked ([Errno 95] Operation not supported)" in capsys.readouterr().out
