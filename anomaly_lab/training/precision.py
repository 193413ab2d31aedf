"""Choice of the precision by the capabilities of the device, never by timing."""

import torch


def choose(precision: str, accelerator: str) -> str:
    """The precision for `trainer.precision=auto` on this machine; other values stay as they are.

    bf16 where the hardware has units for it: NVIDIA from compute capability 8.0, CPUs with AMX-BF16. Elsewhere float32:
    bf16 is emulated there and ten times slower, or, with AVX512-BF16 alone, takes 1.17 to 1.28 times as long
    (`experiments/speed/precision.py`).
    """
    if precision != "auto":
        return precision
    if accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "32-true"
    if accelerator in {"auto", "cpu"} and not torch.backends.mps.is_available():
        can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older releases
        return "bf16-mixed" if can.get("amx_bf16") else "32-true"
    return "32-true"
