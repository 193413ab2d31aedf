"""Measure on one CPU thread what arithmetic.py computes with: `python experiments/scale/measure.py`; constants.csv.

CPU seconds of a learning step and of a test image, of untrained networks on noise: the time does not depend on what is
seen. Then a little run of the demo data, whose files and W&B records are counted.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tifffile
import torch
from hydra import compose, initialize_config_dir
from wandb.proto import wandb_internal_pb2

from anomaly_lab.config.files import CONF
from anomaly_lab.config.resolvers import resolve
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.build import build_method

METHODS = ("cae", "ssim_ae", "anogan", "f_anogan", "ganomaly", "skip_ganomaly")
KINDS = {"texture": "carpet", "object": "screw"}
PATCHES = 8  # of the step
SEARCH = 3  # steps of AnoGAN's search in place of all
EPOCHS, STEPS = 3, 40  # of the little run


def cpu_seconds(work, turns=2):
    """The least of some turns, after one to warm up."""
    times = []
    for _ in range(turns + 1):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times[1:])


def of_methods():
    for name in METHODS:
        for kind, category in KINDS.items():
            words = [f"method={name}", f"data.category={category}"]
            with initialize_config_dir(str(CONF), version_base="1.3"):
                few = [f"method.search_steps={SEARCH}"] if name == "anogan" else []
                config = resolve(compose("train", words + few))
            data, method = config["data"], build_method(config).eval()
            patches = torch.rand(PATCHES, data["channels"], data["patch_size"], data["patch_size"])
            image = torch.rand(1, data["channels"], data["image_size"], data["image_size"])

            def step(method=method, patches=patches):
                loss = method.rehearse(Batch.of(patches))
                if loss.requires_grad:
                    loss.backward()
                method.zero_grad()

            def test(method=method, image=image):
                with torch.no_grad():
                    method(image)

            numbers = sum(value.numel() for value in method.state_dict().values())
            yield "parameters", name, kind, numbers, "numbers"
            yield "step", name, kind, cpu_seconds(step) / PATCHES, f"CPU s a patch of {data['patch_size']} px"
            once = f"CPU s an image of {data['image_size']} px"
            rest = f", {SEARCH} steps of the search" if name == "anogan" else ""
            yield "test", name, kind, cpu_seconds(test, turns=1), once + rest


def records(path):
    """The records of an offline run of W&B: a log of protobuf messages in blocks of 32 KiB."""
    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a record, or its last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def of_a_run():
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline",
            "XDG_CACHE_HOME": f"{folder}/cache",
        }
        words = [f"data.patches={8 * STEPS}", f"budget.epochs={EPOCHS}", "logger=wandb", f"runs_dir={folder}/runs"]
        command = [sys.executable, "-m", "anomaly_lab", "experiment=demo", "trainer=cpu", *words]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        (run,) = (path.parent for path in Path(folder, "runs").rglob("metrics.json"))
        files = [path for path in run.rglob("*") if path.is_file()]
        maps = [path for path in files if "maps" in path.relative_to(run).parts]
        of_wandb = [path for path in files if "wandb" in path.relative_to(run).parts]
        rest = [path for path in files if path not in maps and path not in of_wandb]
        yield "run_files", "cae", "object", len(rest), "files without maps and W&B"
        yield "wandb_files", "cae", "object", len(of_wandb), "files below wandb/"
        yield "map_files", "cae", "object", len(maps), "files, one a test image"
        pixels = tifffile.imread(maps[0]).size
        yield (
            "map_bytes",
            "cae",
            "object",
            sum(path.stat().st_size for path in maps) / len(maps) / pixels,
            "bytes a pixel",
        )
        (checkpoint,) = run.rglob("last.ckpt")
        yield "checkpoint_bytes", "cae", "object", checkpoint.stat().st_size, "bytes, at 128 px"
        (log,) = run.rglob("*.wandb")
        found = list(records(log))
        rows = sum(record.HasField("history") for record in found)
        uploads = sum(len(record.files.files) for record in found if record.HasField("files"))
        yield "wandb_rows", "cae", "object", rows, f"history rows of {EPOCHS} epochs of {STEPS} steps"
        yield "wandb_uploads", "cae", "object", uploads, "files that are uploaded"
        cached = [path for path in Path(folder, "cache").rglob("*") if path.is_file()]
        store = max(cached, key=lambda path: path.stat().st_size)
        yield "cache_bytes", "cae", "object", store.stat().st_size, f"bytes of {store.suffix or 'the store'}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    with Path(__file__).with_name("constants.csv").open("w") as file:
        file.write(f"# threads 1, load {os.getloadavg()[0]:.1f}, python experiments/scale/measure.py\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("quantity", "method", "kind", "value", "unit"))
        for part in (of_a_run, of_methods):
            for quantity, method, kind, value, unit in part():
                row = (quantity, method, kind, f"{value:.6g}" if isinstance(value, float) else value, unit)
                print(*row, flush=True)
                writer.writerow(row)
                file.flush()
