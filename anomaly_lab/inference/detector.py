"""Predictions of a finished run for photos, from Python.

    from anomaly_lab import Detector

    detector = Detector.load("runs/default/cae/folder/photos/seed=0/0123456789")
    prediction = detector.predict("new_photos/part.png")
    prediction.is_abnormal                                  # the decision, at the threshold of the run
    prediction.decision_score, prediction.threshold         # abnormal: the former >= the latter
    prediction.anomaly_map                                  # float32, (height, width) of the photo
    prediction.anomaly_map >= detector.threshold.pixel      # defective pixels

Only the run folder is needed: it contains configuration, checkpoint and thresholds. `predict` accepts

- a path (any format that training reads: PNG, JPEG, TIFF, ..., 8 and 16 bit, gray, colour, with alpha and EXIF),
- a Pillow image,
- a NumPy array (height, width) or (height, width, channel) of uint8, uint16, int16 or floating point, RGB and not
  OpenCV's BGR; alpha is ignored. Without the run's `data.value_range` floating-point values lie in [0, 1]; arrays in
  another range, or cast to too few values, are refused,
- a folder or a glob (`"photos/*.png"`): every photo there, as the command `predict` finds them,
- or a list or tuple of photos, of any sizes. For these two it returns a list, and passes them to the method in batches.
  The first photo that cannot be read ends the call; `predict(folder, on_error="skip")` leaves such photos out, as the
  command does, and logs a warning that names them. The `path` of each prediction says which photos are there.

`prediction.plot()` draws a prediction with Matplotlib, `prediction.save("part.png")` writes the same picture, and
`prediction.save("part.tiff")` the map.

A photo is decoded by the code of the training, with the run's `data.channels`, `data.value_range`, `data.resize` and
`data.region`, and the result is that of the run's own test: score and decision of `scores.csv`, map of `maps/`. Two
exceptions: Pillow keeps only 8 of the 16 bits of a colour image, and an array has no EXIF.

Bad input raises `anomaly_lab.core.errors.UserError` (a ValueError) with one line: what was expected, what was found.
For folders of any size, TIFF maps and pictures use the command `python -m anomaly_lab predict`. The same stream from
Python, photo by photo, with any number of detectors that share the decoding, and errors as values:

    for path, (result,) in iter_predictions([detector], paths):
        if not isinstance(result, UserError):
            prediction = detector.photo_prediction(result)
"""

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, overload

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image

from anomaly_lab.core.console import LOGGER, printable
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.parallel import prefetch
from anomaly_lab.core.remarks import NAMED
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.datamodule import collate
from anomaly_lab.data.formats import Photo
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.placement import to_photo
from anomaly_lab.data.seen import Look, Seen
from anomaly_lab.evaluation.drawing import SIDE, Panel, panel, write_map, write_picture
from anomaly_lab.evaluation.maps import inner_map
from anomaly_lab.inference.sources import find, is_several, path_of
from anomaly_lab.methods.base.build import NO_MEMORY, build_method
from anomaly_lab.methods.base.method import Method
from anomaly_lab.metrics.thresholds import Threshold
from anomaly_lab.runs.checkpoint import load_weights
from anomaly_lab.runs.collect import Key, key_at
from anomaly_lab.runs.stored import CONFIG, StoredRun, open_run

__all__ = ["Decision", "Detector", "ImageResult", "PhotoPrediction", "iter_predictions"]
Given = TypeVar("Given", bound=Photo)

NOT_FINITE = (
    "{}: expected a finite map and score, found NaN or infinity: the weights are of no use, or this photo is far from "
    "what they have learnt"
)
OF_SHAPES = re.compile(r"^(?!.*(CUDA|cuDNN|CUBLAS|MPS)).*(size|shape|channel|dimension)", re.DOTALL)
OnError = Literal["stop", "skip"]  # at a photo, of several, that cannot be read


