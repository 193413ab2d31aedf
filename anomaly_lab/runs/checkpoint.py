"""Checkpoints: written atomically, read safely."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_whole


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The tensors and numbers of a checkpoint, on the host.

    Raises UserError if the file is missing or damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are not a checkpoint can raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{path}: expected a whole checkpoint, found: {reason}") from error


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
