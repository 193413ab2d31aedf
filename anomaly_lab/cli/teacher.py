"""`python -m anomaly_lab teacher`: distil a patch network. Checks the options before it imports torch."""

from pathlib import Path

from anomaly_lab.cli.export import check_target
from anomaly_lab.cli.options import Options, number, parse
from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.data.listing import PROCEDURAL, images_in
from anomaly_lab.networks.offline import MODEL, OFFLINE

OPTIONS: Options = {
    "network": "pdn_small or pdn_medium, for method=efficient_ad; patch17, patch33 or patch65, for uninformed_students",
    "images": "a folder of varied photos (published: ImageNet), or procedural: generated textures",
    "out": "the safetensors file",
    "backbone": "offline, or .name, .layers, .weights: the pretrained network, as method.backbone of other methods;"
    " default: resnet18.tv_in1k, [stride8,stride16] for a pdn, [stride32] for a patch",
    "steps": "default: 60000 for a pdn, 50000 for a patch, as published; the first lines of progress say how long",
    "batch_size": "default: 16 for a pdn, 64 for a patch",
    "learning_rate": "default: 1e-4 for a pdn, 2e-4 for a patch",
    "width": "factor of the channels of the network; smaller is faster; default: 1",
    "seed": "default: 0",
}
USAGE = "teacher network=NAME images=FOLDER|procedural out=FILE [backbone=offline] [steps=N] [batch_size=N] [width=X]"
NETWORKS = ("pdn_small", "pdn_medium", "patch17", "patch33", "patch65")
PUBLISHED = {"pdn": (60_000, 16, 1e-4, ["stride8", "stride16"]), "pat": (50_000, 64, 2e-4, ["stride32"])}
LEAST = 1e-9  # of a width or a learning rate
WIDEST = 8


def main(arguments: list[str]) -> None:
    """Distil, or go on where the same command was; the file appears when all steps are done."""
    options = parse(arguments, USAGE, OPTIONS, needed=("network", "images", "out"))
    if options is None:
        return
    name, out = options["network"], Path(options["out"]).expanduser()
    if name not in NETWORKS:
        raise UserError(f"network: expected {', '.join(NETWORKS)}, found {name!r}{nearest(name, NETWORKS)}")
    if out.suffix != ".safetensors":
        raise UserError(f"out: expected a file name that ends in .safetensors, found {out}")
    check_target(out)
    check_target(out.with_suffix(".ckpt"))
    steps, batch_size, rate, layers = PUBLISHED[name[:3]]
    steps, batch_size = number(options, "steps", steps, 1), number(options, "batch_size", batch_size, 1)
    rate, width = number(options, "learning_rate", rate, LEAST), number(options, "width", 1.0, LEAST, WIDEST)
    seed = number(options, "seed", 0, 0)
    if name.startswith("patch") and batch_size < 2:
        raise UserError("batch_size: expected at least 2, because patches are compared with one another, found 1")
    paths = photos(options["images"])

    from anomaly_lab.networks.backbone import Backbone
    from anomaly_lab.training.distillation import Plan, distil

    keys = backbone_of(options)
    layers = listed(keys["layers"]) if "layers" in keys else layers
    folder = Path(options["images"]).expanduser().resolve()
    where = f"{len(paths)} photos of {folder.parent.name}/{folder.name}" if paths else "procedural textures"
    try:
        backbone = Backbone(keys.get("name", "resnet18.tv_in1k"), layers, keys.get("weights"))
        distil(name, width, backbone, Plan(paths, where, steps, batch_size, rate, seed), out)
    except UserError as error:  # of the backbone, whose keys are those of a method elsewhere
        raise UserError(str(error).replace("method.backbone", "backbone")) from error


def photos(images: str) -> list[Path]:
    """The photos of a folder; none for procedural images. Raises UserError where there is no photo."""
    if images == PROCEDURAL:
        return []
    folder = Path(images).expanduser()
    if not folder.is_dir():
        raise UserError(f"images: expected a folder of photos, or {PROCEDURAL}, found no folder at {folder}")
    if found := images_in(folder):
        return found
    raise UserError(f"images: expected photos, found none in {folder}")


def backbone_of(options: dict[str, str]) -> dict[str, str]:
    """The keys of the pretrained network. Raises UserError for one that it does not have."""
    keys = {key.partition(".")[2]: value for key, value in options.items() if key.startswith("backbone")}
    if unknown := next((key for key in keys if key not in {"", "name", "layers", "weights"}), None):
        raise UserError(f"backbone.{unknown}: expected backbone.name, backbone.layers or backbone.weights")
    whole = keys.pop("", OFFLINE)
    if whole != OFFLINE:
        raise UserError(f"backbone: expected {OFFLINE}, or backbone.name=NAME, found {whole!r}")
    return {"name": MODEL, "weights": OFFLINE} | keys if "backbone" in options else keys


def listed(layers: str) -> list[str | int]:
    """The layers of `[layer2,layer3]`, names or positions."""
    names = [name.strip() for name in layers.strip("[] ").split(",")]
    return [int(name) if name.lstrip("-").isdecimal() else name for name in names if name]
