"""A network that was trained on ImageNet and is not trained any further, up to one of its layers."""

import hashlib
import urllib.request
from pathlib import Path
from typing import cast

import huggingface_hub
import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from jaxtyping import Float
from safetensors.torch import load_file
from timm.models import FeatureInfo, PretrainedCfg
from torch import Tensor, nn

from anomaly_lab.errors import UserError

FILE = "model.safetensors"  # what timm calls the weights of a model on its hub
TIMEOUT = 10  # seconds until a hub that does not answer counts as out of reach


class Features(nn.Module):
    """Maps of one layer of a frozen timm model, from images in [0, 1] with one or three channels.

    `layer` is a stage of the model (`layer1` to `layer4` of a ResNet); `avgpool` is the last one, whose mean over the
    places is what the network's own average pooling gives. Layers above are not built. Gray is shown three times.

    The constructor only builds; `load` reads `weights`, a safetensors or PyTorch file, or the file on timm's hub where
    None is given (kept in the hub's cache, and taken from there without a network). A checkpoint of a method carries
    the weights, so a trained method needs neither. `sha256` says which file they came from, 32 bytes.

    Raises UserError for a model or layer that timm does not have.
    """

    mean: Tensor
    std: Tensor
    sha256: Tensor

    def __init__(self, architecture: str = "resnet18.tv_in1k", layer: str = "avgpool", weights: str | None = None):
        super().__init__()
        self.architecture = architecture
        self.weights = weights
        try:
            stages = stages_of(timm.create_model(architecture, features_only=True, pretrained=False)).module_name()
        except RuntimeError as error:
            raise UserError(
                f"method.features.architecture: expected a model of timm (timm.list_pretrained() names them), "
                f"found {architecture!r}: {error}"
            ) from error
        if layer not in (*stages, "avgpool"):
            raise UserError(f"method.features.layer: expected one of {', '.join(stages)}, avgpool, found {layer!r}")
        self.layer = stages[-1] if layer == "avgpool" else layer
        position = (stages.index(self.layer),)
        self.network = timm.create_model(architecture, features_only=True, pretrained=False, out_indices=position)
        self.channels: int = stages_of(self.network).channels()[0]
        self.reduction: int = stages_of(self.network).reduction()[0]
        config = cast(PretrainedCfg, timm.get_pretrained_cfg(architecture))
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(-1, 1, 1))
        self.register_buffer("sha256", torch.zeros(32, dtype=torch.uint8))
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        self.train(False)

    def train(self, mode: bool = True) -> "Features":
        """Stay in evaluation mode: the batch normalisation keeps the statistics of ImageNet."""
        return super().train(False)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature _ _"]:
        """The layer's maps of images in [0, 1]."""
        return self.of_normalised(self.normalised(images))

    def normalised(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Images with the mean and deviation that the network was trained with, in three channels."""
        return (images.expand(-1, 3, -1, -1) - self.mean) / self.std

    def of_normalised(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch feature _ _"]:
        """The layer's maps of images that are normalised already."""
        return self.network(images.contiguous(memory_format=torch.channels_last))[0]

    def load(self) -> list[str]:
        """Read the weights, and name those tensors of the file that lie above the layer and are not used.

        Raises UserError where there is no file, no network, or where the file is damaged or of another model.
        """
        path = Path(self.weights).expanduser() if self.weights else from_hub(self.architecture)
        state = read(path)
        own = {name: value for name, value in self.network.state_dict().items() if "num_batches_tracked" not in name}
        missing = [name for name in own if name not in state]
        other = [name for name in own if name in state and state[name].shape != own[name].shape]
        if missing or other:
            raise UserError(
                f"method.features.weights: expected the {len(own)} tensors of {self.architecture} up to {self.layer}, "
                f"found {path}, where {len(missing)} are missing and {len(other)} have another shape "
                f"({', '.join([*missing, *other][:3])}, ...); where it reaches less far, set method.features.layer"
            )
        self.network.load_state_dict({name: state[name] for name in own}, strict=False)
        digest = hashlib.sha256(path.read_bytes()).digest()
        self.sha256.copy_(torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        return sorted(set(state) - set(self.network.state_dict()))


def stages_of(network: nn.Module) -> FeatureInfo:
    """What timm knows of the stages of a network that gives their maps."""
    return cast(FeatureInfo, network.feature_info)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file; nothing in it is executed.

    Raises UserError where it is missing, damaged or no table of tensors.
    """
    if not path.is_file():
        raise UserError(f"method.features.weights: expected a safetensors or PyTorch file, found nothing at {path}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # bytes that are no weights can raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"method.features.weights: expected tensors, found {path}: {reason}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise UserError(f"method.features.weights: expected a table of tensors, found {type(state).__name__} in {path}")
    return state


def from_hub(architecture: str) -> Path:
    """The weights of a model on timm's hub, from the hub's cache if they are there.

    Raises UserError where they are not and the hub is out of reach.
    """
    repository = cast(PretrainedCfg, timm.get_pretrained_cfg(architecture)).hf_hub_id
    if not repository:
        raise UserError(f"method.features.weights: expected a file, timm's hub has none for {architecture}")
    try:
        return Path(hf_hub_download(repository, FILE, local_files_only=True))
    except LocalEntryNotFoundError:
        address = huggingface_hub.hf_hub_url(repository, FILE)
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT):
            pass
        return Path(hf_hub_download(repository, FILE))
    except OSError as error:
        raise UserError(
            f"method.features.weights: {architecture} is not on this machine and cannot be fetched ({error}); get "
            f"{address} on another machine, put it anywhere here and set method.features.weights=PATH"
        ) from error
