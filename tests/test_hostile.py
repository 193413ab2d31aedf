"""Bad input to every command: one line that names it and nothing half-written, never a traceback or a hang.

Where an input is in truth acceptable, its reason stands here, and what the program has to say about it. `serve` runs in
a fork of the warm program (tests/warm.py) and forks once more for each command.
"""

import copy
import gc
import hashlib
import io
import json
import os
import re
import shutil
import signal
import struct
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent
CPU_SECONDS, WALL_SECONDS = 10, 25  # of a command: work, and waiting for what never comes
LEAST = 300
FAST = (
    "method=variation_model", "logger=none", "data.image_size=32", "controls=false", "callbacks.curves=null",
    "callbacks.gallery=null", "callbacks.pictures=null", "callbacks.anomaly_maps=null", "trainer=cpu", "data.workers=0",
)  # fmt: skip


class Case(NamedTuple):
    """A command on a bad input."""

    name: str
    folder: Path  # where it is started; everything below it is watched
    words: list[str]
    names: str = ""  # what the error has to name
    taken: str = ""  # why the input is acceptable; "": the command has to refuse it
    says: str = ""  # what it has to say then
    writes: tuple[str, ...] = ()  # patterns of the files that may come or change, refused or not


class Answer(NamedTuple):
    """What a command did."""

    code: int  # exit code; of a killed process minus its signal
    said: str
    seconds: float  # on the CPU


# --- in the fork of the warm program


def serve(requests: str, answers: str) -> None:
    """Run the commands of a file one by one, each in a fork; write code, output and seconds of each."""
    commands = ("predict", "threshold", "export", "compare", "data", "data_check", "methods", "doctor")
    commands += ("train", "select")
    inside = ("inference.results", "inference.graph", "report.predictions", "report.html", "report.tables")
    for module in (*(f"cli.{name}" for name in commands), *inside, "training.lifecycle"):
        import_module(f"anomaly_lab.{module}")
    gc.freeze()
    done = []
    for number, (folder, words) in enumerate(json.loads(Path(requests).read_text())):
        said = Path(f"{answers}.{number}")
        if not (child := os.fork()):
            become(folder, words, said)
        _, status, usage = os.wait4(child, 0)
        text = said.read_text(errors="backslashreplace")
        done.append([os.waitstatus_to_exitcode(status), text, usage.ru_utime + usage.ru_stime])
        said.unlink()
    Path(answers).write_text(json.dumps(done))


