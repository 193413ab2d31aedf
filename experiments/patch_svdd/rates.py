"""At which rate does Patch SVDD begin to learn directions? Patches of 32 px alone, on wood and transistor.

`python experiments/patch_svdd/rates.py ROOT [STEPS] > experiments/patch_svdd/rates.csv`: steps of 16 pairs; nine photos
of ten are learnt from, the others tell the loss of directions (chance: 2.079), and what has become of the codes: the
mean absolute number, in (0, 1), and the mean deviation of a number between patches.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.functional import resize

from anomaly_lab.data.noise import row_keys
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.patch_svdd import SMALL, PatchSVDD, cut

SETS = {"wood": "wood_boards_256/train", "transistor": "mvtec_ad_small/transistor/train"}
RATES = (1e-4, 3e-4, 1e-3)
PAIRS, SIDE = 16, 256


def losses(method: PatchSVDD, images: Tensor, turn: int, pairs: int) -> tuple[Tensor, Tensor]:
    """The losses of directions and of distances for pairs of random images."""
    generator = torch.Generator().manual_seed(turn)
    number, keys = torch.randint(len(images), (pairs,), generator=generator), row_keys(0, turn, torch.arange(pairs))
    return method.direction(images, number, keys, SMALL), method.distance(images, number, keys + 1, SMALL)


def main(root: str, steps: str = "500") -> None:
    """Print a row for every set, rate and fifth of the steps."""
    torch.set_num_threads(1)
    print("set,rate,step,held_out_direction,absolute,deviation")
    for name, folder in SETS.items():
        files = sorted(path for path in (Path(root) / folder).rglob("*") if path.suffix in {".png", ".jpg"})
        every = torch.stack([resize(decode_image(str(file), ImageReadMode.RGB), [SIDE, SIDE]) for file in files]) / 255
        images = every - every.mean(dim=0)  # as the method sees them
        held = images[::10]
        shown = images[[i for i in range(len(images)) if i % 10]]
        for rate in RATES:
            torch.manual_seed(0)
            method = PatchSVDD(WholeImage(), partial(torch.optim.Adam, lr=rate), SIDE, 3)
            optimizer = torch.optim.Adam(method.parameters(), lr=rate)
            for step in range(1, int(steps) + 1):
                direction, distance = losses(method, shown, step, PAIRS)
                optimizer.zero_grad()
                (direction + method.svdd_weight * distance).backward()
                optimizer.step()
                if step % (int(steps) // 5) == 0:
                    with torch.no_grad():
                        loss = losses(method, held, 0, 512)[0].item()
                        corners = 32 * torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"), -1)
                        codes = method.encoder(cut(held, torch.arange(64) % len(held), corners.view(-1, 2), SMALL))
                    values = loss, codes.abs().mean().item(), codes.std(dim=0).mean().item()
                    print(",".join([name, f"{rate:g}", str(step), *(f"{value:.3f}" for value in values)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
