"""The photos that `predict` reads, and the paths of their results. No image is opened."""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, count
from os import PathLike
from pathlib import Path

from anomaly_lab.core.console import printable, say
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.remarks import RemarkCounter
from anomaly_lab.data.listing import TWICE, LeftOut, enters, walk
from anomaly_lab.data.names import SUFFIXES

LONGEST = 230  # bytes of a file name; disks allow 255, and the temporary name is longer


def path_of(given: str | PathLike[str]) -> Path:
    """The path that was given. Raises UserError for an empty one, which would mean the working folder, or a bad one."""
    if not isinstance(given, str | PathLike) or not str(given):
        raise UserError(f"expected a path, found {given!r}")
    if "://" in str(given):
        raise UserError(
            f"expected a path on this machine, found the address {printable(str(given))}; download it first"
        )
    try:
        path = Path(given).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # too long; nobody's home
        raise UserError(f"expected a path, found {printable(str(given))[:80]!r}: {error}") from error
    return path


def is_several(source: Path) -> bool:
    """Whether a path is a folder, or a glob that is no file itself."""
    return source.is_dir() or (not source.exists() and glob.has_magic(str(source)))


def find(source: str, out: Path | None, unlisted: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """The images that a file, a folder or a glob names, folder by folder, each sorted; files in `out` are left out.

    Dead links and photos of formats that cannot be read are among them, so that they are reported. Folders of masks and
    links to folders that are read already are not; the last step of the iterator prints their number. Only one folder
    is in memory at a time. The errors of folders that cannot be listed are passed to `unlisted`. Raises UserError if
    there is no image.
    """
    remarks = RemarkCounter()
    if Path(source).is_dir():
        paths = walk(Path(source), unlisted, remarks.add, unreadable=True)
    elif Path(source).is_file():
        paths = iter([Path(source)])
    else:
        paths = expand(source, remarks.add)
    results = out and out.resolve()
    if out and results == Path(source).resolve():
        raise UserError(f"out: expected another folder than the photos, found {out}; its files are left out")
    photos = (path for path in paths if results not in Path(os.path.realpath(path)).parents)
    first = next(photos, None)
    if first is None:
        raise UserError(f"source: expected an image file, a folder or a glob of images, found none at {source}")
    return _with_remarks(chain([first], photos), remarks)


def _with_remarks(photos: Iterator[Path], remarks: RemarkCounter) -> Iterator[Path]:
    yield from photos
    for line in remarks.lines():
        say(line)


def expand(pattern: str, left_out: LeftOut | None = None) -> Iterator[Path]:
    """The files and dead links that `glob.glob` finds, folder by folder, each sorted.

    With `left_out`, folders that `walk` leaves out are left out, unless the pattern itself has their name, and so are
    links to folders that are found anyway.
    """
    head, tail = os.path.split(pattern if Path(pattern).is_absolute() else f"./{pattern}")
    if tail == "**":
        head, tail = f"{head}/**", "*"
    folders = sorted(set(glob.glob(f"{head.rstrip('/')}/", recursive=True)))
    for folder in folders if left_out is None else _of_photos(folders, pattern, left_out):
        for name in sorted(glob.glob(glob.escape(folder) + tail)):
            if Path(name).is_file() or (Path(name).is_symlink() and not Path(name).exists()):
                yield Path(name)


def _of_photos(folders: Sequence[str], pattern: str, left_out: LeftOut) -> list[str]:
    """The folders without those that `walk` leaves out, and each once, whatever links lead to it."""
    base, named = base_of(pattern), {*Path(pattern).parts}
    read = {os.path.realpath(folder) for folder in folders if not _is_linked(Path(folder), base)}
    entered: dict[Path, bool] = {}

    def enter(folder: Path) -> bool:
        """Whether no folder from the base to this one is left out; each is asked once."""
        if folder == base or base not in folder.parents:
            return True
        if folder not in entered:
            entered[folder] = enter(folder.parent) and (folder.name in named or enters(folder, [], left_out))
            if entered[folder] and _is_linked(folder, base):
                target = os.path.realpath(folder)
                if target in read:
                    left_out(TWICE, folder)
                    entered[folder] = False
                read.add(target)
        return entered[folder]

    return [folder for folder in folders if enter(Path(folder))]


def _is_linked(folder: Path, base: Path) -> bool:
    """Whether a link leads from the base to a folder."""
    return any(part.is_symlink() for part in (folder, *folder.parents) if base in part.parents)


def base_of(source: str) -> Path:
    """The folder whose tree the results repeat: the source, the folder of a file, or the one before the first wildcard.

    Raises UserError for `..` after a wildcard: results would leave their folder.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent
    parts = path.parts
    first = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    if ".." in parts[first:]:
        raise UserError(f"source: expected no .. after the first wildcard, found {source}")
    return Path(*parts[:first])


def result(folder: Path, photo: Path, base: Path, suffix: str) -> Path:
    """The path of the result for a photo: its path below `base` with another suffix.

    It keeps the photo's own suffix before that where another photo of the folder has the same stem, in any case, or
    where the stem is the name of another photo (`a.jpg.png` beside `a.jpg`): no two photos share a result. Names that
    would be too long are cut and made unique by a digest.
    """
    relative = photo.relative_to(base)
    if photo.suffix.lower() in SUFFIXES and _is_alone(photo):
        relative = relative.with_suffix("")
    name = os.fsencode(relative.name)
    if len(name) + len(suffix) > LONGEST:
        cut = name[: LONGEST - 20 - len(suffix)].decode(errors="ignore")
        return folder / relative.with_name(f"{cut}-{hashlib.sha256(name).hexdigest()[:10]}{suffix}")
    return folder / relative.with_name(f"{relative.name}{suffix}")


def _is_alone(photo: Path) -> bool:
    """Whether the stem of a photo names no other photo of its folder."""
    try:
        names = _names(photo.parent, photo.parent.stat().st_mtime_ns)
    except OSError:  # gone, or a name that is too long
        return True
    stem = photo.stem.lower()
    is_name = Path(stem).suffix in SUFFIXES and stem in names
    return not is_name and sum(names[f"{stem}{end}"] for end in SUFFIXES) <= 1


@lru_cache(maxsize=1)
def _names(folder: Path, _: int) -> Counter[str]:
    """The names in a folder, in lower case, as of a time: results may lie on a disk that ignores case."""
    return Counter(path.name.lower() for path in folder.iterdir())


def new_folder(parent: Path, source: str) -> Path:
    """A new folder named after the source, so that earlier results are not overwritten."""
    stem = Path(source).stem.strip("*?[]. ") or "images"
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(parent / name for name in names if not (parent / name).exists())


def claim_folder(parent: Path, source: str) -> Path:
    """The same, made: of several processes at once each gets its own."""
    while True:
        folder = new_folder(parent, source)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:
            pass  # whoever writes the first file says so
        return folder
