"""Does `select minutes=5` keep its time on 60 photos of 900 px? How many methods does it try, and what does it cost?

`python experiments/speed/portfolio.py FOLDER > experiments/speed/portfolio.csv`: photos and runs are written to FOLDER,
which must be new. Photos are good washers of the demo data, enlarged, with noise of their own; no labels. Wants the
extra `offline`, or a hub. Seconds are those of the clock: let nothing else run. `seconds_of_jobs` are from the start of
the process of a job to its end, `seconds_of_runs` without the imports; `own_share` is what is not in a job.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from anomaly_lab.data.demo import washer

PHOTOS, SIDE, MINUTES = 60, 900, 5


def write_photos(folder: Path) -> None:
    """Photos of good parts."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(PHOTOS):
        image = cv2.resize(washer(random, None)[0], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        noisy = (image + random.normal(0, 3, image.shape)).clip(0, 255).round().astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:03d}.png"), noisy)


def main(folder: Path) -> None:
    """Print one row."""
    write_photos(photos := folder / "photos")
    words = ["select", "data=folder", f"data.root={photos}", f"minutes={MINUTES}", f"runs_dir={folder / 'runs'}"]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "anomaly_lab", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    of_jobs, started = 0.0, began
    for line in process.stdout:
        print(line, end="", file=sys.stderr)
        if "] running: " in line:
            started = time.monotonic()
        elif line.startswith("[") and ("] done" in line or "] failed" in line):
            of_jobs += time.monotonic() - started
    if process.wait():
        sys.exit("select failed; its output says why")
    seconds = time.monotonic() - began
    (answer,) = (folder / "runs").glob("select/*/select.json")
    ranking = json.loads(answer.read_text())["ranking"]
    methods = sum(not row["control"] for row in ranking)
    of_runs = 60 * sum(row["minutes"] for row in ranking)
    print("photos,side,minutes,seconds,methods,controls,seconds_of_jobs,seconds_of_runs,own_share")
    print(
        f"{PHOTOS},{SIDE},{MINUTES},{seconds:.0f},{methods},{len(ranking) - methods},{of_jobs:.0f},{of_runs:.0f},"
        f"{1 - of_jobs / seconds:.3f}"
    )


main(Path(sys.argv[1]))
