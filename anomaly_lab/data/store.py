"""The training images, decoded once: one uint8 tensor in memory, in a file or on the accelerator; or table rows."""

import errno
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8
from torch import Tensor

from anomaly_lab.core.console import say, tracked
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import writing
from anomaly_lab.core.lock import lock, share
from anomaly_lab.core.machine import memory_of_machine
from anomaly_lab.core.parallel import prefetch
from anomaly_lab.core.types import Placement
from anomaly_lab.data import cache
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.masks import read_mask
from anomaly_lab.data.placement import fit_mask
from anomaly_lab.data.samples import Sample, digests

Cache = Literal["auto", "disk", "device", "memory", "none"]
LARGE = 2**32  # bytes of decoded images that are said before they are written
Images = UInt8[Tensor, "image channel side side"] | Float32[Tensor, "image column 1 1"]
Box = tuple[int, int, int, int]
Place = tuple[int, int, int, int, int, int, int]  # row of its sample, box, height and width of its photo


@runtime_checkable
class Store(Protocol):
    """The readable training images, decoded, in the order of their samples."""

    @property
    def samples(self) -> list[Sample]:
        """The samples that can be read."""
        ...

    @property
    def boxes(self) -> list[Box]:
        """The part of each working image that shows the photo: top, left, height, width in px."""
        ...

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Height and width of each photo in px."""
        ...

    @property
    def unreadable(self) -> Sequence[str]:
        """Why each of the other samples cannot be read."""
        ...

    def take(self, index: Int[Tensor, " row"]) -> tuple[Images, Int[Tensor, " row"]]:
        """Some images, and for each row of `index` its position among them."""
        ...


class Decoded(NamedTuple):
    """All images in one tensor, perhaps among others."""

    images: Images
    samples: list[Sample]
    boxes: list[Box]
    sizes: Sequence[tuple[int, int]] = ()
    unreadable: Sequence[str] = ()
    rows: Int[Tensor, " sample"] | None = None  # where the image of each sample is; None: in their order, no others

    def take(self, index: Int[Tensor, " row"]) -> tuple[Images, Int[Tensor, " row"]]:
        """All images; without `rows`, positions equal indices."""
        return self.images, index if self.rows is None else self.rows[index]


class OnDemandStore(NamedTuple):
    """A store that keeps no image: each is decoded when it is needed. Slow, with one batch in memory."""

    decoding: Decoding
    workers: int
    samples: list[Sample]
    boxes: list[Box]
    sizes: Sequence[tuple[int, int]] = ()
    unreadable: Sequence[str] = ()

    def take(self, index: Int[Tensor, " row"]) -> tuple[Images, Int[Tensor, " row"]]:
        """The images of these rows, decoded."""
        wanted, rows = index.unique(return_inverse=True)
        paths = [self.samples[i].path for i in wanted.tolist()]
        with closing(prefetch(self.decoding.read, paths, self.workers)) as decoded:
            images = [torch.from_numpy(image) for image, _ in decoded]
        return torch.stack(images), rows


class Masks(NamedTuple):
    """The masks of the training images that have one, at the working size."""

    images: UInt8[Tensor, "mask 1 side side"]  # 255: defect
    place: Int[Tensor, " image"]  # for every training image, where its mask is among them; -1: it has none


def open_masks(samples: Sequence[Sample], decoding: Decoding, workers: int) -> Masks:
    """The masks of samples, decoded. Raises UserError for a photo or mask that cannot be read."""
    marked = [sample for sample in samples if sample.mask_path]
    images = torch.empty((len(marked), 1, decoding.image_size, decoding.image_size), dtype=torch.uint8)

    def read(sample: Sample) -> np.ndarray:
        placement = decoding.read(sample.path)[1]
        return fit_mask(read_mask(sample.mask_path, placement.photo), placement, decoding.image_size)

    with closing(prefetch(read, marked, workers)) as masks:
        for image, mask in zip(images, masks, strict=True):
            image[:] = torch.from_numpy(mask)
    has = torch.tensor([sample.mask_path is not None for sample in samples])
    return Masks(images, torch.where(has, has.cumsum(0) - 1, -1))


def open_store(
    samples: list[Sample],
    decoding: Decoding,
    workers: int,
    kept: Cache,
    folder: Path,
    on_error: Literal["stop", "skip"] = "stop",
    data_folder: Path | None = None,
    pool: Sequence[Sample] = (),
) -> Store:
    """Decode the images of `samples`, or find them decoded by an earlier run; prints number, size and place.

    `pool`: photos of which `samples` are some, and of which other runs on the same data take others. On disk they are
    decoded together, so that these runs share them; unless `samples` are fewer than half of them.

    `kept`: `none`; `memory`, of this process; `disk`, a memory-mapped file below `folder` that runs share; `device` and
    `auto`, the same, from which `on_device` takes them to the accelerator. If `folder` cannot be written, the images
    stay in memory and one line says so. An entry on disk notes that the data of `data_folder` use it, and `data cache
    clear` leaves it while its images are mapped.

    Raises UserError naming the first file that cannot be read (`on_error=stop`) or that changes while it is read, and
    for images that fit neither disk nor memory.
    """
    if kept == "none":
        places, unreadable = _read_all(samples, decoding, workers, on_error, keep=lambda row, image: None)
        return OnDemandStore(decoding, workers, *_columns(samples, places), unreadable)
    store = _in_memory(samples, decoding, workers, on_error) if kept == "memory" else None
    if store is None:
        try:
            covers = {sample.path for sample in samples} <= {sample.path for sample in pool}
            pool = list(pool) if covers and 2 * len(samples) > len(pool) else []
            store = _on_disk(samples, decoding, workers, on_error, folder, data_folder, pool)
        except OSError as error:
            say(f"cache: {folder} cannot be used ({error}); continuing without it, images stay in memory")
            store = _in_memory(samples, decoding, workers, on_error)
    where = "in memory" if kept == "memory" else f"in {folder}"
    among = "" if store.rows is None else f" among the {len(store.images)} of all runs on these data"
    say(f"{len(store.samples)} decoded training images{among}, {store.images.nbytes / 2**20:.0f} MB {where}")
    return store


def on_device(store: Store, device: torch.device, kept: Cache) -> Store:
    """The images on a CUDA device: for `auto` if they take less than half of its free memory, for `device` always.

    Raises UserError for `device` where they do not fit. Any other store, and one that is there, is returned as it is.
    """
    if (
        device.type != "cuda"
        or kept not in {"device", "auto"}
        or not isinstance(store, Decoded)
        or store.images.is_cuda
    ):
        return store
    size = store.images.nbytes
    if size < torch.cuda.mem_get_info(device)[0] / 2:
        say(f"training images on {device}, {size / 2**20:.0f} MB")
        return store._replace(images=store.images.to(device))
    if kept == "device":
        raise UserError(
            f"data.cache: expected the images ({size / 2**30:.1f} GB) to fit half of the free memory of {device}; set "
            "data.cache=disk"
        )
    return store


def _in_memory(samples: list[Sample], decoding: Decoding, workers: int, on_error: str) -> Decoded:
    images = torch.empty(_shape(samples, decoding), dtype=torch.uint8)
    places, unreadable = _read_all(samples, decoding, workers, on_error, images.numpy().__setitem__)
    return Decoded(images[: len(places)], *_columns(samples, places), unreadable)


def _on_disk(
    some: list[Sample], decoding: Decoding, workers: int, on_error: str, folder: Path, data_folder: Path | None,
    pool: list[Sample],
) -> Decoded:  # fmt: skip
    """The cache entry of these files or of the pool, which the first process writes while the others wait."""
    samples = pool or some
    settings = decoding
    files = [sample.path for sample in samples]
    if isinstance(decoding.region, str):  # a mask image counts by its content, wherever it lies
        settings, files = replace(decoding, region=None), [*files, Path(decoding.region).expanduser()]
    content = _digests(files)
    path = cache.entry(folder, [content, astuple(settings)])

    def wait(_: str) -> None:
        say("cache: another process is decoding these images, waiting for it")

    unreadable = None
    with lock(cache.lock_of(path), wait):
        if not _is_whole(path, len(samples), on_error):
            shape = _shape(samples, decoding)
            _check_room(shape, folder)
            with writing(path) as part:
                part.mkdir()
                _reserve(part / cache.IMAGES, int(np.prod(shape)))
                images = np.memmap(part / cache.IMAGES, dtype=np.uint8, mode="r+", shape=shape)
                places, unreadable = _read_all(samples, decoding, workers, on_error, images.__setitem__)
                images.flush()
                for file, before, now in zip(files, content, _digests(files), strict=True):
                    if now != before:  # since it was hashed, perhaps long before it was decoded
                        raise UserError(f"{file}: expected a file that stays as it is, found that it changed")
                about = {"shape": shape, "places": places, "sha256": _sha256(part / cache.IMAGES)}
                (part / cache.ABOUT).write_text(json.dumps(about))
        cache.note_use(path, data_folder)
        about = json.loads((path / cache.ABOUT).read_text())
        with (path / cache.IMAGES).open("rb") as stored:
            share(stored)  # as long as the images are mapped
            # Copy-on-write: torch wants memory that may be written, and nothing of it ever reaches the file.
            images = np.memmap(stored, dtype=np.uint8, mode="c", shape=tuple(about["shape"]))
    places = [tuple(place) for place in about["places"]]
    tensor = torch.from_numpy(images)[: len(places)]
    row = {samples[place[0]].path: number for number, place in enumerate(places)}
    if unreadable is None or pool:  # the entry does not say why
        rest = [sample for sample in some if sample.path not in row]
        unreadable = [str(answer) for sample in rest if isinstance(answer := _read(sample, decoding), UserError)]
    if not pool:
        return Decoded(tensor, *_columns(samples, places), unreadable)
    rows = [row[sample.path] for sample in some if sample.path in row]
    if not rows:
        raise none_readable(unreadable)
    return Decoded(tensor, *_columns(samples, [places[number] for number in rows]), unreadable, torch.tensor(rows))


def _columns(samples: list[Sample], places: list[Place]) -> tuple[list[Sample], list[Box], list[tuple[int, int]]]:
    """Sample, box and size of each image."""
    return (
        [samples[place[0]] for place in places],
        [place[1:5] for place in places],
        [place[5:] for place in places],
    )


def _check_room(shape: tuple[int, int, int, int], folder: Path) -> None:
    """Refuse images that fit neither disk nor memory, before hours are spent; say how large large ones are.

    Raises OSError where they fit the memory alone, as a full disk does.
    """
    size, free, memory = math.prod(shape), shutil.disk_usage(folder).free, memory_of_machine()
    about = f"{shape[0]} images of {shape[3]} x {shape[2]} px"
    if size > free:
        found = f"{about}, which take {size / 2**30:.1f} GB, and {free / 2**30:.1f} GB free"
        if size <= memory:
            raise OSError(errno.ENOSPC, f"found {found}")
        raise UserError(
            f"data.image_size: expected decoded images that fit the free disk or the memory, found {found} in {folder} "
            f"and {memory / 2**30:.1f} GB of memory; set a smaller data.image_size, or another data.cache_dir"
        )
    if size >= LARGE:
        say(f"decoding {about} takes {size / 2**30:.0f} GB in {folder}")


def _reserve(path: Path, size: int) -> None:
    """Reserve the space: a full disk is an error here, but a crash when a mapped page cannot be written."""
    with path.open("wb") as file:
        block = bytes(2**20)
        for start in range(0, size, len(block)):
            file.write(block[: size - start])


def _is_whole(path: Path, count: int, on_error: str) -> bool:
    """Whether an entry is what was written, byte for byte, and holds all of `count` samples or the readable ones."""
    try:
        about = json.loads((path / cache.ABOUT).read_text())
        numbers = [*about["shape"], *(number for place in about["places"] for number in place)]
        read = len(about["places"])
        return (
            {len(place) for place in about["places"]} == {7}
            and read <= about["shape"][0] == count
            and (read == count or on_error == "skip")
            and all(type(number) is int and number >= 0 for number in numbers)
            and all(place[0] < count for place in about["places"])
            and (path / cache.IMAGES).stat().st_size == int(np.prod(about["shape"]))
            and about["sha256"] == _sha256(path / cache.IMAGES)
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(files: list[Path]) -> list[str]:
    """Hashes of the contents, which differ even for a file replaced under the same name, size and time."""
    try:
        return digests(files)
    except OSError as error:
        raise UserError(f"{error.filename}: expected an image, found: {error.strerror}") from error


def _identity(path: Path) -> tuple[str, int, int]:
    """Path, size and time, which change with the file."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: expected an image, found: {error.strerror}") from error
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def _shape(samples: list[Sample], decoding: Decoding) -> tuple[int, int, int, int]:
    return len(samples), decoding.channels, decoding.image_size, decoding.image_size


