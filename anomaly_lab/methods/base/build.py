"""A configuration -> its method."""

from typing import Any

import torch
from torch.nn.parameter import Parameter

from anomaly_lab.config.wiring import wired
from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.method import Method


def build_method(resolved: dict[str, Any]) -> Method:
    """The method of a whole resolved configuration, with its tiling and what else is supplied by name.

    Raises UserError for arguments that an optimizer refuses: Lightning would find them after the data are decoded.
    """
    from hydra.utils import instantiate  # here: who only imports the package gets no Hydra

    method = instantiate({"tiling": resolved["tiling"], **wired(resolved)}, _convert_="all")
    for key in method.rates:
        try:
            getattr(method, key)([Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            raise UserError(f"method.{key}: {' '.join(str(error).split())}") from error
    return method
