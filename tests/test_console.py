"""Durations as people say them, and the bar of what is long inside a batch."""

import io
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.progress import Progress

from anomaly_lab.console import counted, duration
from tests.conftest import stand_in


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_durations_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text


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
