"""Estimates of time and memory of a training, measured on a few steps."""

import copy
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.method import Method, evaluating


def step_cost(method: Method, draw: Callable[[], Batch], count: int, share: int) -> tuple[float, float]:
    """Seconds per step and total bytes, measured on the `count` images of `draw`, scaled to a batch of `share`."""
    saved = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    times = []
    with evaluating(method):
        for _ in range(3):  # the first one warms up
            saved, start = 0, time.perf_counter()
            batch = draw()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
                loss = method.rehearse(batch)
            if loss.requires_grad:
                loss.backward()
            loss.item()  # waits for the accelerator
            times.append(time.perf_counter() - start)
    method.zero_grad()
    to_come = 3 * sum(parameter.numel() * 4 for parameter in method.parameters())  # gradients and Adam's moments
    memory = peak_memory(method.device) + to_come + saved / count * (share - count)
    return min(times) / count * share, memory


def update_cost(method: FittedMethod, batch: Batch) -> float:
    """Seconds in which a method sees a batch of training images; it keeps what it has seen, so let it be a new one."""
    times = []
    with evaluating(method):
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            method.training_step(batch, 0)
            if method.device.type == "cuda":
                torch.cuda.synchronize(method.device)
            times.append(time.perf_counter() - start)
    return min(times)


def search_cost(method: Method, images: Tensor) -> float:
    """Seconds of the search of a method for some images of the working size, extrapolated from two steps."""
    short: Any = copy.copy(method)
    steps = 2
    whole, short.search_steps = short.search_steps, steps
    with evaluating(method):
        times = []
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            short(images).anomaly_map.sum().item()  # waits for the accelerator
            times.append(time.perf_counter() - start)
    return min(times) / steps * whole


def peak_memory(device: torch.device) -> int:
    """Peak memory so far in bytes: of the accelerator if `device` is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
