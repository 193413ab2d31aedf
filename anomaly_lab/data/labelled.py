"""Defective photos that a method may learn from (`data.labelled_abnormal`): a run with them is weakly supervised."""

import os
import random
from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.remarks import RemarkCounter
from anomaly_lab.data.class_folders import mask_trees, masks_beside, masks_in
from anomaly_lab.data.folds import in_fold
from anomaly_lab.data.listing import FOLDER_OF_MASKS, images_in
from anomaly_lab.data.names import PHOTOS, folded
from anomaly_lab.data.samples import Sample, Splits, choose, join_copies, same_content

Amount = (
    PositiveInt | Annotated[float, Field(gt=0, lt=1)] | Annotated[str, Field(min_length=1)]
)  # number, share, folder
KEY = "data.labelled_abnormal"


def known(
    splits: Splits,
    good_photos: int | None,
    seed: int,
    labelled_abnormal: Amount | None,
    fold: tuple[int, int] | None,
    split_seed: int,
) -> Splits:
    """What a run knows of the data: so many good photos, and the defective ones that it may learn from.

    `fold`: the one that is tested, and their number. Raises UserError as `choose`, `with_labelled` and `in_fold` do.
    """
    if fold is not None:
        splits = in_fold(splits, *fold, split_seed)
    elif labelled_abnormal is not None:
        splits = with_labelled(splits, labelled_abnormal, split_seed)
    return splits._replace(train=choose(splits.train, good_photos, seed))


def with_labelled(splits: Splits, amount: Amount, seed: int) -> Splits:
    """The splits with `labelled` photos, of a folder, or drawn from the test, which no longer has them.

    The draw takes the types of defects in turns, so that each gives as many photos as the others while it has some, and
    fewer photos are always among more. A photo is drawn once, however many copies it has. Shots of the same part, and
    copies, leave the test with a photo that is drawn.
    Raises UserError where there are too few defective test photos, or the folder has none, good ones or tested ones.
    """
    if isinstance(amount, str):
        return _of_folder(amount, splits)
    test = join_copies(splits.test)
    abnormal = _defective(test)
    number = max(1, round(amount * len(abnormal))) if isinstance(amount, float) else amount
    if number >= len(abnormal):
        found = f"{number} of {len(abnormal)}" if abnormal else "a test without labelled defective photos"
        raise UserError(
            f"{KEY}: expected fewer photos than the defective ones of the test, so that one is left to test, found "
            f"{found}; a folder of other defective photos: {KEY}=FOLDER"
        )
    drawn = set(_in_turns(abnormal, seed)[:number])
    groups = {sample.group for sample in drawn}
    rest = [sample for sample in test if sample.group not in groups]
    if not any(sample.label == 1 for sample in rest):
        raise UserError(
            f"{KEY}: expected a defective photo of another part that is left to test, found {number} drawn whose parts "
            "(groups) are those of all others; type a smaller number, or a folder of other defective photos"
        )
    kept = {sample.path for sample in rest}
    return splits._replace(
        test=[sample for sample in splits.test if sample.path in kept],
        labelled=tuple(sample for sample in test if sample in drawn),
    )


def _defective(samples: list[Sample]) -> list[Sample]:
    """The defective samples, of copies the first one."""
    same = same_content([sample.path for sample in samples])
    first: dict[Path | str, Sample] = {}
    for sample in samples:
        if sample.label == 1:
            first.setdefault(same.get(sample.path, sample.path), sample)
    return list(first.values())


def _in_turns(samples: list[Sample], seed: int) -> list[Sample]:
    """The samples in random order, one of each type of defect after the other."""
    shuffle = random.Random(seed)
    kinds: dict[str, list[Sample]] = {}
    for sample in shuffle.sample(samples, len(samples)):
        kinds.setdefault(sample.defect, []).append(sample)
    rounds = range(max((len(kind) for kind in kinds.values()), default=0))
    return [kind[turn] for turn in rounds for kind in kinds.values() if turn < len(kind)]


