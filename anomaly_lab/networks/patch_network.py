"""Networks of a few convolutions without padding, which describe every small patch of an image by a vector.

`patch17`, `patch33`, `patch65`: Bergmann, Fauser, Sattlegger and Steger, CVPR 2020 (arXiv 1911.02357), tables of the
supplement. `pdn_small`, `pdn_medium`: Batzner, Heckler and Koenig, WACV 2024 (arXiv 2303.14535), tables 6 and 7.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.networks.pretrained import PretrainedNetwork, origin_of, read

Images = Float[Tensor, "batch channel height width"]
Maps = Float[Tensor, "batch _ _ _"]
Name = Literal["patch17", "patch33", "patch65", "pdn_small", "pdn_medium"]
Width = Annotated[float, Field(gt=0, le=8)]
POOL = (2, 0)  # a pooling of 2 x 2 at stride 2


class Architecture(NamedTuple):
    """Side and channels of the convolutions in their order, with poolings between them."""

    patch: int  # px, side of the patch that a vector describes; the poolings leave out up to 5 px of it below and right
    layers: tuple[tuple[int, int], ...]
    pool: type[nn.MaxPool2d] | type[nn.AvgPool2d]
    slope: float  # of the leaky ReLU between two convolutions, for negative values


ARCHITECTURES: dict[Name, Architecture] = {
    "patch17": Architecture(17, ((6, 128), (5, 256), (5, 256), (4, 128)), nn.MaxPool2d, 5e-3),
    "patch33": Architecture(33, ((5, 128), POOL, (5, 256), POOL, (2, 256), (4, 128)), nn.MaxPool2d, 5e-3),
    "patch65": Architecture(
        65, ((5, 128), POOL, (5, 128), POOL, (5, 256), POOL, (4, 256), (1, 128)), nn.MaxPool2d, 5e-3
    ),
    "pdn_small": Architecture(33, ((4, 128), POOL, (4, 256), POOL, (3, 256), (4, 384)), nn.AvgPool2d, 0.0),
    "pdn_medium": Architecture(
        33, ((4, 256), POOL, (4, 512), POOL, (1, 512), (3, 512), (4, 384), (1, 384)), nn.AvgPool2d, 0.0
    ),
}


class PatchNetwork(nn.Sequential):
    """Such a network, randomly initialised.

    Called as any network, it gives the vectors of patches at its own stride, from the upper left corner on. Tensors are
    named by the position of their layer: `0.weight` and so on.

    Args:
        name: Its architecture.
        width: Factor of the channels of all layers but the last; 1: as published.
        channels: Of the vectors; None: as published.

    """

    def __init__(self, name: Name, width: Width = 1.0, channels: PositiveInt | None = None) -> None:
        patch, layers, pool, slope = ARCHITECTURES[name]
        modules: list[nn.Module] = []
        before = 3
        for number, (side, published) in enumerate(layers, start=1):
            if (side, published) == POOL:
                modules.append(pool(2, 2))
                continue
            is_output = number >= len(layers) - 1 and published == layers[-1][1]
            made = channels or published if is_output else max(1, round(width * published))
            modules.append(nn.Conv2d(before, made, side))
            modules += [nn.LeakyReLU(slope) if slope else nn.ReLU()] if number < len(layers) else []
            before = made
        super().__init__(*modules)
        self.name = name
        self.channels = before
        self.patch = patch
        self.receptive_field, self.stride = 1, 1  # px
        for side, published in layers:
            self.receptive_field += (side - 1) * self.stride
            self.stride *= 2 if (side, published) == POOL else 1
        self.to(memory_format=torch.channels_last)

    def padded(self, images: Images) -> Maps:
        """Padded with zeros within the network: a place for each 4 x 4 px, as the paper distils PDNs."""
        poolings = 2  # that follow
        for module in self:
            if isinstance(module, nn.Conv2d):
                side = module.kernel_size[0]
                padding = side - 1 if poolings else 1 if side == 3 else 0
                images = functional.conv2d(images, module.weight, module.bias, padding=padding)
            elif isinstance(module, nn.AvgPool2d):
                images = functional.avg_pool2d(images, 2, 2, padding=1)
                poolings -= 1
            else:
                images = module(images)
        return images

    def dense(self, images: Images, stride: PositiveInt) -> Maps:
        """The vectors of patches every `stride` px, each as if its patch were cut out; for networks with max pooling.

        The place in row i describes the patch about pixel row `stride` * i + (`stride` - 1) // 2; borders are repeated.
        Once the stride is reached a pooling keeps all places, and what follows is dilated (Bailer et al. 2018, whom the
        paper follows, cut the map into interleaved ones instead: the same numbers).
        """
        margins = [margin for side in (images.shape[-1], images.shape[-2]) for margin in self._margins(side, stride)]
        images = functional.pad(images, margins, mode="replicate")
        step, dilation = 1, 1  # px between places; places between neighbours of the published network
        layers = list(self)
        for number, module in enumerate(layers):
            if isinstance(module, nn.Conv2d):
                last = stride // step if number == len(layers) - 1 else 1  # fewer places than the network has
                images = functional.conv2d(images, module.weight, module.bias, stride=last, dilation=dilation)
            elif isinstance(module, nn.MaxPool2d):
                keeps = 2 * step > stride
                images = functional.max_pool2d(images, 2, 1 if keeps else 2, dilation=dilation)
                step, dilation = (step, 2 * dilation) if keeps else (2 * step, dilation)
            else:
                images = module(images)
        return images

    def _margins(self, side: int, stride: int) -> list[int]:
        """Pixels before and after an axis, so that there is a place for each `stride` px."""
        before = self.patch // 2 - (stride - 1) // 2
        return [before, (side - 1) // stride * stride + self.receptive_field - side - before]


class PatchTeacher(PretrainedNetwork):
    """A frozen patch network with the weights of a file: of `python -m anomaly_lab teacher` or of a re-implementation.

    `sha256` holds the digest of the file, 32 bytes; zeros: none was read. Checkpoints contain the weights.

    Args:
        name: Its architecture.
        weights: A safetensors or PyTorch file of its tensors.
        width: Factor of its channels.

    """

    sha256: Tensor
    key: str = "teacher"  # what people type for it

    def __init__(self, name: Name, weights: str | None = None, width: Width = 1.0) -> None:
        super().__init__()
        self.name, self.layers, self.trainable = name, (name,), False
        self.weights = weights
        self.width = width
        self.network = PatchNetwork(name, width)
        self.register_buffer("sha256", torch.zeros(32, dtype=torch.uint8))
        self.requires_grad_(False)

    def load(self) -> list[str]:
        """Read the weights, unless they are there already, and say where they come from.

        Raises UserError where there is no file, and where it is damaged, of another network or not finite.
        """
        if self.sha256.any():
            return []
        width = "" if self.width == 1 else f" width={self.width:g}"
        command = f"python -m anomaly_lab teacher network={self.name} images=FOLDER out=FILE{width}"
        if self.weights is None:
            raise UserError(
                f"{self.key}.weights: expected a file of {self.name}, found none; {command} distils one from a "
                "pretrained network, on a folder of varied photos"
            )
        path = Path(self.weights).expanduser()
        state = read(path, f"{self.key}.weights")
        own = self.network.state_dict()
        if shapes(state) != shapes(own):
            found, found_width = architecture_of(state)
            remedy = f"{self.key}.width={found_width:g}" if found == self.name else command
            found = f", of {found} of width {found_width:g}" if found else ""
            raise UserError(
                f"{self.key}.weights: expected the {len(own)} tensors of {self.name} of width {self.width:g}, found "
                f"{path} of {len(state)} tensors{found}; {remedy}"
            )
        wrong = (name for name, value in state.items() if not value.is_floating_point() or not value.isfinite().all())
        if broken := next(wrong, None):
            raise UserError(f"{self.key}.weights: expected finite decimal numbers, found others in {broken} of {path}")
        self.network.load_state_dict(state)
        content = path.read_bytes()
        self.sha256.copy_(torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8))
        self.origin = origin_of(path) or f"{path.name}, which does not say what it was distilled on"
        return []


def normalise(images: Images) -> Float[Tensor, "batch 3 height width"]:
    """Images in [0, 1], gray ones too, with the mean and deviation of ImageNet, as patch networks see them."""
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return ((images.expand(-1, 3, -1, -1) - mean) / std).contiguous(memory_format=torch.channels_last)


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {name: tuple(value.shape) for name, value in state.items()}


def architecture_of(state: dict[str, Tensor]) -> tuple[str, float]:
    """Of which architecture and width the tensors are; "" for none."""
    numbered = {name: value for name, value in state.items() if name.partition(".")[0].isdecimal() and value.ndim == 4}
    weights = [numbered[name] for name in sorted(numbered, key=lambda name: int(name.partition(".")[0]))]
    for name, architecture in ARCHITECTURES.items():
        convolutions = [layer for layer in architecture.layers if layer != POOL]
        if [weight.shape[-1] for weight in weights] == [side for side, _ in convolutions]:
            return name, round(len(weights[0]) / convolutions[0][1], 2)
    return "", 0.0
