"""What does cutting patches cost beside the network, and what do shared convolutions save?

`python experiments/speed/cnn_dictionary.py > experiments/speed/cnn_dictionary.csv`: one 512 px image, ResNet-18
up to two layers (weights as they are drawn: they do not change the speed), one thread, CPU seconds, medians of three
turns.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when the libraries are loaded

import contextlib
import statistics
import sys
import time
from collections.abc import Callable

import torch

from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.cnn_dictionary import CNNDictionary
from anomaly_lab.networks.backbone import Backbone

BATCH = 256
torch.set_num_threads(1)
image = torch.rand((1, 3, 512, 512), generator=torch.Generator().manual_seed(0))
patches = torch.rand((BATCH, 3, 64, 64)).contiguous(memory_format=torch.channels_last)


def method(backbone: Backbone, evaluation: str) -> CNNDictionary:
    """The method with ten entries, of the image itself."""
    made = CNNDictionary(
        WholeImage(), backbone, image_size=512, evaluation=evaluation, pooling="mean", entries="medoid", clusters=10,
        restarts=1, neighbours=1, variance=0.95, whiten=False, patch_size=16, stride=4, patch_resize=64,
        vectors_per_image=1000, vectors=1000, batch_size=BATCH, seed=0,
    )  # fmt: skip
    made._vectors.add(0, torch.rand(1000, backbone.channels[0]))
    with contextlib.redirect_stdout(sys.stderr):
        made.fit()
    return made.eval()


def bare(backbone: Backbone) -> None:
    """The network alone, as often as an image has batches of patches, on patches that lie there."""
    full, rest = divmod(125**2, BATCH)
    for _ in range(full):
        backbone.extract(patches)
    backbone.extract(patches[:rest])


def ways_of(layer: str) -> dict[str, Callable[[], object]]:
    """The three ways with one layer."""
    backbone = Backbone("resnet18.tv_in1k", [layer])
    dense, patchwise = method(backbone, "dense"), method(backbone, "patchwise")
    return {"bare": lambda: bare(backbone), "patchwise": lambda: patchwise(image), "dense": lambda: dense(image)}


lines = [f"# threads 1, load {os.getloadavg()[0]:.1f}", "layer,way,cpu_seconds,ratio,aim"]
with torch.inference_mode():
    for layer in ("layer3", "layer4"):
        ways = ways_of(layer)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        ways["dense"]()
        for _ in range(3):
            for name, way in ways.items():
                start = time.process_time()
                way()
                seconds[name].append(time.process_time() - start)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        lines += [
            f"{layer},bare,{median['bare']:.3f},,",
            f"{layer},patchwise,{median['patchwise']:.3f},{median['bare'] / median['patchwise']:.3f} of bare,0.8",
            f"{layer},dense,{median['dense']:.3f},{median['patchwise'] / median['dense']:.1f} x patchwise,10",
        ]
print("\n".join(lines))
