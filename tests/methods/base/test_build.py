"""A method of sizes that no memory holds: one line, and no other error of torch is taken for that."""

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base import build as module
from anomaly_lab.methods.base.build import build_method
from tests.adversarial import configured


@pytest.fixture(scope="module")
def resolved():
    return configured("method=memae", "data=demo")


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 51200000000 bytes. Error"),
            "one of 48 GiB in one piece",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 47.68 GiB."), "one of more than there is"),
        (MemoryError(), "one of more than there is"),
    ],
)
def test_a_network_that_no_memory_holds_is_one_line(resolved, error, found, monkeypatch):
    def failing(*_):
        raise error

    monkeypatch.setattr(module, "build", failing)
    with pytest.raises(UserError, match=f"^method: expected a network that fits into memory, found {found}; .*=memae"):
        build_method(resolved)


def test_sizes_whose_product_is_no_number_are_one_line(resolved):
    resolved = {**resolved, "method": {**resolved["method"], "slots": 2**62}}
    with pytest.raises(UserError, match="method: expected a network that fits into memory"):
        build_method(resolved)


def test_other_errors_stay(resolved, monkeypatch):
    def failing(*_):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(module, "build", failing)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        build_method(resolved)
