"""Toy versions of all methods of conf/method, and the short trainings that methods/test_contract.py asks about.

A new method needs a line in TOY where its own settings take more than a second, and one in NO_GRAPH where it cannot be
exported. ANOMALY_LAB_METHODS=FOLDER adds the methods of FOLDER/method/*.yaml; the same lines of these stand in
FOLDER/contract.yaml: `NAME: {side: 64, toy: "width=4", no_graph: REASON}`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.plugins import MixedPrecision
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from anomaly_lab.config.files import CONF
from anomaly_lab.config.schema import class_fact
from anomaly_lab.core.types import Batch, Placement
from anomaly_lab.data.corruption import Corruption
from anomaly_lab.data.noise import row_keys
from anomaly_lab.data.placement import place
from anomaly_lab.methods import ganomaly
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.method import Method, evaluating
from anomaly_lab.networks.patch_network import PatchNetwork
from tests.adversarial import OUTSIDE, Losses, Patches, configured, fit, shared

FILES = {
    path.relative_to(root / "method").with_suffix("").as_posix(): OmegaConf.load(path)
    for root in (CONF, OUTSIDE)
    if root
    for path in sorted(root.glob("method/**/*.yaml"))
}
METHODS = list(FILES)
TRUST = sorted({node["_target_"].partition(".")[0] for node in FILES.values()})
OF_TABLES = {name for name, node in FILES.items() if "photos" not in class_fact(node["_target_"], "reads")}
DESCENDING = [name for name, node in FILES.items() if class_fact(node["_target_"], "rates")]  # with optimizers
FITTED = [name for name in METHODS if name not in DESCENDING]

SIDE = {  # px, of networks that need more than 32
    "cae": 128, "ssim_ae": 128, "vae": 128, "slides_cae": 64, "efficient_ad": 48, "patch_svdd": 128,
}  # fmt: skip
TOY = {
    "adae": "width=4 latent_size=8 optimizer.lr=1e-2",
    "anomaly_dino": "backbone.layers=[layer2] rotations=8 ratio=0.2",
    "anogan": "generator.width=2 generator.latent_size=8 discriminator.width=2 search_steps=5 optimizer.lr=1e-2",
    "avid": "width=4 optimizer.lr=1e-2",
    "cae": "optimizer.lr=3e-3",
    "cavga": "backbone.layers=[layer2] latent_size=16 width=4 optimizer.lr=1e-3",
    "cflow": "backbone.layers=[layer1,layer2] steps=1 fibres=128 optimizer.lr=5e-3",
    "cnn_dictionary": "backbone.layers=[layer2] evaluation=dense vectors_per_image=20 restarts=2 clusters=4",
    "contrastive": "network.width=2 projection=[16,8] optimizer.lr=1e-2",
    "control": "kind=pca",
    "cs_flow": "backbone.layers=[layer1] kernels=[3] hidden=8 optimizer.lr=1e-1",
    "differnet": "backbone.layers=[layer2] blocks=2 hidden=16 views=3 optimizer.lr=1e-3",
    "cutpaste": "backbone.layers=[layer1] optimizer.lr=1e-2",
    "deep_svdd": "pretraining_optimizer.lr=1e-3 optimizer.lr=1e-3",
    "draem": "width=2 segmentation_width=2 optimizer.lr=1e-2",
    "efficient_ad": "optimizer.lr=1e-3",
    "egbad": "width=4 latent_size=8 optimizer.lr=1e-2",
    "f_anogan": "generator.width=2 generator.latent_size=16 critic.width=2 encoder.width=2 critic_steps=1",
    "fastflow": "backbone.layers=[layer1,layer2] steps=2 optimizer.lr=1e-2",
    "fcdd": "optimizer.lr=1e-2",
    "ganomaly": "width=4 latent_size=8 optimizer.lr=1e-2",
    "htdg": "coarsest=16 scales=2 width=4 optimizer.lr=1e-2",
    "lsa": "latent_size=8 bins=10 hidden=4 optimizer.lr=1e-2",
    "memae": "slots=50 optimizer.lr=1e-2",
    "mkd": "backbone.layers=[layer1,layer2] scoring=2 optimizer.lr=1e-2",
    "nsa": "backbone.layers=[layer3] optimizer.lr=1e-3",
    "padim": "features=10",
    "patch_svdd": "pairs=1 small_stride=8 max_vectors=300 optimizer.lr=1e-3",
    "patchcore": "backbone.layers=[layer1,layer2] ratio=0.2 neighbours=3",
    "pixel_flow": "steps=2 hidden_ratio=2 optimizer.lr=1e-2",
    "reverse_distillation": "backbone.layers=[act1,layer1,layer2] blocks=[1,1,1] loss=per_place optimizer.lr=1e-3",
    "skip_ganomaly": "width=4 latent_size=8 optimizer.lr=1e-2",
    "slides_cae": "normalisation=train optimizer.lr=1e-2",
    "ssim_ae": "optimizer.lr=1e-3",
    "stfpm": "backbone.layers=[layer1,layer2]",
    "table_autoencoder": "optimizer.lr=1e-2",
    "table_control": "kind=mahalanobis",
    "transformation_classifier": "optimizer.lr=1e-2",
    "supervised": "backbone.layers=[layer2] optimizer.lr=1e-2",
    "uninformed_students": "optimizer.lr=1e-3",
    "vae": "optimizer.lr=3e-3",
    "texture_inspection": "images=4 novelty_images=3 levels=2 components=2 vectors=500 projection=16",
}
BACKBONE = "test_resnet"  # in the place of a ResNet-18, for seconds
NO_GRAPH = {
    "anogan": "5 gradient steps",
    "cavga": "its map is a gradient",
    "cnn_dictionary": "one pass of the network a phase of the stride",
    "control": "what a method must beat",
    "mkd": "its map is a gradient",
    "spade": "others of them",
    "table_control": "what a method must beat",
    "texture_inspection": "8192 patches at a time",
}
if OUTSIDE and (lines := OUTSIDE / "contract.yaml").is_file():
    for name, line in OmegaConf.load(lines).items():
        SIDE |= {name: line.side} if "side" in line else {}
        TOY |= {name: line.toy} if "toy" in line else {}
        NO_GRAPH |= {name: line.no_graph} if "no_graph" in line else {}
GRAY_ONLY = {"texture_inspection"}
OBJECTS_ONLY = {"supervised", "htdg"}  # a crop of a defective photo may show no defect; noise stands for whole photos
# Their losses hardly move in the first hundred steps; differnet and the last four have one number an image; adae takes
# two steps of a network; lsa has batch norm in all its blocks, which lags behind the weights for tens of batches
# (test_lsa.py trains longer); cavga learns to look at all of a good image, and what it makes of a defect is another
# matter; a place of fcdd sees more than an image of 32 px; a scale of htdg takes two steps.
UNTAUGHT = {
    "ssim_ae", "draem", "nsa", "differnet", "lsa", "cavga", "egbad", "adae", "fcdd", "deep_svdd", "htdg",
    "transformation_classifier", "contrastive", "supervised", *OF_TABLES,
}  # fmt: skip
# Rates for plain descent, of losses with steep gradients.
GENTLE = {
    "contrastive": 1e-3,
    "lsa": 1e-5,
    "uninformed_students": 1e-4,
    "efficient_ad": 1e-3,
    "fastflow": 1e-6,
    "nsa": 1e-3,
    "patch_svdd": 1e-3,
    "transformation_classifier": 1.0,  # so that guesses differ
}
MOMENTS = ((0, 0), (0, 1))  # inside an epoch, after its last batch; another follows in a second stage


def bars(count: int, seed: int, side: int, channels: int = 3, defective: bool = False) -> torch.Tensor:
    """Images of a bar in 256 levels that differ in two brightnesses; defects are black or white squares on it."""
    random = torch.Generator().manual_seed(seed)
    ground, light = torch.rand((2, count, 1, 1, 1), generator=random)
    images = (0.2 + 0.2 * ground).repeat(1, channels, side, side)
    images[..., side // 4 : side // 2] += 0.2 + 0.3 * light
    images += 0.1 * torch.rand(images.shape, generator=random)
    size = max(side // 4, 1)
    for image in images if defective else ():
        y, x, white = torch.randint(side // 4, max(side // 2, size), (3,), generator=random).tolist()
        image[:, y : y + size, x : x + size] = white % 2
    return (images * 255).round() / 255


class Bars(Patches):
    """Batches of such images, with defects for a method that learns from them."""

    def __init__(self, *arguments: Any, corruption: Corruption | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.corruption = corruption

    def __iter__(self) -> Iterator[Batch]:
        return (painted(batch, self.corruption) for batch in super().__iter__())

    def images(self, number: int) -> torch.Tensor:
        """The images of a batch."""
        return bars(self.batch_size, number, self.side, self.channels)


def painted(batch: Batch, corruption: Corruption | None) -> Batch:
    """A batch with synthetic defects, if there is a corruption."""
    if corruption is None:
        return batch
    image, defect = corruption(batch.image, row_keys(0, 0, batch.index))
    return batch._replace(image=image, clean=batch.image, defect=defect)


class Training(NamedTuple):
    """A method after two epochs of two batches, and what was seen of them."""

    method: Method
    state: dict[str, torch.Tensor]
    losses: Losses
    steps: int  # of all optimizers
    checkpoints: list[Path]  # of MOMENTS, and of a second stage if there is one


def given(name: str, weights: Path, folder: Path) -> list[str]:
    """The words for the weights that a method needs: those of its backbone, or of a small patch network in `folder`."""
    if "backbone" in FILES[name] and not FILES[name].backbone.get("trainable"):
        return [f"method.backbone.weights={weights}"]
    if (place := {"efficient_ad": "teacher", "uninformed_students": "patch65"}.get(name)) is None:
        return []
    torch.manual_seed(0)
    network = PatchNetwork(FILES[name][place].name, 0.02)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, file := folder / f"{name}.safetensors")
    return [f"method.{place}.weights={file}", f"method.{place}.width=0.02"]


def table_of(folder: Path) -> Path:
    """A table of three columns, one of a wide range."""
    random = torch.Generator().manual_seed(0)
    rows = [f"{value:.4f},{2 * value + rest:.4f},{1000 * rest:.4f},good" for value, rest in
            torch.randn(60, 2, generator=random).tolist()]  # fmt: skip
    (path := folder / "table.csv").write_text("\n".join(["a,b,c,label", *rows]))
    return path


composed = cache(configured)  # whoever gets it does not change it


class Toy:
    """A method of conf/method at toy size; what is asked for twice is trained once.

    `weights` are those of BACKBONE (the fixture `small_weights`).
    """

    def __init__(self, name: str, folder: Path, weights: Path) -> None:
        self.name, self.folder, self.side = name, folder, SIDE.get(name, 32)
        node = FILES[name]
        data = ["data=folder", "data.root=x", f"data.image_size={self.side}"]
        if name in OF_TABLES:
            self.side, data = 1, ["data=table", f"data.root={table_of(folder)}"]
        self.words = [f"method={name}", *data]
        self.words += [f"method.backbone.name={BACKBONE}"] * ("backbone" in node)
        self.words += [f"method.{word}" for word in TOY.get(name, "").split()]  # which may name another
        self.words += given(name, weights, folder)
        self.words += ["budget.schedule=cosine"] * (name in DESCENDING)
        if class_fact(node["_target_"], "clips_gradients"):
            self.words += ["+method.gradient_clip=0.1", "+method.log_gradient_norms=true"]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checked configuration; composed once, travels to other processes with the toy."""
        return composed(*self.words)

    @cached_property
    def corruption(self) -> Corruption | None:
        """What paints into the images that it learns from."""
        node = self.config["data"]["corruption"]
        return node and instantiate(node, _convert_="all")

    @property
    def channels(self) -> int:
        """Of the images that the method is for."""
        return self.config["data"]["channels"]

    def built(self, *words: str) -> Method:
        """The method, always with the same weights; the configuration may be changed."""
        torch.manual_seed(0)
        return build_method(configured(*self.words, *words) if words else self.config, TRUST)

    def images(self, count: int = 5, defects: int = 2) -> torch.Tensor:
        """Normal images, of which the last ones get a defect."""
        size = self.side, self.channels
        images, defective = (bars(count, 100, *size, defective=has) for has in (False, True))
        return torch.cat([images[: count - defects], defective[count - defects :]])

    def placement(self, count: int = 5) -> tuple[Placement, ...]:
        """Where the photos of `images` lie: of the last a third of the image, the rest is padding."""
        return (place(self.side, self.side, self.side, "pad"),) * (count - 1) + (place(30, 90, self.side, "pad"),)

    def fit(
        self, method: Method, *callbacks: pl.Callback, resume: Path | None = None, batches: int = 2,
        batch_size: int = 4, rank: int | None = None, **options: Any
    ) -> pl.Trainer:  # fmt: skip
        """Train it for two epochs, or as often as it looks, alone or as one of two processes."""
        sides = {"side": self.side, "channels": self.channels, "corruption": self.corruption}
        method.training_images = lambda: Bars(batches, batch_size, **sides)
        if resume is None:
            with evaluating(method), torch.no_grad():
                method.prepare(method.training_images())
        patches = Bars(batches, batch_size, place=(0, 1) if rank is None else (rank, 2), **sides)
        options |= {} if rank is None else shared()
        trainer = fit(
            method, self.folder, method.passes or 2, patches, Bars(1, **sides), resume, callbacks, **options
        )  # fmt: skip
        with evaluating(method), torch.no_grad():
            method.conclude(method.training_images())
            method.calibrate(Bars(1, **sides))
        return trainer

    @cached_property
    def training(self) -> Training:
        """The training that others are compared with."""
        method, watch, losses = self.built(), Watch(self.folder), Losses()
        trainer = self.fit(method, watch, losses)
        return Training(
            method.eval(), state_of(trainer, self.folder / "state.ckpt"), losses, watch.steps, watch.checkpoints
        )

    def divisible(self) -> Method:
        """The method as two processes can train it on halves of a batch and come to the same.

        Without batch norm, whose statistics are those of the half, without dropout, which each draws for itself, and
        descending plainly: Adam would make large steps of the last digits of small gradients.
        """
        method = self.built()
        for module in list(method.modules()):
            for name, layer in module.named_children():
                norm = isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
                trained = norm and (layer.training or hasattr(method, "averages"))  # not those of a teacher
                if trained and self.name in DESCENDING:
                    setattr(module, name, nn.GroupNorm(1, layer.num_features))
                if isinstance(layer, nn.Dropout):
                    layer.p = 0.0
        descend(method, GENTLE.get(self.name, 1e-2))
        return method

    def divided(self, rank: int | None = None) -> dict[str, torch.Tensor]:
        """Its weights after a training alone, or as one of two processes, which do not start from the same weights."""
        method = self.divisible()
        if rank == 1 and self.name in DESCENDING:
            nn.init.ones_(next(method.parameters()))
        self.fit(method, rank=rank)
        return method.state_dict()


