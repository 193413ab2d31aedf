"""The variation model in closed form, and on parts that lie as they fell."""

import numpy as np
import pytest
import torch

from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.variation_model import NOT_ALIGNED, VariationModel, statistics
from tests.functional.test_alignment import part

SIDE = 128


def model(side=SIDE, **settings):
    return VariationModel(WholeImage(), side, **settings)


def fitted(training, **settings):
    method = model(training.shape[-1], **settings)
    for index in torch.arange(len(training)).split(3):
        method.update(training[index], index)
    method.fit()
    return method.eval()


def as_images(*grays):
    """Gray images as the data deliver them: levels of 255."""
    return torch.from_numpy(np.rint(np.stack(grays) * 255).astype(np.float32))[:, None] / 255


def flat(*levels, side=64):
    return torch.stack([torch.full((1, side, side), float(level)) for level in levels]) / 255


def poses(count, seed=0, noise=0.01):
    random = np.random.default_rng(seed)
    grays = [part(random.uniform(0, 360), random.uniform(-5, 5, 2)) for _ in range(count)]
    return as_images(*[np.clip(gray + random.normal(0, noise, gray.shape), 0, 1) for gray in grays])


def test_pixels_of_100_110_and_120_make_140_a_distance_of_3_674():
    method = fitted(flat(100, 110, 120))
    said = method(flat(140))
    assert method.mean.unique().item() == pytest.approx(110 / 255)
    assert method.deviation.unique().item() == pytest.approx(8.16497 / 255, rel=1e-5)
    assert said.anomaly_map.unique().item() == pytest.approx(3.6742, abs=1e-4)
    assert said.score.item() == pytest.approx(3.6742, abs=1e-4)
    assert said.remarks == ()
    assert torch.allclose(method(flat(80)).anomaly_map, said.anomaly_map)  # darker counts like brighter
    assert torch.allclose(fitted(flat(0, 0), minimum_deviation=0.1)(flat(255)).anomaly_map, torch.tensor(10.0))


@pytest.mark.parametrize("alignment", ["none", "translation", "rigid"])
def test_identical_images_have_no_distance_and_all_others_a_finite_one(alignment):
    images = as_images(*[part(20.0)] * 4)
    method = fitted(images, alignment=alignment)
    assert method.deviation.max() < 1e-6
    assert method(images).anomaly_map.max() == 0
    assert method(torch.rand(2, 1, SIDE, SIDE)).anomaly_map.isfinite().all()


@pytest.mark.parametrize("region", ["whole", "foreground"])
@pytest.mark.parametrize("alignment", ["none", "translation", "rigid"])
def test_constant_images(alignment, region, capsys):
    method = fitted(flat(80, 80, 80), alignment=alignment, region=region)
    said = method(flat(80, 90))
    assert said.anomaly_map.isfinite().all()
    assert said.anomaly_map[0].max() < 1e-5
    assert torch.allclose(said.anomaly_map[1], torch.tensor(5.0), atol=1e-4)  # 10 gray levels, floor of 2
    told = capsys.readouterr().out
    assert len(method.remarks) == (0 if alignment == "none" else 3)
    assert ("has no foreground" in told) == (region == "foreground")


def test_so_many_images_are_drawn_and_the_seed_draws_them():
    levels = flat(*range(0, 200, 10))
    few = fitted(levels, images=5).mean[0, 0].item()
    assert few * 255 * 5 == pytest.approx(round(few * 255 * 5), abs=1e-3)
    assert few == fitted(levels, images=5).mean[0, 0].item()
    assert few != fitted(levels, images=5, seed=1).mean[0, 0].item()
    assert fitted(levels, images=None).mean[0, 0].item() == pytest.approx(95 / 255)
    assert fitted(levels, images=None, max_images=5).mean[0, 0].item() == few
    assert model(64, images=30).memory(10_000) == 3 * 30 * 64**2
    assert model(64).memory(10**6) == 3 * 1000 * 64**2
    assert model(64, images=None).memory(20) == 3 * 20 * 64**2


