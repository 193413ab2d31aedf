"""A `map` with threads that work ahead."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """Like `map`, with `workers` threads a few items ahead: it keeps the order, bounds memory and passes on exceptions.

    Threads suffice, because decoding and resizing release the interpreter. Close the generator (`contextlib.closing`)
    if the loop over it may end early: the garbage collector might make a thread of the pool wait for itself.
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
