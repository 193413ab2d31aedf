"""Layouts of data sets: a folder on disk -> training and test samples with labels, masks and groups.

Pure functions of a path. No image is opened and neither torch nor NumPy is imported, so a wrong path is reported at
once.
"""

import csv as csv_file
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.data.samples import Sample, Splits, hold_out

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
NORMAL = {"good", "normal", "ok"}  # folder names and CSV labels that mean "no defect"
NOT_IMAGES_OF_PARTS = {"ground_truth", "masks"}
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
            for sample in splits[i]
        ]
        for i in (0, 1)
    )
    return Splits(train, test)


def folder(root: str, split_seed: int, normal_test_share: float = 0.2) -> Splits:
    """Read a folder of photos in one of three layouts.

    1. `train/good` and `test/<class>`, with or without `ground_truth/<class>/<stem>_mask.png`;
    2. `good/` beside folders of defects, without a split: a seeded share of the good images is tested too;
    3. only images, flat or nested: all are good and used for training, and there is no test.

    Raises UserError for any other layout.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UserError(f"data.root: expected a folder of images, found nothing at {root}; set data.root=FOLDER")
    if _child(path, "train"):
        return class_folders(path)
    classes = [child for child in subfolders(path) if images_in(child)]
    good = [child for child in classes if child.name.lower() in NORMAL]
    bad = [child for child in classes if child.name.lower() not in NORMAL]
    if not good:
        for found in sorted(below for below in path.rglob("*") if below.is_dir()):
            name = found.name.lower()
            if name in {"train", "test", *NORMAL, *NOT_IMAGES_OF_PARTS} or DEFECT_WORDS.search(name):
                raise UserError(
                    f"{root}: expected good images alone, or good/ beside folders of defects, or train/good and "
                    f"test/<class>; found the folder {found.relative_to(path).as_posix()!r}, whose name speaks of "
                    "another layout; rename it, or list the images in a table (data=csv)"
                )
        return Splits(_samples(path, path, "good", 0), [])
    _refuse_loose(path, "good/ and folders of defects")
    normal = [sample for child in good for sample in _samples(child, path, "good", 0)]
    if not bad:
        return Splits(normal, [])
    abnormal = [sample for child in bad for sample in _samples(child, path, child.name, 1)]
    _check_masks(path, abnormal)
    train, normal_test = hold_out(normal, normal_test_share, split_seed)
    return Splits(train, normal_test + abnormal)


DEFECT_WORDS = re.compile(  # whole words: a union nut is no NIO part, a badge is not bad
    r"(?<![a-z])(bad|defect(s|ive)?|anomal(y|ies|ous)|abnormal|nok|nio|reject(s|ed)?|fault(s|y)?|fail(s|ed|ures?)?|scrap"
    r"|crack(s|ed)?|scratch(es|ed)?|broken|damaged?)(?![a-z])"
)


def _child(path: Path, name: str) -> Path | None:
    """The sub-folder of this name, in upper or lower case."""
    return next((child for child in sorted(path.iterdir()) if child.is_dir() and child.name.lower() == name), None)


def class_folders(path: Path) -> Splits:
    """Read `train/good` (or `train/*` directly) and `test/<class>`, with masks if there are any."""
    train_folder, test_folder = _child(path, "train") or path / "train", _child(path, "test")
    good = [child for child in subfolders(train_folder) if child.name.lower() in NORMAL]
    bad = [child.name for child in subfolders(train_folder) if child.name.lower() not in NORMAL]
    if bad and not good:
        raise UserError(f"{train_folder}: expected the folder 'good', found {', '.join(bad)}")
    if good:
        if bad:
            raise UserError(
                f"{train_folder}: expected only the folder {good[0].name!r}, found {', '.join(bad)} beside it"
            )
        _refuse_loose(train_folder, "train/good")
    train = [sample for child in good or [train_folder] for sample in _samples(child, path, "good", 0)]
    test = []
    for child in subfolders(test_folder) if test_folder else []:
        normal = child.name.lower() in NORMAL
        test += _samples(child, path, "good" if normal else child.name, int(not normal))
    if test_folder:
        _refuse_loose(test_folder, "test/good and test/<defect>")
    _check_masks(path, test)
    if not train:
        raise UserError(f"{train_folder}: expected normal images to train on, found none ({_suffixes()})")
    return Splits(train, test)


def _refuse_loose(path: Path, folders: str) -> None:
    """Refuse images beside the class folders, which would be ignored silently."""
    if loose := [file for file in images_in(path) if file.parent == path]:
        raise UserError(f"{loose[0]}: expected images in folders, {folders}, found one beside them")


def csv(root: str) -> Splits:
    """Read a table with the columns path, label, split and optionally mask, defect, group.

    `root` is the CSV file; paths are relative to its folder. label: 0, good, normal or ok, or 1 or any other text for a
    defect; split: train or test. Raises UserError naming the line of a mistake.
    """
    table = Path(root).expanduser()
    if not table.is_file():
        raise UserError(f"data.root: expected a CSV file with the columns path,label,split, found none at {root}")
    splits = Splits([], [])
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{root}: expected a table in UTF-8, found other bytes ({error.reason}); save it as UTF-8"
        ) from None
    if text:
        reader = csv_file.DictReader(text.splitlines())
        columns = set(reader.fieldnames or [])
        if missing := {"path", "label", "split"} - columns:
            raise UserError(
                f"{root}: expected the columns path,label,split[,mask,defect,group], found "
                f"{','.join(reader.fieldnames or ['nothing'])}; missing: {', '.join(sorted(missing))}"
            )
        if unknown := columns - {"path", "label", "split", "mask", "defect", "group"}:
            raise UserError(f"{root}: expected the columns path,label,split[,mask,defect,group], found {unknown}")
        for number, row in enumerate(reader, start=2):
            sample = _csv_sample(row, table.parent, f"{root}, line {number}")
            split = (row["split"] or "").strip().lower()
            if split not in {"train", "test"}:
                raise UserError(f"{root}, line {number}: expected split train or test, found {row['split']!r}")
            if split == "train" and sample.label != 0:
                raise UserError(
                    f"{root}, line {number}: expected normal images in the split train, found label {row['label']!r}"
                )
            getattr(splits, split).append(sample)
    if not splits.train:
        raise UserError(f"{root}: expected rows with split train, found none")
    paths = Counter(sample.path for sample in [*splits.train, *splits.test])
    if twice := next((path for path, count in paths.items() if count > 1), None):
        raise UserError(f"{root}: expected every image once, found {twice} in {paths[twice]} rows")
    if both := {sample.group for sample in splits.train} & {sample.group for sample in splits.test}:
        raise UserError(f"{root}: expected a group in one split, found {sorted(both)[0]!r} in train and test")
    return splits


def _csv_sample(row: dict[str, str], base: Path, where: str) -> Sample:
    label = (row["label"] or "").strip()
    if not label:
        raise UserError(f"{where}: expected a label (0, good, normal, ok or anything else for a defect), found none")
    number = float(label) if re.fullmatch(r"-?\d+(\.\d*)?", label) else None
    if number not in {None, 0, 1}:
        raise UserError(f"{where}: expected a label 0, 1, good, normal, ok or the name of a defect, found {label!r}")
    normal = number == 0 or label.lower() in NORMAL
    if not (row["path"] or "").strip():
        raise UserError(f"{where}: expected a path, found none")
    path = base / row["path"].strip()
    mask = (row.get("mask") or "").strip()
    for file in [path, base / mask] if mask else [path]:
        if not file.is_file():
            raise UserError(f"{where}: expected the file {file}, found none")
    if mask and normal:
        raise UserError(f"{where}: expected no mask for a normal image, found {mask!r}")
    named = (row.get("defect") or "").strip() or ("bad" if number == 1 else label)
    defect = "good" if normal else named
    if bad := set(defect) & set("/\\:"):
        raise UserError(
            f"{where}: expected a defect name without {' '.join(bad)} (it names a folder), found {defect!r}"
        )
    group = (row.get("group") or "").strip() or str(path)
    return Sample(path, base / mask if mask else None, int(not normal), defect, group)


def subfolders(path: Path) -> list[Path]:
    """The folders of images in a folder, sorted; without hidden folders and folders of masks."""
    return sorted(
        child
        for child in path.iterdir()
        if child.is_dir() and not child.name.startswith(".") and child.name.lower() not in NOT_IMAGES_OF_PARTS
    )


def images_in(path: Path) -> list[Path]:
    """All image files below a folder, sorted; without hidden files and folders of masks."""
    return sorted(walk(path))


def walk(path: Path, unlisted: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """The same as an iterator with one folder in memory at a time: the files of a folder, sorted, then its folders.

    Links to folders are not followed. The error of a folder that cannot be listed is passed to `unlisted`.
    """

    def counts(name: str) -> bool:
        return not name.startswith(".") and name.lower() not in NOT_IMAGES_OF_PARTS

    for folder, folders, files in os.walk(path, onerror=unlisted):
        folders[:] = sorted(name for name in folders if counts(name))
        for name in sorted(files):
            file = Path(folder, name)
            if counts(name) and file.suffix.lower() in SUFFIXES and file.is_file():
                yield file


def _samples(class_folder: Path, root: Path, defect: str, label: int) -> list[Sample]:
    images = images_in(class_folder)
    if not images:
        raise UserError(f"{class_folder}: expected images, found none ({_suffixes()})")
    mask_folders = [root / name / class_folder.name for name in sorted(NOT_IMAGES_OF_PARTS)]
    mask_folder = next((path for path in mask_folders if path.is_dir()), None) if label else None
    if mask_folder is None:
        return [Sample(path, None, label, defect, str(path)) for path in images]
    masks = {file.relative_to(mask_folder).with_suffix("").as_posix(): file for file in images_in(mask_folder)}
    samples = []
    for path in images:
        stem = path.relative_to(class_folder).with_suffix("").as_posix()
        mask = masks.pop(f"{stem}_mask", None) or masks.pop(stem, None)
        if mask is None:
            raise UserError(f"{path}: expected its mask {mask_folder / f'{stem}_mask.png'}, found none")
        samples.append(Sample(path, mask, label, defect, str(path)))
    return samples


def _check_masks(root: Path, samples: list[Sample]) -> None:
    """Refuse masks without an image: with a misspelt folder the pixel metrics would be missing silently."""
    used = {sample.mask_path for sample in samples}
    for folder in sorted(child for child in root.iterdir() if child.name.lower() in NOT_IMAGES_OF_PARTS):
        for mask in images_in(folder):
            if mask not in used and mask.parent.name.lower() not in NORMAL:
                raise UserError(
                    f"{mask}: expected the image of this mask, found none; masks lie in {folder.name}/<class>/ under "
                    "the name of their image, <stem>_mask.png"
                )


def _suffixes() -> str:
    return "looked for " + " ".join(sorted(SUFFIXES))
