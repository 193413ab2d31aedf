"""NSA: labels in closed form, the loss of who knows nothing, the score of its map."""

import math

import pytest
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.nsa import NSA
from anomaly_lab.networks.backbone import Backbone


def nsa(**changes):
    torch.manual_seed(0)
    given = {"labels": "logistic", "steepness": 1 / 6, "middle": 20.0} | changes
    return NSA(WholeImage(), torch.optim.Adam, Backbone("resnet18", ["layer2"], trainable=True), **given)


def changed_by(levels, side=64, where=slice(20, 40)):
    """A batch of one image of which a square was changed by so many gray levels in every channel."""
    clean = torch.full((1, 3, side, side), 0.25)
    image = clean.clone()
    image[..., where, where] += levels / 255
    return Batch.of(image)._replace(clean=clean, defect=(image != clean).any(dim=1, keepdim=True))


@pytest.mark.parametrize(("levels", "expected"), [(20, 0.5), (26, 1 / (1 + math.exp(-1))), (2, 1 / (1 + math.exp(3)))])
def test_labels_are_logistic_in_the_difference(levels, expected):
    label = nsa().label(changed_by(levels))
    assert label[0, 0, 30, 30].item() == pytest.approx(expected, abs=1e-4)
    assert not label[..., :18, :].any()


def test_a_difference_is_the_mean_of_the_absolute_ones_and_single_pixels_do_not_count():
    batch = changed_by(0, side=256)
    batch.image[:, :, 20:40, 20:40] += torch.tensor([30.0, -30, 0]).view(3, 1, 1) / 255  # a mean of 20
    batch.image[:, :, 30, 30] = 1
    label = nsa().label(batch)[0, 0, 25:35, 25:35]
    torch.testing.assert_close(label, torch.full((10, 10), 0.5), atol=1e-4, rtol=0)


def test_logits_are_bilinear_in_the_map_of_the_decoder():
    method, seen = nsa().eval(), []
    method.output.register_forward_hook(lambda _, given, made: seen.append(made))
    logits = method.logits(torch.rand(1, 3, 64, 64))
    assert seen[0].shape[2] == 128  # each is the mean of 2 x 2
    torch.testing.assert_close(logits, nn.functional.avg_pool2d(seen[0], 2))


def test_labels_are_not_rounded_in_half_precision():
    for labels in ("logistic", "binary"):
        method, batch = nsa(labels=labels), changed_by(23)
        exact = method.label(batch)
        with torch.autocast("cpu", torch.bfloat16):
            assert method.label(batch).equal(exact)


def test_what_changes_by_less_than_a_level_is_no_change():
    assert not nsa().label(changed_by(0.9)).any()
    assert not nsa(labels="binary").label(changed_by(0.9)).any()


def test_binary_labels_are_one_where_anything_changed_and_single_pixels_are_none():
    label = nsa(labels="binary").label(changed_by(3, side=256))
    assert set(label.unique().tolist()) == {0, 1}
    assert label.sum() == 400 - 4 * 3  # the median takes the corners
    assert not nsa(labels="binary").label(changed_by(100, side=256, where=slice(20, 21))).any()


@pytest.mark.parametrize("labels", ["binary", "logistic"])
def test_in_small_images_small_pieces_keep_their_label(labels):
    label = nsa(labels=labels).label(changed_by(60, where=slice(20, 22)))  # of 64 px: as large as 8 of 256
    assert (label[..., 20:22, 20:22] > 0.99).all()
    assert label.sum() <= 4


def test_who_knows_nothing_has_the_loss_of_a_coin():
    method = nsa()
    nn.init.zeros_(method.output.weight)
    nn.init.zeros_(method.output.bias)
    assert method.losses(changed_by(50))["loss"].item() == pytest.approx(math.log(2))
    assert method.predict(torch.rand(1, 3, 64, 64)).score.item() == pytest.approx(0.5)


def test_the_score_is_the_mean_of_the_map_which_has_the_size_of_the_image():
    answer = nsa().eval().predict(torch.rand(2, 3, 50, 70))
    assert answer.anomaly_map.shape == (2, 1, 50, 70)
    assert answer.anomaly_map.std() > 0
    torch.testing.assert_close(answer.score, answer.anomaly_map.mean(dim=(1, 2, 3)))


def test_where_nothing_is_painted_nothing_can_be_learnt():
    nsa().check_training(1, painted=True)
    with pytest.raises(UserError, match=r"data.corruption: expected painted defects.* nsa learns, found null"):
        nsa().check_training(1, painted=False)


def test_a_network_with_weights_of_others_is_refused():
    with pytest.raises(UserError, match="method.backbone: expected a network that is trained.*found trainable=false"):
        NSA(WholeImage(), torch.optim.Adam, Backbone("resnet18", ["layer2"]), "binary", 1.0, 1.0)
