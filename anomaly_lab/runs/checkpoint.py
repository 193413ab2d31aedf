"""Checkpoints: written atomically, read safely."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_whole


def load_checkpoint(path: Path) -> Any:
    """The tensors and numbers of a checkpoint, on the host.

    Raises UserError if the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: expected a whole checkpoint, found no file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are not a checkpoint can raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if "weights_only" in str(error):  # torch advises to load it all the same
            reason = "more than tensors and numbers, which may run code and is not loaded"
        raise UserError(f"{path}: expected a whole checkpoint, found: {reason}") from error


def load_weights(path: Path, own: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """The weights and buffers in a checkpoint, by name.

    Raises UserError if the file is missing or damaged, if a weight is no finite number, or if it is of another type
    than the one of its name in `own`: torch would round it, and say nothing.
    """
    checkpoint = load_checkpoint(path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise UserError(f"{path}: expected a checkpoint with the tensors of a state_dict, found none")
    if broken := next((name for name, value in state.items() if not value.isfinite().all()), None):
        raise UserError(f"{path}: expected finite weights, found others in {broken}; train it again with rerun=true")
    for name, weight in (own or {}).items():
        if name in state and state[name].dtype != weight.dtype:
            expected, found = (str(value.dtype).removeprefix("torch.") for value in (weight, state[name]))
            raise UserError(f"{path}: expected {name} as {expected}, found {found}; train it again with rerun=true")
    return state


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write to a temporary file in the same folder, flush it to disk, rename it: the old file exists until then."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint, whole or not at all."""

        def write(part: Path) -> None:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())

        write_whole(Path(path), write)
