"""`python -m anomaly_lab data cache [clear]` and `data check`: the cache of decoded images, and what the data are."""

import shutil
from pathlib import Path

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.lock import lock
from anomaly_lab.data.cache import default_folder, lock_of, size

USAGE = "python -m anomaly_lab data cache [clear] [data.cache_dir=FOLDER]"
CHECK = "python -m anomaly_lab data check KEY=VALUE ...   what a run with these keys would find, without training"


def main(arguments: list[str]) -> None:
    """Check data; or show the cache entries or clear them; entries that are being written stay."""
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
    if arguments not in (["cache"], ["cache", "clear"]):
        raise UserError(f"data: expected {USAGE}, or {CHECK.partition('   ')[0]}, found {' '.join(arguments)!r}")
    entries = [path for path in sorted(folder.glob("*")) if path.is_dir()]
    total = sum(size(path) for path in entries)
    if arguments == ["cache"]:
        for path in entries:
            print(f"{size(path) / 2**20:10.1f} MB  {path}")
        print(f"{total / 2**20:10.1f} MB  in {len(entries)} entries of {folder}")
        return
    cleared = sum(_clear(path) for path in entries)
    print(f"cleared {cleared / 2**20:.1f} of {total / 2**20:.1f} MB in {folder}")


def _clear(path: Path) -> int:
    """Remove an entry, complete or not, unless it is being written; returns the bytes freed."""
    name = path.name.removeprefix(".").partition(".")[0]
    try:
        with lock(lock_of(path.with_name(name)), None):
            freed = size(path)
            shutil.rmtree(path)
            return freed
    except BlockingIOError:
        return 0
