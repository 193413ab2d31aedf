"""Folders of one class each, with the masks of their photos, wherever these lie."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.remarks import RemarkCounter
from anomaly_lab.data.listing import (
    FOLDER_OF_MASKS,
    child_of,
    images_in,
    is_mask_folder,
    mask_folders,
    subfolders,
    walk,
)  # fmt: skip
from anomaly_lab.data.names import (
    LOSSLESS,
    LOSSY,
    MASK_WORDS,
    PHOTOS,
    SUFFIXES,
    as_typed,
    composed,
    folded,
    is_good,
    is_masks,
    is_system,
    may_be_masks,
    photo_of,
    photo_of_several,
    speaks_of_defects,
    speaks_of_good,
)  # fmt: skip
from anomaly_lab.data.samples import Sample, Splits, with_copies

GOOD_IN_SPITE = "read as good, although the name speaks of defects"


def class_folders(path: Path, good: Collection[str] = ()) -> Splits:
    """Read `train/good` (or `train/*` directly) and `test/<class>`, with masks if there are any.

    `good`: further names of folders that hold good parts, `folded`. Raises UserError for any other arrangement.
    """
    train_folder, test_folder = child_of(path, "train") or path / "train", child_of(path, "test")
    reading = Classes(path)
    normal = [child for child in subfolders(train_folder) if is_good(child.name, good)]
    bad = [child.name for child in subfolders(train_folder) if not is_good(child.name, good) | _is_shots(child)]
    if bad and not normal:
        may_be = [name for name in bad if not (speaks_of_defects(name) or may_be_masks(name))]
        hint = f"; if its parts are good, data=folder {as_typed(may_be)}" if may_be else ""
        raise UserError(f"{train_folder}: expected the folder 'good', found {', '.join(bad)}{hint}")
    if normal:
        if bad:
            raise UserError(
                f"{train_folder}: expected only the folder {normal[0].name!r}, found {', '.join(bad)} beside it"
            )
        reading.refuse_loose(train_folder, "train/good")
    if not normal:
        _refuse_masked(train_folder)
    train = [sample for child in normal or [train_folder] for sample in reading.samples(child, "good", 0)]
    test = []
    for child in subfolders(test_folder) if test_folder else []:
        defective = not is_good(child.name, good)
        holders = (path, test_folder) if test_folder else ()
        test += reading.samples(child, child.name if defective else "good", int(defective), holders)
    if test_folder:
        reading.refuse_loose(test_folder, "test/good and test/<defect>")
    for child in path.iterdir():
        if child.is_dir() and child not in (train_folder, test_folder) and not is_mask_folder(child):
            reading.leave_out("left out as no part of the layout", child)
    reading.check_masks(path, *([test_folder] if test_folder else []))
    if not train:
        raise UserError(
            f"data.root: expected good photos to train on in {train_folder}, found none ({_suffixes()}); set "
            "data.root=FOLDER to the folder that holds train/good"
        )
    splits = reading.splits("train/good and test/<class>", train, test)
    if test and all(sample.label for sample in test):
        line = "no folder of good test photos: every class of the test counts as defective"
        splits = splits._replace(remarks=(*splits.remarks, line))
    return with_copies(splits)


class Classes:
    """A reading of class folders below a root: it collects which folder was read as what, and what is left out.

    With `kinds` the folders are called by kinds of things, so that no name speaks of masks or of good parts.
    """

    def __init__(self, root: Path, kinds: bool = False) -> None:
        self.root = root
        self.kinds = kinds
        self.remarks = RemarkCounter()
        self._roles: dict[str, str] = {}
        self._masks: dict[Path, Path] = {}  # a mask that is used, and its photo
        self._good_stems: set[str] = set()
        self._good_masks: list[Path] = []
        self._photos: dict[str, Path] = {}  # by stem
        self._class_folders: list[Path] = []
        self._folders_of_masks: set[Path] = set()  # within classes

    def splits(self, layout: str, train: list[Sample], test: list[Sample]) -> Splits:
        """The samples with all that has been noted."""
        for folder in self._folders_of_masks:
            if not any(mask.is_relative_to(folder) for mask in self._masks):
                self.remarks.add(FOLDER_OF_MASKS, folder)
        about = layout, tuple(self._roles.items()), tuple(self.remarks.lines())
        return Splits(train, test, *about, good_masks=tuple(self._good_masks))

    def note(self, reason: str, path: Path) -> None:
        """Note what is left out within a class; folders of masks only if no mask of them is used."""
        if reason == FOLDER_OF_MASKS:
            self._folders_of_masks.add(path)
        else:
            self.remarks.add(reason, path)

    def leave_out(self, reason: str, folder: Path) -> None:
        """Note a folder that is not read, unless it is one of a system."""
        if not is_system(folder.name):
            self._roles[self._name(folder)] = "left out"
            self.remarks.add(reason, folder)

    def holds_photos(self, folder: Path) -> bool:
        """Whether anything below a folder may be a photo, even if it cannot be read."""
        if next(walk(folder, unreadable=True), None) is None:
            self.leave_out("left out, because no photo is in it", folder)
            return False
        return True

    def refuse_loose(self, path: Path, folders: str) -> None:
        """Refuse images beside the class folders, which would be ignored silently."""
        if loose := [file for file in images_in(path) if file.parent == path]:
            raise UserError(f"{loose[0]}: expected images in folders, {folders}, found one beside them")

    def photos_of_good_parts(self, folder: Path) -> list[Sample]:
        """All photos below a folder without classes. Raises UserError where masks lie beside photos."""
        images = images_in(folder, self.note)
        if partners := masks_beside(images):
            photo, mask = next(iter(partners.items()))
            raise UserError(
                f"{mask}: expected photos of good parts alone, found what may be the mask of {photo.name}; put "
                "defective photos into a folder beside good/, or list the images in a table (data=csv)"
            )
        return self._listed(folder, images, "good", 0, {})

    def _doubt(self, folder: Path) -> None:
        """Note a class of defects whose name speaks of something else."""
        if may_be_masks(folder.name) or MASK_WORDS.search(folder.name.lower()):
            self.remarks.add("read as defects, although the name speaks of masks (call those ground_truth)", folder)
        elif speaks_of_good(folder.name):
            what = f"read as defects, although the name speaks of good parts ({as_typed([folder.name])})"
            self.remarks.add(what, folder)

    def samples(self, folder: Path, defect: str, label: int, holders: tuple[Path, ...] = ()) -> list[Sample]:
        """The photos of a class folder; those of defects with their masks.

        These lie beside the photos, in a folder of masks within the class, or in one in a folder of `holders`. Raises
        UserError if only some photos have a mask.
        """
        inner = next((child for child in subfolders(folder) if child.name.lower() == "rgb"), None)
        for child in subfolders(folder) if inner else []:
            if child != inner:
                self.leave_out("left out beside rgb", child)
        photos_in = inner or folder
        images = images_in(photos_in, self.note)
        if inner:
            self._folders_of_masks.update(mask_folders(folder))
        beside = masks_beside(images)
        images = [path for path in images if path not in set(beside.values())]
        if not label:
            for mask in beside.values():
                if photo_of(mask.stem) == mask.stem:
                    raise UserError(f"{mask}: expected one photo of this name, found two suffixes")
                self.remarks.add("left out as masks beside good photos", mask)
                self._good_masks.append(mask)
            return self._listed(photos_in, images, defect, label, {})
        self._class_folders.append(folder)
        if not self.kinds:
            self._doubt(folder)
        found: dict[Path, Path] = dict(beside)
        for tree in mask_trees(folder, holders) if not beside else ():
            found = masks_in(tree, photos_in, images)
            if found or folded(tree.name) == folded(folder.name):
                lacking = next((path for path in images if path not in found), None)
                if lacking:
                    _refuse_several(images_in(tree), {composed(lacking.stem): lacking})
                    raise UserError(f"{lacking}: expected its mask {tree / f'{lacking.stem}_mask.png'}, found none")
                self._roles[self._name(tree)] = "masks"
                break
        if beside and (lacking := next((path for path in images if path not in beside), None)):
            raise UserError(f"{lacking}: expected its mask {lacking.with_name(f'{lacking.stem}_mask.png')}, found none")
        return self._listed(photos_in, images, defect, label, found)

    def check_masks(self, *holders: Path) -> None:
        """Refuse masks without an image: with a misspelt folder the pixel metrics would be missing silently."""
        for folder in (child for holder in (*holders, *self._class_folders) for child in mask_folders(holder)):
            if not is_masks(folder.name):
                self.remarks.add("read as masks, because its files are named as photos beside it", folder)
            for mask in images_in(folder):
                stem = composed(mask.stem)
                of_good = mask.parent == folder and not self._good_stems.isdisjoint({stem, photo_of(stem)})
                of_good = of_good or is_good(mask.parent.name)
                if mask in self._masks:
                    continue
                if of_good:
                    self._good_masks.append(mask)
                else:
                    _refuse_several([mask], self._photos)
                    raise UserError(
                        f"{mask}: expected the image of this mask, found none; masks lie in {folder.name}/<class>/ "
                        "under the name of their image, <stem>_mask.png"
                    )

    def _listed(
        self, folder: Path, images: list[Path], defect: str, label: int, masks: dict[Path, Path]
    ) -> list[Sample]:
        if not images:
            lines = self.remarks.lines()
            raise UserError(
                f"data.root: expected photos in {folder}, found none ({'; '.join([_suffixes(), *lines])}); set "
                "data.root=FOLDER to a folder of photos"
            )
        for photo, mask in masks.items():
            if (other := self._masks.setdefault(mask, photo)) != photo:
                raise UserError(
                    f"{mask}: expected the mask of one image, found {other} and {photo}; sort the masks into folders "
                    "named as the classes"
                )
        if affix := common_affix(images):
            what = f"read as photos, though many are named as another one with {affix!r} (masks? name them _mask)"
            self.remarks.add(what, folder)
        if not label:
            if found := folder_of_defects(folder, images):
                raise UserError(
                    f"{found}: expected good photos alone in {folder}, found a folder whose name speaks of defects; "
                    f"move it beside {folder.name}/, or rename it"
                )
            for path in images:
                if speaks_of_defects(path.stem):
                    self.remarks.add(GOOD_IN_SPITE, path)
            self._good_stems |= {composed(path.stem) for path in images}
        self._photos |= {composed(path.stem): path for path in images}
        self._roles[self._name(folder)] = "defects" if label else "good"
        return [Sample(path, masks.get(path), label, composed(defect), str(path)) for path in images]

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix() if folder.is_relative_to(self.root) else str(folder)


def folder_of_defects(folder: Path, images: Iterable[Path]) -> Path | None:
    """The first of the folders below one of good photos whose name speaks of defects."""
    inner = {image.parent for image in images}
    below = {parent for path in inner for parent in (path.relative_to(folder), *path.relative_to(folder).parents)}
    return next((folder / parent for parent in sorted(below) if speaks_of_defects(parent.name)), None)


def masks_beside(images: list[Path]) -> dict[Path, Path]:
    """The masks that lie beside their photos, by photo: `000_mask.png`, or `000.png` beside `000.jpg`.

    Raises UserError for two files of one stem of which neither is plainly the mask.
    """
    by_stem: dict[Path, list[Path]] = {}
    for path in images:
        by_stem.setdefault(path.with_name(composed(path.stem)), []).append(path)
    found: dict[Path, Path] = {}
    beside: dict[Path, list[Path]] = {}
    for path in images:
        beside.setdefault(path.parent, []).append(path)
    for files in beside.values():
        _refuse_several(files, {composed(path.stem): path for path in files})
    for stem, (first, *others) in by_stem.items():
        photos = by_stem.get(stem.parent / photo_of(stem.name), [])
        if len(photos) == 1 and photos[0] != first and not others:
            if photos[0] in found:
                raise UserError(
                    f"{first}: expected one mask of {photos[0].name}, found {found[photos[0]].name} beside it"
                )
            found[photos[0]] = first
        if others:
            photos = [path for path in (first, *others) if path.suffix.lower() in LOSSY]
            masks = [path for path in (first, *others) if path.suffix.lower() in LOSSLESS]
            if len(others) > 1 or not photos or not masks:
                raise UserError(
                    f"{first}: expected one file of this name, found {others[0].name} beside it; is one the mask of "
                    f"the other? name it {stem.name}_mask{others[0].suffix}"
                )
            found[photos[0]] = masks[0]
    return found


def _refuse_several(masks: Iterable[Path], photos: Mapping[str, Path]) -> None:
    """Refuse masks of which several belong to one of `photos`, which are given by stem."""
    for mask in masks:
        stem = composed(mask.stem)
        photo = photos.get(photo_of_several(stem) or "")
        if photo and (photo_of(stem) == stem or photo_of(stem) not in photos):  # mask_0_1 is of 0_1 if that is there
            raise UserError(
                f"{mask}: expected one mask of {photo.name}, found one of several, which are not read; merge them into "
                f"one, {photo.stem}_mask{mask.suffix}, or name what are photos in a table (data=csv)"
            )


def common_affix(images: list[Path]) -> str | None:
    """What a third of the photos or more have before or behind the name of another one; digits alone do not count."""
    names: dict[Path, set[str]] = {}
    for path in images:
        names.setdefault(path.parent, set()).add(path.stem)
    found: Counter[str] = Counter()
    for stems in names.values():
        for stem in stems:
            cuts = range(1, len(stem))
            found.update(stem[cut:] for cut in cuts if stem[:cut] in stems)
            found.update(stem[:cut] for cut in cuts if stem[cut:] in stems)
    for affix, count in found.most_common():
        if 3 * count >= len(images) and any(map(str.isalpha, affix)):
            return affix
    return None


def mask_trees(folder: Path, holders: Iterable[Path]) -> Iterator[Path]:
    """The folders in which the masks of a class may lie, the most particular first.

    They are in the folder of the class, or in a folder of masks within one of `holders`.
    """
    yield from mask_folders(folder)
    for holder in holders:
        for masks in mask_folders(holder):
            of_test = child_of(masks, "test")
            tree = child_of(masks, folder.name) or (of_test and child_of(of_test, folder.name))
            yield tree or masks


def masks_in(tree: Path, folder: Path, images: Iterable[Path]) -> dict[Path, Path]:
    """The masks of some images in a folder of masks, by their path below it: as the photo, or with `_mask` behind.

    Names that read `_mask` come first; a mask of the photo's very name beside one is left over.
    """
    by_name = {composed(mask.relative_to(tree).with_suffix("").as_posix()): mask for mask in images_in(tree)}
    marked = {
        (Path(name).parent / photo_of(Path(name).name)).as_posix(): mask
        for name, mask in by_name.items()
        if photo_of(Path(name).name) != Path(name).name
    }
    found = {}
    for image in images:
        below = image.relative_to(folder).with_suffix("")
        inner = Path(*below.parts[1:]) if below.parts[0].lower() in PHOTOS else below
        for name in (below.as_posix(), inner.as_posix()):
            if mask := marked.get(composed(name)) or by_name.get(composed(name)):
                found[image] = mask
                break
    return found


def _is_shots(folder: Path) -> bool:
    """Whether a folder in a flat train/ holds the photos or the depths of good parts: rgb, xyz."""
    return folder.name.lower() in {"rgb", "xyz"}


def _refuse_masked(train: Path) -> None:
    """Refuse masks of photos in a flat train/: these are defective."""
    for tree in mask_folders(train):
        for photo, mask in masks_in(tree, train, [path for path in images_in(train) if path.parent == train]).items():
            raise UserError(
                f"{mask}: expected photos of good parts alone in {train}, found what may be the mask of {photo.name}; "
                f"put the good ones into {train.name}/good/ and the others into test/<defect>/, or list the images in "
                "a table (data=csv)"
            )


def _suffixes() -> str:
    return "looked for " + " ".join(sorted(SUFFIXES))
