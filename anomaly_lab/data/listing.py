"""The photos below a folder, and what is left out there. No image is decoded."""

import codecs
import os
import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.names import (
    PHOTOS,
    SIGNATURES,
    SUFFIXES,
    UNREADABLE,
    composed,
    folded,
    is_good,
    is_masks,
    is_system,
    may_be_masks,
    photo_of,
    speaks_of_defects,
)  # fmt: skip

SAMPLE = 1000  # photos of a folder that are kept where not all are needed: 200 MB at 256 px
PROCEDURAL, OWN = "procedural", "own"  # instead of a folder: drawn textures, the image itself
LeftOut = Callable[[str, Path], None]  # receives a reason and a path
NOWHERE = "left out, because the link leads nowhere (data that have not been fetched?)"
TWICE = "left out, because the link leads to a folder that is read already"
NOT_READ = "left out, because the format cannot be read (convert it to PNG)"
NO_PHOTO = "left out, because the content is no photo"
TWO_FILES = "left out beside the photo of the same name"
BY_CONTENT = "read, because the content is a photo, whatever the suffix says"
NO_FILE = "left out, because it is no file"
FOLDER_OF_MASKS = "left out as a folder of masks"
OF_RESULTS = (b"path", b"run", b"score", b"decision_score"), (b"path", b"defect", b"label", b"score")  # of scores.csv
RESULTS = "left out, because the folder holds results of predict or of a run"
NOT_LISTED = "left out, because the folder cannot be listed"


def subfolders(path: Path) -> list[Path]:
    """The folders of images in a folder, sorted; without folders of masks and those of a system."""
    return sorted(
        child for child in path.iterdir() if child.is_dir() and not is_system(child.name) and not is_mask_folder(child)
    )


def child_of(path: Path, name: str) -> Path | None:
    """The sub-folder of this name, in upper or lower case, accents one with their letters or not."""
    children = (child for child in sorted(path.iterdir()) if folded(child.name) == folded(name))
    return next((child for child in children if child.is_dir()), None)


def mask_folders(path: Path) -> list[Path]:
    """The folders of masks in a folder, sorted."""
    return sorted(child for child in path.iterdir() if child.is_dir() and is_mask_folder(child))


def is_mask_folder(folder: Path) -> bool:
    """Whether a folder holds masks: by its name, or a name such as `labels` and files named as photos beside it.

    These lie in its parent, in a folder of images or of defects there, or in one of any other name where the folders
    beside it are the classes; some of them are not good. Where a folder is called masks or ground truth, this is none.
    """
    if is_masks(folder.name):
        return True
    if not may_be_masks(folder.name):
        return False
    beside = [child for child in folder.parent.iterdir() if child.is_dir() and child != folder]
    is_in_test = folder.parent.name.lower() == "test"
    above = folder.parent.parent.iterdir() if is_in_test else ()
    if any(is_masks(child.name) and child.is_dir() for child in (*beside, *above)):
        return False
    photos = [child for child in beside if not (is_system(child.name) or is_masks(child.name))]
    photos = [child for child in photos if not may_be_masks(child.name)]
    are_classes = is_in_test or any(is_good(child.name) for child in photos)
    places = [
        child
        for child in photos
        if are_classes or child.name.lower() in {*PHOTOS, "train", "test"} or speaks_of_defects(child.name)
    ]
    defective = {composed(file.stem) for file in folder.parent.iterdir() if is_photo(file)}
    defective |= {composed(file.stem) for place in places if not is_good(place.name) for file in walk(place)}
    stems = defective | {composed(file.stem) for place in places for file in walk(place)}
    masks = [{stem, photo_of(stem)} for stem in (composed(file.stem) for file in walk(folder))]
    return any(names & defective for names in masks) and all(names & stems for names in masks)


def images_in(path: Path, left_out: LeftOut | None = None) -> list[Path]:
    """All image files below a folder, sorted; without folders of masks and those of a system."""
    return sorted(walk(path, left_out=left_out))


