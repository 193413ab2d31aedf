"""Cost of the way from files to optimizer steps, beside named anchors: `python experiments/speed/data_path.py`.

Figures go to data_path.json and .csv beside this file; a row that is run again replaces only its own.
"""

import argparse
import copy
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import kornia.geometry.transform as kornia_transform
import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))  # started by its path, a script sees only its own folder

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.data.augmentation import Augmentation
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.patches import PatchPlan, draw_plan, render
from anomaly_lab.data.samples import Sample
from anomaly_lab.data.store import open_store
from anomaly_lab.evaluation.controls import Controls
from anomaly_lab.evaluation.evaluation import Evaluation
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.method import Method
from anomaly_lab.networks.autoencoder import Autoencoder
from anomaly_lab.training.precision import choose
from anomaly_lab.training.throughput import Throughput

ROUNDS = 5
BLOCK, BLOCKS = 10, 16  # steps of a turn, turns: 160 steps of the trainer and of the bare loop, in turns
RESULTS = Path(__file__).with_suffix(".json")
SCREW = Path(__file__).parents[3] / "shared" / "data" / "mvtec_ad_small"

Row = dict[str, Any]


# Measurements


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Median CPU and wall seconds of each way; they take turns, so that load falls on all of them. One warm-up."""
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for turn in range(rounds + 1):
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            way()
            if turn:
                seconds[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    medians = {
        name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in seconds.items()
    }
    return {name: {"cpu": cpu, "wall": wall} for name, (cpu, wall) in medians.items()}


def row(what: str, anchor: str, ratio: float, aim: str, reached: bool | None, **figures: Any) -> Row:
    """`aim` is a text, `reached` None where there is none."""
    return {"what": what, "anchor": anchor, "ratio": ratio, "aim": aim, "reached": reached, **figures}


def kib_of(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def photo(index: int, side: int) -> np.ndarray:
    """Noise of three sizes: compresses about as badly as a photo."""
    generator = np.random.default_rng((3, index))
    image = np.full((side, side, 3), 128, np.float32)
    for sigma, weight in ((1, 6), (8, 20), (64, 40)):
        noise = generator.standard_normal((side // min(sigma, 16),) * 2 + (3,), dtype=np.float32)
        noise = cv2.resize(cv2.GaussianBlur(noise, (0, 0), max(1, sigma / min(sigma, 16))), (side, side))
        image += weight * noise / noise.std()
    return image.clip(0, 255).astype(np.uint8)


# render: patches a second


def measure_render() -> list[Row]:
    """One thread each: 128 patches of 128 px out of twenty images of 512 px, turned by up to 180 degrees."""
    images = np.stack([photo(index, 512) for index in range(20)])
    store = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    augmentation = Augmentation(rotation=180, horizontal_flip=True, vertical_flip=True)
    boxes = np.tile([0, 0, 512, 512], (20, 1))
    plan = draw_plan(np.random.default_rng(0), "texture", 128, boxes, 512, 128, augmentation)
    unturned = draw_plan(np.random.default_rng(0), "texture", 128, boxes, 512, 128, Augmentation())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = in_turns(
        {
            "ours": lambda: render(store, plan, 128),
            "ours, not turned": lambda: render(store, unturned, 128),
            "kornia crop + rotate a patch": lambda: kornia_chain(store, plan),
            "cv2.warpAffine a patch": lambda: cv2_loop(images, plan),
            "grid_sample a batch": lambda: grid_sample(store, plan),
        }
    )
    torch.set_num_threads(threads)
    levels = 255 * (render(store, plan, 128) - cv2_loop(images, plan)).abs()
    ours = seconds["ours"]["cpu"]
    rows = []
    for name, found in seconds.items():
        aimed = name.startswith("kornia")
        ratio, reached = found["cpu"] / ours, found["cpu"] >= 3 * ours if aimed else None
        aim = ">= 3 x kornia" if aimed else ""
        rows.append(row("render ours", name, ratio, aim, reached, per_second=128 / found["cpu"], **found))
    rows[0] |= {"levels_from_cv2_mean": float(levels.mean()), "levels_from_cv2_max": float(levels.max())}
    return rows


def kornia_chain(store: torch.Tensor, plan: PatchPlan) -> torch.Tensor:
    """Each patch: crop the window that holds it, turn the window, crop the middle."""
    side, patches = math.ceil(128 * math.sqrt(2)) + 3, []
    for image, center, angle in zip(plan.image.tolist(), plan.center, plan.angle.rad2deg(), strict=True):
        top, left = (center - side / 2).round().clamp(0, 512 - side).int().tolist()
        window = store[image, None, :, top : top + side, left : left + side].float() / 255
        turned = kornia_transform.rotate(window, angle[None])
        margin = (side - 128) // 2
        patches.append(turned[:, :, margin : margin + 128, margin : margin + 128])
    return torch.cat(patches)


def cv2_loop(images: np.ndarray, plan: PatchPlan) -> torch.Tensor:
    """Each patch from its uint8 image (height, width, channel); rounded to gray levels."""
    patches = np.empty((len(plan.image), 128, 128, 3), np.uint8)
    for target, image, matrix in zip(patches, plan.image.tolist(), matrices(plan).numpy(), strict=True):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(images[image], matrix, (128, 128), target, flags, cv2.BORDER_REPLICATE)
    return torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255


def matrices(plan: PatchPlan) -> torch.Tensor:
    """From the pixels of a patch to those of its image."""
    cos, sin = plan.angle.double().cos(), plan.angle.double().sin()
    y, x = (1 - 2 * plan.flip.double()).unbind(1)
    turn = torch.stack([torch.stack([cos * x, -sin * y], 1), torch.stack([sin * x, cos * y], 1)], 1)
    move = plan.center.double().flip(1) - 0.5 - turn.sum(2) * 127 / 2
    return torch.cat([turn, move[:, :, None]], 2)


def grid_sample(store: torch.Tensor, plan: PatchPlan) -> torch.Tensor:
    """A uint8 window a patch, all of them resampled at once."""
    side = math.ceil(128 * math.sqrt(2)) + 2
    origin = (plan.center - side / 2).round().clamp(0, 512 - side)
    places = zip(plan.image.tolist(), origin.int().tolist(), strict=True)
    windows = torch.stack([store[image, :, y : y + side, x : x + side] for image, (y, x) in places]).float() / 255
    matrix = matrices(plan).float()
    middle = (2 * (plan.center - origin) / side - 1).flip(1)
    matrix = torch.cat([matrix[:, :, :2] * 128 / side, middle[:, :, None]], 2)
    grid = functional.affine_grid(matrix, [len(windows), 3, 128, 128], align_corners=False)
    return functional.grid_sample(windows, grid, padding_mode="border", align_corners=False)


# step: the trainer beside a bare loop


def build(folder: Path, *overrides: str) -> tuple[DataModule, Method, pl.Trainer]:
    """What `anomaly_lab.training.run` makes of a configuration."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["logger=none", "trainer.accelerator=cpu", f"run_folder={folder}", *overrides])
    OmegaConf.update(config, "hydra", None, force_add=True)
    resolved = check(config)
    pl.seed_everything(0, verbose=False)
    callbacks = [instantiate(callback) for callback in resolved["callbacks"].values() if callback]
    evaluation = Evaluation(instantiate(resolved["threshold"]))
    trainer = instantiate(
        {**resolved["trainer"], "precision": choose(resolved["trainer"]["precision"], "cpu")},
        callbacks=[evaluation, Controls(evaluation), Throughput(), *callbacks],
        logger=False,
        default_root_dir=str(folder),
        _convert_="all",
    )
    return instantiate(resolved["data"]["datamodule"]), build_method(resolved), trainer


