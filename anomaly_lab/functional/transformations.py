"""Flips, shifts and quarter turns of square images, each of a few states (Golan and El-Yaniv 2018, section 5.1)."""

from collections.abc import Sequence
from itertools import product
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from anomaly_lab.core.errors import UserError

Images = Float[Tensor, "batch channel side side"]
Kinds = Annotated[list[Literal["flip", "shift_x", "shift_y", "turn"]], Field(min_length=1)]
STATES = {"flip": 2, "shift_x": 3, "shift_y": 3, "turn": 4}
QUARTER = 0.25  # the part of the side by which an image is shifted either way


def refuse_repeated(kinds: Sequence[str]) -> None:
    """Raise UserError where a kind is there twice."""
    if len(set(kinds)) < len(kinds):
        raise UserError(f"method.kinds: expected each of {', '.join(STATES)} once at most, found {kinds}")


def combinations(kinds: Sequence[str]) -> Int[Tensor, "transformation kind"]:
    """The states of all transformations; the last kind changes fastest, and the first transformation does nothing."""
    return torch.tensor(list(product(*(range(STATES[kind]) for kind in kinds))))


def transformed(
    images: Images, kinds: Sequence[str], states: Int[Tensor, "batch kind"], part: float = QUARTER
) -> Images:
    """Each image with its own states, one kind after the other. What a shift uncovers is the reflected image.

    `part`: of the side, by which it is shifted, in whole pixels.
    """
    row = torch.arange(images.shape[0], device=images.device)  # len() would fix the batch of a graph
    for kind, state in zip(kinds, states.unbind(1), strict=True):
        images = torch.stack(versions(images, kind, part))[state, row]
    return images


def undone(images: Images, kinds: Sequence[str], states: Int[Tensor, "batch kind"], part: float = QUARTER) -> Images:
    """Each image as it was before `transformed`; a shift back uncovers the reflected image, too."""
    back = -states % states.new_tensor([STATES[kind] for kind in kinds])
    return transformed(images, kinds[::-1], back.flip(1), part)


def versions(images: Images, kind: str, part: float = QUARTER) -> list[Images]:
    """The images in every state of a kind; the first one leaves them alone."""
    if kind == "flip":
        return [images, images.flip(3)]
    if kind == "turn":
        return [images.rot90(quarters, (2, 3)) for quarters in range(4)]
    axis, shift = (3 if kind == "shift_x" else 2), int(images.shape[3] * part)
    return [images, _shifted(images, axis, -shift), _shifted(images, axis, shift)]


def _shifted(images: Images, axis: int, pixels: int) -> Images:
    side = images.shape[axis]
    place = torch.arange(side, device=images.device) - pixels
    place = torch.where(place < 0, -1 - place, place)
    return images.index_select(axis, torch.where(place >= side, 2 * side - 1 - place, place))
