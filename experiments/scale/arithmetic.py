"""15 categories x 9 methods x 5 seeds on 1, 8 and 64 GPUs: `python experiments/scale/arithmetic.py [--write]`.

Measured: constants.csv (measure.py), ../speed/data_path.csv, ../statistics/results.csv; all on CPU threads of one
machine. Assumed: the numbers in capitals below. All the rest is computed. `--write` puts the page into README.md.
"""

import csv
import heapq
import sys
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from anomaly_lab.config.files import CONF
from anomaly_lab.config.resolvers import resolve
from anomaly_lab.data.layouts import textures_of

HERE = Path(__file__).parent
SEEDS = 5
GPUS = (1, 8, 64)
CPU_THREADS_OF_A_GPU = (30, 100, 300)  # assumed: how many of the measured threads a GPU replaces; no GPU was measured
MVTEC_BYTES = 4.9e9  # assumed: what the page of the data says of all 5354 images
PHOTO_PIXELS = 1024**2  # assumed for all: they are 700 to 1024 px
WITH_A_GRADIENT = ("cae", "ssim_ae", "anogan", "f_anogan", "ganomaly", "skip_ganomaly")
KINDS = {"texture": "carpet", "object": "screw"}  # one category stands for all of its kind
ROWS = {  # seconds of fitting by training image, and of testing by image: ../statistics at 5640f3a and 4f0df4c
    "cnn_dictionary": (124.64 / 288, 1 / 2.33),
    "variation_model": (41.81 / 288, 1 / 9.09),
    "texture_inspection": (135.33 / 63, 1 / 2.25),
}
CATEGORIES = {  # training and test images, Bergmann et al. 2019, table 1
    "carpet": (280, 117), "grid": (264, 78), "leather": (245, 124), "tile": (230, 117), "wood": (247, 79),
    "bottle": (209, 83), "cable": (224, 150), "capsule": (219, 132), "hazelnut": (391, 110), "metal_nut": (220, 115),
    "pill": (267, 167), "screw": (320, 160), "toothbrush": (60, 42), "transistor": (213, 100), "zipper": (240, 151),
}  # fmt: skip


def table(path):
    """The rows of a CSV file whose first lines may be remarks."""
    with path.open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


MEASURED = {(row["quantity"], row["method"], row["kind"]): float(row["value"]) for row in table(HERE / "constants.csv")}
OF_A_RUN = {quantity: value for (quantity, *_), value in MEASURED.items() if quantity not in ("step", "test")}
FIRST = next(row for row in table(HERE.parent / "speed" / "data_path.csv") if row["what"] == "first step, batch 128, s")
START = float(FIRST["wall"])  # seconds


@cache
def configuration(method, kind):
    category = KINDS[kind]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolve(compose("train", [f"method={method}", f"data.category={category}"]))