class Alternate(pl.Callback):
    """After each block of the trainer's steps as many bare ones: the same network and step on one resident batch."""

    def __init__(self, method: Method, data: DataModule) -> None:
        self.network, self.data = copy.deepcopy(method.network), data
        self.optimizer = method.optimizer(self.network.parameters())
        self.trainer_blocks: list[tuple[float, float]] = []
        self.bare_blocks: list[tuple[float, float]] = []
        self.parts: dict[str, float] = defaultdict(float)  # seconds
        self.images = torch.empty(0)
        self.start = (0.0, 0.0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % BLOCK:
            return
        if batch_idx + 1 > BLOCK:  # the first block warms up
            self.trainer_blocks.append(since(self.start))
        else:
            self.parts.clear()
            self.images = batch.image.clone()
        start = now()
        for _ in range(BLOCK):
            self.step(trainer.precision == "bf16-mixed")
        if batch_idx + 1 > BLOCK:
            self.bare_blocks.append(since(start))
        self.start = now()

    def step(self, bf16: bool) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            reconstructions = self.network(self.images)
        loss = (self.images - reconstructions.float()).square().mean()
        loss.backward()
        self.optimizer.step()

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count the seconds spent in a method."""
        inner = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*arguments, **named)
            finally:
                self.parts[part] += time.perf_counter() - start

        setattr(owner, name, timed)


def now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def since(start: tuple[float, float]) -> tuple[float, float]:
    return tuple(end - begin for end, begin in zip(now(), start, strict=True))


def measure_step() -> list[Row]:
    """`cae` on the demo washer, 128 px in batches of 32 and 256 px in batches of 16."""
    return [run_steps(128, 32), run_steps(256, 16)]


def run_steps(side: int, batch: int) -> Row:
    patches = (BLOCKS + 1) * BLOCK * batch
    settings = [f"data.image_size={side}", f"data.batch_size={batch}", f"data.patches={patches}"]
    with tempfile.TemporaryDirectory() as folder:
        more = ["data=demo", "method=cae", "trainer.max_epochs=1", f"data.cache_dir={folder}"]
        data, method, trainer = build(Path(folder), *more, *settings)
        alternate = Alternate(method, data)
        alternate.watch(data, "on_after_batch_transfer", "patches")
        alternate.watch(method, "log", "self.log")
        for callback in trainer.callbacks:
            for hook in ("on_train_batch_start", "on_train_batch_end"):
                alternate.watch(callback, hook, type(callback).__name__)
        trainer.callbacks.append(alternate)
        data.setup("fit")
        trainer.fit(method, data)
    pairs = list(zip(alternate.trainer_blocks, alternate.bare_blocks, strict=True))
    ratio, cpu_ratio = (statistics.median(bare[i] / ours[i] for ours, bare in pairs) for i in (1, 0))
    cpu, wall = (statistics.median(ours[i] for ours, _ in pairs) / BLOCK for i in (0, 1))
    bare_cpu, bare_wall = (statistics.median(bare[i] for _, bare in pairs) / BLOCK for i in (0, 1))
    steps = BLOCKS * BLOCK
    parts = {f"{name}_ms": 1000 * spent / steps for name, spent in alternate.parts.items()}
    return row(
        f"cae step {side} px, batch {batch}", "bare step, resident batch", ratio, ">= 0.95", ratio >= 0.95,
        cpu=cpu, wall=wall, per_second=batch / wall, anchor_cpu=bare_cpu, anchor_wall=bare_wall,
        anchor_per_second=batch / bare_wall, cpu_ratio=cpu_ratio, precision=trainer.precision, steps=steps, **parts,
    )  # fmt: skip


# ssim: its loss beside its network


def measure_ssim() -> list[Row]:
    """Forward and backward of `ssim_ae` at 256 px, batch 16."""
    _, method, _ = build(Path(), "data=demo", "method=ssim_ae", "data.image_size=256")
    images = torch.rand(16, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    reconstructions = (images + 0.1 * torch.rand_like(images)).requires_grad_()
    bf16 = choose("auto", "cpu") == "bf16-mixed"
    network: Autoencoder = method.network

    def forward_and_back() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            network(images).float().mean().backward()

    seconds = in_turns(
        {"network": forward_and_back, "loss": lambda: method.loss(images, reconstructions).backward()}, 2 * ROUNDS
    )
    loss, whole = seconds["loss"], seconds["network"]
    ratio = loss["wall"] / whole["wall"]
    figures = {"ms_an_image": 1000 * loss["wall"] / 16, "cpu_ratio": loss["cpu"] / whole["cpu"]}
    anchor = {"anchor_cpu": whole["cpu"], "anchor_wall": whole["wall"]}
    return [row("ssim loss", "its network", ratio, "<= 1", ratio <= 1, **loss, **anchor, **figures)]


# decode: files to the store


def measure_decode() -> list[Row]:
    """320 PNG files of 1024 px to a store of 256 px, beside OpenCV's decoder alone on as many threads."""
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{index:03d}.png" for index in range(320)]
        for index, path in enumerate(paths):
            cv2.imwrite(str(path), photo(index % 40, 1024))
        samples = [Sample(path, None, 0, "good", path.stem) for path in paths]
        decoding = Decoding(256, 3)

        def opencv() -> None:
            with ThreadPoolExecutor(workers) as pool:
                for _ in pool.map(lambda path: cv2.imread(str(path)).shape, paths):
                    pass

        def ours(kept: str) -> None:
            open_store(samples, decoding, workers, kept, Path(tempfile.mkdtemp(dir=folder)))

        ways = {"cv2.imread": opencv, "memory": lambda: ours("memory"), "disk": lambda: ours("disk")}
        seconds = in_turns(ways, 3)
    anchor = seconds["cv2.imread"]
    rows = []
    for kept in ("memory", "disk"):
        found = seconds[kept]
        ratio = anchor["wall"] / found["wall"]
        more = {"cpu_ratio": anchor["cpu"] / found["cpu"], "anchor_cpu": anchor["cpu"], "anchor_wall": anchor["wall"]}
        more |= {"per_second": 320 / found["wall"], "workers": workers}
        name = f"decode 320 PNG of 1024 px ({kept})"
        rows.append(row(name, "cv2.imread alone", ratio, ">= 0.85", ratio >= 0.85, **found, **more))
    return rows


# memory: of an evaluation


def measure_memory() -> list[Row]:
    """Peak of an evaluation, everything included that a run does, above what the process needs after its imports."""
    peaks = {count: float(child("--child-memory", str(count)).splitlines()[-1]) for count in (40, 160)}
    whole, growth = peaks[160], peaks[160] - peaks[40]
    aims = ("<= 2048 MiB", whole <= 2048), ("<= 64 MiB more", growth <= 64)
    return [
        row("evaluation, 160 images of 1024 px", "MiB above imports", whole, *aims[0], mib=whole),
        row("the same, 160 / 40 images", "MiB of 40 images", whole / peaks[40], *aims[1], mib=growth),
    ]


def child(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def report_memory(count: int) -> None:
    """In the fresh process: one training step, then predict and test, of which the peak is told."""
    imports = kib_of("VmRSS")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_parts(folder / "parts", count)
        more = ["data=folder", f"data.root={folder / 'parts'}", f"data.cache_dir={folder / 'cache'}"]
        budget = ["data.patches=8", "data.batch_size=8", "trainer.max_epochs=1", "data.workers=2"]
        data, method, trainer = build(folder, *more, *budget)
        data.setup("fit")
        trainer.fit(method, data)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of training, is forgotten
        trainer.predict(method, data, return_predictions=False)
        trainer.test(method, data, verbose=False)
    print((kib_of("VmHWM") - imports) / 1024)


def write_parts(root: Path, count: int) -> None:
    """Twenty good images for training; the test set is half good and half with a white spot."""
    for index in range(20 + count):
        part = "train/good" if index < 20 else "test/good" if index % 2 else "test/spot"
        image, mask = photo(index % 20, 1024), np.zeros((1024, 1024), np.uint8)
        if part == "test/spot":
            cv2.circle(mask, (300 + 2 * index, 400), 40, 255, -1)
            image[mask > 0] = 250
            (root / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / f"ground_truth/spot/{index:03d}_mask.png"), mask)
        (root / part).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / part / f"{index:03d}.png"), image)


