"""How much memory there is, as the system says elsewhere."""

import os
import sys
from pathlib import Path

import pytest

from anomaly_lab.core.machine import memory_of_machine


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="of Linux")
def test_the_memory_is_that_of_the_kernel():
    (kilobytes,) = (line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    assert memory_of_machine() == pytest.approx(int(kilobytes) * 1024, rel=1e-3)


def test_where_nobody_says_it_there_is_no_limit(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    assert memory_of_machine() == sys.maxsize
