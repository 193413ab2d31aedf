"""A method from its configuration."""

from typing import Any

from anomaly_lab.config.wiring import wired
from anomaly_lab.methods.base.method import Method


def build_method(resolved: dict[str, Any]) -> Method:
    """The method of a whole resolved configuration, with its tiling and what else is supplied by name."""
    from hydra.utils import instantiate  # here: who only imports the package gets no Hydra

    return instantiate({"tiling": resolved["tiling"], **wired(resolved)}, _convert_="all")
