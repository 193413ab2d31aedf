"""The folder of configuration files: `anomaly_lab/conf` in an installed package, `conf` in a checkout."""

from collections.abc import Sequence
from pathlib import Path

from anomaly_lab.core.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())


def config_folder(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without Hydra's `--config-dir FOLDER`, and that folder of somebody's own configuration files.

    Raises UserError if there is no such folder.
    """
    rest, folder, words = list[str](), None, iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in {"--config-dir", "-cd"}:
            rest.append(word)
            continue
        folder = Path(value if equals else next(words, "")).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(f"{flag}: expected a folder of configuration files, found none at {folder}")
    return rest, folder
