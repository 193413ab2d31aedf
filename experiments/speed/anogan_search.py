"""Latent search of AnoGAN at 128 px, one batch of images: `python experiments/speed/anogan_search.py`, CSV out.

Searches of `STEPS` steps (300 in use) in turns, medians of `ROUNDS`. `speed_of_one` is the median ratio to the search
of one image in the same turn, in images a second. `of_matrix_product`: operations a second of the search in units of
those of a product of large matrices in the same turn. Where one image by itself comes near 1, a batch has little to
gain. (More than 1: the library's convolutions do with fewer operations than are counted.)
"""

import os

os.environ["OMP_NUM_THREADS"] = "2"  # read when the libraries are loaded

import statistics
import time
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from anomaly_lab.methods.anogan import AnoGAN, Discriminator, Generator
from anomaly_lab.methods.base.tiling import WholeImage

STEPS, ROUNDS, BATCHES, SIDE = 5, 5, (1, 4, 16), 2048
torch.manual_seed(0)
networks = Generator(128, 3), Discriminator(128, 3)
adam = partial(torch.optim.Adam, lr=2e-4)
method = AnoGAN(*networks, optimizer=adam, tiling=WholeImage(), search_steps=STEPS).eval()
matrix = torch.rand(SIDE, SIDE)


def seconds(work) -> float:
    """The time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


with FlopCounterMode(display=False) as counter, torch.no_grad():
    networks[1].features(networks[0](torch.rand(1, 64)))
operations = 2 * STEPS * counter.get_total_flops()  # the way back to the codes costs what the way there does
peaks, times = [], {batch: [] for batch in BATCHES}
for _ in range(ROUNDS + 1):  # in turn, so that what else the machine does meets all of them
    peaks.append(2 * SIDE**3 / seconds(lambda: matrix @ matrix))
    for batch in BATCHES:
        images = torch.rand(batch, 3, 128, 128)
        times[batch].append(seconds(lambda images=images: method.predict(images)))
peaks, times = peaks[1:], {batch: found[1:] for batch, found in times.items()}  # the first one warms up
print(f"# threads {torch.get_num_threads()}, {STEPS} steps, medians of {ROUNDS}, load {os.getloadavg()[0]:.1f}")
print(f"# a product of matrices: {statistics.median(peaks) / 1e9:.0f} billion operations a second")
print("batch,seconds,image_steps_per_second,speed_of_one,of_matrix_product")
for batch, found in times.items():
    ratio = statistics.median(batch * one / other for one, other in zip(times[1], found, strict=True))
    share = statistics.median(batch * operations / other / peak for other, peak in zip(found, peaks, strict=True))
    middle = statistics.median(found)
    print(f"{batch},{middle:.2f},{batch * STEPS / middle:.1f},{ratio:.2f},{share:.2f}")
