"""`auto` follows from a table of capabilities."""

import pytest
import torch

from anomaly_lab.training.precision import choose


@pytest.mark.parametrize("given", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_choice_is_kept(given):
    assert choose(given, "cpu") == given


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({}, "32-true"), ({"avx512_bf16": False, "amx_bf16": False}, "32-true"),
     ({"avx512_bf16": True}, "32-true"), ({"avx512_bf16": True, "amx_bf16": True}, "bf16-mixed")],
)  # fmt: skip
def test_processors(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose("auto", "cpu") == choose("auto", "auto") == expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "32-true"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")]
)
def test_graphics_processors(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose("auto", "gpu") == choose("auto", "auto") == expected
