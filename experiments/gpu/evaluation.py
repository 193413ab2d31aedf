"""What could be done with maps that lie on the device, and where a test spends its time: rows of `evaluation.csv`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from steps import assembled, configured, forget_peak, now

from anomaly_lab.functional.scores import smooth
from anomaly_lab.metrics.pixel_metrics import PixelMetrics
from anomaly_lab.training.cost import peak_memory


def maps(count: int, side: int) -> dict[str, Any]:
    """A row of `evaluation.csv`: milliseconds an image of what could be done with maps that lie on the device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    forget_peak()
    torch.manual_seed(0)
    scores = smooth(torch.rand(count, 1, side, side, device=device))
    masks = torch.zeros(count, 1, side, side, dtype=torch.bool)
    for number in range(0, count, 2):
        masks[number, 0, number % 8 :: side // 2, : side // 4] = True
    pixels, on_device = [mask[0].numpy() for mask in masks], masks.to(device)

    def counted() -> None:
        metrics = PixelMetrics()
        for anomaly_map, mask in zip(scores, pixels, strict=True):
            metrics.update([anomaly_map[0].cpu().numpy()], [mask], one_image=True)
        metrics.compute()

    def ranked() -> None:
        order = scores.flatten().argsort(descending=True)
        on_device.flatten()[order].cumsum(0)

    ways = {"copy": lambda: [each.cpu() for each in scores], "smooth": lambda: smooth(scores), "count": counted}
    found: dict[str, Any] = {"images": count, "side": side}
    for name, way in {**ways, "sort": ranked}.items():
        way()
        start = now()
        way()
        found[f"{name}_ms"] = 1000 * (now() - start) / count
    return found | {"peak_mib": peak_memory(device) / 2**20}


def test(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """A row of `evaluation.csv`: milliseconds an image of the test of an untrained method, as a whole and by part."""
    resolved = configured(*words, f"run_folder={folder}")
    forget_peak()
    data, method, trainer = assembled(resolved, folder, evaluates=True)
    trainer.predict(method, data, return_predictions=False)
    parts: Counter[str] = Counter()
    for callback in trainer.callbacks:
        watch(callback, "on_test_batch_end", parts, type(callback).__name__)
    watch(method, "test_step", parts, "method")
    start = now()
    trainer.test(method, data, verbose=False)
    count = len(data.test_samples)
    named = "; ".join(f"{name} {1000 * spent / count:.3g}" for name, spent in parts.most_common(8))
    return {
        "images": count, "side": resolved["data"]["image_size"], "test_ms": 1000 * (now() - start) / count,
        "parts_ms": named, "peak_mib": peak_memory(trainer.strategy.root_device) / 2**20,
    }  # fmt: skip


def watch(owner: Any, name: str, seconds: Counter[str], part: str) -> None:
    """Add the seconds that are spent in a method of an object."""
    inner = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        start = now()
        try:
            return inner(*arguments, **named)
        finally:
            seconds[part] += now() - start

    setattr(owner, name, timed)