def _read_all(
    samples: list[Sample],
    decoding: Decoding,
    workers: int,
    on_error: str,
    keep: Callable[[int, np.ndarray], None],
) -> tuple[list[Place], list[str]]:
    """Decode the images and pass each with its row to `keep`; places of the readable ones, reasons of the others."""
    places: list[Place] = []
    unreadable: list[str] = []
    read = prefetch(partial(_read, decoding=decoding), samples, workers)
    with closing(tracked(read, "decoding", len(samples))) as answers:
        for number, answer in enumerate(answers):
            if isinstance(answer, UserError):
                if on_error == "stop":
                    raise stopped(answer)
                unreadable.append(str(answer))
                continue
            image, placement = answer
            keep(len(places), image)
            places.append((number, *placement.target, *placement.photo))
    if not places:
        raise none_readable(unreadable)
    return places, unreadable


def _read(sample: Sample, decoding: Decoding) -> tuple[np.ndarray, Placement] | UserError:
    """The image of a sample, or why there is none."""
    before = _identity(sample.path)
    try:
        answer = decoding.read(sample.path)
    except UserError as error:
        return error
    if _identity(sample.path) != before:
        return UserError(f"{sample.path}: expected a file that stays as it is, found that it changed while it was read")
    return answer


def none_readable(reasons: list[str]) -> UserError:
    """The error of a run without training images."""
    return UserError(f"expected training images, found none that can be read: {reasons[0]}")


def stopped(error: UserError) -> UserError:
    """The error of an image that cannot be read, with the way to go on without it."""
    return UserError(f"{error}; data.on_error=skip leaves out what cannot be read")