def become(folder: str, words: list[str], said: Path) -> None:
    """Be one command, and end as the interpreter ends."""
    from anomaly_lab.__main__ import main

    for descriptor in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    os.chdir(folder)
    sys.argv[1:] = words
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        print(end.code if isinstance(end.code, str) else "", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def check_values(places: str, answers: str) -> None:
    """Check a composed configuration with values of `VALUES` at each key, three in turn, as a command does."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from anomaly_lab.config.check import check
    from anomaly_lab.config.files import CONF
    from anomaly_lab.core.errors import UserError

    gc.disable()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["data=folder", f"data.root={places}", "method=ganomaly"])
    raw, found = OmegaConf.to_container(config, resolve=False), []
    for number, place in enumerate(set_keys(raw)):
        for kind, value in (list(VALUES.items()) * 2)[number % len(VALUES) :][
            :3
        ]:  # to check all of them takes a minute
            changed = copy.deepcopy(raw)
            node = changed
            for name in place[:-1]:
                node = node[name]
            node[place[-1]] = value
            try:
                check(OmegaConf.create(changed))
                line = ""
            except UserError as error:
                line = str(error)
            except Exception:
                line = traceback.format_exc()
            found.append([".".join(place), kind, line])
    Path(answers).write_text(json.dumps(found))


def set_keys(node: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all values, sections included, but not of those that repeat another key (`${seed}`)."""
    for name, child in node.items():
        if not (isinstance(child, str) and re.fullmatch(r"\$\{[\w.]+\}", child)):
            yield (*above, name)
        if isinstance(child, dict):
            yield from set_keys(child, (*above, name))


# --- the answers are judged


def state(folder: Path) -> dict[str, str]:
    """Everything below a folder: files by their digests, all else by its kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "special"
            found[path.relative_to(folder).as_posix()] = kind
        else:
            found[path.relative_to(folder).as_posix()] = digest(path)
    return found


DIGESTS: dict[tuple[int, int, int], str] = {}


def digest(path: Path) -> str:
    """Of the content; files that nobody has written to since are not read again."""
    about = path.stat()
    key = about.st_ino, about.st_size, about.st_mtime_ns
    if key not in DIGESTS:
        DIGESTS[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return DIGESTS[key]


def fault(case: Case, answer: Answer, before: dict[str, str], after: dict[str, str]) -> str:
    """What is wrong with an answer; "" if it is as it has to be."""
    lines = [line for line in answer.said.splitlines() if line.startswith("error:")]
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    half = {name for name in changed if name.endswith(".part") or Path(name).name.startswith(".")}
    foreign = {name for name in changed if not any(fnmatch(name, pattern) for pattern in case.writes)}
    if "Traceback" in answer.said:
        return "a traceback"
    if answer.code < 0:
        return f"killed by {signal.Signals(-answer.code).name} after {answer.seconds:.0f} s on the CPU"
    if half & set(after):
        return f"left half-written: {sorted(half)[:3]}"
    if foreign:
        return f"written: {sorted(foreign)[:3]}"
    if answer.code == 0:
        if not case.taken:
            return "taken in silence"
        return "" if case.says in answer.said and not lines else f"expected {case.says!r} and no error"
    if case.taken:
        return f"refused, although: {case.taken}"
    if len(lines) != 1:
        return f"{len(lines)} lines of errors, exit code {answer.code}"
    return "" if case.names in lines[0] else f"the error does not name {case.names!r}"


# --- values of keys

VALUES = {"text": "x y", "negative": -3, "huge": 10**12, "null": None, "list": [1, "a"]}
TAKEN_VALUES = {  # reason: a pattern of keys and kinds
    "null leaves it out": r"(callbacks\.\w+|logger|data\.(value_range|region|corruption|cache_dir|good_photos"
    r"|labelled_abnormal|fold|patches|controls|datamodule\.passes)|checkpoint\.every_batches|trainer\.gradient_clip_val"
    r"|method\.wants(\.data\.patches)?) null",
    "Lightning has a default for null": r"trainer\.(num_sanity_val_steps|log_every_n_steps|enable_model_summary) null",
    "the name of a file, a folder or a group": r"(runs_dir|run_folder|trust|data\.(root|region|cache_dir|category"
    r"|foreign_images)|callbacks\.anomaly_maps\.category|logger\.(save_dir|project|name|group|job_type)) text"
    r"|data\.good list",
    "of the kind of data that this run has not": r"input\.texture\..*",
    "Lightning takes -1 for all, and refuses other negative numbers in a line of its own":
    r"trainer\.(num_sanity_val_steps|log_every_n_steps|reload_dataloaders_every_n_epochs) negative",
}  # fmt: skip
OTHERWISE = {"data.settings": "data.kind"}  # a key that is named by what follows from it


def value_faults(found: list[tuple[str, str, str]]) -> Iterator[str]:
    """What is wrong with the answers to values of keys."""
    for key, kind, line in found:
        is_taken = any(re.fullmatch(each, f"{key} {kind}") for each in TAKEN_VALUES.values())
        named = line.partition(":")[0]
        same = key.rpartition(".")[2] == named.rpartition(".")[2] or OTHERWISE.get(key) == named  # input.* is data.*
        if "\n" in line:
            yield f"{key} ({kind}): {line}"
        elif bool(line) == is_taken:
            yield f"{key} ({kind}): {line or 'taken in silence'}"
        elif line and not (same or key.startswith(named) or named.startswith(key)):
            yield f"{key} ({kind}): named otherwise: {line}"


# --- damaged run folders

JSONS = {str: 7, int: "seven", float: [], bool: "x", list: {"a": 1}, type(None): "none"}


def wrong_types(value: Any) -> Any:
    """The same keys with values of other types."""
    if isinstance(value, dict):
        return {name: wrong_types(child) for name, child in value.items()}
    return JSONS[type(value)]


def another_kind(path: Path) -> None:
    """A whole file of the suffix, with a content that does not belong there."""
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        path.write_text(json.dumps(list(map(wrong_types, value)) if isinstance(value, list) else wrong_types(value)))
    elif path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(wrong_types(yaml.safe_load(path.read_text()))))
    elif path.suffix == ".ckpt":
        torch.save({"state_dict": {"weight": torch.ones(3)}}, path)
    else:
        path.write_text('{"a": [1, 2]}\n')


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    """The same name for something that is no file."""
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "random": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "another kind": another_kind,
    "nested": lambda path: path.write_text("[" * 100_000),
    "missing": Path.unlink,
    "folder": lambda path: replaced(path, Path.mkdir),
    "pipe": lambda path: replaced(path, os.mkfifo),
}
CORE = (".hydra/config.yaml", "job.json", "metrics.json", "threshold.json", "photos.json", "checkpoints/last.ckpt")
TABLES = ("environment.json", "scores.csv", "controls.csv", "defects.csv")


def copy_of(run: Path, to: Path) -> Path:
    """A copy whose files are links to the same content: what is damaged is replaced by a new file."""
    shutil.copytree(run, to, symlinks=True, copy_function=os.link)
    return to


def damaged(run: Path, to: Path, way: str, names: tuple[str, ...]) -> Path:
    """A copy of a run with some files damaged."""
    copy_of(run, to)
    for name in names:
        path = to / name
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)  # a file of its own
        DAMAGES[way](path)
    return to


UNREAD = {  # what a command takes although it is damaged, and why: patterns of command, way and file
    "only the run itself and compare read these files": ("predict * others", "threshold * others", "export * others"),
    "of the metrics it is read that they are there": ("* another kind metrics.json",),
    "a run without it is one that kept nothing of its photos": ("* missing photos.json",),
}
UNNAMED = {  # what compare has nothing to say about
    "compare reads no weights and no photos": ("* photos.json", "* checkpoints/last.ckpt", "* others"),
    "the machine is shown where it is known": ("missing environment.json", "another kind environment.json"),
    "a run without controls or without a test": ("missing controls.csv", "missing defects.csv"),
    "a table that ends within its last cell is whole": ("cut controls.csv", "cut defects.csv"),
}
AGAIN = {  # what the training command does where a file of its finished run is damaged
    "job.json": "a folder without a state is one to start",
    "metrics.json": "a run without its result is tested again",
    ".hydra/config.yaml": "finished: nothing but state and result key are read",
    "threshold.json": "finished: nothing but state and result key are read",
    "checkpoints/last.ckpt": "finished: nothing but state and result key are read",
}


def listed(what: str, reasons: dict[str, tuple[str, ...]]) -> str:
    """The reason that holds for something; "" if there is none."""
    return next((why for why, group in reasons.items() if any(fnmatch(what, each) for each in group)), "")


def run_cases(run: Path, photo: Path, normals: Path, root: Path) -> Iterator[Case]:
    """Every file of a finished run damaged in every way, read by the commands that take a run."""
    rest = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    rest = [name for name in rest if name not in (*CORE, *TABLES)]
    for way in DAMAGES:
        for name in (*CORE, "others"):
            files = (*TABLES, *rest) if name == "others" else (name,)
            for command in ("predict", "threshold", "export"):
                what = f"{command} {way} {name}"
                reason = listed(what, UNREAD)
                if command == "export" and (way, name) not in {("random", "others"), ("cut", "threshold.json")}:
                    continue  # it opens a run as the others do, and to trace a method takes seconds
                folder = root / what.replace("/", "-")
                damaged(run, folder / "run", way, files)
                words, writes = {
                    "predict": ([f"source={photo}", "out=out", "pictures=false"], "out*"),
                    "threshold": ([f"normals={normals}", "threshold=max"], "run/threshold.json"),
                    "export": (["format=pt2", "out=out/model.pt2"], "out*"),
                }[command]
                yield Case(what, folder, [command, "run=run", *words], "run", reason, "", (writes,) if reason else ())
        for name in (*CORE, *TABLES, "others"):
            folder = root / f"compare {way} {name.replace('/', '-')}"
            damaged(run, folder / "run", way, tuple(rest) if name == "others" else (name,))
            says = "" if listed(f"{way} {name}", UNNAMED) else Path(name).name
            reason = "compare names what it cannot read, and shows the rest"
            words = ["compare", "run", "--out", "report.html"]
            yield Case(folder.name, folder, words, "", reason, says, ("report.html",))


def again_cases(runs: Path, run: Path, words: tuple[str, ...], root: Path) -> Iterator[Case]:
    """The command of a finished run, a file of which is damaged."""
    for name, reason in AGAIN.items():
        for way in ("random", "folder"):
            folder = root / f"again {way} {name.replace('/', '-')}"
            copy_of(runs, folder / "runs")
            shutil.rmtree(folder / "runs" / run)
            damaged(runs / run, folder / "runs" / run, way, (name,))
            why = "" if way == "folder" and name in {"job.json", "metrics.json"} else reason  # these are written again
            yield Case(folder.name, folder, [*words], name, why, "", ("runs/*",))


# --- photos

NOISE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
PHOTO = Image.fromarray(NOISE)


def encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    """An image file as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **settings: Any) -> bytes:
    """A TIFF as tifffile writes it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **settings)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that declares a size and holds nothing but some parts."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + b"".join(more)


def patched(data: bytes, place: int, change: bytes) -> bytes:
    """A file with some bytes replaced."""
    return data[:place] + change + data[place + len(change) :]


def marked(value: float) -> np.ndarray:
    """Floating-point values of which one is none of a photo."""
    values = (NOISE[:, :, 0] / 255).astype(np.float32)
    values[3, 4] = value
    return values


WHOLE = {kind: encoded(PHOTO, kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "PPM")}
SUFFIX = {"JPEG2000": "jp2", "TIFF": "tif"}
JPEG_SIZE = WHOLE["JPEG"].index(b"\xff\xc0") + 5
Content = bytes | Callable[[Path], object]
REFUSED: dict[str, Content] = {
    **{f"cut.{SUFFIX.get(kind, kind.lower())}": data[: len(data) // 2] for kind, data in WHOLE.items()},
    "empty.png": b"", "zeros.jpg": bytes(3000), "text.png": b"no photo\n" * 50, "page.jpg": b"<html></html>",
    "archive.png": b"PK\3\4" + bytes(60), "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "phone.jpg": b"\0\0\0\x18ftypheic" + bytes(90), "icon.png": encoded(PHOTO, "ICO"), "paper.png": b"%PDF-1.7\n" * 9,
    "flipped.png": patched(WHOLE["PNG"], WHOLE["PNG"].index(b"IDAT") + 40, b"\0\0\0"),
    "flipped.jpg": patched(WHOLE["JPEG"], len(WHOLE["JPEG"]) // 2, bytes(80)),
    "bomb.png": png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(100)))), "nothing.png": png(0, 0),
    "headless.png": png(40, 40), "bomb.bmp": patched(WHOLE["BMP"], 18, struct.pack("<ii", 60_000, 60_000)),
    "bomb.jpg": patched(WHOLE["JPEG"], JPEG_SIZE, b"\xff\xdc\xff\xdc"),
    "bomb.tif": patched(WHOLE["TIFF"], WHOLE["TIFF"].index(b"\0\1\4\0") + 8, struct.pack("<I", 2**31)),
    "no page.tif": b"II*\0" + bytes(4), "circle.tif": b"II*\0" + struct.pack("<IHI", 8, 0, 8),
    "nan.tif": tiff(marked(np.nan)), "infinite.tif": tiff(marked(np.inf)), "no data.tif": tiff(marked(-3.4e38)),
    "large.tif": tiff(np.full((8, 8), 1e30, np.float32)), "wide.tif": tiff(np.array([[0, 2**62]], np.int64)),
    "complex.tif": tiff(NOISE[:, :, 0].astype(np.complex64)),
    "five.tif": tiff(np.zeros((9, 9, 5), np.uint8), photometric="minisblack", planarconfig="contig"),
    "dangling.png": lambda path: path.symlink_to("nowhere"), "circle.png": lambda path: path.symlink_to(path.name),
}  # fmt: skip
NO_FILE = {
    "pipe.png": os.mkfifo, "device.png": lambda path: path.symlink_to("/dev/zero"),
    "socket.png": lambda path: os.mknod(path, 0o140600),
}  # fmt: skip
ODD_NAMES = (
    "new\nline.png", "a=b,c.png", "it's \"x\".png", "-dash.png", "部品 ü.png", "{x}%s.png", "[1]*.png",
    os.fsdecode(b"\xff\xfe.png"), f"{'long' * 60}.png", "\x1b[31mred.png",
)  # fmt: skip
TAKEN: dict[str, dict[str, Content]] = {
    "the content decides, not the suffix": {"png.jpg": WHOLE["PNG"], "jpeg.tif": WHOLE["JPEG"]},
    "all formats and sizes are scaled to one": {
        "deep.png": encoded(Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257), "PNG"),
        "ink.jpg": encoded(PHOTO.convert("CMYK"), "JPEG"), "palette.png": encoded(PHOTO.quantize(16), "PNG"),
        "clear.png": encoded(PHOTO.convert("RGBA"), "PNG"), "bits.png": encoded(PHOTO.convert("1"), "PNG"),
        "point.png": encoded(PHOTO.crop((0, 0, 1, 1)), "PNG"), "row.png": encoded(PHOTO.resize((5000, 1)), "PNG"),
        "column.png": encoded(PHOTO.resize((1, 5000)), "PNG"), "share.tif": tiff(marked(0.5)),
    },
    "any name is a name": {
        **dict.fromkeys(ODD_NAMES, WHOLE["PNG"]),
    },
}  # fmt: skip
MOVING = encoded(PHOTO.quantize(16), "GIF", save_all=True, append_images=[PHOTO.quantize(8)])


def photo_cases(run: Path, root: Path) -> Iterator[Case]:
    """Each file beside three whole photos: to predict, as a new normal photo, as a photo of a data set."""
    pages = "expected one image, found 2 pages"
    every = [
        *((name, content, "", "") for name, content in REFUSED.items()),
        *((name, make, "named and left out", "left out, because it is no file") for name, make in NO_FILE.items()),
        *((name, content, why, "") for why, group in TAKEN.items() for name, content in group.items()),
        ("moving.gif", MOVING, "the first page is read, and that is said", pages),
        ("folder.png", Path.mkdir, "a folder may have any name", ""),
    ]
    for number, (name, content, reason, says) in enumerate(every):
        also = ("threshold", "data") if callable(content) else ("threshold", "data", "")[number % 3 :][:1]
        for command in ("predict", *filter(None, also)):  # they decode as predict does: every third file is enough
            folder = root / f"{number} {command}"
            photos = folder / "photos"
            photos.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(np.roll(NOISE, i + 1, axis=0)).save(photos / f"whole {i}.png")
            if callable(content):
                content(photos / name)
            else:
                (photos / name).write_bytes(content)
            linked = command != "predict" and (photos / name).is_symlink() and not reason
            words = {
                "predict": ["predict", f"run={run}", "source=photos", "out=out", f"pictures={number % 8 == 0}"],
                "threshold": ["threshold", "run=run", "normals=photos", "threshold=max"],
                "data": ["data", "check", "data=folder", "data.root=photos", "data.on_error=stop", *FAST],
            }[command]  # fmt: skip
            writes: tuple[str, ...] = ("out", "out/*")
            if command == "threshold":
                copy_of(run, folder / "run")
                writes = ("run/threshold.json",) if reason or linked else ()
            taken, line = ("named and left out", "the link leads nowhere") if linked else (reason, says)
            yield Case(f"{command} {name!r}", folder, words, ascii(name)[1:-1].rpartition("\\")[2], taken, line, writes)


# --- layouts and tables


def put(folder: Path, *names: str, image: Image.Image | None = None) -> None:
    """Photos, no two of the same content."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = zlib.crc32(name.encode(errors="surrogateescape"))
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
        path.write_bytes(encoded(image or Image.fromarray(pixels), "PNG"))