@dataclass(frozen=True, eq=False)
class PhotoPrediction:
    """The prediction of a run for one photo.

    - `anomaly_map`: float32 (height, width) at the size of the photo, upright; larger = more abnormal, no fixed range.
      Pixels that are not inspected (`data.region`, `data.resize=crop`) have its lowest value. A method without a map
      has its score everywhere.
    - `score`: of the whole photo, as the paper of the method defines it; larger = more abnormal.
    - `decision_score`: the number that decides: the score or, with some threshold rules, that of the largest region.
    - `threshold`: the last one in the run's `threshold.json`.
    - `is_abnormal`: `decision_score >= threshold`.
    - `reconstruction`: the inspected part as the method reconstructs it, float32 (height, width, channel) in [0, 1] at
      the working size without padding; None if the method has none.
    - `remark`: a remark on this photo for people ("not aligned", "unlike the training photos in shape"), "" for none.
    - `path`: of the photo; None for an image or an array.

    It differs from `anomaly_lab.core.types.Prediction`, the output of a method for a batch: tensors at the working
    size, padding included, before any threshold.
    """

    anomaly_map: Float32[np.ndarray, "height width"] = field(repr=False)  # print() shows the numbers that decide
    score: float
    decision_score: float
    threshold: float
    is_abnormal: bool
    reconstruction: Float32[np.ndarray, "inner_height inner_width channel"] | None = field(repr=False)
    remark: str
    path: Path | None = None
    panel: Panel | None = field(default=None, repr=False)  # the pictures of the photo, small

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """Photo as the method sees it, reconstruction, map, and outlined regions above the pixel threshold.

        Those of a method without a map: photo and reconstruction. A map is coloured from 0 to twice the pixel
        threshold.
        """
        assert self.panel is not None
        assert self.panel.threshold is not None
        return self.panel.captioned(0.0, 2 * self.panel.threshold.pixel)

    def plot(self, axes: Any = None) -> Any:
        """Draw the picture into Matplotlib's `axes`, or into a new figure, and return the axes."""
        if axes is None:
            from matplotlib import pyplot  # here: nobody else needs it

            axes = pyplot.figure(figsize=(12, 4)).add_subplot()
        axes.imshow(self.picture())
        axes.set_axis_off()
        return axes

    def save(self, path: str | PathLike[str]) -> None:
        """Write the picture (.png), or the map as float32 TIFF (.tif, .tiff).

        Raises UserError for another suffix, for the map of a method without one, and where the file cannot be written.
        """
        target = path_of(path)
        if target.suffix.lower() not in {".png", ".tif", ".tiff"}:
            raise UserError(f"{target}: expected .png for the picture or .tiff for the map, found {target.suffix!r}")
        if target.suffix.lower() != ".png" and self.panel is not None and self.panel.anomaly_map is None:
            raise UserError(f"{target}: expected .png for the picture; the method has one number a photo and no map")
        try:
            if target.suffix.lower() == ".png":
                write_picture(target, self.picture())
            else:
                write_map(target, self.anomaly_map)
        except OSError as error:
            raise UserError(f"{target}: expected a file that can be written, found: {error.strerror}") from error


class Decision(NamedTuple):
    """The decision of a run on one photo."""

    score: float
    decision_score: float  # what is compared with the threshold
    is_abnormal: bool


class ImageResult(NamedTuple):
    """The output of the method of a run for one photo, at the working size, on the host."""

    prediction: Prediction  # of a batch of one
    batch: Batch  # the photo as the method saw it

    @property
    def score(self) -> float:
        """The score of the photo."""
        assert self.prediction.score is not None
        return self.prediction.score.item()

    @property
    def remark(self) -> str:
        """The remark on the photo, "" for none."""
        return next(iter(self.prediction.remarks), "")

    def inner_map(self) -> Float32[np.ndarray, "inner_height inner_width"]:
        """The map at the working size without padding, as threshold rules use it."""
        return inner_map(self.prediction, self.batch, 0)

    def photo_map(self) -> Float32[np.ndarray, "height width"]:
        """The map at the size of the photo."""
        return to_photo(self.prediction.anomaly_map[0, 0].numpy(), self.batch.placement[0])

    def reconstruction(self) -> Float32[np.ndarray, "inner_height inner_width channel"] | None:
        """The reconstruction at the working size without padding; None if the method has none."""
        if self.prediction.reconstruction is None:
            return None
        top, left, height, width = self.batch.placement[0].target
        inner = self.prediction.reconstruction[0, :, top : top + height, left : left + width]
        return np.ascontiguousarray(inner.permute(1, 2, 0).numpy())


