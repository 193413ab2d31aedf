"""Several processes: the first one, and collective gather and sum."""

import os
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor


def is_first_process() -> bool:
    """Whether this process writes the files of the run: the only process, or rank 0."""
    return os.environ.get("LOCAL_RANK", "0") == os.environ.get("SLURM_PROCID", "0") == "0"


Item = TypeVar("Item")


def of_all_processes(items: list[Item]) -> list[Item]:
    """The items of every process, in the order of the ranks; with one process, the items themselves.

    Collective: all processes must call it the same number of times.
    """
    import torch  # here: is_first_process is called before torch is imported

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return items
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def sum_of_all_processes(values: "Tensor") -> "Tensor":
    """The sum of a tensor over all processes; with one process, the tensor itself. Collective."""
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total