GOOD = tuple(f"good/{i}.png" for i in range(4))
SPLIT = (*(f"train/good/{i}.png" for i in range(3)), "test/good/8.png", "test/hole/9.png")
MASK = Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), 10))
CHECK = ("data", "check")


class Layout(NamedTuple):
    """A folder of photos, and what a command has to say of it."""

    name: str
    make: Callable[[Path], object]  # receives the folder `photos`, which is there
    names: str = ""  # in the error
    taken: str = ""
    says: str = ""
    words: tuple[str, ...] = ()
    run: tuple[str, ...] = CHECK
    root: str = "photos"


def holding(*names: str) -> Callable[[Path], None]:
    """Photos of these names."""
    return lambda folder: put(folder, *names)


def several(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    """Several steps."""

    def make(folder: Path) -> None:
        for step in steps:
            step(folder)

    return make


def file(name: str, content: str | bytes = "") -> Callable[[Path], object]:
    """A file that is no photo."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def link(name: str, target: str) -> Callable[[Path], object]:
    """A link."""
    return lambda folder: (folder / name).symlink_to(target)


ODD = "we=ird, 'x' {z} ü"
LAYOUTS = (
    Layout("an empty folder", holding(), "photos"), Layout("no folder", Path.rmdir, "photos"),
    Layout("a file instead of a folder", several(Path.rmdir, Path.touch), "data.root"),
    Layout("a pipe instead of a folder", several(Path.rmdir, os.mkfifo), "data.root"),
    Layout("a root that links to itself", several(Path.rmdir, lambda path: path.symlink_to("photos")), "data.root"),
    Layout("only test", holding("test/good/1.png", "test/hole/2.png"), "photos"),
    Layout("only train", holding(*SPLIT[:3]), "", "good photos alone train", "test: 0 photos"),
    Layout("an empty train", several(holding(*SPLIT[3:]), lambda path: (path / "train").mkdir()), "train"),
    Layout("train is a file", several(holding(*SPLIT[3:]), file("train")), "photos"),
    Layout("masks without images", holding(*SPLIT, *(f"ground_truth/hole/{i}_mask.png" for i in (7, 9))), "7_mask.png"),
    Layout("a class of masks misspelt", holding(*SPLIT, "ground_truth/hohl/9_mask.png"), "9_mask.png"),
    Layout("a mask for some", holding(*SPLIT, "test/hole/7.png", "ground_truth/hole/9_mask.png"), "7.png"),
    Layout("two files of one name", several(holding(*GOOD), lambda path: put(path, "good/0.bmp")), "0."),
    Layout("a mask among good photos", holding("0.png", "1.png", "1_mask.png"), "1_mask.png"),
    Layout("a circle of folders", several(holding(*GOOD), link("good/again", "..")), "", "read once",
           "the link leads to a folder that is read already"),
    Layout("loose beside good", holding(*GOOD, "bad/7.png", "loose.png"), "loose.png"),
    Layout("who is good?", holding("monday/0.png", "tuesday/1.png"), "data.good"),
    Layout("an unknown good", holding("monday/0.png", "tuesday/1.png"), "data.good", words=("data.good=[sunday]",)),
    Layout("defects alone", holding("cracks/0.png", "cracks/1.png"), "cracks"),
    Layout("one photo", holding("0.png"), "at least 2"), Layout("hidden", holding(".0.png", ".1.png"), "photos"),
    Layout("thumbnails", holding("@eaDir/0.png", "@eaDir/1.png"), "photos"),
    Layout("texts", several(file("a.txt", "a"), file("b.csv", "b")), "photos"),
    Layout("a phone's photos", several(file("a.heic", "a"), file("b.heic", "b")), "heic"),
    Layout("nothing that can be read", several(file("a.png", "a"), file("b.png", "b")), ".png: expected a readable"),
    Layout("links that lead nowhere", several(link("a.png", "x"), link("b.png", "y")), "link leads nowhere"),
    Layout("test without good", holding(*SPLIT[:3], SPLIT[4]), "", "every class counts as defective",
           "no folder of good test photos"),
    Layout("copies", lambda path: put(path, "0.png", "1.png", "2.png", image=PHOTO), "at least 2 different"),
    Layout("some copies", several(lambda path: put(path, "0.png", "1.png", "2.png", image=PHOTO), holding("3.png")), "",
           "held out together", "byte copies among the training images"),
    Layout("a deep tree", holding("/".join("abcdefgh" * 12) + "/0.png", "1.png"), "", "read at any depth"),
    Layout("upper case", lambda path: put(path, "TRAIN/Good/0.PNG", "TRAIN/Good/1.PNG"), "", "case never matters"),
    Layout("a category above the runs", holding(*GOOD), "data.category", words=("data.category=../x",)),
    Layout("odd names", several(holding("x=1,'.png", "\n.png"), lambda path: path.rename(path.parent / ODD)), "",
           "paths may have any characters", root=ODD),
    Layout("a mask of another size", several(
        holding(*SPLIT), lambda path: put(path, "ground_truth/hole/9_mask.png", image=MASK.resize((9, 9)))),
        "9_mask.png", run=()),
    Layout("an empty mask", several(
        holding(*SPLIT), lambda path: put(path, "ground_truth/hole/9_mask.png", image=Image.new("L", (24, 24)))),
        "9_mask.png", run=()),
    Layout("a mask that is none", several(
        holding(*SPLIT), lambda path: (path / "ground_truth/hole").mkdir(parents=True),
        file("ground_truth/hole/9_mask.png", "no image")), "9_mask.png", run=()),
    Layout("a photo that is none", several(holding(*GOOD), file("good/x.png", "no image")), "x.png", run=()),
    Layout("no photos", holding(), "photos", run=()),
)  # fmt: skip
ROWS = "path,label,split\ngood/0.png,good,train\ngood/1.png,good,train\ngood/2.png,good,train\ngood/3.png,bad,test\n"
TABLES_OF_PHOTOS: dict[str, tuple[str | bytes, str, str]] = {  # content, what the error names, why it is taken
    "empty": ("", "table.csv", ""), "only a header": ("path,label,split\n", "table.csv", ""),
    "no label": ("path,split\ngood/0.png,train\n", "label", ""), "random": (bytes(range(128, 256)), "table.csv", ""),
    "zeros": (bytes(500), "table.csv", ""), "an image": (WHOLE["PNG"], "table.csv", ""),
    "twice": (f"{ROWS}good/0.png,good,train\n", "0.png in 2 rows", ""),
    "no file": (f"{ROWS}x.png,good,train\n", "line 6", ""),
    "a folder": (f"{ROWS}good,good,train\n", "line 6", ""), "no path": (f"{ROWS},good,train\n", "line 6", ""),
    "no split": (f"{ROWS}good/x.png,good,\n", "line 6", ""), "a long row": (f"{ROWS}a,b,c,d,e\n", "line 6", ""),
    "a short row": (f"{ROWS}a\n", "line 6", ""),
    "a defect to train on": (ROWS.replace("bad,test", "bad,train"), "line 5", ""),
    "label 7": (ROWS.replace("bad", "7"), "line 5", ""),
    "a name with a slash": (ROWS.replace("bad", "a/b"), "line 5", ""),
    "an open quote": (f'{ROWS}"good/0.png,good,train\n', "table.csv", ""),
    "latin": (ROWS.replace("bad", "ü").encode("latin-1"), "table.csv", ""),
    "twice by another path": (f"{ROWS}./good/../good/0.png,good,train\n", "", "said to be a copy"),
    "a mark of Unicode": (b"\xef\xbb\xbf" + ROWS.encode(), "", "a mark of UTF-8 is no name"),
    "Windows": (ROWS.replace("\n", "\r\n"), "", "line ends of any system"),
    "semicolons": (ROWS.replace(",", ";"), "", "the delimiter is recognised"),
    "above": (ROWS.replace("good/", "../photos/good/"), "", "paths are relative to the table"),
}  # fmt: skip


def layout_cases(root: Path) -> Iterator[Case]:
    """Each layout and each table, to `data check` or to a training."""
    for number, layout in enumerate(LAYOUTS):
        folder = root / f"{number}"
        (folder / "photos").mkdir(parents=True)
        layout.make(folder / "photos")
        words = [*layout.run, "data=folder", f"data.root={layout.root}", *layout.words, "data.on_error=stop", *FAST]
        reaches_its_test = "mask" in layout.name and not layout.run
        kept = ("runs", "runs/*") if reaches_its_test else ()
        yield Case(layout.name, folder, words, layout.names, layout.taken, layout.says, kept)
    for name, (content, names, reason) in TABLES_OF_PHOTOS.items():
        folder = root / f"table {name}"
        put(folder / "photos", *GOOD)
        file("table.csv", content)(folder / "photos")
        words = ["data", "check", "data=csv", "data.root=photos/table.csv", "data.on_error=stop", *FAST]
        yield Case(f"table: {name}", folder, words, names, reason)


# --- words

BAD = ("", "nowhere", "pipe", "x" * 5000, "[\x1b[31m=\n", "${oc.env:HOME}")
PATHS = ("run", "source", "normals")  # never `out` or `trust`: nothing is to be written outside the test
OPTIONS = {
    "predict": {"run": "run", "source": "new.png", "maps": "true", "pictures": "false"},
    "threshold": {"run": "run", "normals": "new", "threshold": "", "threshold.rate": "", "threshold.nothing": ""},
    "export": {"run": "run", "format": "pt2"},
}  # fmt: skip
LINES = (
    "nonsense", "predict nonsense", "predict", "export format=pt2", "compare", "compare nowhere",
    "compare . --out x.pdf",
    "compare . --metric none", "compare . --nonsense", "compare pipe", "methods x", "metrics x=1", "doctor x",
    "teacher", "teacher network=x images=procedural out=t.safetensors", "teacher network=patch17 images=. out=pipe",
    "teacher network=patch17 images=new.png out=t.safetensors", "teacher network=pdn_small images=procedural steps=-1",
    "teacher network=patch17 images=procedural out=new.png/t.safetensors",
    "select nonsense", "select data=x", "select data=folder data.root=nowhere", "select data=folder data.root=pipe",
    *(f"select data=folder data.root=photos {word}" for word in (
        "minutes=0", "minutes=-1", "minutes=soon", "minutes=nan", "minutes=1e999", "portfolio=x", "labels=maybe",
        "method=x", "method=", "method=padim,x", "seed=0,1", "seed=-1", "seed=x", "runs_dir=pipe", "runs_dir=new.png/x",
        "name=x", "data.fold=0", "data.image_size=0", "cae.nonsense=1", "trust=5", "x.y=1",
        "method.backbone.weights=pipe",
    )),
    "sync nowhere", "data nonsense", "data cache clear zzz", "data cache x", "seed", "seed=", "seed==1", "=1", "~seed",
    "~method", "~name", "~rerun", "~controls", "~runs_dir", "~data", "runs_dir=/proc/nosuch",
    "method=", "method=x", "method=[cae,ganomaly]", "data=x", "data.root={", "data.root=[", "data.root=${x}",
    "+x=1", "x.y=1", "experiment=x", "threshold=x", "logger=x", "-m seed=x", "-m method=x,y", "-m seed=1,2 data=x",
    "hydra/launcher=x", "seed=1 seed=2x", "export run=run format=pt2 out=pipe",
    "predict run=run source=new.png out=new.png/x", "predict run=run source=new.png out=pipe",
    "predict run=run source=https://example.org/x.png",
    "callbacks.x.y=1", "rerun=maybe", "runs_dir=new.png/x",
    "runs_dir=pipe", "name=../x", "data.region=1,2", "data.value_range=5,1", "trainer.devices=99", "trainer=gpu",
    "data.image_size=0", "data.image_size=1.5", "budget.epochs=inf", "budget.learning_rate=nan", "data.workers=-1",
)  # fmt: skip


def word_cases(run: Path, photo: Path, root: Path) -> Iterator[Case]:
    """Each option of the commands with values that nobody means, and lines that nobody should type."""
    for command, options in OPTIONS.items():
        for option in options:
            for number, value in enumerate(BAD):
                folder = root / f"{command} {option} {number}"
                (folder / "new").mkdir(parents=True)
                os.mkfifo(folder / "pipe")
                os.link(photo, folder / "new.png")
                os.link(photo, folder / "new/new.png")
                copy_of(run, folder / "run")
                given = {name: each for name, each in options.items() if each} | {option: value}
                words = [f"{name}={each}" for name, each in given.items()]
                names = "shorter path" if len(value) > 255 and option in PATHS else option.partition(".")[0]
                yield Case(f"{command} {option}={value[:20]!r}", folder, [command, *words], names)
    for number, line in enumerate(LINES):
        folder = root / f"line {number}"
        put(folder / "photos", *GOOD)
        os.mkfifo(folder / "pipe")
        os.link(photo, folder / "new.png")
        if "run=run" in line:
            copy_of(run, folder / "run")
        words = line.split()
        is_job = "=" in words[0] or words[0][0] in "-~"
        common = ("data=folder", "data.root=photos", *FAST)
        more = [word for word in common if not line.startswith(word.partition("=")[0] + "=")]
        yield Case(line, folder, [*(more if is_job and "data.root" not in line else []), *words])


@pytest.mark.slow
def test_hostile_input(toy_run, tmp_path, warm_program, write, capsys):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    variables = {**kept, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache"), "WANDB_MODE": "offline"}
    faults, inputs, seconds = list[str](), Counter[str](), Counter[str]()
    requests, answers = tmp_path / "requests.json", tmp_path / "answers.json"

    def in_the_program(call: str) -> Any:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import tests.test_hostile as hostile; hostile.{call}"
        done = warm_program.run([], tmp_path, variables, code=code)
        assert done.returncode == 0, done.stderr
        return json.loads(answers.read_text())

    photo, run = write(tmp_path / "one/new.png", np.full((60, 60, 3), 97, np.uint8)), toy_run.folder
    shared, quiet = copy_of(run, tmp_path / "shared"), toy_run.copy(tmp_path / "quiet")
    assert warm_program.run(toy_run.words, tmp_path / "quiet", variables).returncode == 0  # tested by these words
    runs = tmp_path / "quiet/runs"
    kinds = {
        "photos": photo_cases(shared, tmp_path / "photos"),
        "layouts and tables": layout_cases(tmp_path / "layouts"),
        "words": word_cases(run, photo, tmp_path / "words"),
        "damaged runs": run_cases(run, photo, photo.parent, tmp_path / "damaged"),
        "trained again": again_cases(runs, quiet.relative_to(runs), toy_run.words, tmp_path / "again"),
    }
    cases = [(kind, case) for kind, those in kinds.items() for case in those]
    before, as_it_was = [state(case.folder) for _, case in cases], state(shared)
    requests.write_text(json.dumps([[str(case.folder), case.words] for _, case in cases]))
    found = in_the_program(f"serve({str(requests)!r}, {str(answers)!r})")
    for (kind, case), old, answer in zip(cases, before, (Answer(*each) for each in found), strict=True):
        if wrong := fault(case, answer, old, state(case.folder)):
            words = " ".join(word[:200] for word in case.words)
            faults.append(f"{case.name}: {wrong}\n    {words}\n    {answer.said[-1500:]}")
        inputs[kind] += 1
        seconds[kind] += answer.seconds
    assert state(shared) == as_it_was, "predict changed a run"
    values = in_the_program(f"check_values({str(photo.parent)!r}, {str(answers)!r})")
    faults += value_faults(values)
    inputs["values of keys"] = len(values)
    with capsys.disabled():
        print(f"\n{inputs.total()} bad inputs: {dict(inputs)}; seconds on the CPU: {dict(seconds)}")
    assert not faults, "\n\n".join([f"{len(faults)} faults", *faults])
    assert inputs.total() >= LEAST
