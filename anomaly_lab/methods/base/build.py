"""A configuration -> its method."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.parameter import Parameter

from anomaly_lab.config.build import build
from anomaly_lab.config.wiring import wired
from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.method import Method

NO_MEMORY = re.compile(
    r"allocate memory|enough memory|out of memory|size calculation overflowed", re.IGNORECASE
)  # torch


def build_method(resolved: dict[str, Any], trust: Sequence[str] = ()) -> Method:
    """The method of a resolved configuration, with its tiling and what else is supplied by name.

    `trust` names packages whose classes may be built beside ours. Raises UserError for any other class, for a network
    that does not fit into memory, and for arguments that an optimizer refuses: Lightning would find them after the data
    are decoded.
    """
    try:
        method = build({"tiling": resolved["tiling"], **wired(resolved)}, Method, "method", trust)
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, MemoryError) or NO_MEMORY.search(str(error))):
            raise
        name, asked = resolved["method"]["name"], re.search(r"(\d+) bytes", str(error))
        found = f"one of {int(asked[1]) / 2**30:,.0f} GiB in one piece" if asked else "one of more than there is"
        raise UserError(
            f"method: expected a network that fits into memory, found {found}; lower the sizes of method={name}, which "
            f"are keys of conf/method/{name}.yaml"
        ) from error
    for key in method.rates:
        try:
            getattr(method, key)([Parameter(torch.zeros(1))])
        except (TypeError, ValueError) as error:
            raise UserError(f"method.{key}: {' '.join(str(error).split())}") from error
    return method
