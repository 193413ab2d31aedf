"""Judge photos with a finished run, from Python.

    from anomaly_lab import Detector

    detector = Detector.load("runs/default/cae/folder/photos/seed=0/0123456789")
    prediction = detector.predict("new_photos/part.png")
    prediction.is_abnormal                                  # the decision, at the threshold of the run
    prediction.decision_score, prediction.threshold         # abnormal: the former >= the latter
    prediction.anomaly_map                                  # float32, (height, width) of the photo
    prediction.anomaly_map >= detector.threshold.pixel      # where

The run folder alone is needed: configuration, checkpoint and thresholds lie in it. `predict` takes

- a path (any file that a training reads: PNG, JPEG, TIFF, ..., 8 and 16 bit, gray, colour, with alpha, turned by EXIF),
- a Pillow image,
- a NumPy array (height, width) or (height, width, channel) of uint8, uint16, int16 or floating point, RGB and not
  OpenCV's BGR, alpha ignored. Of floating point black and white are the run's `data.value_range` or, without one, the
  least and the largest value of this very array, with a warning: a picture of 8 bits is better given as uint8,
- or a list or tuple of these, of any mix of sizes: it then answers with a list, and asks the method about a batch at
  a time.

Whichever way a photo comes, it is decoded by the code of the training, with the run's `data.channels`,
`data.value_range`, `data.resize` and `data.region`, and the answer is that of the run's own test: score and decision
of `scores.csv`, map of `maps/`. Two things only the file can tell: Pillow keeps 8 of the 16 bits of a colour image,
and an array has no EXIF.

Mistakes raise `anomaly_lab.core.errors.UserError` (a ValueError) with one line: what was expected, what was found. For
a folder of a million photos, TIFF maps and pictures there is the command `python -m anomaly_lab predict`. The same
stream from Python, a photo at a time, with any number of detectors that share the reading, and errors as values:

    for path, (answer,) in iter_predictions([detector], paths):
        said = answer if isinstance(answer, UserError) else detector.photo_prediction(answer)
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import torch
from jaxtyping import Float32
from omegaconf import OmegaConf
from PIL import Image

from anomaly_lab.config.resolvers import register
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.parallel import prefetch
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import collate
from anomaly_lab.data.formats import Photo
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.placement import to_photo
from anomaly_lab.evaluation.maps import inner_map
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.method import Method
from anomaly_lab.metrics.thresholds import Threshold
from anomaly_lab.runs.checkpoint import load_checkpoint
from anomaly_lab.runs.collect import finished_run
from anomaly_lab.runs.folder import read_thresholds, region_of

__all__ = ["Decision", "Detector", "ImageResult", "PhotoPrediction", "iter_predictions"]
READ = ("decoding", "image_size", "patch_size", "channels", "test_batch_size", "workers")  # of the data of a run
Given = TypeVar("Given", bound=Photo)


@dataclass(frozen=True, eq=False)
class PhotoPrediction:
    """What a run says about one photo, for people.

    - `anomaly_map`: float32 (height, width) at the photo's own size, upright; larger = more abnormal, no fixed range.
      Pixels that were not inspected (`data.region`, `data.resize=crop`) have its lowest value.
    - `score`: of the photo as a whole, as the paper of the method defines it; larger = more abnormal.
    - `decision_score`: what decides: the score or, by the rule of some thresholds, that of the largest region.
    - `threshold`: the run's, the last one of its `threshold.json`.
    - `is_abnormal`: `decision_score >= threshold`.
    - `reconstruction`: how the method thinks the inspected part should look, float32 (height, width, channel) in
      [0, 1] at the working size without padding; None where a method has no such thing.
    - `remark`: what people should know of this photo ("not aligned"), "" for nothing.

    It is not `anomaly_lab.core.types.Prediction`, what a method says about a batch: tensors at the working size,
    padding included, before any threshold. One name for both would hide that their maps differ in size.
    """

    anomaly_map: Float32[np.ndarray, "height width"]
    score: float
    decision_score: float
    threshold: float
    is_abnormal: bool
    reconstruction: Float32[np.ndarray, "inner_height inner_width channel"] | None
    remark: str


class Decision(NamedTuple):
    """What a run decides about one photo."""

    score: float
    decision_score: float  # what is compared with the threshold
    is_abnormal: bool


class ImageResult(NamedTuple):
    """What the method of a run says about one photo, at the working size, on the host."""

    prediction: Prediction  # of a batch of one
    batch: Batch  # the photo as the method saw it

    @property
    def score(self) -> float:
        """Of the photo."""
        assert self.prediction.score is not None
        return self.prediction.score.item()

    @property
    def remark(self) -> str:
        """What the method has to say about the photo, "" for nothing."""
        return next(iter(self.prediction.remarks), "")  # a method that never remarks has ()

    def inner_map(self) -> Float32[np.ndarray, "inner_height inner_width"]:
        """The map at the working size without padding, as thresholds see it."""
        return inner_map(self.prediction, self.batch, 0)

    def photo_map(self) -> Float32[np.ndarray, "height width"]:
        """The map at the photo's own size."""
        return to_photo(self.prediction.anomaly_map[0, 0].numpy(), self.batch.placement[0])

    def reconstruction(self) -> Float32[np.ndarray, "inner_height inner_width channel"] | None:
        """The reconstruction at the working size without padding."""
        if self.prediction.reconstruction is None:
            return None
        top, left, height, width = self.batch.placement[0].target
        inner = self.prediction.reconstruction[0, :, top : top + height, left : left + width]
        return np.ascontiguousarray(inner.permute(1, 2, 0).numpy())


