"""CutPaste: the versions that it tells apart, the Gaussian of its features, windows."""

import math

import pytest
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.data.corruption import Patch, Scar
from anomaly_lab.data.noise import row_keys
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage
from anomaly_lab.methods.cutpaste import CutPaste
from anomaly_lab.networks.backbone import Backbone


def cutpaste(tiling=None, **changes):
    torch.manual_seed(0)
    backbone = Backbone("resnet18", ["layer1"], trainable=True)
    return CutPaste(tiling or WholeImage(), torch.optim.SGD, backbone, **{"task": "three_way", "hidden": 8} | changes)


def telling(method, features):
    """The method with given features of each image instead of those of its network."""
    method.features = features
    return method


@pytest.mark.parametrize(("task", "versions"), [("patch", 2), ("scar", 2), ("three_way", 3)])
def test_a_classifier_that_knows_nothing_has_the_logarithm_of_the_number_of_versions(task, versions):
    method = cutpaste(task=task)
    for layer in (method.head[0], method.head[2]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert method.losses(Batch.of(torch.rand(3, 3, 32, 32)))["loss"].item() == pytest.approx(math.log(versions))


def test_all_versions_of_an_image_pass_together_and_each_is_what_it_is_called():
    images, seen = torch.rand(4, 3, 64, 64), []
    method = cutpaste(seed=5)

    def features(shown):
        seen.append(shown)
        return torch.eye(3).repeat_interleave(4, dim=0)  # tells the versions

    telling(method, features)
    method.head = nn.Identity()
    keys = row_keys(5, 0, torch.arange(4))
    loss = method.losses(Batch.of(images))["loss"].item()
    (shown,) = seen
    expected = [images, Patch()(images, keys).image, Scar()(images, keys).image]
    assert torch.equal(shown, torch.cat(expected))
    assert loss == pytest.approx(-math.log(math.e / (math.e + 2)))


def test_other_epochs_and_rows_have_other_pieces(monkeypatch):
    images = torch.rand(2, 3, 32, 32)[:1].expand(2, -1, -1, -1)
    method, seen = cutpaste(task="patch"), []
    telling(method, lambda shown: (seen.append(shown), torch.rand(4, 64))[1])

    def pieces(**changes):
        method.losses(Batch.of(images)._replace(**changes))
        return seen.pop()[2:]

    numbered = pieces()
    assert not torch.equal(numbered[0], numbered[1])
    assert torch.equal(pieces(row=torch.tensor([1, 0])), numbered.flip(0))
    assert torch.equal(pieces(row=None, index=torch.tensor([1, 0])), numbered.flip(0))  # held out
    monkeypatch.setattr(CutPaste, "current_epoch", 1)
    assert not torch.equal(pieces()[0], numbered[0])


def test_the_score_is_the_density_of_a_gaussian():
    torch.manual_seed(1)
    root = torch.linspace(0.5, 2, 64).diag() + torch.randn(64, 64) / 40
    rows = torch.randn(5000, 64) @ root + 3
    method = telling(cutpaste(), lambda images: rows[images[:, 0, 0, 0].long()])
    numbers = torch.arange(5000.0).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    method.conclude([Batch.of(part) for part in numbers.split(1000)])
    scores = method.predict(numbers).score
    assert scores.mean().item() == pytest.approx(64 / 2, rel=0.04)  # less what is shrunk
    covariance = torch.cov(rows.T)
    direct = torch.einsum("ni,ij,nj->n", rows - rows.mean(0), covariance.inverse(), rows - rows.mean(0)) / 2
    assert torch.corrcoef(torch.stack([scores, direct]))[0, 1] > 0.99
    method.features = lambda images: method.mean.expand(len(images), -1)
    assert method.predict(numbers[:2]).score.abs().max() < 1e-6


def test_features_are_those_of_the_windows_and_all_of_them_count():
    method = cutpaste(SlidingWindow(32, 16))
    seen = []
    telling(method, lambda images: (seen.append(images), torch.randn(len(images), 64))[1])
    method.conclude([Batch.of(torch.rand(2, 3, 64, 64)), Batch.of(torch.rand(1, 3, 64, 64))])
    assert [tuple(images.shape) for images in seen] == [(8, 3, 32, 32), (4, 3, 32, 32)]


def test_whole_images_have_a_number_and_windows_a_map():
    whole, windows = cutpaste().eval(), cutpaste(SlidingWindow(32, 16)).eval()
    assert (whole.localises, windows.localises) == (False, True)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        answer, scanned = whole(images), windows(images)
    torch.testing.assert_close(answer.anomaly_map, answer.score.view(2, 1, 1, 1).expand(-1, -1, 64, 64))
    assert scanned.anomaly_map.std() > 0
    assert scanned.score.shape == (2,)
    assert (scanned.score >= scanned.anomaly_map.amax(dim=(1, 2, 3)) - 1e-4).all()


def test_all_windows_of_a_plain_image_have_the_same_number():
    method = cutpaste(SlidingWindow(32, 12)).eval()
    with torch.no_grad():
        method.conclude([Batch.of(torch.rand(4, 3, 64, 64))])
        answer = method(torch.full((1, 3, 64, 64), 0.3))
    torch.testing.assert_close(answer.anomaly_map, answer.score.view(1, 1, 1, 1).expand(-1, -1, 64, 64))


def test_one_image_has_no_gaussian():
    with pytest.raises(UserError, match="expected three training images at least.*, found 1"):
        cutpaste().conclude([Batch.of(torch.rand(1, 3, 32, 32))])


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "trainable=false"),
        ({"trainable": True, "weights": "w.pt"}, "weights=w.pt"),
        ({"trainable": True, "fine_tuned": True}, "fine_tuned=true"),
    ],
)
def test_a_network_that_does_not_learn_from_the_beginning_is_refused(given, found):
    with pytest.raises(UserError, match=f"method.backbone: expected a network that is trained .*, found {found}"):
        CutPaste(WholeImage(), torch.optim.SGD, Backbone("resnet18", ["layer1"], **given), "patch", 8)


@pytest.mark.parametrize(("task", "copies"), [("patch", 2), ("three_way", 3)])
def test_one_image_is_learnt_from_by_its_versions(task, copies):
    method, seen = cutpaste(task=task), []
    method.backbone.register_forward_pre_hook(lambda network, given: seen.append(len(given[0])))
    method.losses(Batch.of(torch.rand(1, 3, 32, 32)))["loss"].backward()
    assert seen == [method.copies] == [copies]
    assert all(weight.grad.isfinite().all() for weight in method.head.parameters())