# first: from the command to the first step

STAMP = """
import os, time
import pytorch_lightning as pl

class Stamp(pl.Callback):
    def on_train_batch_end(self, *arguments):
        print("first step", time.time(), flush=True)
        os._exit(0)
"""


def measure_first() -> list[Row]:
    """Default settings of `cae`, on screw where the shared data are, else on the demo; then the process ends."""
    real = [f"data.root={SCREW}", "data.category=screw"]
    where = real if SCREW.is_dir() else ["data=demo"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "stamp.py").write_text(STAMP)
        base = [sys.executable, "-m", "anomaly_lab", "logger=none", "trainer.accelerator=cpu", f"runs_dir={folder}"]
        more = [f"data.cache_dir={folder}/cache", "+callbacks.stamp._target_=stamp.Stamp", "rerun=true"]
        environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{folder}"}

        def command(*settings: str) -> tuple[float, float]:
            start, cpu = time.time(), children_cpu()
            done = subprocess.run(
                [*base, *more, *where, *settings], env=environment, capture_output=True, text=True, check=False
            )
            lines = [line for line in done.stdout.splitlines() if line.startswith("first step")]
            if not lines:
                raise RuntimeError(done.stdout + done.stderr)
            return float(lines[0].split()[-1]) - start, children_cpu() - cpu

        def imports() -> tuple[float, float]:
            start, cpu = time.time(), children_cpu()
            subprocess.run([sys.executable, "-c", "import torch, pytorch_lightning"], check=True)
            return time.time() - start, children_cpu() - cpu

        command()  # fills the caches
        turns = [[*command(), *command("data.batch_size=8"), *imports()] for _ in range(ROUNDS)]
    medians = [statistics.median(column) for column in zip(*turns, strict=True)]
    rows = []
    for batch, (wall, cpu) in ((128, medians[:2]), (8, medians[2:4])):
        figures = {"wall": wall, "cpu": cpu, "anchor_wall": medians[4], "anchor_cpu": medians[5], "data": where[-1]}
        name, anchor = f"first step, batch {batch}, s", "import torch, pytorch_lightning"
        rows.append(row(name, anchor, wall / medians[4], "<= 8 s", wall <= 8, **figures))
    return rows