@dataclass(frozen=True, eq=False)
class Detector:
    """A finished run as a thing that judges photos: `Detector.load(run).predict(photo)`."""

    method: Method  # in evaluation mode, on its device
    threshold: Threshold  # the last one of `threshold.json`
    decoding: Decoding  # how a photo becomes the image that the method sees
    batch_size: int  # of whole images, `data.test_batch_size`
    workers: int  # threads that decode

    @classmethod
    def load(cls, run: str | PathLike[str], device: str | torch.device | None = None) -> "Detector":
        """Rebuild the method of a finished run from its configuration and checkpoint.

        `device` is one of PyTorch's ("cpu", "cuda", "cuda:1"); None: the GPU where there is one. Raises UserError
        where the folder is not that of a finished run, the checkpoint is damaged or there is no such device.
        """
        folder = finished_run(str(run))
        register()
        config = OmegaConf.load(folder / ".hydra" / "config.yaml")
        resolved = {
            "data": {name: _resolved(config, f"data.{name}") for name in READ},
            **{name: _resolved(config, name) for name in ("method", "tiling", "seed")},
            "budget": {"schedule": _resolved(config, "budget.schedule")},
        }
        checkpoint = load_checkpoint(folder / "checkpoints" / "last.ckpt")
        settings = resolved["data"]["decoding"]
        settings["region"] = region_of(folder, settings["region"])
        decoding = Decoding(**{key: value for key, value in settings.items() if key != "_target_"})
        method = build_method(resolved)
        try:
            method.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise UserError(
                f"{folder / 'checkpoints' / 'last.ckpt'}: expected the weights of the {type(method).__name__} that the "
                "configuration beside it describes, found others; train it again with rerun=true"
            ) from error
        drawn = read_thresholds(folder)[-1]
        threshold = Threshold(**{name: drawn[name] for name in Threshold._fields})
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            method = method.eval().to(device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            first_line = str(error).partition("\n")[0]
            raise UserError(f"device: expected one of this machine, found {str(device)!r} ({first_line})") from error
        return cls(method, threshold, decoding, resolved["data"]["test_batch_size"], resolved["data"]["workers"])

    @overload
    def predict(self, image: str | PathLike[str] | Image.Image | np.ndarray) -> PhotoPrediction: ...

    @overload
    def predict(
        self,
        image: list[str | PathLike[str] | Image.Image | np.ndarray]
        | tuple[str | PathLike[str] | Image.Image | np.ndarray, ...],
    ) -> list[PhotoPrediction]: ...

    def predict(self, image: Any) -> PhotoPrediction | list[PhotoPrediction]:
        """Judge a photo, or each of a list or tuple of photos.

        A photo is a path, a Pillow image or a NumPy array (see the top of this module); it is left as it is. Raises
        UserError where one cannot be read or is nothing of these: of a list, for the first such photo.
        """
        several = isinstance(image, list | tuple)
        photos = [_photo(one) for one in (image if several else [image])]
        predictions = []
        with closing(iter_predictions([self], photos)) as answers:
            for number, (_, (answer,)) in enumerate(answers, start=1):
                if isinstance(answer, UserError):
                    raise UserError(f"photo {number} of {len(photos)}: {answer}") if several else answer
                predictions.append(self.photo_prediction(answer))
        return predictions if several else predictions[0]

    def photo_prediction(self, result: ImageResult) -> PhotoPrediction:
        """What the method says, held against the threshold and brought to the photo."""
        score, decision_score, is_abnormal = self.decision(result)
        return PhotoPrediction(
            result.photo_map(), score, decision_score, self.threshold.image, is_abnormal, result.reconstruction(),
            result.remark,
        )  # fmt: skip

    def decision(self, result: ImageResult) -> Decision:
        """Hold what the method says against the threshold."""
        decision_score = self.threshold.decision_score(result.inner_map(), result.score)
        return Decision(result.score, decision_score, decision_score >= self.threshold.image)

    def _ask(self, images: list[Batch | UserError]) -> list[ImageResult | UserError]:
        """What the method says about those that could be read, as one batch."""
        batches = [image for image in images if isinstance(image, Batch)]
        if not batches:
            return [image for image in images if isinstance(image, UserError)]
        batch = collate(batches)
        with torch.inference_mode():
            prediction = self.method(batch.image.to(self.method.device), batch.placement)
        assert prediction.score is not None
        maps, scores = prediction.anomaly_map.float().cpu(), prediction.score.cpu()
        drawn = None if prediction.reconstruction is None else prediction.reconstruction.float().cpu()
        answers = iter(
            ImageResult(
                Prediction(
                    maps[i : i + 1],
                    scores[i : i + 1],
                    None if drawn is None else drawn[i : i + 1],
                    prediction.remarks[i : i + 1],
                ),
                one,
            )
            for i, one in enumerate(batches)
        )
        return [next(answers) if isinstance(image, Batch) else image for image in images]


def iter_predictions(
    detectors: Sequence[Detector], photos: Iterable[Given]
) -> Generator[tuple[Given, tuple[ImageResult | UserError, ...]], None, None]:
    """Every photo with what each run's method says about it, or why that run cannot read it.

    A photo is decoded once for each different decoding, by threads a few photos ahead; no more than a batch is in
    memory, whatever the number of photos. Close it (`contextlib.closing`) where the loop over it may end early.
    """
    decodings: list[Decoding] = []
    for detector in detectors:
        if detector.decoding not in decodings:
            decodings.append(detector.decoding)
    own = [decodings.index(detector.decoding) for detector in detectors]

    def read(photo: Given) -> tuple[Given, list[Batch | UserError]]:
        return photo, [_read(photo, decoding) for decoding in decodings]

    size = min(detector.batch_size for detector in detectors)
    with closing(prefetch(read, photos, max(detector.workers for detector in detectors))) as images:
        while chunk := list(islice(images, size)):
            said = [
                detector._ask([answers[place] for _, answers in chunk])
                for detector, place in zip(detectors, own, strict=True)
            ]
            yield from zip((photo for photo, _ in chunk), zip(*said, strict=True), strict=True)


def _resolved(config: Any, key: str) -> Any:
    """A part of a configuration, resolved alone: other parts may name what this machine does not have."""
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _photo(photo: Any) -> Photo:
    """A path as a Path; raises UserError for what is no photo."""
    if isinstance(photo, str | PathLike):
        return Path(photo).expanduser()
    if isinstance(photo, Image.Image | np.ndarray):
        return photo
    raise UserError(
        f"image: expected a path, a Pillow image, a NumPy array, or a list of these, found {type(photo).__name__}"
    )


def _read(photo: Photo, decoding: Decoding) -> Batch | UserError:
    """A photo as a batch of one."""
    try:
        image, placement = decoding.read(photo)
    except UserError as error:
        return UserError(str(error))  # the one that was raised holds on to the frames of the decoders, and to the file
    unknown = torch.tensor([-1])
    return Batch(torch.from_numpy(image)[None].float() / 255, (), unknown, unknown, (placement,))
