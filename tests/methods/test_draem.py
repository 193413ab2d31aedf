"""DRAEM: its three losses in closed form, the score of its map, what is painted."""

import math

import pytest
import torch
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.data.corruption import AnyOf, PerlinTexture
from anomaly_lab.data.noise import row_keys
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.draem import DRAEM, focal_loss


def draem(**changes):
    torch.manual_seed(0)
    given = {"image_size": 64, "channels": 3, "width": 2, "segmentation_width": 2, "block": "none"} | changes
    return DRAEM(WholeImage(), torch.optim.Adam, **given)


def answering(method, reconstructions, logits):
    method.answer = lambda images: (reconstructions, logits, torch.zeros(()))
    return method


def batch_of(images, probability=0.5):
    """A batch as the datamodule paints it."""
    painted, defect = AnyOf([PerlinTexture()], probability)(images, row_keys(0, 0, torch.arange(len(images))))
    return Batch.of(painted)._replace(clean=images, defect=defect)


def logits_of(probability, *shape):
    """Logits with this probability of a defect everywhere."""
    value = torch.tensor([1 - probability, probability]).log()
    return value.view(1, 2, 1, 1).expand(-1, -1, *shape)


@pytest.mark.parametrize(
    ("of_defect", "defective", "expected"),
    [(0.5, False, 0.25 * math.log(2)), (0.5, True, 0.25 * math.log(2)), (1 - 1e-6, True, 0.0),
     (0.1, True, 0.81 * math.log(10)), (0.9, False, 0.81 * math.log(10))],
)  # fmt: skip
def test_focal_loss_in_closed_form(of_defect, defective, expected):
    defect = torch.full((1, 1, 5, 4), defective)
    assert focal_loss(logits_of(of_defect, 5, 4), defect).item() == pytest.approx(expected, abs=1e-6)


def test_the_constant_answer_cannot_come_below_what_the_docstring_says():
    defect = torch.zeros(1, 1, 100, 100, dtype=torch.bool)
    defect.view(-1)[:245] = True
    losses = [focal_loss(logits_of(p / 1000, 100, 100), defect).item() for p in range(1, 1000)]
    assert min(losses) == pytest.approx(0.034, abs=2e-4)
    assert losses.index(min(losses)) == pytest.approx(200, abs=5)


def test_focal_loss_is_cross_entropy_weighed_by_what_is_missing():
    logits, defect = torch.randn(2, 2, 6, 6), torch.rand(2, 1, 6, 6) < 0.5
    entropy = functional.cross_entropy(logits, defect[:, 0].long(), reduction="none")
    torch.testing.assert_close(focal_loss(logits, defect), ((1 - (-entropy).exp()) ** 2 * entropy).mean())


def test_a_perfect_reconstruction_and_a_perfect_map_cost_nothing():
    batch = batch_of(torch.rand(4, 3, 64, 64))
    logits = torch.cat([~batch.defect, batch.defect], dim=1) * 100.0
    losses = answering(draem(), batch.clean, logits).losses(batch)
    assert set(losses) == {"loss", "squared", "ssim", "focal"}
    for value in losses.values():
        assert value.item() == pytest.approx(0, abs=1e-5)


def test_losses_compare_with_the_image_before_it_was_painted():
    batch = batch_of(torch.full((8, 3, 64, 64), 0.5))
    losses = answering(draem(), batch.image, torch.zeros(8, 2, 64, 64)).losses(batch)
    assert losses["squared"].item() == pytest.approx((batch.image - batch.clean).square().mean().item())
    assert losses["squared"] > 1e-4
    assert losses["ssim"] > 1e-3
    assert losses["focal"].item() == pytest.approx(0.25 * math.log(2))


def test_the_second_network_teaches_the_first():
    method = draem()
    focal = method.losses(batch_of(torch.rand(2, 3, 64, 64)))["focal"]
    focal.backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in method.reconstructive.parameters())


@pytest.mark.parametrize(("row", "column"), [(100, 50), (0, 0)])
@pytest.mark.parametrize("defects", [1, 21])
def test_the_score_is_the_mean_over_a_window_of_21_of_256_px(defects, row, column):
    """At the border, too, where a part of a window lies outside and counts as zeros."""
    logits = torch.zeros(1, 2, 256, 256)
    logits[:, 0] = 100
    logits[:, 1, row : row + defects, column : column + defects] = 200
    answer = answering(draem(image_size=256), torch.rand(1, 3, 256, 256), logits).predict(torch.rand(1, 3, 256, 256))
    assert answer.score.item() == pytest.approx(defects**2 / 21**2)
    assert answer.anomaly_map.sum().item() == pytest.approx(defects**2)


def test_the_window_grows_with_the_image_and_is_odd():
    assert [draem(image_size=side).window for side in (32, 64, 128, 256, 512)] == [3, 5, 11, 21, 41]


def test_the_score_of_a_constant_map_is_the_constant():
    answer = answering(draem(), torch.rand(1, 3, 64, 64), logits_of(0.3, 64, 64)).predict(torch.rand(1, 3, 64, 64))
    assert answer.score.item() == pytest.approx(0.3)


def test_reconstructions_are_shown_within_their_range():
    method, images = draem().eval(), torch.rand(1, 3, 64, 64)
    method.reconstructive.forward = lambda images: (3 * images - 1, torch.zeros(()))
    for shown in (method.samples(images), method.predict(images).reconstruction):
        torch.testing.assert_close(shown, (3 * images - 1).clamp(0, 1))


def test_with_a_block_there_is_one_loss_more():
    method = draem(block="sspcab")
    losses = method.losses(batch_of(torch.rand(2, 3, 64, 64)))
    parts = [losses[name] for name in ("squared", "ssim", "focal", "blocks")]
    torch.testing.assert_close(losses["loss"], torch.stack(parts).sum())
    assert losses["blocks"] > 0
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        reconstructions, first = method.eval().reconstructive(image)
        second = method.discriminative(torch.cat([reconstructions, image], dim=1))[1]
        blocks = method.losses(Batch.of(image)._replace(clean=image, defect=image[:, :1] > 1))["blocks"]
    torch.testing.assert_close(blocks, 0.1 * (first + second))
    assert method.predict(torch.rand(1, 3, 64, 64)).anomaly_map.shape == (1, 1, 64, 64)


def test_where_nothing_is_painted_nothing_can_be_learnt():
    draem().check_training(1, painted=True)
    with pytest.raises(UserError, match=r"data.corruption: expected painted defects.* draem learns, found null"):
        draem().check_training(1, painted=False)


def test_images_that_cannot_be_halved_five_times_are_refused():
    with pytest.raises(UserError, match="data.image_size: expected at least 32 px.*found 31"):
        draem(image_size=31)
