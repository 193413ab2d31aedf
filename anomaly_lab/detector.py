"""A finished run as a thing that judges images: rebuilt from its folder alone."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from anomaly_lab.callbacks.checkpoint import load_checkpoint
from anomaly_lab.data.datamodule import collate
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.store import ahead
from anomaly_lab.errors import UserError
from anomaly_lab.methods.method import Method
from anomaly_lab.metrics.thresholds import Threshold
from anomaly_lab.run import build_method
from anomaly_lab.run_folder import read_thresholds
from anomaly_lab.types import Batch, Prediction


class Detector(NamedTuple):
    """A trained method with what it needs to read an image and to decide."""

    method: Method
    threshold: Threshold
    decoding: Decoding
    batch_size: int
    workers: int

    def judge(self, paths: list[Path], unreadable: list[str]) -> Iterator[tuple[list[Path], Prediction, Batch]]:
        """Predictions a batch at a time; what cannot be read is appended to `unreadable` and left out."""

        def read(path: Path) -> Batch | UserError:
            try:
                image, placement = self.decoding.read(path)
            except UserError as error:
                return error
            unknown = torch.tensor([-1])
            return Batch(torch.from_numpy(image)[None].float() / 255, (), unknown, unknown, (placement,))

        for start in range(0, len(paths), self.batch_size):
            chunk = paths[start : start + self.batch_size]
            with closing(ahead(read, chunk, self.workers)) as read_ones:
                answers = list(zip(chunk, read_ones, strict=True))
            unreadable += [str(answer) for _, answer in answers if isinstance(answer, UserError)]
            good = [(path, answer) for path, answer in answers if isinstance(answer, Batch)]
            if good:
                batch = collate([answer for _, answer in good])
                with torch.inference_mode():
                    prediction = self.method(batch.image.to(self.method.device), batch.placement)
                yield [path for path, _ in good], prediction, batch


def load(run: Path) -> Detector:
    """Rebuild the method of a finished run from its configuration and checkpoint."""
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    checkpoint = load_checkpoint(run / "checkpoints" / "last.ckpt")
    decoding = instantiate(OmegaConf.to_container(config.data.decoding, resolve=True))
    method = build_method({"method": OmegaConf.to_container(config.method, resolve=True)})
    method.load_state_dict(checkpoint["state_dict"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    drawn = read_thresholds(run)[-1]
    threshold = Threshold(**{name: drawn[name] for name in Threshold._fields})
    return Detector(method.eval().to(device), threshold, decoding, config.data.test_batch_size, config.data.workers)
