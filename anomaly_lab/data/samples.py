"""Samples of a data set: splits, held-out images, fingerprint."""

import hashlib
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

from anomaly_lab.core.console import printable
from anomaly_lab.core.errors import UserError
from anomaly_lab.data.names import GOOD, composed


class Sample(NamedTuple):
    """One image file, or row of a table, with its label, mask and group."""

    path: Path
    mask_path: Path | None  # None: the image is normal, or its defects are not marked
    label: int  # 0 normal, 1 abnormal, -1 unknown
    defect: str  # name of the folder, "good" for normal images; "<category>/<folder>" in a pool of categories
    group: str  # images of one group (shots of one part) are never split
    line: int = 0  # of a table of numbers, the line of this row; 0: the file is an image

    @property
    def place(self) -> str:
        """The file, and the line of a table."""
        return f"{self.path}:{self.line}" if self.line else str(self.path)


class Splits(NamedTuple):
    """Normal images for training, and labelled images for the test, if there are any; and how they were found."""

    train: list[Sample]
    test: list[Sample]
    layout: str = ""  # the arrangement that was recognised, in words
    folders: tuple[tuple[str, str], ...] = ()  # a folder below the root, and as what it was read
    remarks: tuple[str, ...] = ()  # one line each: what is left out, cannot be told, or occurs twice
    labelled: tuple[Sample, ...] = ()  # abnormal images that the method may learn from (data/labelled.py)
    good_masks: tuple[Path, ...] = ()  # of good images: left out, and a contradiction if they mark anything
    good_names: frozenset[str] = frozenset(GOOD)  # of folders of good parts, `folded`, of these data and of others
    pool: tuple[Sample, ...] = ()  # the photos of which other runs on the same data train with others; decoded together


class Description(NamedTuple):
    """The content of a data set in words and numbers."""

    layout: str
    counts: dict[str, dict[str, int]]  # images by split ("train", "test", "labelled" if there are such) and defect
    masks: int  # test images with a mask
    folders: dict[str, str]
    remarks: list[str]

    def lines(self, name: str, category: str, held_out: int, noun: str = "photos") -> list[str]:
        """Layout, folders, and counts by split and defect, a line each; `held_out` of the training images are so.

        Rows of a table, another `noun`, have no masks.
        """
        answer = [f"data: {name}, {printable(category)}, layout: {self.layout or 'a table'}"]
        answer += [f"  {printable(folder)}: {role}" for folder, role in self.folders.items()]
        for split, counts in self.counts.items():
            parts = ", ".join(f"{printable(defect)} {number}" for defect, number in counts.items())
            answer.append(f"{split}: {sum(counts.values())} {noun}{f' ({parts})' if parts else ''}")
            answer[-1] += f", {held_out} of them held out for the threshold" if split == "train" else ""
        if noun != "photos":
            return answer
        abnormal = sum(number for defect, number in self.counts["test"].items() if defect.rpartition("/")[2] != "good")
        return [*answer, f"masks: {self.masks} of {abnormal} defective photos"] if abnormal else answer


def describe(splits: Splits) -> Description:
    """What a layout has found: its kind, the counts by split and defect, the role of every folder, and the remarks."""
    counts = {
        name: dict(Counter(sample.defect for sample in samples))
        for name, samples in (("train", splits.train), ("labelled", splits.labelled), ("test", splits.test))
        if samples or name != "labelled"
    }
    masks = sum(sample.mask_path is not None for sample in splits.test)
    return Description(splits.layout, counts, masks, dict(splits.folders), list(splits.remarks))


def join_copies(samples: list[Sample]) -> list[Sample]:
    """The samples with one group for all whose files have the same content, so that no split parts them.

    If all of them would be one group, although not all are the same photo, they are returned as they are.
    """
    same = same_content([sample.path for sample in samples])
    leader: dict[str, str] = {}

    for sample in samples:
        if content := same.get(sample.path):
            first, second = sorted((_leader(leader, content), _leader(leader, sample.group)), reverse=True)
            leader[first] = second
    members: dict[str, str] = {}  # the name of a joined group is that of its first sample
    joined = [
        sample._replace(group=members.setdefault(_leader(leader, sample.group), sample.group)) for sample in samples
    ]
    if len({sample.group for sample in joined}) > 1 or len({same.get(sample.path, "") for sample in samples}) == 1:
        return joined
    return samples


def _leader(leaders: dict[str, str], name: str) -> str:
    while leaders.get(name, name) != name:
        name = leaders[name]
    return name


def with_copies(splits: Splits) -> Splits:
    """The splits with copies among the training images joined (`join_copies`), and remarks on all copies.

    A copy of a good photo that counts as defective is a contradiction, and named as that.
    """
    train, test = ([sample.path for sample in samples] for samples in splits[:2])
    same = same_content([*train, *test])
    first: dict[str, Path] = {}
    again = [(path, first.setdefault(same[path], path)) for path in train if path in same]
    again = [pair for pair in again if pair[0] != pair[1]]
    good: dict[str, Path] = {}
    for sample in (*splits.train, *splits.test):
        if sample.path in same and not sample.label:
            good.setdefault(same[sample.path], sample.path)
    torn = [
        (good[same[sample.path]], sample) for sample in splits.test if sample.label and same.get(sample.path) in good
    ]
    both = {sample.path for _, sample in torn}
    joined = join_copies(splits.train)
    group = {sample.path: sample.group for sample in joined}
    parted = any(group[path] != group[original] for path, original in again)
    how = "their groups part them, so that held-out photos may be learnt from" if parted else "held out together"
    seen: dict[str, Path] = {}
    twice = [(path, seen.setdefault(same[path], path)) for path in test if path in same and same[path] not in first]
    twice = [pair for pair in twice if pair[0] != pair[1] and pair[0] not in both]
    leaked = [(path, first[same[path]]) for path in test if same.get(path) in first and path not in both]
    remarks = [
        f"contradictory labels, good and defective photos of the same bytes: {len(torn)}, such as {path} (good) and "
        f"{sample.path} ({sample.defect}); remove the one that is in the wrong place"
        for path, sample in torn[:1]
    ] + [
        f"byte copies {what}: {len(pairs)}, such as {pairs[0][0]} of {pairs[0][1]}"
        for pairs, what in (
            (again, f"among the training images, {how}"),
            (leaked, "of training images among the test images, whose scores say little"),
            (twice, "among the test images, which count several times"),
        )
        if pairs
    ]
    return splits._replace(train=joined, remarks=(*splits.remarks, *remarks))


