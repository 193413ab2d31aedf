"""A configuration -> its method."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.parameter import Parameter

from anomaly_lab.config.build import build
from anomaly_lab.config.wiring import wired
from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.method import Method


def build_method(resolved: dict[str, Any], trust: Sequence[str] = ()) -> Method:
    """The method of a resolved configuration, with its tiling and what else is supplied by name.

    `trust` names packages whose classes may be built beside ours. Raises UserError for any other class, and for
    arguments that an optimizer refuses: Lightning would find them after the data are decoded.
    """
    method = build({"tiling": resolved["tiling"], **wired(resolved)}, Method, "method", trust)
    for key in method.rates:
        try:
            getattr(method, key)([Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            raise UserError(f"method.{key}: {' '.join(str(error).split())}") from error
    return method
