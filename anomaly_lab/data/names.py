"""The meaning of names: which folders hold good parts, masks or nothing of the user's, and which files are photos.

The only place that decides this, whatever the case of a name.
"""

import hashlib
import os
import re
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

DEFECT_WORDS = re.compile(  # whole words: a union nut is no NIO part, a badge is not bad
    r"(?<![a-z])(bad|defect(s|ive)?|anomal(y|ies|ous)|abnormal|nok|nio|ng|ko|reject(s|ed)?|fault(s|y)?"
    r"|fail(s|ed|ures?)?|scrap|crack(s|ed)?|scratch(es|ed)?|broken|damaged?|defekte?|schlecht|ausschuss|fehler)(?![a-z])"
)
MASK_STEM = re.compile(r"(?P<photo>.+?)[ _.-](mask|gt|label|ground_?truth)", re.IGNORECASE)


def is_good(name: str, also: Iterable[str] = ()) -> bool:
    """Whether a folder of this name holds good parts; `also`: further names that do, in lower case."""
    return name.lower() in GOOD or name.lower() in also


def is_masks(name: str) -> bool:
    """Whether a folder of this name holds masks."""
    return re.sub(r"[ _-]", "", name.lower()) in MASKS


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden or belongs to a system, such as thumbnails."""
    return name.startswith(".") or name.lower() in SYSTEM


def photo_of(stem: str) -> str:
    """The stem of the photo whose mask has this stem: `000` of `000_mask`, `000_GT`, `000_label` and `000`."""
    found = MASK_STEM.fullmatch(stem)
    return found["photo"] if found else stem


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
