"""Layouts of data sets: a folder on disk -> training and test samples with labels, masks and groups.

Pure functions of a path. No image is opened and neither torch nor NumPy is imported, so a wrong path is reported at
once.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt

from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.data.class_folders import Classes, class_folders
from anomaly_lab.data.listing import child_of, images_in, is_mask_folder, is_photo, subfolders
from anomaly_lab.data.names import GOOD, as_typed, folded, is_good, is_system, speaks_of_defects, speaks_of_good
from anomaly_lab.data.samples import Splits, hold_out, join_copies, with_copies

POOLS = ("all", "textures", "objects")  # instead of a category: all of them, or those of one kind


def mvtec_ad(root: str, category: str, textures: Sequence[str] = ()) -> Splits:
    """Read `root/category` in the layout of MVTec AD; `textures` are the categories that are not objects.

    `train/good/*`, `test/<defect>/*`, `ground_truth/<defect>/<stem>_mask.png`. A category without `ground_truth` is
    tested on the image level only. The categories `all`, `textures` and `objects` read every such category in `root` as
    one data set; defects are then called `<category>/<defect>`. Raises UserError for a missing folder or category, and
    for masks that do not fit.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(
            f"data.root: expected the folder of MVTec AD with one folder per category, found nothing at {root}; "
            "see 'MVTec AD' in the README, or try data=demo"
        )
    if category in POOLS:
        return pooled({name: class_folders(base / name) for name in categories(root, category, textures)})
    known = _categories(base)
    if category not in known:
        raise UserError(
            f"data.category: expected one of {', '.join(known) or '(no category folder is there)'} in {root}, "
            f"found {category!r}{nearest(category, known)}"
        )
    return class_folders(base / category)


def categories(root: str, pool: str, textures: Sequence[str] = ()) -> list[str]:
    """The categories in `root` of a pool: `all`, `textures` or `objects`. Raises UserError if there are none."""
    found = of_pool(_categories(Path(root).expanduser()), pool, textures)
    if not found:
        what = "category" if pool == "all" else f"category of {pool}"
        raise UserError(
            f"data.root: expected one folder per {what} (<category>/train/good), found none in {root}; for photos of "
            "one part use data=folder"
        )
    return found


def of_pool(names: Iterable[str], pool: str, textures: Sequence[str] = ()) -> list[str]:
    """The names that belong to a pool; a category that is not a texture is an object."""
    return [name for name in names if pool == "all" or (name in textures) == (pool == "textures")]


