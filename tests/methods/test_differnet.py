"""DifferNet: sizes, vectors and scores by hand, the views, the gradient in its place."""

import math

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods import differnet as module
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.differnet import DifferNet, regular, turned
from anomaly_lab.networks.glow import Block, Glow, layers
from tests.features import Pixels


class Quadrant(Pixels):
    """The mean of the top left quarter of an image."""

    def extract(self, normalised):
        half = normalised.shape[2] // 2
        return (normalised[..., :half, :half].mean(dim=(2, 3), keepdim=True),)


def differnet(backbone=None, *, scales=3, rotation=180.0, training_views=2, views=4, map="none", seed=0, image_size=16):
    torch.manual_seed(0)
    return DifferNet(
        WholeImage(), backbone or Pixels(("fine",)), torch.optim.Adam, image_size, scales, 2, 8, 3.0, rotation,
        training_views, views, map, seed=seed,
    ).eval()  # fmt: skip


def plain(method):
    """The method whose flow only reorders numbers."""
    for block in method.flow.blocks:
        for subnet in (block.of_first, block.of_second):
            torch.nn.init.zeros_(subnet[-1].weight)
            torch.nn.init.zeros_(subnet[-1].bias)
    return method


def test_the_flow_is_as_large_as_the_published_one():
    def weights(hidden):  # of eight blocks, by hand
        return 16 * ((384 + 1) * hidden + 2 * (hidden + 1) * hidden + (hidden + 1) * 768)

    assert weights(2048) == 172_077_056
    flow = Glow(*(Block(3 * 256, layers(8, 8, 8), 3.0) for _ in range(8)))
    assert sum(weight.numel() for weight in flow.parameters()) == weights(8)


def test_vectors_are_means_at_three_sizes():
    method, images = differnet(), torch.rand(2, 3, 16, 16)
    expected = [images[..., ::step, ::step].mean(dim=(2, 3)) for step in (1, 2, 4)]
    torch.testing.assert_close(method.vectors(images), torch.cat(expected, dim=1))
    torch.testing.assert_close(method.vectors(torch.full((1, 3, 16, 16), 0.3)), torch.full((1, 9), 0.3))
    assert method.embed(images).equal(method.vectors(images))


def test_loss_and_score_of_a_flow_that_only_reorders():
    method, images = plain(differnet(rotation=0)), torch.rand(2, 3, 16, 16)
    squares = method.vectors(images).square().mean(dim=1)
    torch.testing.assert_close(method.losses(Batch.of(images))["loss"], squares.mean() / 2)
    answer = method.predict(images)
    torch.testing.assert_close(answer.score, squares)
    assert answer.anomaly_map.flatten().equal(answer.score)
    assert not method.localises


@pytest.mark.parametrize("views", [4, 8])
def test_a_score_is_a_mean_over_views_so_a_quarter_turn_does_not_change_it(views):
    images = torch.rand(2, 3, 16, 16)
    method, turns = differnet(views=views), torch.rot90(images, 1, (2, 3))
    score = method.predict(images).score
    torch.testing.assert_close(method.predict(turns).score, score, rtol=1e-4, atol=1e-5)
    method.angles = torch.cat([method.angles, method.angles])
    torch.testing.assert_close(method.predict(images).score, score)
    one = differnet(views=1)
    assert not torch.allclose(one.predict(turns).score, one.predict(images).score, rtol=1e-4, atol=1e-5)


def test_training_tells_images_of_another_colour():
    method = differnet(rotation=0)
    colours = torch.rand(64, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 16, 16)
    good, bad = (0.4 + 0.1 * colours, 0.6 + 0.1 * colours[:, [0, 0, 0]])
    optimizer = torch.optim.Adam(method.trained(), 1e-2)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        losses.append(method.losses(Batch.of(good))["loss"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 1
    with torch.no_grad():
        assert method.predict(bad).score.min() > method.predict(good).score.max()


def test_regular_views_hold_the_image_as_it_is():
    for rotation, count, degrees in ((180, 4, [-180, -90, 0, 90]), (6, 3, [-4, 0, 4]), (5, 1, [0]), (0, 7, [0])):
        angles = [math.radians(degree) for degree in degrees]
        expected = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles])
        torch.testing.assert_close(regular(rotation, count), expected)


