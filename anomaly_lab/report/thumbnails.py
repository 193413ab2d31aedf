"""Pictures of a run, small enough for thousands in one page."""

import base64
from pathlib import Path
from typing import NamedTuple

import cv2

from anomaly_lab.core.files import read_csv
from anomaly_lab.runs.collect import Run

WIDTH = 640  # px of a strip of tiles that had to be made smaller
Entry = tuple[Path, int, str, tuple[str, ...]]  # file, place in the run's images, kind, tiles
OLD_TILES = ("image", "reconstruction where there is one", "map", "image with the defect outlined")


class Thumbnail(NamedTuple):
    """A strip of tiles of one test image."""

    image: int  # place in the run's images, -1: not known
    name: str
    kind: str  # as in gallery/index.csv; "": of a run without a gallery
    tiles: tuple[str, ...]
    width: int
    height: int
    type: str  # webp or jpeg
    data: str  # base64


def thumbnails(run: Run, limit: int) -> list[Thumbnail]:
    """The pictures of `gallery/`, or else of `pictures/`, as many as fit in `limit` bytes of base64.

    Kinds alternate, so that a small limit keeps some of each.
    """
    found = _gallery(run) or _pictures(run)
    turns: dict[str, int] = {}
    order: list[tuple[int, int, Entry]] = []
    for entry in found:
        turns[entry[2]] = turns.get(entry[2], 0) + 1
        order.append((turns[entry[2]], len(order), entry))
    kept: list[Thumbnail] = []
    for _, _, (path, place, kind, tiles) in sorted(order, key=lambda item: item[:2]):
        thumbnail = encoded(path, place, kind, tiles)
        if thumbnail is None:
            continue
        limit -= len(thumbnail.data)
        if limit < 0:
            break
        kept.append(thumbnail)
    return kept


def _gallery(run: Run) -> list[Entry]:
    """The entries of `gallery/index.csv`; none if it is missing or damaged."""
    folder = run.folder / "gallery"
    places = {path: i for i, path in enumerate(run.paths)}
    try:
        return [
            (folder / Path(row["file"]).name, places.get(row["path"], -1), row["kind"], tuple(row["tiles"].split()))
            for row in read_csv(folder / "index.csv")
        ]
    except (OSError, ValueError, KeyError):
        return []


def _pictures(run: Run) -> list[Entry]:
    """The pictures of a run without a gallery, alternating between defect types."""
    folder = run.folder / "pictures"
    places = {f"{image.defect}_{Path(image.name).stem}": i for i, image in enumerate(run.images)}
    paths = sorted(path for path in folder.rglob("*.png") if path.name != "overview.png")
    named = [(path, places.get(path.relative_to(folder).with_suffix("").as_posix(), -1)) for path in paths]
    turns: dict[str, int] = {}
    order = []
    for path, place in named:
        defect = run.images[place].defect if place >= 0 else ""
        turns[defect] = turns.get(defect, 0) + 1
        order.append((turns[defect], path, place))
    return [(path, place, "", OLD_TILES) for _, path, place in sorted(order)]


def encoded(path: Path, place: int, kind: str, tiles: tuple[str, ...]) -> Thumbnail | None:
    """A WebP unchanged, anything else reduced and as JPEG; None if it cannot be read."""
    try:
        data = path.read_bytes() if path.is_file() else b""  # a pipe would never end
    except OSError:
        return None
    picture = cv2.imread(str(path)) if data else None
    if picture is None:
        return None
    kind_of_file = "webp"
    if path.suffix != ".webp":
        height = max(1, round(picture.shape[0] * WIDTH / picture.shape[1]))
        if picture.shape[1] > WIDTH:
            picture = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
        data, kind_of_file = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes(), "jpeg"
    text = base64.b64encode(data).decode("ascii")
    height, width = picture.shape[:2]
    return Thumbnail(place, path.stem, kind, tiles, width, height, kind_of_file, text)
