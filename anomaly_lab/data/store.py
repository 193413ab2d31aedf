"""Every training image decoded once, kept as one uint8 tensor."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from jaxtyping import UInt8
from rich.progress import track
from torch import Tensor

from anomaly_lab.data.images import Decoding, Placement
from anomaly_lab.data.layouts import Sample

Item = TypeVar("Item")
Result = TypeVar("Result")


def decode(
    samples: list[Sample], decoding: Decoding, workers: int
) -> tuple[UInt8[Tensor, "image channel image_size image_size"], list[Placement]]:
    """Decode the images of `samples`, in their order, with a progress bar, and say where each photo was placed.

    Raises UserError naming the first file that cannot be read.
    """
    store = torch.empty((len(samples), decoding.channels, decoding.image_size, decoding.image_size), dtype=torch.uint8)
    placements = []
    images = ahead(lambda sample: decoding.read(sample.path), samples, workers)
    for target, (image, place) in zip(store, track(images, "decoding", len(samples), transient=True), strict=True):
        target.copy_(torch.from_numpy(image))
        placements.append(place)
    return store, placements


def ahead(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Like `map`, with `workers` threads a few items ahead: order kept, memory bounded, exceptions passed on.

    Threads suffice: decoding and resizing release the interpreter.
    """
    if workers == 0:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
