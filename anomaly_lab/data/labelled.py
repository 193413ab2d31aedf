"""Defective photos that a method may learn from (`data.labelled_abnormal`): a run with them is weakly supervised."""

import random
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.listing import images_in
from anomaly_lab.data.names import is_good
from anomaly_lab.data.samples import Sample, Splits, choose, join_copies, same_content

Amount = (
    PositiveInt | Annotated[float, Field(gt=0, lt=1)] | Annotated[str, Field(min_length=1)]
)  # number, share, folder
KEY = "data.labelled_abnormal"


def known(
    splits: Splits, good_photos: int | None, seed: int, labelled_abnormal: Amount | None, split_seed: int
) -> Splits:
    """What a run knows of the data: so many good photos, and the defective ones that it may learn from.

    Raises UserError as `choose` and `with_labelled` do.
    """
    some = splits if labelled_abnormal is None else with_labelled(splits, labelled_abnormal, split_seed)
    return some._replace(train=choose(splits.train, good_photos, seed))


def with_labelled(splits: Splits, amount: Amount, seed: int) -> Splits:
    """The splits with `labelled` photos, of a folder, or drawn from the test, which no longer has them.

    The draw takes the types of defects in turns, so that each gives as many photos as the others while it has some, and
    fewer photos are always among more. Shots of the same part, and copies, leave the test with a photo that is drawn.
    Raises UserError where there are too few defective test photos, where the folder has none, or a tested one.
    """
    if isinstance(amount, str):
        return splits._replace(labelled=tuple(_of_folder(amount, splits)))
    test = join_copies(splits.test)
    abnormal = [sample for sample in test if sample.label == 1]
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
            f"{KEY}: expected a defective photo of another part that is left to test, found {number} photos whose "
            "parts (groups) are those of all others; type a smaller number"
        )
    kept = {sample.path for sample in rest}
    return splits._replace(
        test=[sample for sample in splits.test if sample.path in kept],
        labelled=tuple(sample for sample in test if sample in drawn),
    )


def _in_turns(samples: list[Sample], seed: int) -> list[Sample]:
    """The samples in random order, one of each type of defect after the other."""
    shuffle = random.Random(seed)
    kinds: dict[str, list[Sample]] = {}
    for sample in shuffle.sample(samples, len(samples)):
        kinds.setdefault(sample.defect, []).append(sample)
    rounds = range(max((len(kind) for kind in kinds.values()), default=0))
    return [kind[turn] for turn in rounds for kind in kinds.values() if turn < len(kind)]


def _of_folder(folder: str, splits: Splits) -> list[Sample]:
    """The photos of a folder as defective samples, each of the type that its own folder is named after."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        found = "a file" if path.is_file() else "nothing"
        raise UserError(
            f"{KEY}: expected a number, a share below 1 or a folder of defective photos, found {found} at {path}"
        )
    files = images_in(path)
    if not files:
        raise UserError(f"{KEY}: expected defective photos, found none in {path}")
    if good := next((file for file in files if is_good(file.parent.name)), None):
        raise UserError(f"{KEY}: expected folders of defective photos, found {good} in one of good ones")
    others = {sample.path.resolve(): sample for sample in (*splits.train, *splits.test)}
    same = same_content([*files, *(sample.path for sample in others.values())])
    contents = {same[path]: path for path in (sample.path for sample in others.values()) if path in same}
    for file in files:
        if twin := contents.get(same.get(file, "")) or (file if file.resolve() in others else None):
            raise UserError(
                f"{KEY}: expected photos that are neither tested nor good, found {file}, the same as {twin}; to learn "
                f"from some of the test photos type their number: {KEY}=5"
            )
    return [Sample(file, None, 1, file.parent.name, f"labelled {file}") for file in files]


def in_words(labelled: tuple[Sample, ...], tested: int) -> str:
    """A line for people on what such a run is."""
    kinds: dict[str, int] = {}
    for sample in labelled:
        kinds[sample.defect] = kinds.get(sample.defect, 0) + 1
    parts = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
    return (
        f"{len(labelled)} defective photos to learn from ({parts}), none of which is among the {tested} test photos: "
        "the run is weakly supervised, and not compared with runs that know good photos only"
    )