@dataclass(frozen=True, eq=False, repr=False)
class Detector:
    """A finished run that predicts for photos: `Detector.load(run).predict(photo)`."""

    method: Method  # in evaluation mode, on its device
    threshold: Threshold  # the last one of `threshold.json`
    decoding: Decoding  # how a photo becomes the image that the method sees
    batch_size: int  # whole images per batch, `data.test_batch_size`
    workers: int  # decoding threads
    seen: Seen | None = None  # the photos of the run, if it has kept what they are
    folder: Path | None = None  # of the run
    key: Key | None = None  # its method, data, category and seed

    def __repr__(self) -> str:
        """Method, data, image size, threshold and folder, in one line."""
        key = self.key
        what = f"{key.method} on {key.dataset} {key.category}, seed {key.seed}" if key else type(self.method).__name__
        line = f"threshold {self.threshold.image:.4g} ({self.threshold.name})"
        return f"Detector({what}, {self.decoding.image_size} px, {line}{f', {self.folder}' if self.folder else ''})"

    @classmethod
    def load(
        cls, run: str | PathLike[str], device: str | int | torch.device | None = None, trust: Sequence[str] = ()
    ) -> "Detector":
        """Rebuild the method of a finished run from its configuration and checkpoint.

        The folder may come from anyone: classes of this package alone are built, and those of the packages that `trust`
        names, `["mine"]` or `"mine,other"`. `device` is a PyTorch device ("cpu", "cuda", "cuda:1", 1); None: the GPU if
        there is one. Raises UserError if the folder is not that of a finished run, a value or the checkpoint is damaged
        or the device does not exist.
        """
        return cls.of(open_run(str(path_of(run))), device, trust)

    @classmethod
    def of(
        cls, stored: StoredRun, device: str | int | torch.device | None = None, trust: Sequence[str] = ()
    ) -> "Detector":
        """The same for a run that has been read."""
        try:
            method = build_method(stored.method, trust)
        except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).partition("\n")[0].split())  # a UserError has one line, torch has many
            raise UserError(f"{stored.folder / CONFIG}: {reason}") from error
        weights = load_weights(stored.checkpoint, method.state_dict())
        try:
            method.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                f"{stored.checkpoint}: expected the weights of the {type(method).__name__} that the configuration "
                "beside it describes, found others; train it again with rerun=true"
            ) from error
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            if torch.device(device).type == "meta":
                raise RuntimeError("it computes nothing")
            method = method.eval().to(device)
        except (RuntimeError, AssertionError, TypeError) as error:  # torch without CUDA asserts
            first_line = str(error).partition("\n")[0]
            raise UserError(f"device: expected one of this machine, found {str(device)!r} ({first_line})") from error
        decoding = Decoding(**stored.decoding)
        return cls(
            method, stored.threshold, decoding, stored.batch_size, stored.workers, stored.seen, stored.folder,
            key_at(stored.folder),
        )  # fmt: skip

    @overload
    def predict(
        self, image: str | PathLike[str] | Image.Image | np.ndarray, on_error: OnError = "stop"
    ) -> PhotoPrediction: ...

    @overload
    def predict(
        self,
        image: list[str | PathLike[str] | Image.Image | np.ndarray]
        | tuple[str | PathLike[str] | Image.Image | np.ndarray, ...],
        on_error: OnError = "stop",
    ) -> list[PhotoPrediction]: ...

    def predict(self, image: Any, on_error: OnError = "stop") -> PhotoPrediction | list[PhotoPrediction]:
        """The prediction for a photo, or for each photo of a folder, a glob, a list or a tuple.

        A photo is a path, a Pillow image or a NumPy array (see the top of this module); it is not changed. Raises
        UserError if a photo is none of these, or if it cannot be read. With `on_error="skip"`, photos of several that
        cannot be read have no prediction in the list, and one warning names the first of them.
        """
        if on_error not in {"stop", "skip"}:
            raise UserError(f"on_error: expected stop or skip, found {on_error!r}")
        several = isinstance(image, list | tuple)
        photos = [_photo(one, one_of_several=True) for one in image] if several else [_photo(image)]
        if not several and isinstance(photos[0], Path) and not photos[0].is_file() and is_several(photos[0]):
            several, photos = True, list(find(str(photos[0]), None))
        predictions, skipped = [], []
        with closing(iter_predictions([self], photos)) as results:
            for number, (photo, (result,)) in enumerate(results, start=1):
                if isinstance(result, ImageResult):
                    predictions.append(self.photo_prediction(result, photo if isinstance(photo, Path) else None))
                elif several and on_error == "skip":
                    skipped.append(f"photo {number}: {printable(str(result))}")
                elif several:
                    raise UserError(
                        f"photo {number} of {len(photos)}: {result}; on_error='skip' leaves such photos out"
                    )
                else:
                    raise result
        if skipped:
            more = "; ..." * (len(skipped) > NAMED)
            LOGGER.warning("%d of %d photos skipped: %s%s", len(skipped), len(photos), "; ".join(skipped[:NAMED]), more)
        return predictions if several else predictions[0]

    def photo_prediction(self, result: ImageResult, path: Path | None = None) -> PhotoPrediction:
        """The output of the method at the size of the photo, with its decision."""
        score, decision_score, is_abnormal = self.decision(result)
        about = path.name if path else "photo", 0, *result, SIDE, None, self.threshold, decision_score
        return PhotoPrediction(
            result.photo_map(), score, decision_score, self.threshold.image, is_abnormal, result.reconstruction(),
            result.remark, path, panel(*about, localises=self.method.localises),
        )  # fmt: skip

    def decision(self, result: ImageResult) -> Decision:
        """The decision on the output of the method, by the threshold."""
        decision_score = self.threshold.decision_score(result.inner_map(), result.score)
        return Decision(result.score, decision_score, decision_score >= self.threshold.image)

    def _ask(self, images: list[Batch | UserError]) -> list[ImageResult | UserError]:
        """The outputs of the method for the readable images, as one batch; errors stay in their places."""
        batches = [image for image in images if isinstance(image, Batch)]
        if not batches:
            return [image for image in images if isinstance(image, UserError)]
        batch = collate(batches)
        with torch.inference_mode(), fitting(self.folder):
            prediction = self.method(batch.image.to(self.method.device), batch.placement)
        assert prediction.score is not None
        maps, scores = prediction.anomaly_map.float().cpu(), prediction.score.cpu()
        reconstructions = None if prediction.reconstruction is None else prediction.reconstruction.float().cpu()
        results: list[ImageResult | UserError] = []
        for i, one in enumerate(batches):
            if not (maps[i].isfinite().all() and scores[i].isfinite()):
                results.append(UserError(NOT_FINITE.format(self.folder or type(self.method).__name__)))
                continue
            reconstruction = None if reconstructions is None else reconstructions[i : i + 1]
            remarks = (self._remark(prediction, one, i),)
            results.append(ImageResult(Prediction(maps[i : i + 1], scores[i : i + 1], reconstruction, remarks), one))
        left = iter(results)
        return [next(left) if isinstance(image, Batch) else image for image in images]

    def _remark(self, prediction: Prediction, photo: Batch, number: int) -> str:
        """The remark of the method on a photo, and in what the photo is unlike those of the training."""
        own = prediction.remarks[number] if prediction.remarks else ""
        look = Look.of(photo.image[0].numpy() * 255, photo.placement[0])
        return "; ".join(filter(None, (own, self.seen.unlike(look) if self.seen else "")))


