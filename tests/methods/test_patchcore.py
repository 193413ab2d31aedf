"""PatchCore: neighbourhoods, memory and score in closed form."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.patchcore import PatchCore, reweighted
from tests.features import Pixels

ROOT = Path(__file__).parents[2]


def patchcore(ratio=1.0, neighbours=1, neighbourhood=3, image_size=8, max_vectors=10_000):
    return PatchCore(WholeImage(), Pixels(), image_size, ratio, neighbours, neighbourhood, max_vectors, seed=0)


def photos(count, seed=0):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def fitted(method, images):
    method.update(images, torch.arange(len(images)))
    method.fit()
    return method


def test_a_patch_is_the_mean_of_its_neighbourhood_with_zeros_outside():
    image = torch.zeros(1, 3, 8, 8)
    image[..., 2:4, 2:4] = 9  # place (1, 1) of the fine layer
    fine = patchcore().patches(image)[0, 0]
    expected = torch.zeros(4, 4)
    expected[:3, :3] = 1
    torch.testing.assert_close(fine, expected)
    image = torch.zeros(1, 3, 8, 8)
    image[..., :2, :2] = 9  # in the corner
    assert patchcore().patches(image)[0, 0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert patchcore().patches(image)[0, 0, 0, 0] == 1


def test_the_map_is_the_distance_from_the_nearest_patch_of_any_place():
    images, new = photos(5), photos(2, seed=1)
    method = fitted(patchcore(), images)
    known = method.patches(images).flatten(2).mT.reshape(-1, 6)
    answer = method.predict(new)
    for image, found, score in zip(new, answer.anomaly_map, answer.score, strict=True):
        queries = method.patches(image[None])[0].flatten(1).T
        expected = (queries[:, None] - known[None]).norm(dim=2).min(dim=1).values
        torch.testing.assert_close(found.flatten(), expected)
        assert score == found.max()


def test_training_images_lie_in_a_memory_of_all_patches():
    images = photos(6)
    answer = fitted(patchcore(neighbours=9), images).predict(images)
    assert answer.anomaly_map.abs().max() == 0
    assert answer.score.abs().max() == 0


def test_the_memory_is_a_share_of_the_patches_that_covers_them():
    images = photos(10)
    whole, part = (fitted(patchcore(ratio), images).bank.bank for ratio in (1.0, 0.1))
    assert len(whole) == 160
    assert len(part) == 16
    apart = torch.cdist(whole, part).min(dim=1).values.max()
    at_random = torch.cdist(whole, whole[torch.randperm(160, generator=torch.Generator().manual_seed(0))[:16]])
    assert apart < at_random.min(dim=1).values.max()
    assert len(fitted(patchcore(1e-9), images).bank.bank) == 1


def test_copies_are_kept_once_and_said(capsys):
    method = fitted(patchcore(0.5, neighbours=9, neighbourhood=1), torch.full((4, 3, 8, 8), 0.5))
    assert "remark: all 64 feature vectors of the training images are the same" in capsys.readouterr().out
    assert len(method.bank.bank) == 1
    for value, expected in ((0.5, 0.0), (0.75, 6**0.5 / 4)):
        answer = method.predict(torch.full((1, 3, 8, 8), value))
        torch.testing.assert_close(answer.anomaly_map, torch.full((1, 1, 4, 4), expected))
        torch.testing.assert_close(answer.score, torch.tensor([expected]))  # one entry has no neighbours: no weight


def test_fewer_vectors_than_neighbours():
    """All there are count: two entries at a distance of sqrt(6), six features of 1."""
    images = torch.cat([torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)])
    method = fitted(patchcore(2 / 32, neighbours=9, neighbourhood=1), images)
    assert len(method.bank.bank) == 2
    near, far = (6**0.5 * part for part in (0.25, 0.75))
    expected = near * (1 - math.exp(near) / (math.exp(near) + math.exp(far)))
    torch.testing.assert_close(method.predict(torch.full((1, 3, 8, 8), 0.25)).score, torch.tensor([expected]))


def test_what_does_not_fit_into_memory_is_said_before_anything_is_read(capsys):
    method = patchcore(0.5, max_vectors=100)
    method.check_memory(6, 10**9)  # 96 patches
    assert capsys.readouterr().out == ""
    method.check_memory(10, 10**9)
    line = "of 160 feature vectors a uniform sample of 100 is kept before the selection (method.max_vectors=100)"
    assert line in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^method.max_vectors: .* for 10 training images; set method.max_vectors=8 or"):
        method.check_memory(10, 2000)
    assert patchcore(0.5, max_vectors=8).memory(10) <= 2000


@pytest.mark.slow
def test_the_fit_needs_little_more_memory_than_its_patches():
    """In a process of its own, by the operating system: 120 images whose patches take 720 MiB, in any order."""
    program = """
import torch
from pathlib import Path
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.patchcore import PatchCore
from tests.features import Pixels

class Wide(Pixels):
    def __init__(self):
        super().__init__()
        self.channels = (192, 192)

    def forward(self, images):
        return tuple(layer.repeat(1, 64, 1, 1) for layer in super().forward(images))

def mib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) / 1024

def fitted(count, side, ratio=1e-4):
    method = PatchCore(WholeImage(), Wide(), side, ratio, 9, 3, 10**6, 0)
    for i in torch.randperm(count).tolist():
        method.update(torch.rand(1, 3, side, side), torch.tensor([i]))
    method.fit()

torch.set_num_threads(1)
with torch.inference_mode():
    fitted(2, 16, 0.5)
    Path("/proc/self/clear_refs").write_text("5")
    before = mib("VmRSS")
    fitted(120, 128)
print(mib("VmHWM") - before, 120 * 64**2 * 384 * 4 / 2**20)
"""
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    grown, rows = map(float, answer.stdout.split()[-2:])
    assert rows < grown < 1.3 * rows


def test_of_more_patches_than_fit_a_sample_is_thinned_out():
    method = fitted(patchcore(0.5, max_vectors=40), photos(10))
    assert len(method.bank.bank) == 20
    assert method.memory(10) < patchcore(0.5).memory(1000)


def test_the_weight():
    around = torch.tensor([[1.0] + [2.0] * 8, [3.0] * 9])
    expected = torch.tensor([1 - 1 / (1 + 8 * math.e), 8 / 9])
    torch.testing.assert_close(reweighted(torch.tensor([1.0, 3.0]), around), expected)
    torch.testing.assert_close(reweighted(torch.tensor([1e4]), torch.full((1, 9), 1e4)), torch.tensor([8 / 9]))


def test_the_score_weighs_the_largest_distance_by_the_surroundings_of_its_nearest_patch():
    images, new = photos(5), photos(3, seed=1)
    plain, weighted = (fitted(patchcore(neighbours=n), images) for n in (1, 4))
    torch.testing.assert_close(plain.predict(new).anomaly_map, weighted.predict(new).anomaly_map)
    bank = weighted.bank.bank
    for image, largest, score in zip(new, plain.predict(new).score, weighted.predict(new).score, strict=True):
        queries = weighted.patches(image[None])[0].flatten(1).T
        apart = torch.cdist(queries, bank)
        place = apart.min(dim=1).values.argmax()
        around = (bank - bank[apart[place].argmin()]).norm(dim=1).argsort()[:4]  # the nearest patch among them
        expected = largest * (1 - largest.exp() / apart[place, around].exp().sum())
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_features_that_are_not_finite_are_refused():
    images = photos(3)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="expected finite features"):
        fitted(patchcore(0.5), images)