def test_statistics_of_shifted_images_count_only_what_is_shown():
    levels = np.stack([np.full((4, 6), level, np.uint8) for level in (10, 20, 90)])
    shifts = [np.array([[1.0, 0.0, x], [0.0, 1.0, 0.0]]) for x in (0.0, 2.0, 5.0)]
    found = statistics(levels, shifts)
    row = found.mean[0] * 255
    assert row[:4] == pytest.approx([40, 15, 15, 15])
    assert row[4:] == pytest.approx([20, 20])  # the gray of the background: one image of three is too few
    assert found.known[0].tolist() == [True] * 4 + [False] * 2
    assert found.deviation[0, :2] * 255 == pytest.approx([np.std([10, 20, 90]), 5], abs=1e-4)
    assert statistics(levels, [shifts[0], None, None]).mean == pytest.approx(10 / 255)


def defective(degrees, shift, row, column):
    gray = part(degrees, shift)
    gray[row - 2 : row + 3, column - 2 : column + 3] = 0.95
    return as_images(gray)


def test_the_map_of_a_turned_part_shows_the_defect_where_the_image_has_it():
    method = fitted(poses(20), alignment="rigid")
    said = method(defective(90, (3, -2), 40, 67))  # on the shaft, which now is upright
    row, column = np.unravel_index(said.anomaly_map[0, 0].numpy().argmax(), (SIDE, SIDE))
    assert (row, column) == (pytest.approx(40, abs=3), pytest.approx(67, abs=3))
    assert said.remarks == ("",)
    unaligned = fitted(poses(20))
    assert said.score > 2 * method(poses(5, seed=2)).score.max()
    assert unaligned(defective(90, (3, -2), 40, 67)).score < said.score


def test_nothing_outside_the_foreground_counts():
    settings = {"alignment": "rigid", "region": "foreground"}
    method = fitted(poses(20), **settings)
    beside = as_images(part())
    beside[..., 20:28, 60:68] = 0
    said = method(beside).anomaly_map[0, 0]
    assert (said[20:28, 60:68] == 0).all()
    assert (said > 0).float().mean() == pytest.approx((part() < 0.7).mean(), rel=0.3)
    whole = fitted(poses(20), alignment="rigid")(beside).anomaly_map[0, 0]
    assert whole[20:28, 60:68].min() > 20


def test_an_image_that_cannot_be_aligned_is_judged_as_it_lies_and_remarked_on():
    method = fitted(poses(12), alignment="rigid")
    images = torch.cat([poses(1, seed=4), torch.full((1, 1, SIDE, SIDE), 0.8), poses(1, seed=5)])
    said = method(images)
    assert said.remarks == ("", NOT_ALIGNED, "")
    expected = (images[1, 0] - method.mean).abs() / method.deviation.clamp_min(2 / 255) * method.counted
    assert torch.equal(said.anomaly_map[1, 0], expected)


def test_training_images_that_cannot_be_aligned_are_remarked_on_and_left_out():
    good = poses(10)
    images = torch.cat([good, torch.rand(7, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))])
    alone, method = fitted(good, alignment="rigid"), fitted(images, alignment="rigid")
    assert alone.remarks == {}
    assert method.remarks == dict.fromkeys(range(10, 17), "training images not aligned, left out of the statistics")
    assert torch.equal(method.mean, alone.mean)
    assert torch.equal(method.deviation, alone.deviation)


def test_the_order_of_the_images_does_not_show_in_their_poses():
    images, one, other = (
        poses(8),
        model(alignment="rigid", region="foreground"),
        model(alignment="rigid", region="foreground"),
    )
    for method, order in ((one, range(8)), (other, [6, 2, 4, 0, 7, 5, 1, 3])):
        for index in torch.tensor(order).split(3):
            method.update(images[index], index)
        method.fit()
    assert all(torch.equal(buffer, other.get_buffer(name)) for name, buffer in one.named_buffers())


def test_colour_images_are_compared_in_gray():
    gray = poses(4)
    assert torch.allclose(fitted(gray.expand(-1, 3, -1, -1)).mean, fitted(gray).mean, atol=1e-6)