def _of_folder(folder: str, splits: Splits) -> Splits:
    """The splits with the photos of a folder as labelled ones, each of the type that its own folder is named after.

    Folders of masks that are of no photo, and copies within the folder, are in the remarks.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        found = "a file" if path.is_file() else "nothing"
        raise UserError(
            f"{KEY}: expected a number, a share below 1 or a folder of defective photos, found {found} at {path}"
        )
    remarks = RemarkCounter()
    folders_of_masks: set[Path] = set()

    def note(reason: str, path: Path) -> None:
        if reason == FOLDER_OF_MASKS:
            folders_of_masks.add(path)
        else:
            remarks.add(reason, path)

    files = images_in(path, note)
    beside = masks_beside(files)
    shots = {file.parent.parent for file in files if file.parent.name.lower() == "rgb"}  # of parts; no depths
    files = [
        file
        for file in files
        if file not in beside.values() and (file.parent.parent not in shots or file.parent.name.lower() == "rgb")
    ]
    if not files:
        raise UserError(f"{KEY}: expected defective photos, found none in {path}")
    for file in files:
        below = [folded(part) for part in file.relative_to(path).parts[:-1]]
        if "train" in below:
            raise UserError(
                f"{KEY}: expected a folder of defective photos alone, found a data set, with {file} to train on; type "
                f"a folder of defects: {KEY}={path / 'test'}/DEFECT{_instead('so many of the test photos', splits)}"
            )
        if not splits.good_names.isdisjoint([*below, folded(_kind(file)), folded(file.parent.name)]):
            raise UserError(f"{KEY}: expected folders of defective photos, found {file} in one of good ones")
    masks = _masks(files, path, remarks) | beside
    for unused in sorted(folders_of_masks):
        if not any(mask.is_relative_to(unused) for mask in masks.values()):
            remarks.add(FOLDER_OF_MASKS, unused)
    lines = [*remarks.lines(), *_copies(files, splits)]
    labelled = tuple(Sample(file, masks.get(file), 1, _kind(file), f"labelled {file}") for file in files)
    return splits._replace(labelled=labelled, remarks=(*splits.remarks, *lines))


def _masks(files: list[Path], path: Path, remarks: RemarkCounter) -> dict[Path, Path]:
    """The masks of photos that lie in folders of masks below `path`, or where MVTec AD has those of `test/DEFECT`.

    One that would be of several photos is of none.
    """
    found: dict[Path, Path] = {}
    for folder in sorted({file.parent for file in files}):
        photos = [file for file in files if file.parent == folder]
        kind = _of_photos(photos[0])
        holders = (path, *([kind.parent.parent] if kind.parent.name.lower() == "test" else []))
        of_kind = (masks_in(tree, folder, photos) for tree in mask_trees(kind, holders))
        found |= next(filter(None, of_kind), {})
    photos_of = Counter(found.values())
    for mask, number in photos_of.items():
        if number > 1:
            remarks.add("left out as masks of several photos (sort them into folders named as the defects)", mask)
    return {photo: mask for photo, mask in found.items() if photos_of[mask] == 1}


def _copies(files: list[Path], splits: Splits) -> list[str]:
    """A line on copies among the files, if there are any. Raises UserError where one is tested, or good."""
    others = {sample.path.resolve(): sample.path for sample in (*splits.train, *splits.test)}
    same = same_content([*files, *others.values()])
    contents = {same[path]: path for path in others.values() if path in same}
    twins = {file: contents.get(same.get(file, "")) or others.get(file.resolve()) for file in files}
    if known := [(file, twin) for file, twin in twins.items() if twin]:
        file, twin = known[0]
        what = "tested" if any(sample.path == twin for sample in splits.test) else "good"
        is_twin = _absolute(file) == _absolute(twin)
        raise UserError(
            f"{KEY}: expected photos that are neither tested nor good, found {len(known)} of {len(files)} that are, "
            f"such as {file}, {f'which is {what}' if is_twin else f'the same as {twin}'}; take them out of the folder"
            + _instead("learn from some of the test photos, which then are not tested", splits)
        )
    first: dict[str, Path] = {}
    again = [(file, first.setdefault(same[file], file)) for file in files if file in same]
    again = [pair for pair in again if pair[0] != pair[1]]
    what = "byte copies among the labelled photos, which count several times"
    return [f"{what}: {len(again)}, such as {again[0][0]} of {again[0][1]}"] if again else []


def _instead(what: str, splits: Splits) -> str:
    """The hint that a number of test photos does as well, if one would be left to test."""
    number = min(5, len(_defective(splits.test)) - 1)
    return f", or {what}: {KEY}={number}" if number > 0 else ""


def _kind(file: Path) -> str:
    """The name of that folder, of `.` too."""
    return _of_photos(_absolute(file)).name


def _absolute(file: Path) -> Path:
    """The whole path, without `..`; links stay links."""
    return Path(os.path.normpath(file.absolute()))


def _of_photos(file: Path) -> Path:
    """The folder that a photo's class is named after: not `rgb` or `images` within it."""
    return file.parent.parent if file.parent.name.lower() in PHOTOS else file.parent


def in_words(labelled: tuple[Sample, ...], tested: int, masks: bool = False) -> str:
    """A line for people on what such a run is; with `masks`, on how many of them it learns from."""
    kinds: dict[str, int] = {}
    for sample in labelled:
        kinds[sample.defect] = kinds.get(sample.defect, 0) + 1
    parts = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
    photos = "1 defective photo" if len(labelled) == 1 else f"{len(labelled)} defective photos"
    marked = f", {sum(sample.mask_path is not None for sample in labelled)} with a mask" if masks else ""
    return (
        f"{photos} to learn from ({parts}){marked}, not among the {tested} test photos: "
        "the run is weakly supervised, and not compared with runs that know good photos only"
    )