def test_what_comes_from_outside_repeats_the_border():
    images, diagonal = torch.full((2, 3, 8, 8), 0.3), regular(180, 8)[5:6]
    torch.testing.assert_close(turned(images, diagonal), images)
    assert turned(images, diagonal, "zeros")[..., 0, 0].abs().max() < 0.1
    some = torch.rand(2, 1, 8, 8)
    each = turned(some, regular(180, 4)[[1, 2]])
    torch.testing.assert_close(each[0], torch.rot90(some[0], -1, (1, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(each[1], some[1], atol=1e-5, rtol=0)


def test_training_views_follow_from_seed_epoch_and_image(monkeypatch):
    shown, images = [], torch.rand(3, 3, 16, 16)

    def views(rows, *, seed=0, epoch=0):
        method = differnet(rotation=20, seed=seed)
        monkeypatch.setattr(DifferNet, "current_epoch", epoch)
        monkeypatch.setattr(method, "energies", lambda views: shown.append(views) or 2 * [torch.zeros(len(views))])
        row = None if rows is None else torch.tensor(rows)
        method.losses(Batch.of(images[: 2 if rows is None else len(rows)])._replace(row=row))
        return shown.pop().unflatten(0, (-1, 2))  # two of each image

    both = views([5, 2])
    assert not both[0, 0].equal(both[0, 1])
    assert both[0].equal(views([5])[0])
    for other in (views([6]), views([5], seed=1), views([5], epoch=1)):
        assert not both[0].equal(other[0])
    validation = views(None)
    torch.testing.assert_close(validation[:, 0], turned(images[:2], regular(20, 2)[:1]))
    torch.testing.assert_close(validation[:, 1], images[:2], atol=1e-5, rtol=0)


def test_training_views_are_turned_to_either_side_by_no_more_than_the_rotation(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "turned", lambda images, directions: seen.append(directions) or images)
    differnet(rotation=20, training_views=200).losses(Batch.of(torch.rand(2, 3, 16, 16)))
    degrees = torch.atan2(seen[0][:, 1], seen[0][:, 0]).rad2deg()
    assert -20.1 < degrees.min() < -19  # a direction is one of 4096
    assert 19 < degrees.max() < 20.1
    assert degrees.mean().item() == pytest.approx(0, abs=2)


def moved(method):
    """The method whose flow does something, and not the same to all images."""
    torch.manual_seed(2)
    for weight in method.flow.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    return method


def likelihood(method, images):
    """Of each image for each number, without the constant, by hand."""
    (latent,), log_determinant = method.flow([method.vectors(images)])
    assert log_determinant.std() > 1e-3
    return (log_determinant - latent.square().sum(dim=1) / 2) / 9


def test_loss_and_map_are_of_the_likelihood_of_the_vectors():
    method, images = moved(differnet(rotation=0, map="gradient")), torch.randn(3, 3, 16, 16).requires_grad_()
    values = likelihood(method, images)
    torch.testing.assert_close(method.losses(Batch.of(images.detach()))["loss"], -values.mean())
    (gradient,) = torch.autograd.grad(values.sum(), images)
    found = method.predict(images.detach()).anomaly_map
    assert (gradient.amin(dim=1) * gradient.amax(dim=1)).min() < 0  # channels disagree
    torch.testing.assert_close(found, gradient.abs().mean(dim=1, keepdim=True).square(), rtol=1e-3, atol=1e-9)


def test_where_a_view_shows_nothing_its_map_is_black():
    method = plain(differnet(map="gradient"))
    method.angles = regular(180, 8)[5:6]  # a diagonal
    anomaly_map = method.predict(torch.full((1, 3, 16, 16), 0.5)).anomaly_map[0, 0]
    assert anomaly_map[0, 0] < 1e-3 * anomaly_map[8, 8]


def test_the_map_is_the_gradient_turned_back_to_its_place():
    method = plain(differnet(Quadrant(("fine",)), scales=1, rotation=90, views=2, map="gradient"))
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        answer = method.predict(images)
    torch.testing.assert_close(answer.score, plain(differnet(Quadrant(("fine",)), scales=1, rotation=90, views=2))
                               .predict(images).score)  # fmt: skip
    total = torch.zeros(2, 1, 16, 16)
    for turn in (-1, 0):  # the views
        means = torch.rot90(images, turn, (2, 3))[..., :8, :8].mean(dim=(2, 3))
        slope = torch.zeros(2, 1, 16, 16)
        slope[..., :8, :8] = (means / (3 * 8 * 8)).mean(dim=1).view(2, 1, 1, 1)  # of the mean of three squares, halved
        total += torch.rot90(slope, -turn, (2, 3)) / 2
    torch.testing.assert_close(answer.anomaly_map, total.square(), rtol=1e-3, atol=1e-9)
    assert method.localises
    assert "method.map=none" in method.export_obstacle
    assert differnet().export_obstacle is None


@pytest.mark.parametrize("map", ["none", "gradient"])
def test_images_far_outside_the_training_have_finite_scores(map):
    method = differnet(map=map)
    for weight in method.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    answer = method.predict(torch.stack([torch.zeros(3, 16, 16), 1000 * torch.rand(3, 16, 16)]))
    assert answer.anomaly_map.isfinite().all()
    assert answer.score.isfinite().all()


def test_images_without_a_place_at_the_smallest_size_are_refused():
    with pytest.raises(UserError, match="data.image_size: expected at least 8 px, for 3 scales of .* 2 px, found 7"):
        differnet(image_size=7)