def same_content(paths: list[Path]) -> dict[Path, str]:
    """The SHA-256 of every file that has the size of another one and is not empty."""
    try:
        sizes = {path: path.stat().st_size for path in paths}
        of_one_size = Counter(sizes.values())
        files = [path for path, size in sizes.items() if size and of_one_size[size] > 1]
        return dict(zip(files, digests(files), strict=True))
    except OSError as error:
        raise UserError(f"{error.filename}: expected an image, found: {error.strerror}") from error


def choose(samples: list[Sample], number: int | None, seed: int) -> list[Sample]:
    """So many good photos, in their order; all of them without a number.

    For one seed, fewer photos are always among more. Raises UserError for fewer than two, for photos of one group only,
    of which none could be held out, and for more than there are.
    """
    if number is None:
        return samples
    if number < 2:
        found = f"found {number}"
        raise UserError(f"data.good_photos: expected at least 2, one to learn from and one for the threshold, {found}")
    if number > len(samples):
        raise UserError(f"data.good_photos: expected at most {len(samples)}, found {number}")
    order = random.Random(seed).sample(range(len(samples)), len(samples))
    chosen = [samples[i] for i in sorted(order[:number])]
    if len({sample.group for sample in chosen}) < 2:
        raise UserError(
            f"data.good_photos: expected photos of 2 groups, so that one can be held out for the threshold, found "
            f"{number} of the group {chosen[0].group!r} with seed={seed}; set a larger data.good_photos"
        )
    return chosen


def hold_out(samples: list[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split off about `share` of the images in whole groups, at least one group on either side: (kept, held out).

    Groups are numbered in order of appearance: neither their names nor their folder change the choice. Raises UserError
    for fewer than two groups.
    """
    groups = Counter(sample.group for sample in samples)
    if len(groups) < 2:
        alike = "that are byte copies or of one group, such as" if len(samples) > 1 else "at"
        found = f"{len(samples)} {alike} {samples[0].path}" if samples else "none"
        noun, place = ("rows", "FILE") if samples and samples[0].line else ("photos", "FOLDER")
        raise UserError(
            f"data.root: expected at least 2 different good {noun}, of 2 groups, so that one can be held out for the "
            f"threshold, found {found}; set data.root={place} to more of them"
        )
    wanted = min(max(1, round(share * len(samples))), len(samples) - 1)
    if len(groups) == len(samples):
        held = set(random.Random(seed).sample(list(groups), wanted))
    else:
        held, count = set(), 0
        for group in random.Random(seed).sample(list(groups), len(groups)):
            if count + groups[group] <= wanted:
                held.add(group)
                count += groups[group]
        held = held or {min(groups, key=lambda group: groups[group])}
    kept = [sample for sample in samples if sample.group not in held]
    return kept, [sample for sample in samples if sample.group in held]


def digests(files: list[Path]) -> list[str]:
    """The SHA-256 of the content of each file; a process reads each file once.

    A file is read again when its change time differs: the kernel sets it at every write, and no program can.
    """
    with ThreadPoolExecutor() as pool:  # hashing and reading release the interpreter
        return list(pool.map(_digest, files))


def _digest(path: Path) -> str:
    status = path.stat()
    return _read(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@cache
def _read(path: Path, *_status: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(samples: list[Sample]) -> str:
    """A hash of everything in samples that can change a result: contents, masks, labels, names, groups; no folder."""
    files = [*dict.fromkeys(path for sample in samples for path in (sample.path, sample.mask_path) if path)]
    content = dict(zip(files, digests(files), strict=True))
    total = hashlib.sha256()
    groups = {group: number for number, group in enumerate(dict.fromkeys(sample.group for sample in samples))}
    for sample in samples:
        mask = content[sample.mask_path] if sample.mask_path else ""
        row = (sample.path.name, content[sample.path], mask, sample.label, sample.defect, groups[sample.group])
        total.update(repr((*row, sample.line) if sample.line else row).encode())
    return total.hexdigest()


def file_names(samples: list[Sample]) -> list[str]:
    """A file name per image for its results: the stem, with a number if two images would share a name.

    Names behind their defect and "_" differ, even on disks that take upper and lower case for the same.
    """

    def on_disk(sample: Sample, name: str) -> str:
        return composed(f"{sample.defect}_{name}").casefold()

    taken = Counter(on_disk(sample, sample.path.stem) for sample in samples)
    names = []
    for number, sample in enumerate(samples):
        name = sample.path.stem
        if taken[on_disk(sample, name)] > 1:
            while taken[on_disk(sample, name := f"{name}-{number}")]:
                pass
            taken[on_disk(sample, name)] = 1
        names.append(name)
    return names
