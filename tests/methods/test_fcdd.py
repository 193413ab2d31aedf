"""FCDD: what is trained, which images are abnormal, its loss and its map."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.data.corruption import AnyOf
from anomaly_lab.data.noise import row_keys
from anomaly_lab.data.outliers import Confetti
from anomaly_lab.functional.receptive import gaussian, gaussian_upsample
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.fcdd import FCDD
from anomaly_lab.networks.backbone import Backbone
from tests.adversarial import fit
from tests.contract import Bars, bars


def fcdd(name="resnet18", **changes):
    torch.manual_seed(0)
    backbone = Backbone(name, ["stride4", "stride8"], fine_tuned=True)
    backbone.sha256.fill_(1)  # as if its weights were there
    options = {"tiling": WholeImage(), "optimizer": partial(torch.optim.SGD, lr=1e-2, momentum=0.9)} | changes
    return FCDD(backbone=backbone, **options)


def images(count=4, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def answering(method, heat):
    """The method with a given heat of each image."""
    method.cells = lambda shown: torch.tensor(heat).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return method


def counted(method, trained):
    return sum(weight.numel() for weight in method.parameters() if weight.requires_grad == trained)


def test_weights_that_stay_and_weights_that_are_trained_are_those_of_the_authors():
    method = fcdd("vgg11_bn")
    assert (counted(method, False), counted(method, True)) == (962_304, 3_542_529)
    assert sum(weight.numel() for weight in method.trained()) == 3_542_529


def test_of_a_resnet_the_second_stage_is_trained():
    names = {name for name, weight in fcdd().named_parameters() if weight.requires_grad}
    assert {name.split(".")[2] for name in names if name.startswith("backbone")} == {"layer2"}
    assert {"head.weight", "head.bias"} < names


def test_statistics_move_below_too_and_nothing_moves_in_the_test():
    method = fcdd()
    (norm,) = (layer for name, layer in method.backbone.named_modules() if name == "network.bn1")
    before = norm.running_mean.clone()
    method.cells(images())
    assert not torch.equal(norm.running_mean, before)
    before = norm.running_mean.clone()
    method.eval().predict(images())
    assert torch.equal(norm.running_mean, before)


def test_heat_by_hand():
    method = fcdd().eval()
    nn.init.zeros_(method.head.weight)
    nn.init.constant_(method.head.bias, 3**0.5)
    torch.testing.assert_close(method.cells(images()), torch.ones(4, 1, 4, 4))


def test_the_network_sees_normalised_images_without_the_mean_of_imagenet():
    method, seen = fcdd().eval(), []
    method.prepare([Batch.of(images())])
    extract = method.backbone.extract
    method.backbone.extract = lambda shown: (seen.append(shown), extract(shown))[1]
    method.cells(images())
    assert (seen[0].amin(), seen[0].amax()) == (0, 1)
    gray = images()[:, :1]
    method.cells(gray)
    assert seen[1].shape == (4, 3, 32, 32)


def test_the_map_is_of_gaussians_and_the_score_the_mean_heat():
    method = fcdd(sigma=5.0).eval()
    found = method.predict(images(side=64))
    cells = method.cells(images(side=64))
    torch.testing.assert_close(found.score, cells.mean(dim=(1, 2, 3)))
    expected = gaussian_upsample(cells, method.field, gaussian(99, 5.0), 64, 64)
    torch.testing.assert_close(found.anomaly_map, expected)


def batch(label=(0, 0, 0, 0), painted=(0, 0, 0, 0)):
    defect = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    for row, has in enumerate(painted):
        defect[row, 0, 3, 5] = bool(has)
    return Batch.of(images())._replace(label=torch.tensor(label), clean=images(), defect=defect)


@pytest.mark.parametrize(
    ("label", "painted", "expected"),
    [
        ((0, 0, 0, 0), (0, 0, 0, 0), (1 + 1 + 0.1 + 0.1) / 4),
        ((0, 0, 0, 0), (0, 1, 0, 1), (1 + 0.458675 + 0.1 + 2.352168) / 4),
        ((0, 1, 0, 1), (0, 0, 0, 0), (1 + 0.458675 + 0.1 + 2.352168) / 4),
        ((0, 1, 0, 0), (0, 1, 0, 1), (1 + 0.458675 + 0.1 + 2.352168) / 4),
    ],
)
def test_an_image_is_abnormal_where_something_was_painted_or_it_has_a_label(label, painted, expected):
    method = answering(fcdd(), [1.0, 1.0, 0.1, 0.1])
    assert method.losses(batch(label, painted))["loss"].item() == pytest.approx(expected, abs=1e-6)


def test_labels_do_without_paint_and_nothing_abnormal_is_refused():
    bare = batch((0, 1, 0, 1))._replace(defect=None, clean=None)
    expected = (1 + 0.458675 + 0.1 + 2.352168) / 4
    method = answering(fcdd(labelled=True), [1.0, 1.0, 0.1, 0.1])
    assert method.losses(bare)["loss"].item() == pytest.approx(expected, abs=1e-6)
    method.check_training(1, painted=False)
    fcdd().check_training(1, painted=True)
    with pytest.raises(
        UserError, match="data.corruption: expected painted defects, from which fcdd learns, found null"
    ):
        fcdd().check_training(1, painted=False)


def marked_batch(marks, label):
    """A batch of 32 px of which the upper rows of some images are marked."""
    defect = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    for row, rows in enumerate(marks):
        defect[row, :, :rows] = True
    return Batch.of(images())._replace(label=torch.tensor(label), defect=defect)


def test_with_masks_the_loss_is_that_of_the_map():
    """Equation 3 in a loop; the last image is abnormal without a mask, and costs what equation 2 says."""
    method = answering(fcdd(labelled=True, sigma=5.0), [1.0, 1.0, 0.1, 0.1])
    batch = marked_batch((0, 8, 16, 0), (0, 1, 0, 1))
    enlarged = gaussian_upsample(method.cells(batch.image), method.field, gaussian(99, 5.0), 32, 32).double()
    expected = [enlarged[0].mean(), None, None, -math.log(1 - math.exp(-0.1))]
    for row, rows in ((1, 8), (2, 16)):
        good, bad = enlarged[row, 0, rows:].sum() / 32**2, enlarged[row, 0, :rows].sum() / 32**2
        expected[row] = good - math.log(1 - math.exp(-bad))
    assert method.losses(batch)["loss"].item() == pytest.approx(float(sum(expected)) / 4, rel=1e-5)


def test_a_mask_pushes_up_the_places_that_it_covers_and_the_others_down():
    """Places far from the edge of the mask; sigma is small, so that a place is a spot of the map."""
    method = fcdd(labelled=True, sigma=2.0)
    cells = torch.full((4, 1, 8, 8), 0.5, requires_grad=True)
    method.cells = lambda shown: cells
    defect = torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    defect[1, :, :32] = True
    label = torch.tensor([0, 1, 0, 1])
    method.losses(Batch.of(images(side=64))._replace(label=label, defect=defect))["loss"].backward()
    assert cells.grad is not None
    assert (cells.grad[0] > 0).all()
    assert (cells.grad[1, :, :3] < 0).all()
    assert (cells.grad[1, :, 5:] > 0).all()
    torch.testing.assert_close(cells.grad[1, :, 5:], cells.grad[0, :, 5:])
    assert (cells.grad[2] > 0).all()
    whole = cells.grad[3]
    assert (whole < 0).all()
    torch.testing.assert_close(whole, whole.flatten()[0].expand_as(whole))


def test_without_labelled_photos_what_is_painted_counts_by_image():
    """As the unsupervised rows of the paper."""
    method = answering(fcdd(), [1.0, 1.0, 0.1, 0.1])
    expected = (1 + 0.458675 + 0.1 + 2.352168) / 4
    assert method.losses(marked_batch((0, 8, 0, 3), (0, 0, 0, 0)))["loss"].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "layers", "options", "found"),
    [
        ("resnet18", ["stride8"], {"fine_tuned": True}, "two layers"),
        ("resnet18", ["stride4", "stride8"], {}, "fine_tuned=true"),
        ("convnext_atto", ["stages.0", "stages.1"], {"fine_tuned": True}, "a chain of convolutions"),
    ],
)
def test_other_networks_are_refused(name, layers, options, found):
    with pytest.raises(UserError, match=f"method.backbone.*: expected .*{found}"):
        FCDD(WholeImage(), torch.optim.SGD, Backbone(name, layers, **options))


def test_it_learns_confetti(tmp_path):
    method, paint = fcdd("test_resnet"), AnyOf([Confetti()], 0.5)
    method.prepare([Batch.of(bars(16, 7, 32))])
    fit(method, tmp_path, 5, Bars(10, 8, side=32, corruption=paint), Bars(1, side=32, corruption=paint))
    good = bars(64, 50, 32)
    painted = Confetti()(good, row_keys(9, 0, torch.arange(64))).image
    with torch.no_grad():
        low, high = (method.eval().predict(shown).score for shown in (good, painted))
    assert (high[:, None] > low).float().mean() > 0.9
