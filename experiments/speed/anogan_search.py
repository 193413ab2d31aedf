"""Latent search of AnoGAN at 128 px, one batch of images: `python experiments/speed/anogan_search.py`, CSV out.

Times are of searches of `STEPS` steps (300 in use), least of `ROUNDS` in turn. `images_per_second` is for 300 steps.
"""

import os

os.environ["OMP_NUM_THREADS"] = "2"  # read when the libraries are loaded

import time
from functools import partial

import torch

from anomaly_lab.methods.anogan import AnoGAN, Discriminator, Generator
from anomaly_lab.tiling import WholeImage

STEPS, ROUNDS, BATCHES = 3, 4, (1, 4, 16)
torch.manual_seed(0)
networks = Generator(128, 3), Discriminator(128, 3)
method = AnoGAN(*networks, partial(torch.optim.Adam, lr=2e-4), WholeImage(), search_steps=STEPS).eval()

print(f"# threads {torch.get_num_threads()}, {STEPS} steps, least of {ROUNDS}, load {os.getloadavg()[0]:.1f}")
print("batch,seconds,image_steps_per_second,images_per_second", flush=True)
seconds: dict[int, list[float]] = {batch: [] for batch in BATCHES}
for _ in range(ROUNDS + 1):  # in turn, so that what else the machine does meets all of them
    for batch, times in seconds.items():
        images = torch.rand(batch, 3, 128, 128)
        start = time.perf_counter()
        method.inspect(images)
        times.append(time.perf_counter() - start)
for batch, (_, *times) in seconds.items():  # the first one warms up
    speed = batch * STEPS / min(times)
    print(f"{batch},{min(times):.2f},{speed:.1f},{speed / 300:.4f}")
