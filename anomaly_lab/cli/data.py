"""`python -m anomaly_lab data cache [clear]` and `data check`: the cache of decoded images, and what the data are."""

import shutil
from pathlib import Path

from anomaly_lab.core.console import printable
from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.core.lock import lock
from anomaly_lab.data.cache import Entry, default_folder, entries, is_in_use, lock_of

USAGE = "python -m anomaly_lab data cache [clear [ENTRY|DATA_FOLDER]] [data.cache_dir=FOLDER]"
CHECK = "python -m anomaly_lab data check [--config-dir FOLDER] KEY=VALUE ...   what a run would find"
SHORT = 10  # digits of the name of an entry that are shown


def main(arguments: list[str]) -> None:
    """Check data; or show the cache entries or clear them; entries that another process writes or uses stay."""
    if {"--help", "-h"} & set(arguments) or not arguments:
        print(f"usage: {USAGE}\n       {CHECK}")
        return
    if arguments[0] == "check":
        from anomaly_lab.cli.data_check import check_data

        check_data(arguments[1:])
        return
    folder = default_folder()
    if arguments[-1].startswith("data.cache_dir="):
        folder = Path(arguments[-1].partition("=")[2]).expanduser()
        arguments = arguments[:-1]
    if arguments[:1] != ["cache"] or arguments[1:2] not in ([], ["clear"]) or len(arguments) > 3:
        word, known = (arguments[1:2], ["clear"]) if arguments[:1] == ["cache"] else (arguments[:1], ["check", "cache"])
        hint = nearest("".join(word), known)
        raise UserError(f"data: expected {USAGE}, or {CHECK.partition('   ')[0]}, found {' '.join(arguments)!r}{hint}")
    found = entries(folder)
    if arguments == ["cache"]:
        show(found, folder)
    else:
        clear(named(found, arguments[2], folder) if len(arguments) == 3 else found, folder)


def show(found: list[Entry], folder: Path) -> None:
    """Print a line per entry, then the sum."""
    rows = [("entry", "last used", "size", "content", "data")]
    for entry in found:
        used = f"{entry.used:%Y-%m-%d %H:%M}" if entry.used else "unknown"
        data = ", ".join(entry.folders) or "unknown"
        rows.append((entry.path.name[:SHORT], used, megabytes(entry.size), entry.content, data))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if found else []:
        print(printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()))
    print(f"{megabytes(sum(entry.size for entry in found))} in {len(found)} entries of {folder}")


def named(found: list[Entry], word: str, folder: Path) -> list[Entry]:
    """The entry whose name begins so, with what is left of writing it, or those of the data in this folder.

    Raises UserError for none or two names.
    """
    begin = word.removeprefix(".")  # of what a killed process left, as the list shows it
    matches = [entry for entry in found if begin and entry.path.name.removeprefix(".").startswith(begin)]
    if len({name_of(entry.path) for entry in matches}) > 1:
        names = ", ".join(entry.path.name for entry in matches)
        raise UserError(f"data cache clear: expected the beginning of one entry's name, found {word!r} of {names}")
    matches = matches or [entry for entry in found if word and entry.belongs_to(Path(word).expanduser())]
    if not matches:
        raise UserError(
            f"data cache clear: expected the beginning of the name of an entry of {folder}, or a folder of photos that "
            f"has one, found {word!r}; python -m anomaly_lab data cache lists them"
        )
    return matches


def clear(found: list[Entry], folder: Path) -> None:
    """Remove the entries that nobody uses. Raises UserError if all of them are in use."""
    gone = [entry for entry in found if removed(entry.path)]
    if found and not gone:
        raise UserError(f"data cache clear: expected an entry that no process uses, found {len(found)} in use")
    freed, total = (megabytes(sum(entry.size for entry in some)) for some in (gone, found))
    left = f"; {len(found) - len(gone)} in use, left" if len(gone) < len(found) else ""
    print(f"cleared {freed} of {total}, {len(gone)} entries of {folder}{left}")


def name_of(path: Path) -> str:
    """The name of an entry, complete or not: what a process that has ended left is called `.NAME.PID`."""
    return path.name.removeprefix(".").partition(".")[0]


def removed(path: Path) -> bool:
    """Remove an entry, complete or not, unless another process writes or uses it."""
    try:
        with lock(lock_of(path.with_name(name_of(path))), None):
            if is_in_use(path):
                return False
            shutil.rmtree(path)
            return True
    except (BlockingIOError, FileNotFoundError):  # or somebody else has removed it
        return False


def megabytes(size: int) -> str:
    """A size in bytes as text."""
    return f"{size / 2**20:.1f} MB"