def textures_of(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The textures of a table of categories, `data.categories`."""
    return [name for name, settings in table.items() if name not in POOLS and settings.get("kind") == "texture"]


def _categories(base: Path) -> list[str]:
    return sorted(folder.parent.name for folder in base.glob("*/train") if folder.is_dir())


def pooled(splits_of: dict[str, Splits]) -> Splits:
    """The images of all categories as one data set, with `<category>/` before all defect names, `good` included."""
    train, test = (
        [
            sample._replace(defect=f"{name}/{sample.defect}")
            for name, splits in splits_of.items()
            for sample in (splits.train, splits.test)[i]
        ]
        for i in (0, 1)
    )
    folders = [(f"{name}/{found}", role) for name, splits in splits_of.items() for found, role in splits.folders]
    remarks = [f"{name}: {remark}" for name, splits in splits_of.items() for remark in splits.remarks]
    masks = tuple(mask for splits in splits_of.values() for mask in splits.good_masks)
    about = f"{len(splits_of)} categories", tuple(folders), tuple(remarks)
    return Splits(train, test, *about, good_masks=masks)


def folder(
    root: str, split_seed: NonNegativeInt, normal_test_share: float = 0.2, good: Sequence[str | int] = ()
) -> Splits:
    """Read a folder of photos in one of three layouts.

    1. `train/good` and `test/<class>`, with or without masks;
    2. `good/` beside folders of defects, without a split: a seeded share of the good images is tested too;
    3. only images, flat or nested: all are good and used for training, and there is no test.

    `good` names more folders of good photos, beside good, normal, ok, pass and 0. A folder that holds nothing but one
    folder is that folder. Raises UserError for any other layout, and where several folders might be good or not.
    """
    path, names = Path(root).expanduser(), {folded(str(name).strip("/")) for name in good}
    if not path.is_dir():
        found = "a file" if path.is_file() else "nothing"
        raise UserError(f"data.root: expected a folder of images, found {found} at {root}; set data.root=FOLDER")
    return _of_one_part(path, root, names, split_seed, normal_test_share)._replace(good_names=frozenset(GOOD | names))


def _of_one_part(path: Path, root: str, names: set[str], split_seed: int, normal_test_share: float) -> Splits:
    """The same for a folder that is there; `names` of good ones are `folded`."""
    reading = Classes(path)
    level = _only_folder(path, names)
    if child_of(level, "train"):
        return class_folders(level, names)
    classes = [child for child in subfolders(level) if reading.holds_photos(child)]
    if unknown := names - {folded(child.name) for child in classes}:
        raise UserError(
            f"data.good: expected names of {', '.join(child.name for child in classes) or 'sub-folders'}, "
            f"found {sorted(unknown)[0]!r}"
        )
    normal = [child for child in classes if is_good(child.name, names)]
    bad = [child for child in classes if child not in normal]
    loose = [file for file in images_in(level) if file.parent == level]
    if not normal:
        _refuse_other_layouts(path, root)
        if len(classes) > 1:
            every = [child.name for child in classes]
            raise UserError(
                f"data.good: expected the names of the folders of good photos in {root}, found {', '.join(every)}; "
                f"type {as_typed([_likely_good(every)])} or {as_typed(every)}, whichever are good; "
                "the others are defects"
            )
        for child in classes:
            reading.note("read as good, like the photos beside it (another meaning: data=csv)", child)
    if not normal or (names and loose and not bad):
        samples = reading.photos_of_good_parts(level)
        return with_copies(reading.splits("good photos only", samples, []))
    reading.refuse_loose(level, "good/ and folders of defects")
    samples = [sample for child in normal for sample in reading.samples(child, "good", 0)]
    if not bad:
        return with_copies(reading.splits("good photos only", samples, []))
    abnormal = [sample for child in bad for sample in reading.samples(child, child.name, 1, (level,))]
    reading.check_masks(level)
    train, normal_test = hold_out(join_copies(samples), normal_test_share, split_seed)
    return with_copies(reading.splits("good photos beside folders of defects", train, normal_test + abnormal))


def _only_folder(path: Path, good: set[str]) -> Path:
    """The folder that holds the photos: the only one in a folder without photos, as an unpacked archive has it."""
    while True:
        children = subfolders(path)
        if len(children) != 1 or speaks_of_defects(children[0].name):
            return path
        if is_good(children[0].name, {*good, "train", "test"}) or any(
            (child.is_dir() and is_mask_folder(child)) or is_photo(child) for child in path.iterdir()
        ):
            return path
        path = children[0]


def _likely_good(names: list[str]) -> str:
    """The name that most likely means good parts: it speaks of them, or others say that they are not like it."""

    def doubt(name: str) -> tuple[bool, bool, bool]:
        is_denied = any(name != other and name.lower() in other.lower() for other in names)
        return speaks_of_defects(name), not speaks_of_good(name), not is_denied

    return min(names, key=doubt)


def _refuse_other_layouts(path: Path, root: str) -> None:
    """Refuse folders among good photos whose names speak of another layout."""
    for found in sorted(below for below in path.rglob("*") if below.is_dir()):
        name = found.name.lower()
        if any(is_system(part) for part in found.relative_to(path).parts):
            continue
        if is_good(name, ("train", "test")) or is_mask_folder(found) or speaks_of_defects(name):
            raise UserError(
                f"data.root: expected in {root} good images alone, or good/ beside folders of defects, or train/good "
                f"and test/<class>; found the folder {found.relative_to(path).as_posix()!r}, whose name speaks of "
                "another layout; rename it, name the folders of good photos (data.good=[NAME]), or list the images "
                "in a table (data=csv)"
            )
