"""A network that was trained on ImageNet and is not trained any further, up to one of its layers."""

import hashlib
import urllib.request
from collections.abc import Callable, Iterator
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

from anomaly_lab.core.errors import UserError

FILE = "model.safetensors"  # what timm calls the weights of a model on its hub
TIMEOUT = 10  # seconds until a hub that does not answer counts as out of reach


class Features(nn.Module):
    """Maps of one layer of a frozen timm model, from images in [0, 1] with one or three channels.

    The model is one whose stages lie in a row under names of their own: ResNet, ResNeXt, RegNet and their kin. `layer`
    is a stage (`layer1` to `layer4` of a ResNet); `avgpool` is the last one, whose mean over the places is what the
    average pooling of a ResNet gives. Layers above are not built. Gray is shown three times.

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
        self._stages = stages_in_a_row(architecture)
        if layer not in (*self._stages, "avgpool"):
            raise UserError(
                f"method.features.layer: expected one of {', '.join(self._stages)}, avgpool, found {layer!r}"
            )
        self.layer = list(self._stages)[-1] if layer == "avgpool" else layer
        position = (list(self._stages).index(self.layer),)
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

    def at_every_phase(
        self, images: Float[Tensor, "batch 3 height width"], step: int
    ) -> Iterator[tuple[int, int, Float[Tensor, "batch feature _ _"]]]:
        """The layer's maps of normalised images that start 0, 1, ... steps of `step` px further down and right.

        As many as fit between two places of the map, row by row; one where a place is no larger than the step. What
        lies below the stage whose places are as large as the step is computed once: there a shift of the image is a
        shift of the map (but for its border, where a shifted image would begin with zeros).
        """
        parts = dict(self.network.named_children())
        below = [stage for stage, reduction in self._stages.items() if reduction == min(step, self.reduction)]
        first = list(parts).index(below[0]) + 1 if below else 0
        shift = 1 if below else step
        base = images.contiguous(memory_format=torch.channels_last)
        for part in list(parts.values())[:first]:
            base = part(base)
        phases = max(1, self.reduction // step)
        for row in range(phases):
            for column in range(phases):
                layer = base[..., row * shift :, column * shift :].contiguous(memory_format=torch.channels_last)
                for part in list(parts.values())[first:]:
                    layer = part(layer)
                yield row, column, layer

    def load(self) -> list[str]:
        """Read the weights, and name those tensors of the file that lie above the layer and are not used.

        Raises UserError where there is no file, no network, or where the file is damaged or of another model.
        """
        path = Path(self.weights).expanduser() if self.weights else from_hub(self.architecture)
        state = read(path)
        own = {name: value for name, value in self.network.state_dict().items() if "num_batches_tracked" not in name}
        missing = [name for name in own if name not in state]
        other = [name for name in own if name in state and state[name].shape != own[name].shape]
        used = {part for part, _ in self.network.named_children()}
        unused = sorted(set(state) - set(self.network.state_dict()))
        foreign = [name for name in unused if name.split(".")[0] in used]  # inside what is used: of a larger model
        if missing or other or foreign:
            reached = [stage for stage in self._stages if not any(map(self._below(stage), missing))]
            advice = f"; the file reaches up to method.features.layer={reached[-1]}" if missing and reached else ""
            raise UserError(
                f"method.features.weights: expected the {len(own)} tensors of {self.architecture} up to {self.layer}, "
                f"found {path}, where {len(missing)} are missing, {len(other)} have another shape and {len(foreign)} "
                f"belong to another network ({', '.join([*missing, *other, *foreign][:3])}, ...){advice}"
            )
        self.network.load_state_dict({name: state[name] for name in own}, strict=False)
        digest = hashlib.sha256(path.read_bytes()).digest()
        self.sha256.copy_(torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        return unused

    def _below(self, stage: str) -> Callable[[str], bool]:
        """Whether a tensor belongs to this stage or to one below."""
        parts = [part for part, _ in self.network.named_children()]
        below = set(parts[: parts.index(stage) + 1] if stage in parts else parts)
        return lambda name: name.split(".")[0] in below


def stages_in_a_row(architecture: str) -> dict[str, int]:
    """The names of the stages of a timm model, and how many px of the image a place of their maps stands for.

    Raises UserError where timm does not know it, or where its parts have other names than in the weights.
    """
    try:
        with torch.device("meta"):  # names only
            whole = timm.create_model(architecture, pretrained=False)
            stages = timm.create_model(architecture, features_only=True, pretrained=False)
    except (RuntimeError, AttributeError) as error:
        raise UserError(
            f"method.features.architecture: expected a model of timm that gives the maps of its stages, "
            f"found {architecture!r}: {error}"
        ) from error
    names = stages_of(stages).module_name()
    parts = {name for name, _ in stages.named_children()}
    if set(stages.state_dict()) - set(whole.state_dict()) or not set(names) <= parts:
        raise UserError(
            f"method.features.architecture: expected a model whose stages lie in a row under names of their own, a "
            f"ResNet, ResNeXt or RegNet for example, found {architecture!r}"
        )
    return dict(zip(names, stages_of(stages).reduction(), strict=True))


def stages_of(network: nn.Module) -> FeatureInfo:
    """What timm knows of the stages of a network that gives their maps."""
    return cast(FeatureInfo, network.feature_info)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by their names; nothing in it is executed.

    A training's checkpoint that keeps them under `state_dict` or `model`, or with `module.` before each name, will do.

    Raises UserError where the file is missing, damaged or no table of tensors.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "nothing"
        raise UserError(f"method.features.weights: expected a safetensors or PyTorch file, found {what} at {path}")
    try:
        with path.open("rb") as file:
            is_pytorch = file.read(2) in (b"PK", b"\x80\x02")  # a ZIP archive, or the pickle of old
        state = torch.load(path, "cpu", weights_only=True) if is_pytorch else load_file(path)
    except Exception as error:  # bytes that are no weights can raise anything
        raise UserError(
            f"method.features.weights: expected a safetensors or PyTorch file of tensors and nothing else, found "
            f"{path}: it is damaged, or holds Python objects, which are never loaded"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"method.features.weights: expected tensors by their names, found something else in {path}")
    return {name.removeprefix("module."): value for name, value in state.items()}


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