@contextmanager
def fitting(run: Path | None) -> Iterator[None]:
    """Raise UserError where a method cannot be asked, because its configuration says one size and its weights another.

    What the machine lacks, such as memory, and other mistakes stay as they are.
    """
    try:
        yield
    except RuntimeError as error:
        if run is None or not OF_SHAPES.search(str(error)) or NO_MEMORY.search(str(error)):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{run / CONFIG}: expected sizes that fit the weights, found others ({reason})") from error


def iter_predictions(
    detectors: Sequence[Detector], photos: Iterable[Given]
) -> Generator[tuple[Given, tuple[ImageResult | UserError, ...]], None, None]:
    """Yield every photo with one result per detector, or the error with which that detector cannot read it.

    A photo is decoded once per distinct decoding, by threads a few photos ahead; memory holds one batch, for any
    number of photos. Close the generator (`contextlib.closing`) if the loop over it may end early.
    """
    decodings: list[Decoding] = []
    for detector in detectors:
        if detector.decoding not in decodings:
            decodings.append(detector.decoding)
    own = [decodings.index(detector.decoding) for detector in detectors]

    def read(photo: Given) -> tuple[Given, list[Batch | UserError]]:
        return photo, [read_batch(photo, decoding) for decoding in decodings]

    size = min(detector.batch_size for detector in detectors)
    with closing(prefetch(read, photos, max(detector.workers for detector in detectors))) as images:
        while chunk := list(islice(images, size)):
            results = [
                detector._ask([answers[place] for _, answers in chunk])
                for detector, place in zip(detectors, own, strict=True)
            ]
            yield from zip((photo for photo, _ in chunk), zip(*results, strict=True), strict=True)


def _photo(photo: Any, one_of_several: bool = False) -> Photo:
    """A path as a Path, images unchanged. Raises UserError for anything else, and for a single bad path.

    A bad path `one_of_several` is a photo that cannot be read, as others are.
    """
    if isinstance(photo, str | PathLike):
        if not one_of_several:
            return path_of(photo)
        with suppress(RuntimeError):  # nobody's home
            return Path(photo).expanduser()
        return Path(photo)
    if isinstance(photo, Image.Image | np.ndarray):
        return photo
    raise UserError(
        f"image: expected a path, a Pillow image, a NumPy array, or a list of these, found {type(photo).__name__}"
    )


def read_batch(photo: Photo, decoding: Decoding) -> Batch | UserError:
    """A photo as a batch of one."""
    try:
        image, placement = decoding.read(photo)
    except UserError as error:
        return UserError(str(error))  # the raised one would keep the frames of the decoders and the file alive
    unknown = torch.tensor([-1])
    return Batch(torch.from_numpy(image)[None].float() / 255, (), unknown, unknown, (placement,))