def descend(method: Method, rate: float) -> None:
    """Give all networks plain gradient descent."""
    for key in method.rates:
        setattr(method, key, partial(torch.optim.SGD, lr=rate))


def divided(toys: list[Toy], rank: int | None = None) -> dict[str, dict[str, torch.Tensor]]:
    """All methods, one after the other, by name."""
    ganomaly.WON = 100.0
    return {toy.name: toy.divided(rank) for toy in toys}


class Watch(pl.Callback):
    """Writes checkpoints and counts the steps of optimizers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.steps = folder, 0
        self.checkpoints: list[Path] = []

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.steps += 1

    def on_train_batch_end(self, trainer: pl.Trainer, method: Method, *rest: Any) -> None:
        epoch, batch = trainer.current_epoch, rest[-1]
        if (epoch, batch) in MOMENTS or (method.stage > 0 and (epoch, batch) == (1, 0)):
            trainer.save_checkpoint(path := self.folder / f"{epoch}_{batch}.ckpt")
            self.checkpoints.append(path)


class Waits(TorchDispatchMode):
    """Counts the numbers that the steps of a method ask of the device."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.count, step = 0, method.training_step

        def watched(*arguments: Any) -> Any:
            with self:
                return step(*arguments)

        method.training_step = watched

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class Scaled(MixedPrecision):
    """The loss scale of float16 without float16."""

    def forward_context(self) -> AbstractContextManager[None]:
        return nullcontext()


def scaled() -> Scaled:
    """A precision whose scale doubles after every step, from 2^10 on."""
    return Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1))


def state_of(trainer: pl.Trainer, file: Path | None = None) -> dict[str, torch.Tensor]:
    """Weights, buffers and everything that the optimizers remember, by name; with `file`, as a checkpoint has them."""
    saved = {
        "state_dict": trainer.lightning_module.state_dict(),
        "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
    }
    if file:
        trainer.save_checkpoint(file)
        saved = torch.load(file, weights_only=True)
    state = {name: value.clone() for name, value in saved["state_dict"].items()}
    for number, optimizer in enumerate(saved["optimizer_states"]):
        for weight, values in optimizer["state"].items():
            state |= {f"{number}.{weight}.{name}": torch.as_tensor(value).clone() for name, value in values.items()}
    return state


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    """The names of what is not the same, bit by bit, in two states."""
    return {name for name in one | other if name not in one or name not in other or not one[name].equal(other[name])}