def children_cpu() -> float:
    """CPU seconds of the processes that were started and have ended."""
    times = os.times()
    return times.children_user + times.children_system


# Tables

MEASURES: dict[str, Callable[[], list[Row]]] = {
    "render": measure_render,
    "step": measure_step,
    "ssim": measure_ssim,
    "decode": measure_decode,
    "memory": measure_memory,
    "first": measure_first,
}


def show(rows: list[Row]) -> None:
    print(f"{'what':36}{'anchor':34}{'ratio':>8}{'cpu s':>9}{'wall s':>9}{'per s':>8}  aim")
    for found in rows:
        cpu, wall, speed = (found.get(key, math.nan) for key in ("cpu", "wall", "per_second"))
        judged = {True: "reached", False: "MISSED", None: ""}[found["reached"]]
        seconds = f"{cpu:9.3f}{wall:9.3f}{speed:8.0f}".replace("nan", "  -")
        print(f"{found['what']:36}{found['anchor']:34}{found['ratio']:8.2f}{seconds}  {found['aim']} {judged}")
        parts = {key: value for key, value in found.items() if key.endswith("_ms")}
        if parts:
            print("    ms a step: " + ", ".join(f"{key[:-3]} {value:.2f}" for key, value in parts.items()))


def save(rows: list[Row]) -> None:
    """JSON keeps everything; CSV is the same as a table."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    new = {found["measure"] for found in rows}
    known = [found for found in known if found["measure"] not in new] + rows
    known.sort(key=lambda found: list(MEASURES).index(found["measure"]))
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    columns = list(dict.fromkeys(column for found in known for column in found))
    with RESULTS.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {key: f"{x:.6g}" if isinstance(x, float) else x for key, x in found.items()} for found in known
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--threads", type=int, help="of torch; more than there are idle cores slows all down")
    parser.add_argument("--child-memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the processes started here
        torch.set_num_threads(options.threads)
    if options.child_memory:
        report_memory(options.child_memory)
        return
    for measure in options.rows:
        load = os.getloadavg()[0]
        print(f"\n{measure}: threads {torch.get_num_threads()} of {os.cpu_count()} cores, load {load:.2f}", flush=True)
        rows = [
            {"measure": measure, "threads": torch.get_num_threads(), "load": load, **found}
            for found in MEASURES[measure]()
        ]
        show(rows)
        save(rows)


if __name__ == "__main__":
    main()