def main():
    assert [sum(each) for each in zip(*CATEGORIES.values(), strict=True)] == [3629, 1725]
    textures = textures_of(OmegaConf.load(CONF / "data" / "mvtec_ad.yaml").categories)
    with_gradient, without, read, written, rows, caches = [], [], 0.0, 0.0, 0.0, {}
    hours = dict.fromkeys((*WITH_A_GRADIENT, *ROWS), 0.0)
    for method in hours:
        for category, (train, test) in CATEGORIES.items():
            config = configuration(method, "texture" if category in textures else "object")
            data, held_out = config["data"], round(train * config["data"]["held_out"])
            kind, epochs = data["kind"], config["trainer"]["max_epochs"]
            learnt = train - held_out
            if method in WITH_A_GRADIENT:
                search = config["method"].get("search_steps", 3) / 3  # measured with 3 steps
                judged = (test + held_out) * MEASURED["test", method, kind] * search
                seconds = data["patches"] * epochs * MEASURED["step", method, kind] + judged
                steps = -(-data["patches"] // data["batch_size"]) * epochs
                with_gradient += [seconds] * SEEDS
                looks = epochs
                written += SEEDS * epochs * 3 * 4 * MEASURED["parameters", method, kind]
            else:
                fitting, testing = ROWS[method]
                seconds = learnt * fitting + (test + held_out) * testing
                steps, looks = 0, 0
                without += [seconds] * SEEDS
            hours[method] += SEEDS * seconds / 3600
            store = learnt * data["channels"] * data["image_size"] ** 2
            caches[category, data["image_size"], data["channels"]] = store
            # Hashed once; held-out and test images read through once; looked at in every epoch, at the end, tested.
            photos = (train + test) + (held_out + test) + held_out * looks + held_out + test
            read += SEEDS * (photos * MVTEC_BYTES / 5354 + store)
            rows += SEEDS * (steps / 10 + 2 * epochs + 2)
    runs = SEEDS * len(hours) * len(CATEGORIES)
    lines = ["| method | CPU thread hours of all its runs |", "|---|---|"]
    lines += [f"| `{method}` | {value:,.0f} |" for method, value in sorted(hours.items(), key=lambda item: -item[1])]
    lines += [
        "",
        f"{runs} runs, {sum(hours.values()):,.0f} thread hours. On GPUs, hours from the first start to the last end",
    ]
    lines += ["(each as many CPU threads as assumed; methods without a gradient as on a CPU thread):", ""]
    lines += ["| a GPU replaces, assumed | " + " | ".join(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS) + " |"]
    lines += ["|---|" + "---|" * len(GPUS)]
    longest = {}
    for threads in CPU_THREADS_OF_A_GPU:
        jobs = [START + seconds / threads for seconds in with_gradient] + [START + seconds for seconds in without]
        longest[threads] = max(jobs)
        cells = " | ".join(f"{makespan(jobs, gpus) / 3600:,.1f}" for gpus in GPUS)
        lines.append(f"| {threads} CPU threads | {cells} |")
    starts = runs * START
    maps = SEEDS * len(hours) * 1725
    files = runs * (OF_A_RUN["run_files"] + OF_A_RUN["wandb_files"]) + maps
    map_bytes = maps * PHOTO_PIXELS * OF_A_RUN["map_bytes"]
    middle = makespan([START + s / 100 for s in with_gradient] + [START + s for s in without], 64)
    lines += [
        "",
        "| of all runs | computed |",
        "|---|---|",
        f"| longest job, at 100 threads a GPU | {longest[100] / 3600:.1f} h |",
        f"| starts of Python | {starts / 3600:.1f} h |",
        f"| read from the disk, if nothing stays in memory | {read / 1e12:.2f} TB |",
        f"| cache of decoded images, {len(caches)} stores | {sum(caches.values()) / 1e9:.2f} GB |",
        f"| checkpoints written, the last one stays | {written / 1e12:.2f} TB |",
        f"| anomaly maps, float32 at the size of the photo | {maps:,} files, {map_bytes / 1e9:,.0f} GB |",
        f"| files, maps and W&B included | {files:,.0f} |",
        f"| rows logged to W&B | {rows / 1e6:.1f} million, {rows / middle:,.0f} a second on 64 GPUs at 100 threads |",
        f"| files uploaded to W&B | {runs * OF_A_RUN['wandb_uploads']:,.0f} |",
    ]
    return "\n".join(lines)


def makespan(jobs, workers):
    """Seconds until the last job ends, when whoever is free takes the longest one that is left."""
    ends = [0.0] * workers
    for seconds in sorted(jobs, reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


if __name__ == "__main__":
    page = main()
    print(page)
    if "--write" in sys.argv:
        readme = HERE / "README.md"
        before, _, rest = readme.read_text().partition("<!-- computed -->\n")
        after = rest.partition("<!-- end -->\n")[2]
        readme.write_text(f"{before}<!-- computed -->\n{page}\n<!-- end -->\n{after}")