def sample_of(folder: str, key: str, most: int) -> tuple[list[Path], int]:
    """Some photos of a folder that was typed for `key`, always the same ones, and the number of all of them.

    Raises UserError for a folder that is missing or without photos.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"{key}: expected a folder of photos, or procedural, found no folder at {path}")
    found = images_in(path)
    if not found:
        raise UserError(f"{key}: expected photos, found none in {path}; name another folder, or procedural")
    return (found if len(found) <= most else sorted(random.Random(0).sample(found, most))), len(found)


def walk(
    path: Path,
    unlisted: Callable[[OSError], None] | None = None,
    left_out: LeftOut | None = None,
    unreadable: bool = False,
) -> Iterator[Path]:
    """The same as an iterator with one folder in memory at a time: the files of a folder, sorted, then its folders.

    Links to folders outside `path` are followed, once each. The error of a folder that cannot be listed is passed to
    `unlisted`; every other file that is left out, or read in spite of its suffix (`is_photo`), is passed to `left_out`.
    With `unreadable`, dead links and photos of formats that cannot be read are among the files.
    """
    read = [os.path.realpath(path)]
    note = left_out or (lambda reason, path: None)

    failed = partial(_not_listed, note=note, unlisted=unlisted)
    for folder, folders, files in os.walk(path, onerror=failed, followlinks=True):
        folders[:] = [name for name in sorted(folders) if enters(Path(folder, name), read, note)]
        stems = {Path(name).stem for name in files if Path(name).suffix.lower() in SUFFIXES}
        for name in sorted(files):
            file = Path(folder, name)
            if is_system(name):
                continue
            suffix, is_file = file.suffix.lower(), file.is_file()
            known, dead = suffix in SUFFIXES, file.is_symlink() and not file.exists()
            if known and is_file:
                yield file
            elif not known and is_photo(file):
                note(TWO_FILES if file.stem in stems else BY_CONTENT, file)
                if file.stem not in stems:
                    yield file
            elif not (known or suffix in UNREADABLE):
                note(NO_PHOTO, file)
            elif unreadable and (dead or is_file):
                yield file
            else:
                note(NOWHERE if dead else NO_FILE if known else NOT_READ, file)


def is_photo(file: Path) -> bool:
    """Whether a file is read as a photo: by its suffix, or by how it begins."""
    if not file.is_file():
        return False
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        with file.open("rb") as begun:
            return SIGNATURES.match(begun.read(32)) is not None
    except OSError:
        return False


def holds_results(folder: Path) -> bool:
    """Whether a folder holds the scores of `predict`, complete or not, or of the test of a run."""
    for name in ("scores.csv", "scores.csv.part"):
        try:
            if not (folder / name).is_file():  # a pipe would be waited for
                continue
            with (folder / name).open("rb") as begun:
                header = begun.read(64).removeprefix(codecs.BOM_UTF8)
        except OSError:
            continue
        if tuple(re.split(rb"[,;\t|]", header)[:4]) in OF_RESULTS:  # a spreadsheet may have saved it again
            return True
    return False


def _not_listed(error: OSError, note: LeftOut, unlisted: Callable[[OSError], None] | None) -> None:
    note(NOT_LISTED, Path(error.filename))
    if unlisted:
        unlisted(error)


def enters(below: Path, read: list[str], note: LeftOut) -> bool:
    """Whether a folder has photos that are not `read` yet; a target of a link is added to those that are."""
    if is_system(below.name):
        return False
    if is_mask_folder(below):
        note(FOLDER_OF_MASKS, below)
        return False
    if holds_results(below):
        note(RESULTS, below)
        return False
    if below.is_symlink():
        target = os.path.realpath(below)
        if any(os.path.commonpath([target, other]) in {target, other} for other in read):
            note(TWICE, below)
            return False
        read.append(target)
    return True
