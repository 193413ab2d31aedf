"""A timm network up to some of its layers, whose maps it returns: a frozen teacher, or a network that is trained."""

import hashlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from huggingface_hub import hf_hub_download, hf_hub_url
from huggingface_hub.errors import LocalEntryNotFoundError
from jaxtyping import Float
from timm.models import Eva, SwinTransformer, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.networks.hub import WEIGHTS, answer
from anomaly_lab.networks.offline import MODEL, OFFLINE, STEM, TENSORFLOW, is_installed, offline_file, translated_lite
from anomaly_lab.networks.pretrained import PretrainedNetwork, read

NORM = "norm"  # the layer name of a transformer's last block behind its final layer norm
TRANSFORMERS = VisionTransformer, Eva, SwinTransformer  # that have it, Eva for DINOv3
ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False}  # options of ViT and Swin for images of other sizes

Images = Float[Tensor, "batch channel height width"]
Maps = Float[Tensor, "batch _ _ _"]


class Backbone(PretrainedNetwork):
    """Maps of several layers of a timm model, from images in [0, 1] with one or three channels.

    `layers` are timm's names (`layer1` to `layer4` of a ResNet, `blocks.4` of an EfficientNet, `features.15` of a VGG,
    `stages.2` of a ConvNeXt, `blocks.11` of a ViT), positions among them (-1: the last), or strides: `stride8` is the
    deepest layer whose map has an eighth of the image's side, for a model whose layers differ in that. ViT, DINOv2,
    DINOv3 and Swin also have `norm`, the last block behind the final layer norm. Everything above the deepest layer is
    removed.

    `channels` and `reductions` (pixels of the image per place of the map, along a side) have one entry per layer, in
    the given order.

    Images are normalised by the mean and deviation of timm's configuration; gray is repeated in three channels. Class
    and register tokens of a ViT are dropped. ViT and Swin accept every image size that their patches divide.

    A frozen network (the default) stays in evaluation mode whatever `train` is given, and none of its parameters
    requires a gradient; a gradient with respect to the images passes through. With `trainable` it is an ordinary
    module: drawn at random, for a student, or fine-tuned after `load`.

    The constructor only builds; `load` reads the weights. Checkpoints contain them, so a trained method needs neither
    file nor hub. `sha256` holds the digest of the file they came from, 32 bytes; zeros: none was read.

    Args:
        name: Name of the model in timm, with or without the tag of its weights: `resnet18.tv_in1k`.
        layers: Names, positions or strides of the layers whose maps `forward` returns.
        weights: A safetensors or PyTorch file; `offline`: the file of the extra `offline`, of tf_efficientnet_lite0;
            None: the file on timm's hub, from the hub's cache where it is there.
        trainable: Whether the network is trained, from random weights.
        fine_tuned: Whether it is trained on from its weights.

    Raises UserError for a model or a layer that timm does not have, and for `offline` with another model.

    """

    network: Any  # a module with `forward_intermediates`, of which timm has no type
    mean: Tensor
    std: Tensor
    sha256: Tensor

    def __init__(
        self,
        name: str,
        layers: Sequence[str | int],
        weights: str | None = None,
        trainable: bool = False,
        fine_tuned: bool = False,
    ) -> None:
        super().__init__()
        if weights == OFFLINE and architecture(name) != architecture(MODEL):
            raise UserError(
                f"method.backbone.name: expected {MODEL} for weights=offline, found {name}; method.backbone=offline "
                "sets both"
            )
        self.name = name
        self.weights = weights
        self.trainable, self.fine_tuned = trainable or fine_tuned, fine_tuned
        whole = outline(name)
        self._stages: dict[str, dict[str, Any]] = {stage["module"]: stage for stage in whole.feature_info}
        has_norm = isinstance(whole, TRANSFORMERS) and isinstance(whole.norm, nn.LayerNorm)
        strides = {stage: info["reduction"] for stage, info in self._stages.items()}
        self.layers = resolve(layers, name, strides, has_norm)
        stages = [list(self._stages)[-1] if layer == NORM else layer for layer in self.layers]
        self.channels: tuple[int, ...] = tuple(self._stages[stage]["num_chs"] for stage in stages)
        self.reductions: tuple[int, ...] = tuple(self._stages[stage]["reduction"] for stage in stages)
        positions = [list(self._stages).index(stage) for stage in stages]
        self._positions = sorted(set(positions))  # timm returns the maps from the lowest layer to the deepest
        self._order = [self._positions.index(position) for position in positions]
        accepted = inspect.signature(type(whole)).parameters
        options: dict[str, Any] = {key: value for key, value in ANY_SIZE.items() if key in accepted}
        network: Any = timm.create_model(name, pretrained=False, num_classes=0, **options)
        network.prune_intermediate_layers(self._positions, prune_norm=NORM not in self.layers, prune_head=True)
        self.network = network
        self.register_buffer("mean", torch.tensor(network.pretrained_cfg["mean"]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(network.pretrained_cfg["std"]).view(-1, 1, 1))
        self.register_buffer("sha256", torch.zeros(32, dtype=torch.uint8))
        if not self.trainable:
            self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Backbone":
        """Switch to training mode if the network is trainable; frozen batch norms keep the statistics of ImageNet."""
        return super().train(mode and self.trainable)

    def forward(self, images: Images) -> tuple[Maps, ...]:
        """The map of each layer, for images in [0, 1].

        Raises UserError for an image size that the model does not accept, or that is no place of the deepest layer.
        """
        reduction, deepest = max(zip(self.reductions, self.layers, strict=True))
        if min(images.shape[2:]) < reduction:
            raise UserError(
                f"data.image_size: expected at least {reduction} px (of crops: data.patch_size), the side of a place "
                f"of {deepest} of {self.name}, found {images.shape[2]} x {images.shape[3]} px; or name lower layers "
                "(method.backbone.layers)"
            )
        return self.extract(self.normalise(images))

    @torch.no_grad()
    def shapes(self, image_size: int) -> list[tuple[int, int, int]]:
        """Channels, rows and columns of the map of each layer, for square images of so many px.

        Raises UserError for an image size that the model does not accept.
        """
        return [
            (layer.shape[1], layer.shape[2], layer.shape[3])
            for layer in self(torch.zeros(1, 3, image_size, image_size))
        ]

    def normalise(self, images: Images) -> Float[Tensor, "batch 3 height width"]:
        """Images in [0, 1] with the mean and deviation that the network was trained with, in three channels."""
        return (images.expand(-1, 3, -1, -1) - self.mean) / self.std

    def extract(self, normalised: Float[Tensor, "batch 3 height width"]) -> tuple[Maps, ...]:
        """The map of each layer, for normalised images.

        Raises UserError for an image size that the model does not accept.
        """
        images = normalised.contiguous(memory_format=torch.channels_last)
        try:
            maps = self.network.forward_intermediates(
                images, indices=self._positions, stop_early=True, intermediates_only=True
            )
        except AssertionError as error:
            raise UserError(
                f"data.image_size: expected a size that {self.name} accepts, found {images.shape[2]} x "
                f"{images.shape[3]} px: {error}"
            ) from error
        ordered = zip(self.layers, (maps[i] for i in self._order), strict=True)
        return tuple(
            self.network.norm(layer.movedim(1, -1)).movedim(-1, 1) if name == NORM else layer for name, layer in ordered
        )

    def repeat_borders(self) -> None:
        """Let convolutions repeat the outermost places of a map where they would pad it with zeros, from now on.

        A plain border then leads to the vectors of a plain surface, not to those of an edge that no photo shows.
        """
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                module.padding_mode = "replicate"

    def extract_at_every_phase(
        self, normalised: Float[Tensor, "batch 3 height width"], step: int
    ) -> Iterator[tuple[int, int, Maps]]:
        """Row, column and map of the only layer, for normalised images shifted up and left by multiples of `step` px.

        As many shifts as fit between two places of the map, row by row; one where a place is no larger than the step.
        What lies below the stage whose places are as large as the step is computed once: there a shift of the image is
        a shift of the map (except at its border, where a shifted image would begin with its own padding).

        Raises UserError for more than one layer, and for a model whose stages do not follow one another as its direct
        parts, as those of ResNet, ResNeXt and RegNet do.
        """
        parts = dict(self.network.named_children())
        stages = list(self._stages)[: self._positions[-1] + 1]
        if len(self.layers) > 1 or not parts.keys() >= set(stages):
            raise UserError(
                f"method.backbone.name: expected one layer of a model whose stages are its direct parts, such as a "
                f"ResNet, ResNeXt or RegNet, found {self.name} with {', '.join(self.layers)}"
            )
        reduction, last = self.reductions[0], list(parts).index(stages[-1]) + 1
        below = [stage for stage in stages if self._stages[stage]["reduction"] == min(step, reduction)]
        first, shift = (list(parts).index(below[0]) + 1, 1) if below else (0, step)
        lower, upper = (nn.Sequential(*list(parts.values())[part]) for part in (slice(first), slice(first, last)))
        base = lower(normalised.contiguous(memory_format=torch.channels_last))
        for row, column in product(range(max(1, reduction // step)), repeat=2):
            shifted = base[..., row * shift :, column * shift :]
            yield row, column, upper(shifted.contiguous(memory_format=torch.channels_last))

    @property
    def is_local(self) -> bool:
        """Whether the weights come from a file on this machine."""
        return self.weights is not None

    def load(self) -> list[str]:
        """Read the weights, unless they are there already, and name the tensors of the file that are not used.

        The file may end above the deepest layer or go on to the classifier. Names of the model's authors are translated
        where timm knows them.

        Raises UserError where there is no file and no hub, or where the file is damaged or of another model.
        """
        if self.sha256.any():
            return []
        path = (
            offline_file() if self.weights == OFFLINE
            else Path(self.weights).expanduser() if self.weights else from_hub(self.name)
        )  # fmt: skip
        state = read(path, "method.backbone.weights")
        refuse_twin(self.name, state, path)
        if any(self._misfit(state)):
            state = translated(state, outline(self.name))
        if any(misfit := self._misfit(state)):
            missing, other, foreign = map(len, misfit)
            reached = self._reached(misfit[0])
            raise UserError(
                f"method.backbone.weights: expected the tensors of {self.name} up to {', '.join(self.layers)}, found "
                f"{path}, where {missing} are missing, {other} have another shape and {foreign} belong to another "
                f"network ({', '.join(list(chain(*misfit))[:3])}, ...)"
                + (f"; the file reaches up to method.backbone.layers=[{reached}]" if missing and reached else "")
            )
        unused = self.network.load_state_dict(state, strict=False).unexpected_keys
        digest = hashlib.sha256(path.read_bytes()).digest()
        self.sha256.copy_(torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        return sorted(unused)

    def _misfit(self, state: dict[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
        """Names of tensors that are missing, that have another shape, and that are foreign to a part in use."""
        own = {name: value for name, value in self.network.state_dict().items() if "num_batches_tracked" not in name}
        known, used = outline(self.name).state_dict(), {name.split(".")[0] for name in own}
        return (
            [name for name in own if name not in state],
            [name for name in own if name in state and state[name].shape != own[name].shape],
            [name for name in state if name not in known and name.split(".")[0] in used],
        )

    def _reached(self, missing: list[str]) -> str | None:
        """The deepest layer that needs none of the missing tensors."""
        for position in range(self._positions[-1], -1, -1):
            part = deepcopy(outline(self.name))
            part.prune_intermediate_layers([position], prune_norm=True, prune_head=True)
            if part.state_dict().keys().isdisjoint(missing):
                return list(self._stages)[position]
        return None


def refuse_weights(network: Backbone, key: str) -> None:
    """Raise UserError for a network that is not trained from random weights; `key`: what people typed for it."""
    if not network.trainable or network.fine_tuned or network.weights is not None:
        found = f"weights={network.weights}" if network.trainable else "trainable=false"
        found = "fine_tuned=true" if network.fine_tuned else found
        raise UserError(f"{key}: expected a network that is trained from random weights, found {found}")


def aligned(maps: Sequence[Maps], mode: Literal["bilinear", "nearest"] = "bilinear") -> Maps:
    """Maps of several layers, resized to the grid of the first one and concatenated along the channels.

    Bilinear between the centres of the places (`align_corners=False`); a map that has the grid stays as it is. Maps
    without channels are left out.
    """
    grid = maps[0].shape[2:]
    filled = [layer for layer in maps if layer.shape[1]] or [maps[0]]
    resized = [layer if layer.shape[2:] == grid else functional.interpolate(layer, grid, mode=mode) for layer in filled]
    return torch.cat(resized, dim=1)


@cache
def outline(name: str) -> Any:
    """The whole timm model without memory for its weights: names, shapes, layers. Shared: to be read only.

    Raises UserError where timm does not know the model, or does not name its layers.
    """
    model: Any = None
    if timm.is_model(name):
        with suppress(RuntimeError), torch.device("meta"):  # raised for a tag that the model does not have
            model = timm.create_model(name, pretrained=False)
    if model is None:
        close = nearest(name, [*timm.list_models(), *timm.list_pretrained()])
        raise UserError(f"method.backbone.name: expected a model of timm, found {name!r}{close}")
    names = [stage["module"] for stage in model.feature_info]
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"method.backbone.name: expected a model whose layers have distinct names, found {name!r}")
    return model


def architecture(name: str) -> str:
    """The name of a model without the tag of its weights."""
    return name.partition(".")[0]


def resolve(layers: Sequence[str | int], model: str, strides: dict[str, int], has_norm: bool) -> tuple[str, ...]:
    """The names of layers that are given by names, positions or strides; `strides`: those of all layers, in order.

    Raises UserError for an empty list, and for a layer that the model does not have.
    """
    names = list(strides)
    by_stride = {f"stride{stride}": name for name, stride in strides.items()}  # the deepest of each counts
    by_stride = by_stride if len(by_stride) > 1 else {}
    known = [*names, *[NORM] * has_norm, *by_stride]
    choice = f"one or more of {', '.join(known)}, or positions from {-len(names)} to {len(names) - 1}, for {model}"
    if isinstance(layers, str) or not layers:
        raise UserError(f"method.backbone.layers: expected a list of {choice}, found {layers!r}")
    for layer in layers:
        if layer not in known and not (isinstance(layer, int) and -len(names) <= layer < len(names)):
            raise UserError(f"method.backbone.layers: expected {choice}, found {layer!r}{nearest(str(layer), known)}")
    return tuple(names[layer] if isinstance(layer, int) else by_stride.get(layer, layer) for layer in layers)


def translated(state: dict[str, Tensor], whole: nn.Module) -> dict[str, Tensor]:
    """The tensors under timm's names, where timm or `translated_lite` knows those of the file; else as they are."""
    with suppress(KeyError, IndexError):
        if STEM in state:
            return translated_lite(state, whole.state_dict())
    translate = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    with suppress(Exception):  # of a file that is of another model, about which the caller complains
        return translate(dict(state), whole) if translate else state
    return state


def refuse_twin(name: str, state: dict[str, Tensor], path: Path) -> None:
    """Raise UserError for TensorFlow's EfficientNet-Lite weights under the name of the model without `tf_`.

    Names and shapes are the same, but that model pads, normalises and scales in another way: it would only be worse.
    """
    mean = state.get("_bn0.running_mean", state.get("bn1.running_mean"))
    known = mean is not None and hashlib.sha256(mean.float().numpy().tobytes()).hexdigest().startswith(TENSORFLOW)
    if not name.startswith("tf_") and (known or STEM in state):
        raise UserError(
            f"method.backbone.name: expected tf_{architecture(name)}, because {path} holds its weights, found "
            f"{name}, which accepts them and pads and normalises in another way"
        )


def from_hub(name: str) -> Path:
    """The weights file of a model on timm's hub, from the hub's cache where it is there.

    Raises UserError where the hub has none, does not answer within 10 s, or breaks off.
    """
    if path := in_cache(name):
        return path
    repository, file = hub_file(name)
    address = hf_hub_url(repository, file)
    try:
        answer(address)
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # the hub's client lets errors of its HTTP library through
        raise UserError(
            f"method.backbone.weights: {name} is not on this machine and cannot be fetched ({error}); get {address} on "
            f"another machine, put it anywhere here and set method.backbone.weights=PATH, or "
            + ("" if is_installed() else "pip install 'anomaly_lab[offline]' and ")
            + "type method.backbone=offline"
        ) from error


def in_cache(name: str) -> Path | None:
    """The weights file of a model in the hub's cache on this machine; None: it is not there."""
    with suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(*hub_file(name), local_files_only=True))
    return None


def hub_file(name: str) -> tuple[str, str]:
    """The repository and the file of a model's weights on timm's hub. Raises UserError where the hub has none."""
    config: Any = timm.get_pretrained_cfg(name)
    if not config.hf_hub_id:
        raise UserError(f"method.backbone.weights: expected a file, timm's hub has none for {name}")
    return config.hf_hub_id, config.hf_hub_filename or WEIGHTS
