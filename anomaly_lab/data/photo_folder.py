"""Photos of anything else than the parts: a sample of a folder, decoded once."""

from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from anomaly_lab.core.console import say, tracked
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.parallel import prefetch
from anomaly_lab.core.types import Images
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.listing import SAMPLE, sample_of
from anomaly_lab.data.noise import Keys, uniform

THREADS = 4


class PhotoFolder:
    """Some photos of a folder and those below it, as square images of `side` px.

    They are stretched to squares of `zoom` times as many px, of which the middle is kept. Called with keys it gives an
    image for each, as other textures do (`data.corruption`). Nothing is read before the first question. Of more than
    `most` photos a sample is drawn, always the same one.

    Raises UserError, when asked, for a folder that is missing or without photos.
    """

    def __init__(
        self, folder: str, key: str, side: PositiveInt = 256, zoom: PositiveFloat = 1.0, most: PositiveInt = SAMPLE
    ) -> None:
        self.folder, self.key = folder, key  # `key`: what people typed the folder for
        self.side, self.zoom, self.most = side, zoom, most
        self._on_device: UInt8[Tensor, "photo 3 side side"] | None = None

    @cached_property
    def _found(self) -> tuple[list[Path], int]:
        return sample_of(self.folder, self.key, self.most)

    @property
    def paths(self) -> list[Path]:
        """The photos of the sample."""
        return self._found[0]

    @property
    def in_words(self) -> str:
        """How many of them, and where."""
        return f"{len(self.paths)} of {self._found[1]} photos in {self.folder}"

    @cached_property
    def images(self) -> UInt8[Tensor, "photo 3 side side"]:
        """The decoded sample, without photos that cannot be read. Raises UserError where none can."""
        size = round(self.zoom * self.side)
        decoding, start = Decoding(max(size, self.side), 3, "stretch"), max(0, (size - self.side) // 2)

        def read(path: Path) -> np.ndarray | str:
            try:
                return decoding.read(path)[0][:, start : start + self.side, start : start + self.side]
            except UserError as error:
                return str(error)

        with closing(tracked(prefetch(read, self.paths, THREADS), self.key, len(self.paths))) as results:
            read_or_not = list(results)
        images = [torch.from_numpy(np.ascontiguousarray(image)) for image in read_or_not if not isinstance(image, str)]
        if broken := [reason for reason in read_or_not if isinstance(reason, str)]:
            say(f"{self.key}: photos left out that cannot be read: {len(broken)}, such as {broken[0]}")
        if not images:
            raise UserError(f"{self.key}: expected photos, found none in {self.folder} that can be read")
        return torch.stack(images)

    def __call__(self, keys: Keys, channels: int, height: int, width: int) -> Images:
        """A photo for each key, in [0, 1], resized to the size asked for; gray is the mean of the colours."""
        if self._on_device is None or self._on_device.device != keys.device:
            self._on_device = self.images.to(keys.device)
        number = (uniform(keys, 1)[:, 0] * len(self._on_device)).long()
        images = self._on_device[number].float() / 255
        if channels == 1:
            images = images.mean(dim=1, keepdim=True)
        if images.shape[-2:] == (height, width):
            return images
        return functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
