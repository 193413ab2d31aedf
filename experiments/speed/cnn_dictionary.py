"""What does cutting patches cost beside the network, and what do shared convolutions save?

`python experiments/speed/cnn_dictionary.py WEIGHTS > experiments/speed/cnn_dictionary.csv`: one 512 px image, ResNet-18
up to layer3, one thread, CPU seconds as the median of three turns in one process.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when the libraries are loaded

import statistics
import sys
import time
from collections.abc import Callable

import torch

from anomaly_lab.methods.cnn_dictionary import CNNDictionary
from anomaly_lab.networks.features import Features
from anomaly_lab.tiling import WholeImage

BATCH = 256
torch.set_num_threads(1)
features = Features(layer="layer3", weights=sys.argv[1])
features.load()
image = torch.rand((1, 3, 512, 512), generator=torch.Generator().manual_seed(0))
patches = torch.rand((BATCH, 3, 64, 64)).contiguous(memory_format=torch.channels_last)


def method(evaluation: str) -> CNNDictionary:
    """The method with ten entries, of the image itself."""
    made = CNNDictionary(
        WholeImage(), features, image_size=512, evaluation=evaluation, pooling="mean", entries="medoid", clusters=10,
        restarts=1, neighbours=1, variance=0.95, whiten=False, patch_size=16, stride=4, patch_resize=64,
        vectors_per_image=1000, vectors=1000, batch_size=BATCH, seed=0,
    )  # fmt: skip
    made.update(image, torch.zeros(1, dtype=torch.int64))
    made.fit()
    return made.eval()


dense, patchwise = method("dense"), method("patchwise")


def bare() -> None:
    """The network alone, as often as an image has batches of patches, on patches that lie there."""
    full, rest = divmod(patchwise.side**2, BATCH)
    for _ in range(full):
        features.network(patches)
    features.network(patches[:rest])


WAYS: dict[str, Callable[[], object]] = {
    "bare": bare, "patchwise": lambda: patchwise(image), "dense": lambda: dense(image)
}  # fmt: skip
seconds: dict[str, list[float]] = {name: [] for name in WAYS}
with torch.inference_mode():
    dense(image)
    for _ in range(3):
        for name, way in WAYS.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
median = {name: statistics.median(values) for name, values in seconds.items()}
print(f"# threads 1, load {os.getloadavg()[0]:.1f}")
print(f"# bare / patchwise {median['bare'] / median['patchwise']:.3f} (aim .8)")
print(f"# patchwise / dense {median['patchwise'] / median['dense']:.1f} (aim 10)")
print("way,cpu_seconds")
for name, value in median.items():
    print(f"{name},{value:.3f}")
