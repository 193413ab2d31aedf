"""`python -m anomaly_lab export`: a finished run as one file. Checks the options before it imports torch."""

import hashlib
import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomaly_lab import __version__
from anomaly_lab.cli.options import TRUST, Options, packages, parse
from anomaly_lab.core.errors import UserError, nearest
from anomaly_lab.core.files import read_csv, write_whole
from anomaly_lab.runs.folder import read_object
from anomaly_lab.runs.lookup import finished_run

if TYPE_CHECKING:
    from torch import Tensor

    from anomaly_lab.core.types import Placement
    from anomaly_lab.data.images import Decoding
    from anomaly_lab.inference.detector import Detector
    from anomaly_lab.inference.graph import Answer
OPTIONS: Options = {
    "run": "the folder of a finished run",
    "format": "onnx (for ONNX Runtime and others) or pt2 (for PyTorch: torch.export.load)",
    "out": "the file; default: export/model.onnx or export/model.pt2 in the folder of the run",
    **TRUST,
}
USAGE = "export run=DIR format=onnx|pt2 [out=FILE]"
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}  # format -> packages of the extra `export`
FORMAT_VERSION = 1  # of the metadata
TOLERANCE = 1e-5
ONNX_BYTES = 2**31 - 2**24  # of a file, less what the graph itself takes
PHOTOS = 4  # with which the file is compared
TILING = ("size", "stride", "score")  # the settings of a sliding window that change results; its batch size does not
DECISIONS = {
    "score": "abnormal where score >= threshold.image",
    "component": "abnormal where {anomaly_map >= threshold.image} has an 8-connected region of at least "
    "max(1, round(threshold.minimum_area * height * width)) px, height and width being those of the placed photo",
}
SCALED = (
    ", each rounded (half to even) and at least 1 px; place the result (image_size - side) // 2 px from the top and "
    "from the left, and repeat its border pixels around it; valid is true where it lies and false around it"
)
PLACES = {
    "pad": f"scale height and width by image_size / max(height, width){SCALED}",
    "shrink": f"scale height and width by image_size / max(height, width), where that is below 1{SCALED}",
    "crop": "cut out the central square, from (side - smaller side) // 2; resize it to image_size; valid is true",
    "stretch": "resize to image_size, whatever the aspect ratio; valid is true",
}


class Trial(NamedTuple):
    """Working images on which a file is compared with its method."""

    images: "Tensor"
    placement: tuple["Placement", ...]
    source: str


def main(arguments: list[str]) -> None:
    """Write the file if its outputs agree with those of the method. Raises UserError otherwise."""
    options = parse(arguments, USAGE, OPTIONS, needed=("run", "format"))
    if options is None:
        return
    kind = options["format"]
    if kind not in NEEDED:
        raise UserError(f"format: expected {' or '.join(NEEDED)}, found {kind!r}{nearest(kind, NEEDED)}")
    run = finished_run(options["run"])
    out = Path(options["out"]).expanduser() if "out" in options else run / "export" / f"model.{kind}"
    if out.suffix.lower() in {f".{other}" for other in NEEDED} - {f".{kind}"}:
        raise UserError(f"out: expected a file called *.{kind}, as format={kind} says, found {out.name}")
    check_target(out)
    if missing := [package for package in NEEDED[kind] if find_spec(package) is None]:
        raise UserError(
            f"format={kind}: expected {', '.join(NEEDED[kind])}, found no {' and no '.join(missing)}; "
            "pip install 'anomaly_lab[export]'"
        )
    export(run, kind, out, packages(options))


def check_target(out: Path) -> None:
    """Raise UserError if the file cannot be written, before the export takes a minute."""
    try:
        if out.is_dir():
            raise UserError(f"out: expected a file, found the folder {out}")
        if file := next((path for path in out.parents if path.is_file()), None):
            raise UserError(f"out: expected a file in a folder, found the file {file}")
    except OSError as error:  # a name that is too long
        raise unwritable(out, error) from error


def unwritable(out: Path, error: OSError) -> UserError:
    """The error for a path that cannot be written."""
    return UserError(f"out: expected a file that can be written, found {out} ({error.strerror})")


def export(run: Path, kind: str, out: Path, trust: list[str]) -> None:
    """Build the file in memory, compare its outputs with those of the method, and only then write it."""
    from anomaly_lab.inference import graph
    from anomaly_lab.inference.detector import Detector, fitting
    from anomaly_lab.runs.stored import open_run

    stored = open_run(str(run))
    detector = Detector.of(stored, "cpu", trust)
    method, decoding = detector.method, detector.decoding
    name = str(stored.method["method"]["name"])
    if method.export_obstacle:
        raise UserError(f"run: expected a method of one forward pass, found {name}: {method.export_obstacle}")
    size = sum(tensor.nbytes for tensor in (*method.parameters(), *method.buffers()))
    if kind == "onnx" and size > ONNX_BYTES:
        raise UserError(
            f"format: expected a method of at most 2 GB, which is all that an ONNX file holds, found {name} of "
            f"{size / 1e9:.1f} GB; format=pt2 has no such limit"
        )
    facts = json.dumps(describe(detector, name, commit(run)), indent=2)
    print(f"export: {name} as {kind}, a minute or two; 1 of 3: tracing", flush=True)
    trial = photos(run, decoding) or noise(decoding)
    with fitting(run):
        expected = graph.answer_of(method, trial.images, trial.placement)  # before the method is traced
    valid = graph.valid_pixels(trial.images, trial.placement)
    program = graph.traced(method, decoding.channels, decoding.image_size)
    write, ask = (graph.to_onnx, graph.ask_onnx) if kind == "onnx" else (graph.to_pt2, graph.ask_pt2)
    print("export: 2 of 3: writing", flush=True)
    content = write(program, facts)
    print(f"export: 3 of 3: asking the file about {trial.source}", flush=True)
    differences = compare(expected, ask(content, trial.images, valid))
    try:
        write_whole(out, lambda part: part.write_bytes(content))
    except OSError as error:
        raise unwritable(out, error) from error
    print(f"export: {out}, {len(content) / 1e6:.1f} MB; on {trial.source} {differences}")


