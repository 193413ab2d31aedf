"""Is bf16 faster than float32 on this processor? Training steps of four methods, for `trainer.precision=auto`.

`python experiments/speed/precision.py WEIGHTS [STEPS] > experiments/speed/precision.csv`: each as configured, 256 px,
batches of 4 on resident tensors, one thread, CPU seconds in turns in one process, medians of three. WEIGHTS: of a
ResNet-18. STEPS: in a turn. The first line names what the processor has for bf16.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded

import statistics
import sys

import torch
from hydra import compose, initialize_config_dir
from resident import ours, seconds

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.training.messages import quiet

SIDE, BATCH, TURNS = 256, 4, 3
METHODS = "cae", "stfpm", "reverse_distillation", "fastflow"


def main(weights: str, steps: str = "2") -> None:
    """Print a row a method."""
    torch.set_num_threads(1)
    quiet()
    units = [name for name in ("avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(name)]
    print(f"# {', '.join(units) or 'no units'}")
    print("method,float32_s_a_step,bf16_s_a_step,bf16_of_float32")
    images = [torch.rand(BATCH, 3, SIDE, SIDE) for _ in range(int(steps))]
    for name in METHODS:
        words = [f"method={name}", "data=folder", "data.root=x", f"data.image_size={SIDE}"]
        words += [f"method.backbone.weights={weights}"] * (name != "cae")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            method = build_method(check(compose("train", words))).train()
        kinds = "32-true", "bf16-mixed"
        for kind in kinds:
            ours(method, images[:1], precision=kind)  # warm
        turns = [[seconds(ours, method, images, kind) / int(steps) for kind in kinds] for _ in range(TURNS)]
        full, half = (statistics.median(column) for column in zip(*turns, strict=True))
        ratio = statistics.median(turn[1] / turn[0] for turn in turns)
        print(f"{name},{full:.2f},{half:.2f},{ratio:.2f}", flush=True)


main(*sys.argv[1:])
