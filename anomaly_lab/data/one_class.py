"""Photos of several classes, one of which is normal and the others are not: the protocols of one-class papers."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt

from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.data.class_folders import Classes
from anomaly_lab.data.listing import child_of
from anomaly_lab.data.names import GOOD, composed, folded, is_system
from anomaly_lab.data.samples import Sample, Splits, with_copies

Protocol = Literal["one_vs_rest", "leave_one_out"]
SHARE = 0.8  # of the normal photos that train under leave_one_out: Zenati et al. 2018, and the GANomalies


def one_class(root: str, category: str, protocol: Protocol, split_seed: NonNegativeInt) -> Splits:
    """Read `root/train/<class>/*` and `root/test/<class>/*` for one class.

    - `one_vs_rest`: the class is normal. Its training photos train; all classes are tested, those of other classes as
      defects that are called by their names, but `class good` for `good`. A class may be there for the test alone.
    - `leave_one_out`: the class is abnormal, the others are normal. Training and test photos are one pool, of which a
      seeded 80 % of the normal ones train; the rest and the whole class are tested.

    Raises UserError for a missing folder, for photos beside the classes, and for a class that has no photos or is not
    there.
    """
    path = Path(root).expanduser()
    folders = classes(root)
    names, category = [composed(folder.name) for folder in folders], composed(category)
    if category not in names:
        hint = "; with -m it is a job for each" if category == "all" else nearest(category, names)
        raise UserError(
            f"data.category: expected one of the classes {', '.join(names)} of {root}, found {category!r}{hint}"
        )
    reading = Classes(path, kinds=True)
    test_folder = child_of(path, "test")
    tested = {composed(child.name): child for child in kinds_in(test_folder)} if test_folder else {}
    for folder in filter(None, (folders[0].parent, test_folder)):
        reading.refuse_loose(folder, f"{folder.name}/<class>")
    if missing := next((name for name in names if name not in tested), None):
        raise UserError(f"data.root: expected test photos of every class, found no folder {path / 'test' / missing}")

    def labelled(folder: Path) -> list[Sample]:
        abnormal = (composed(folder.name) == category) == (protocol == "leave_one_out")
        name = f"class {folder.name}" if folder.name.lower() == "good" else folder.name
        return reading.samples(folder, name if abnormal else "good", int(abnormal))

    others = [name for name in tested if name not in names]
    if others and protocol == "leave_one_out":
        raise UserError(
            f"data.root: expected training photos of every class, found no folder {folders[0].parent / others[0]}"
        )
    test = [sample for name in (*names, *others) for sample in labelled(tested[name])]
    if protocol == "one_vs_rest":
        train = labelled(next(folder for folder in folders if composed(folder.name) == category))
        splits = with_copies(reading.splits(f"one class, {category}, against the others", train, test))
        return splits._replace(good_names=good_names(tested, {category}))
    pool = [*(sample for folder in folders for sample in labelled(folder)), *test]
    normal = [number for number, sample in enumerate(pool) if not sample.label]
    kept = set(random.Random(split_seed).sample(normal, int(SHARE * len(normal))))
    train = [sample for number, sample in enumerate(pool) if number in kept]
    rest = [sample for number, sample in enumerate(pool) if number not in kept]
    splits = with_copies(reading.splits(f"all classes but {category}", train, rest))
    is_good = good_names(names, {*names} - {category})
    return splits._replace(good_names=is_good, pool=tuple(pool))  # nine of ten runs learn from each photo


def good_names(every: Iterable[str], good: Iterable[str]) -> frozenset[str]:
    """The names of folders of good photos, of some of the classes: as a class, 0 means what the others do."""
    return frozenset((GOOD - {folded(name) for name in every}) | {folded(name) for name in good})


def kinds_in(folder: Path) -> list[Path]:
    """The sub-folders, whatever they are called but for those of a system, sorted."""
    return sorted(child for child in folder.iterdir() if child.is_dir() and not is_system(child.name))


def classes(root: str) -> list[Path]:
    """The folders of the classes in `root/train`. Raises UserError where there are fewer than two."""
    path = Path(root).expanduser()
    train = child_of(path, "train") if path.is_dir() else None
    found = kinds_in(train) if train else []
    if len(found) < 2:
        raise UserError(
            f"data.root: expected a folder with train/<class> and test/<class> of at least two classes, found "
            f"{found[0] if found else 'none'} in {root}; photos of one kind of part: data=folder"
        )
    return found
