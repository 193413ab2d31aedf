"""What long work tells people beside Lightning's own bars. Imports nothing heavy: a sweep tells its time too."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytorch_lightning


def counted(trainer: "pytorch_lightning.Trainer | None", steps: int, what: str) -> Iterator[int]:
    """Count the steps of something long inside a batch, with a second bar below that of the batches if one is drawn."""
    from pytorch_lightning.callbacks import RichProgressBar

    bar = trainer.progress_bar_callback if trainer else None
    progress = bar.progress if isinstance(bar, RichProgressBar) else None
    if progress is None or not progress.live.is_started:
        yield from range(steps)
        return
    task = progress.add_task(what, total=steps, inside=True)
    try:
        for step in range(steps):
            yield step
            progress.advance(task)
            progress.soft_refresh()
    finally:
        progress.remove_task(task)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
