"""The cache of decoded images and of the figures of the controls.

An entry is a folder named after the hash of everything that decides its contents. It appears when it is complete; a
lock beside it lets one process write while others wait. It notes which data use it, and when, in `used.json`. Neither
torch nor NumPy is imported here.
"""

import hashlib
import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.core.lock import is_held

VERSION = 1  # of the entries: raise it when decoding changes, so that older ones are never read again
IMAGES, ABOUT, FIGURES, USED = "images", "about.json", "control_metrics.json", "used.json"  # the files of an entry
MOST = 20  # data folders noted


def default_folder() -> Path:
    """`anomaly_lab/images` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anomaly_lab" / "images"


def entry(folder: Path, decides: list[Any]) -> Path:
    """The folder of the entry with the contents that these values decide."""
    return folder / hashlib.sha256(repr([VERSION, *decides]).encode()).hexdigest()[:20]


def lock_of(path: Path) -> Path:
    """The lock file of an entry, held while it is written."""
    return path.with_name(f"{path.name}.lock")


def note_use(path: Path, data_folder: Path | None) -> None:
    """Note in an entry that the data of a folder use it now; nothing where the entry cannot be written."""
    folders = dict.fromkeys([*([str(data_folder)] if data_folder else []), *_folders(path)])
    with suppress(OSError, UserError):  # a UserError: the disk is full
        write_json(path / USED, list(folders)[:MOST])


class Entry(NamedTuple):
    """An entry as a person sees it."""

    path: Path
    folders: list[str]  # of the data that use it; empty: made before this was noted
    content: str
    size: int  # bytes
    used: datetime | None  # None: made before this was noted

    def belongs_to(self, folder: Path) -> bool:
        """Whether the data that use it lie in a folder."""
        return any(Path(data).resolve().is_relative_to(folder.resolve()) for data in self.folders)


def entries(folder: Path) -> list[Entry]:
    """All entries, complete or not, the last used one first."""
    found = []
    for path in folder.glob("*"):
        with suppress(FileNotFoundError, NotADirectoryError):  # a lock file, or renamed or removed in the meantime
            noted = (path / USED).is_file()
            changed = (path / USED if noted else path).stat().st_mtime
            used = datetime.fromtimestamp(changed) if noted else None
            if path.is_dir():
                found.append((changed, Entry(path, _folders(path), _content(path), size(path), used)))
    return [entry for _, entry in sorted(found, key=lambda pair: -pair[0])]


def is_in_use(path: Path) -> bool:
    """Whether a process has mapped the images of an entry; the caller holds its lock."""
    return is_held(path / IMAGES, shared=True)


def size(path: Path) -> int:
    """The size of a folder in bytes."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _folders(path: Path) -> list[str]:
    found = _read(path / USED)
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _content(path: Path) -> str:
    """What an entry holds, in words."""
    if path.name.startswith("."):
        return "incomplete"
    if (path / FIGURES).is_file():
        return "figures of the controls"
    try:
        about = _read(path / ABOUT)
        _, channels, side, _ = about["shape"]
        return f"{len(about['places'])} images, {side} x {side} px, {'gray' if channels == 1 else 'colour'}"
    except (TypeError, LookupError, ValueError):
        return "unknown"


def _read(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
