"""What a network with weights of others has in common, whichever library builds it, and the files of such weights."""

from abc import abstractmethod
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from anomaly_lab.core.console import printable
from anomaly_lab.core.errors import UserError

ORIGIN = "anomaly_lab"  # the entry of a safetensors file's header that says where the weights come from


class PretrainedNetwork(nn.Module):
    """A network whose weights come from a file or a hub: `load` reads them, once."""

    name: str
    layers: tuple[str, ...]  # whose maps it gives, the deepest last
    trainable: bool  # False: it stays as it is
    fine_tuned: bool = False  # it is trained, but starts from its weights
    origin: str = ""  # where the weights come from, for people; set by `load` where the file says it

    @property
    def is_local(self) -> bool:
        """Whether the weights come from a file on this machine."""
        return True

    @abstractmethod
    def load(self) -> list[str]:
        """Read the weights, unless they are there already, and name the tensors of the file that are not used."""


def read(path: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a weights file by their names; nothing in it is executed. `key`: what people typed for it.

    A training checkpoint that keeps them under `state_dict` or `model`, or with `module.` before each name, will do.

    Raises UserError where the file is missing, damaged or no table of tensors.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise UserError(f"{key}: expected a safetensors or PyTorch file, found {found} at {path}")
    try:
        with path.open("rb") as file:
            is_pytorch = file.read(2) in (b"PK", b"\x80\x02")  # a ZIP archive, or the pickle of old
        state = torch.load(path, "cpu", weights_only=True) if is_pytorch else load_file(path)
    except Exception as error:  # bytes that are no weights can raise anything
        raise UserError(
            f"{key}: expected a safetensors or PyTorch file of tensors and nothing else, found {path}: it is damaged, "
            "or holds Python objects, which are never loaded"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{key}: expected tensors by their names, found something else in {path}")
    return {name.removeprefix("module."): value for name, value in state.items()}


def header_of(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors; empty for other files."""
    with suppress(SafetensorError, OSError), safe_open(path, "pt") as file:
        return file.metadata() or {}
    return {}


def origin_of(path: Path) -> str:
    """Where the weights of a file come from, in a line, if its header says so."""
    return printable(header_of(path).get(ORIGIN, ""))[:300]
