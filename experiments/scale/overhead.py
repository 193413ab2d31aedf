"""What a sweep costs beside its jobs: `python experiments/scale/overhead.py > experiments/scale/overhead.csv`.

Eight short trainings on demo data, two at a time through `hydra/launcher=local` and one after the other as single
commands, in turns, one thread a job; then a finished sweep of 105 jobs (15 categories, 7 methods), asked for again.
Overhead a job: (wall time of the sweep x jobs at a time - sum of the processes' times) / jobs.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # started by its path, a script sees only its own folder

from anomaly_lab.runs.folder import RESULT_VERSION

ROOT = Path(__file__).parents[2]
SEEDS, AT_A_TIME = range(8), 2
SHORT = (
    "data=demo", "method=ssim_ae", "data.patches=256", "data.batch_size=32", "budget.epochs=1", "trainer=cpu",
    "controls=false", "logger=none", "callbacks.anomaly_maps=null", "callbacks.pictures=null",
)  # fmt: skip
METHODS = "cae,ssim_ae,anogan,f_anogan,ganomaly,skip_ganomaly,variation_model"
CATEGORIES = [
    "carpet", "grid", "leather", "tile", "wood", "bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "screw",
    "toothbrush", "transistor", "zipper",
]  # fmt: skip
# The program, with each job's process timed by the shell into its log.
TIMED = """
from anomaly_lab.launch import local
plain = local.command
timing = 'TIMEFORMAT="process took %R"; unset ANOMALY_LAB_LAUNCHER; time "$@"'  # the shell is not the launcher
local.command = lambda job, config: ["bash", "-c", timing, "-", *plain(job, config)]
from anomaly_lab.__main__ import main
main()
"""


def run(folder: Path, *words: str, program: tuple[str, ...] = ("-m", "anomaly_lab")) -> tuple[float, str]:
    """Wall seconds of the program and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *program, *words], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return time.perf_counter() - start, done.stdout


def side_by_side(folder: Path) -> tuple[float, float]:
    """Wall seconds of the sweep, and the sum of its processes' times."""
    seeds = f"seed={','.join(map(str, SEEDS))}"
    wall, _ = run(folder, "-m", *SHORT, seeds, f"hydra.launcher.jobs={AT_A_TIME}", program=("-c", TIMED))
    logs = [path.read_text() for path in folder.rglob("job.log")]
    took = [float(seconds) for log in logs for seconds in re.findall(r"^process took ([\d.]+)$", log, re.MULTILINE)]
    assert len(took) == len(SEEDS)
    return wall, sum(took)


def one_after_the_other(folder: Path) -> float:
    """Wall seconds of the same jobs as single commands."""
    return sum(run(folder, *SHORT, f"seed={seed}")[0] for seed in SEEDS)


def asked_for_again(folder: Path, rounds: int) -> list[float]:
    """Wall seconds of a sweep of 105 jobs that are all finished; the results are written by hand."""
    random = np.random.default_rng(0)
    for category in CATEGORIES:
        for where in ("train/good", "test/good", "test/bad"):
            (folder / "data" / category / where).mkdir(parents=True)
            for number in range(20):
                image = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / "data" / category / where / f"{number:03d}.png"), image)
    words = ("-m", f"method={METHODS}", "data.category=all", f"data.root={folder / 'data'}", "logger=none")
    _, listed = run(folder, *words, "dry_run=true")
    folders = [Path(line.strip()) for line in listed.splitlines() if line.startswith("    /")]
    assert len(folders) == 105
    for each in folders:
        each.mkdir(parents=True)
        (each / "job.json").write_text(json.dumps({"state": "done", "result_version": RESULT_VERSION}))
        (each / "metrics.json").write_text(json.dumps({"result_version": RESULT_VERSION}))
    return [run(folder, *words)[0] for _ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    rounds = parser.parse_args().rounds
    sweeps, serial = [], []
    with tempfile.TemporaryDirectory() as scratch:
        run(Path(scratch), *SHORT, "dry_run=true")  # draws the demo data
        for turn in range(rounds):
            for name in ("sweep", "serial"):
                (Path(scratch) / f"{name}{turn}").mkdir()
            sweeps.append(side_by_side(Path(scratch) / f"sweep{turn}"))
            serial.append(one_after_the_other(Path(scratch) / f"serial{turn}"))
        again = asked_for_again(Path(scratch), rounds)
    overhead = statistics.median((wall * AT_A_TIME - processes) / len(SEEDS) for wall, processes in sweeps)
    ratio = statistics.median(wall for wall, _ in sweeps) / statistics.median(serial)
    print(f"# {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, medians of {rounds}")
    print("what,found,aim,reached")
    for what, found, aim in (
        ("overhead a job of the sweep in s", overhead, 0.5),
        ("8 jobs two at a time / one after the other", ratio, 0.6),
        ("finished sweep of 105 jobs asked for again in s", statistics.median(again), 5.0),
    ):
        print(f"{what},{found:.2f},{aim},{'yes' if found <= aim else 'no'}")
    print(f"8 jobs two at a time in s,{statistics.median(wall for wall, _ in sweeps):.1f},,")
    print(f"8 jobs one after the other in s,{statistics.median(serial):.1f},,")


if __name__ == "__main__":
    main()
