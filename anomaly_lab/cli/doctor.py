"""`python -m anomaly_lab doctor`: what this machine has, what is missing, and what to type then."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path

import anomaly_lab
from anomaly_lab.cli.options import parse
from anomaly_lab.data.cache import default_folder
from anomaly_lab.networks.offline import PACKAGE

EXTRAS = {
    "offline": PACKAGE, "export": "onnxruntime", "hpo": "optuna", "slurm": "submitit", "dashboard": "wandb_workspaces",
}  # fmt: skip
WANDB = "api.wandb.ai"
SCARCE = 2  # GB of free disk below which a run may end early


def main(arguments: list[str]) -> None:
    """Print a line per finding."""
    if parse(arguments, "doctor", {}, ()) is None:
        return
    for what, found in findings():
        print(f"{what.ljust(12)}{found}", flush=True)


def findings() -> Iterator[tuple[str, str]]:
    """What is looked at and what was found."""
    import torch

    yield (
        "version",
        f"anomaly_lab {anomaly_lab.__version__}, Python {platform.python_version()}, torch {version('torch')}",
    )
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield "GPU", f"{properties.name}, {properties.total_memory / 2**30:.0f} GB"
    if not torch.cuda.is_available():
        apple = torch.backends.mps.is_available()
        yield (
            "GPU",
            "Apple's, trainer=gpu uses it" if apple else "none; add experiment=quick for a budget that fits a CPU",
        )
    set_by = f" (OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']})" if "OMP_NUM_THREADS" in os.environ else ""
    yield "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads{set_by}"
    with suppress(ValueError, OSError, AttributeError):  # Windows has no sysconf
        yield "memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"
    for what, folder in (("runs", Path("runs")), ("cache", default_folder())):
        yield what, disk(folder)
    yield "weights", weights("resnet18.tv_in1k")
    for extra, package in EXTRAS.items():
        here = find_spec(package) is not None
        yield f"[{extra}]", "installed" if here else f"not installed: pip install 'anomaly_lab[{extra}]'"
    yield "W&B", wandb()


def disk(folder: Path) -> str:
    """Whether a folder can be written, and the space that is left."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    allowed = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    state = "" if allowed else f"; {there} cannot be written"
    return f"{folder.absolute()}: {'only ' if free < SCARCE else ''}{free:.0f} GB free{state}"


def weights(name: str) -> str:
    """Whether the weights of a backbone are on this machine or can be fetched."""
    from huggingface_hub import hf_hub_url

    from anomaly_lab.networks import backbone

    if path := backbone.in_cache(name):
        return f"{name} is in the cache of timm's hub: {path}"
    try:
        backbone.answer(hf_hub_url(*backbone.hub_file(name)))
    except OSError:
        return "timm's hub does not answer; pretrained networks need method.backbone=offline or .weights=FILE"
    return "timm's hub answers"


def wandb() -> str:
    """Whether W&B is installed and knows its user; nothing is sent."""
    try:
        installed = f"wandb {version('wandb')}"
    except PackageNotFoundError:
        return "not installed; logger=csv needs nothing"
    key = bool(os.environ.get("WANDB_API_KEY"))
    with suppress(OSError, NetrcParseError):
        key = key or netrc().authenticators(WANDB) is not None
    mode = f", WANDB_MODE={os.environ['WANDB_MODE']}" if os.environ.get("WANDB_MODE") else ""
    return f"{installed}{mode}, {'an API key is there' if key else 'no API key: wandb login, or WANDB_MODE=offline'}"
