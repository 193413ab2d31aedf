"""The meaning of names: which folders hold good parts, masks or nothing of the user's, and which files are photos.

The only place that decides this, whatever the case of a name.
"""

import hashlib
import json
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2",
}  # fmt: skip
UNREADABLE = {  # photos that no decoder here reads
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw",
    ".psd", ".exr",
}  # fmt: skip
GOOD = {"good", "normal", "ok", "pass", "0"}  # folder names and CSV labels that mean "no defect"
SIGNATURES = re.compile(  # how files begin that are read; not TIFF, as raw photos begin like it
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|BM.{4}\0{4}|RIFF.{4}WEBP|P[1-6]\s+\d+\s+\d"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    re.DOTALL,
)
MASKS = {"groundtruth", "gt", "mask", "masks"}  # without spaces and dashes
SYSTEM = {"@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found", "__macosx",
    "thumbs.db", "desktop.ini",
}  # fmt: skip
PHOTOS = {"rgb", "image", "images", "img"}  # the photos of a class, where masks lie beside their folder
LOSSY = {".jpg", ".jpeg", ".jpe", ".jfif"}
LOSSLESS = {".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm"}

MAYBE_MASKS = re.compile(  # folders of masks, if their files are named as photos beside them
    r"labels?|annos?|annotations?|segs?|segmentations?|label[ _-]?(images|masks)|segmentation[ _-]?masks"
)
_BAD = (
    r"bad|defect(s|ive)?|anomal(y|ies|ous)|abnormal|nok|nio|ng|ko|reject(s|ed)?|fault(s|y)?|fail(s|ed|ures?)?|scrap"
    r"|crack(s|ed)?|scratch(es|ed)?|broken|damaged?|defekte?|schlecht|ausschuss|fehler"
)
DEFECT_WORDS = re.compile(  # whole words: a union nut is no NIO part, a badge is not bad
    rf"(?<![a-z])({_BAD}|(not|no|nicht)[ _.-]*(ok|good|normal|gut))(?![a-z])"
)
NO_DEFECT = re.compile(
    rf"(?<![a-z])((no|not|non|without|zero|ohne|keine?)[ _.-]*({_BAD})|({_BAD})[ _.-]*free)(?![a-z])"
)
GOOD_WORDS = re.compile(r"(?<![a-z])(good|normal|ok|pass)(?![a-z])")
MASK_WORDS = re.compile(r"(?<![a-z])(masks?|gt|ground[ _-]?truth|annotations?|segmentations?)(?![a-z])")
_MASK = "(mask|gt|label|seg|segmentation|anno|annotation|ground[ _-]?truth)s?"
MASK_STEMS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?P<photo>.+?)[ _.-]{_MASK}",
        rf"(?P<photo>.*\d){_MASK}",
        rf"{_MASK}[ _.-](?P<photo>.+)",
        rf"{_MASK}(?P<photo>\d.*)",
    )
]


def composed(name: str) -> str:
    """A name in which an accent is one with its letter (NFC): disks of macOS part them, keyboards do not."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """A name as it is compared where upper and lower case are the same."""
    return composed(name).lower()


def is_good(name: str, also: Iterable[str] = ()) -> bool:
    """Whether a folder of this name holds good parts; `also`: further names that do, `folded`."""
    return folded(name) in GOOD or folded(name) in also


def is_masks(name: str) -> bool:
    """Whether a folder of this name holds masks."""
    return re.sub(r"[ _-]", "", name.lower()) in MASKS


def may_be_masks(name: str) -> bool:
    """Whether a folder of this name may hold masks as well as something else: its files decide."""
    return MAYBE_MASKS.fullmatch(name.lower()) is not None


def speaks_of_defects(name: str) -> bool:
    """Whether a name has a word for defects, and does not say that there are none."""
    return DEFECT_WORDS.search(NO_DEFECT.sub("", name.lower())) is not None


def speaks_of_good(name: str) -> bool:
    """Whether a name has a word for good parts, such as `OK_2`, and none for defects."""
    return GOOD_WORDS.search(name.lower()) is not None and not speaks_of_defects(name)


def as_typed(good: Iterable[str], key: str = "data.good") -> str:
    """The word for a shell that names folders of good photos, or what else belongs to a key."""
    names = (name if re.fullmatch(r"[\w .+-]+", name) else json.dumps(name, ensure_ascii=False) for name in good)
    return shlex.quote(f"{key}=[{','.join(names)}]")


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden or belongs to a system, such as thumbnails."""
    return name.startswith(".") or name.lower() in SYSTEM


def photo_of(stem: str) -> str:
    """The stem of the photo whose mask has this stem: `000` of `000_mask`, `gt_000`, `000label` and `000`."""
    found = next(filter(None, (pattern.fullmatch(stem) for pattern in MASK_STEMS)), None)
    return found["photo"] if found else stem


def photo_of_several(stem: str) -> str | None:
    """The stem of the photo of which this is one of several masks: `000` of `000_mask_1`, `000_mask2`, `000_mask (2)`.

    None for any other stem.
    """
    name = re.sub(r"[ _.-]*\(?\d+\)?$", "", stem)
    photo = photo_of(name)
    return photo if name not in {stem, photo} else None


def category_of(root: str) -> str:
    """The name of a data set, from the path of its folder or table as it is typed.

    A relative path gives all its parts, `lineA-part`. Another one ends in four digits of a hash of the whole path, so
    that two folders never share a name. A table loses its suffix `.csv`, a folder keeps what follows a dot.
    """
    path = Path(os.path.normpath(Path(root).expanduser()))
    name = path.name.removesuffix(".csv")
    if not path.is_absolute() and name and path.parts[0] != "..":
        return "-".join((*path.parts[:-1], name))
    path = Path(os.path.normpath(Path.cwd() / path))
    digits = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:4]
    return "-".join((*path.parts[1:-1][-1:], path.name.removesuffix(".csv"), digits))
