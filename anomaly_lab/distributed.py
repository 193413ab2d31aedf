"""What several processes tell each other."""

from typing import Any, TypeVar

import torch

Item = TypeVar("Item")


def of_all_processes(items: list[Item]) -> list[Item]:
    """The items of every process, in the order of the processes; alone, the items themselves.

    Collective: all processes must call it, the same number of times.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return items
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]