def describe(detector: "Detector", name: str, git: str | None) -> dict[str, Any]:
    """The metadata of the file, without names of files, folders or persons."""
    decoding, threshold, tiling = detector.decoding, detector.threshold, detector.method.tiling
    side, channels = decoding.image_size, decoding.channels
    each = ["batch", 1, side, side]
    image = {"type": "float32", "shape": ["batch", channels, side, side], "range": [0, 1]}
    return {
        "format_version": FORMAT_VERSION,
        "anomaly_lab": __version__,
        "git": git,
        "method": name,
        "classes": ["normal", "abnormal"],
        "inputs": {
            "image": image | {"colours": "RGB" if channels == 3 else "gray"},
            "valid": {"type": "bool", "shape": each, "meaning": "which pixels show the photo"},
        },
        "outputs": {
            "anomaly_map": {"type": "float32", "shape": each, "meaning": "larger: more abnormal; lowest outside valid"},
            "score": {"type": "float32", "shape": ["batch"], "meaning": "larger: more abnormal"},
        },
        "preprocessing": {**asdict(decoding), "region": region(decoding), "steps": steps(decoding)},
        "tiling": {"kind": type(tiling).__name__} | {key: vars(tiling)[key] for key in TILING if key in vars(tiling)},
        "threshold": threshold._asdict(),
        "decision": DECISIONS[threshold.decided_by],
        "tolerance": TOLERANCE,
    }


def commit(run: Path) -> str | None:
    """The commit with which the run was trained; None if it is not known."""
    git = read_object(run / "environment.json").get("git")
    return git if isinstance(git, str) else None


def region(decoding: "Decoding") -> list[int] | list[float] | dict[str, str] | None:
    """The inspected part of a photo: a box, or the digest of a mask image, which identifies the right one."""
    if not isinstance(decoding.region, str):
        return decoding.region
    mask = Path(decoding.region).expanduser()
    if not mask.is_file():
        raise UserError(f"data.region: expected the mask image with which the run was trained, found none at {mask}")
    return {"mask_sha256": hashlib.sha256(mask.read_bytes()).hexdigest()}


def steps(decoding: "Decoding") -> list[str]:
    """The preprocessing from a file to `image` and `valid`, in words."""
    colours = "RGB" if decoding.channels == 3 else "gray (ITU-R 601, rounded as Pillow does)"
    inspected = []
    if isinstance(decoding.region, str):
        inspected = [
            "the photo has the size of the mask image; cut out the box around the white pixels of the mask; pixels "
            "that are not white take the mean colour of those that are, rounded; valid is true only where the mask, "
            "resized like the photo (by area where a side shrinks, else the nearest pixel), is above 0"
        ]
    elif decoding.region:
        inspected = ["cut out region: x, y, width, height in px"]
    return [
        f"decode to 8 bits, turn upright (EXIF), drop alpha, convert to {colours}; wider types are scaled so that "
        "value_range (null: the range of the type) becomes 0 to 255, and rounded",
        *inspected,
        PLACES[decoding.resize],
        "resize by area (OpenCV's INTER_AREA) where a side shrinks, else bilinearly (INTER_LINEAR), in 8 bits",
        "divide by 255, channels first",
    ]


def photos(run: Path, decoding: "Decoding") -> Trial | None:
    """Some test photos of the run; None if none of them can still be read."""
    import numpy as np
    import torch

    try:
        paths = [Path(row["path"]) for row in read_csv(run / "scores.csv")]
    except (OSError, ValueError, KeyError):
        return None
    read = []
    for path in paths[:: max(1, len(paths) // PHOTOS)][:PHOTOS]:
        try:
            read.append(decoding.read(path))
        except UserError:
            continue  # moved, or another file by now
    if not read:
        return None
    images = torch.from_numpy(np.stack([image for image, _ in read])).float() / 255
    return Trial(images, tuple(place for _, place in read), f"{len(read)} photos of the run")


def noise(decoding: "Decoding") -> Trial:
    """Random images for a square, a wide and a high photo."""
    import torch

    from anomaly_lab.data.placement import place

    side = decoding.image_size
    random = torch.Generator().manual_seed(0)
    images = torch.rand((3, decoding.channels, side, side), generator=random)
    sizes = ((side, side), (side, 2 * side), (2 * side, side))
    return Trial(images, tuple(place(*size, side, decoding.resize) for size in sizes), "3 random images")


def compare(expected: "Answer", found: "Answer") -> str:
    """The differences between the outputs of the file and of the method, in words. Raises UserError if too large."""
    differences = []
    for name, right, exported in zip(expected._fields, expected, found, strict=True):
        largest = abs(right).max()
        difference = float(abs(exported - right).max() / (largest if largest > 0 else 1))
        if not difference <= TOLERANCE:
            raise UserError(
                f"export: expected the {name} of the file within {TOLERANCE:g} of the method's (of its largest value), "
                f"found a difference of {difference:.1e}; nothing was written"
            )
        differences.append(f"the {name} differs by at most {difference:.1e}")
    return f"{' and '.join(differences)} of the largest value"
