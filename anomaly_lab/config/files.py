"""The folder of configuration files: `anomaly_lab/conf` in an installed package, `conf` in a checkout."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())
