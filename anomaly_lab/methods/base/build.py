"""A method from its configuration."""

from typing import Any

from anomaly_lab.methods.base.method import Method


def build_method(resolved: dict[str, Any]) -> Method:
    """The method of a resolved configuration; its `name` is for people and folders."""
    from hydra.utils import instantiate  # here: who only imports the package gets no Hydra

    return instantiate({key: value for key, value in resolved["method"].items() if key != "name"}, _convert_="all")
