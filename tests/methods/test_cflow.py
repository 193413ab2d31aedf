"""CFLOW: the code of a place, likelihoods and losses by hand, the groups of fibres, the ceiling."""

import math
from types import SimpleNamespace

import pytest
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.data.noise import row_keys
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.cflow import CFlow, log_likelihood, position_code
from anomaly_lab.networks.backbone import Backbone
from tests.features import Pixels


def cflow(backbone=None, *, steps=2, fibres=8, loss="log_sigmoid", map="probability", schedule="constant"):
    torch.manual_seed(0)
    return CFlow(
        WholeImage(), backbone or Pixels(), torch.optim.SGD, steps, 1.9, fibres, loss, map, schedule, seed=3
    ).eval()  # fmt: skip


def test_the_flows_of_resnet_18_are_as_large_as_those_of_the_paper():
    method = cflow(Backbone("resnet18", ("layer2", "layer3")), steps=8)
    first, second = (sum(weight.numel() for weight in flow.parameters()) for flow in method.flows)
    assert first == pytest.approx(0.98e6, abs=0.01e6)
    assert second == pytest.approx(2.11e6, abs=0.01e6)


def test_the_code_of_a_place():
    code = position_code(torch.zeros(2, 5, 6, 7))
    assert code.shape == (2, 128, 6, 7)
    torch.testing.assert_close(code[0, :, 0, 0], torch.tensor([0.0, 1]).repeat(64))
    torch.testing.assert_close(code.square().sum(dim=1), torch.full((2, 6, 7), 64.0))
    assert code[0, :64, 1, 3].equal(code[0, :64, 4, 3])  # the column
    assert code[0, 64:, 4, 1].equal(code[0, 64:, 4, 5])  # the row
    assert not code[0, 64:, 4, 1].equal(code[0, 64:, 5, 1])
    frequency = 10_000 ** (-2 * 3 / 64)
    assert code[0, 6, 0, 5].item() == pytest.approx(math.sin(5 * frequency), abs=1e-6)
    assert code[0, 64 + 7, 4, 0].item() == pytest.approx(math.cos(4 * frequency), abs=1e-6)


def test_the_log_likelihood_of_unit_normal_vectors_through_a_flow_that_only_turns():
    torch.manual_seed(0)
    method = cflow(Backbone("resnet18", ("layer1",)))
    for step in method.flows[0].steps:
        torch.nn.init.zeros_(step.subnet[-1].weight)
        torch.nn.init.zeros_(step.subnet[-1].bias)
    vectors = torch.randn(5000, 64)
    found = log_likelihood(method.flows[0], vectors, torch.zeros(5000, 128))
    expected = torch.distributions.Normal(0, 1).log_prob(vectors).mean(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.mean().item() == pytest.approx(-(math.log(2 * math.pi) + 1) / 2, abs=0.01)


def test_both_losses_by_hand():
    likely = torch.tensor([0.0, math.log(3)])
    assert cflow(loss="likelihood").loss_of(likely).item() == pytest.approx(-math.log(3) / 2)
    expected = -(math.log(1 / 2) + math.log(3 / 4)) / 2
    assert cflow().loss_of(likely).item() == pytest.approx(expected)
    zero = torch.zeros(1, requires_grad=True)
    cflow().loss_of(zero).backward()
    assert zero.grad.item() == -0.5


@pytest.mark.parametrize(
    ("images", "fibres", "sizes"), [(2, 8, [8, 8, 8, 8]), (2, 10, [10, 10, 10, 2]), (3, 2, [3] * 16)]
)
def test_a_group_has_equally_many_places_of_every_image_and_all_places_come_once(images, fibres, sizes):
    method = cflow(fibres=fibres)
    maps = torch.arange(images * 16.0).view(images, 1, 4, 4).expand(-1, 3, -1, -1)
    code = position_code(maps)[0].flatten(1)
    seen = []
    for vectors, places in method.groups(maps, row_keys(0, 0, torch.arange(images)), images):
        assert vectors.shape == (sizes[len(seen)], 3)
        numbers = vectors[:, 0].long()
        assert (numbers // 16).bincount(minlength=images).unique().numel() == 1
        assert places.equal(code[:, numbers % 16].T)  # the code of their own places
        seen.append(numbers)
    assert torch.cat(seen).sort().values.equal(torch.arange(images * 16))
    again = [vectors[:, 0].long() for vectors, _ in method.groups(maps, row_keys(0, 1, torch.arange(images)), images)]
    assert not torch.cat(again).equal(torch.cat(seen))
    alone = [vectors[:, 0].long() for vectors, _ in method.groups(maps[:1], row_keys(0, 0, torch.arange(1)), images)]
    order = [part[part < 16] for part in seen]
    assert torch.cat(alone).equal(torch.cat(order))  # an image's order does not depend on the others


@pytest.mark.parametrize("fibres", [1, 10, 12, 15, 40])
def test_processes_with_three_and_with_two_images_of_a_batch_make_the_same_steps(fibres):
    method, maps, keys = cflow(fibres=fibres), torch.rand(5, 3, 4, 4), row_keys(0, 0, torch.arange(5))
    shares = [list(method.groups(maps[rank::2], keys[rank::2], 5)) for rank in range(2)]
    whole = list(method.groups(maps, keys, 5))
    for large, small, both in zip(*shares, whole, strict=True):  # those of a single process, shared
        together = torch.cat([large[0], small[0]])
        assert together.sort(dim=0).values.equal(both[0].sort(dim=0).values)


def test_places_with_equal_numbers_stay_in_order(monkeypatch):
    monkeypatch.setattr("anomaly_lab.methods.cflow.uniform", lambda keys, count: torch.zeros(len(keys), count))
    maps = torch.arange(4096.0).view(1, 1, 64, 64)
    (group,) = cflow(fibres=4096).groups(maps, torch.zeros(1, dtype=torch.long), 1)
    assert group[0][:, 0].equal(torch.arange(4096.0))


def test_the_losses_are_means_over_all_places():
    method, images = cflow(), torch.rand(2, 3, 8, 8)
    planes = method.log_likelihoods(images)
    assert [plane.shape for plane in planes] == [(2, 1, 4, 4), (2, 1, 2, 2)]
    losses = method.losses(Batch.of(images))
    assert list(losses) == ["loss", "fine", "coarse"]
    assert losses["coarse"].item() == pytest.approx(-torch.nn.functional.logsigmoid(planes[1]).mean().item())
    assert losses["loss"].item() == pytest.approx((losses["fine"] + losses["coarse"]).item())


def in_training(monkeypatch, *, epoch=0, schedule="constant"):
    """A method in a trainer of four epochs of two batches of two images."""
    method = cflow(schedule=schedule)
    optimizers = [torch.optim.SGD(flow.parameters(), 0.1) for flow in method.flows]
    trainer = SimpleNamespace(
        optimizers=optimizers, num_training_batches=2, max_epochs=4,
        train_dataloader=SimpleNamespace(size=lambda batch_idx: 2),
    )  # fmt: skip
    monkeypatch.setattr(CFlow, "current_epoch", epoch)
    monkeypatch.setattr(CFlow, "trainer", trainer)
    monkeypatch.setattr(method, "optimizers", lambda: optimizers)
    monkeypatch.setattr(method, "manual_backward", lambda loss, inputs: loss.backward(inputs=inputs))
    for name in ("log", "log_dict"):
        monkeypatch.setattr(method, name, lambda *_, **__: None)
    return method


def test_a_training_step_written_out(monkeypatch):
    """Each group of fibres moves the flow of its layer by its own gradient; an epoch has an order of its own."""
    method, by_hand, images, row = in_training(monkeypatch, epoch=3), cflow(), torch.rand(2, 3, 8, 8), torch.arange(2)
    sums = 0.0
    for layer, flow in zip(by_hand.backbone(images), by_hand.flows, strict=True):
        groups = list(by_hand.groups(layer, row_keys(3, 3, row), 2))
        for vectors, places in groups:
            loss = by_hand.loss_of(log_likelihood(flow, vectors, places))
            sums += loss.item() / len(groups)
            weights = list(flow.parameters())
            for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.data -= 0.1 * slope
    loss = method.training_step(Batch.of(images)._replace(row=row), 0)
    assert loss.item() == pytest.approx(sums)
    for one, other in zip(method.flows.parameters(), by_hand.flows.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_learning_rate_follows_its_curve_from_batch_to_batch(monkeypatch):
    method, batch, found = in_training(monkeypatch, schedule="cosine"), Batch.of(torch.rand(2, 3, 4, 4)), []
    for epoch in range(4):
        monkeypatch.setattr(CFlow, "current_epoch", epoch)
        for number in range(2):
            method.training_step(batch._replace(row=torch.arange(2)), number)
            found += [group["lr"] for optimizer in method.trainer.optimizers for group in optimizer.param_groups]
    expected = [0.1 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8) for _ in method.flows]
    assert found == pytest.approx(expected)


def test_the_likelihood_depends_on_the_place():
    method = cflow()
    plane = method.log_likelihoods(torch.full((1, 3, 8, 8), 0.5))[0]
    assert plane.flatten().unique().numel() == 16


def test_without_the_weights_of_the_place_a_moved_image_has_a_moved_map():
    method, images = cflow(), torch.rand(1, 3, 16, 16)

    def moved(times):
        planes = method.log_likelihoods(images.roll((4 * times, 8 * times), (2, 3)))
        return [planes[0].roll((-2 * times, -4 * times), (2, 3)), planes[1].roll((-times, -2 * times), (2, 3))]

    assert not torch.allclose(moved(1)[0], moved(0)[0])
    for step in (step for flow in method.flows for step in flow.steps):
        torch.nn.init.zeros_(step.subnet[0].weight[:, step.kept :])
    for here, there in zip(moved(0), moved(1), strict=True):
        torch.testing.assert_close(here, there)
        assert here.std() > 0


def test_the_map_against_the_ceiling_of_good_images(monkeypatch):
    planes = [torch.tensor([[[[-1.0, -2], [-3, 0]]]]), torch.tensor([[[[-2.0]]]])]
    images = torch.rand(1, 3, 2, 2)
    method = cflow()
    monkeypatch.setattr(
        method, "log_likelihoods", lambda shown: planes if shown is images else [-2 + 0 * planes[0], 2 * planes[1]]
    )
    method.calibrate([Batch.of(images), Batch.of(torch.rand(1, 3, 2, 2))])
    assert method.ceiling.tolist() == [0, -2]
    answer = method.predict(images)
    torch.testing.assert_close(answer.anomaly_map, 2 - planes[0].exp() - 1)
    assert answer.score.item() == pytest.approx(1 - math.exp(-3))
    method.map = "likelihood"
    torch.testing.assert_close(method.predict(images).anomaly_map, -(planes[0] - 2))


def test_an_answer_does_not_depend_on_the_images_beside_it_and_far_images_are_finite():
    method = cflow(Backbone("resnet18", ("layer1", "layer2")), steps=8)
    images = torch.cat([torch.rand(2, 3, 32, 32), torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)])
    for kind in ("probability", "likelihood"):
        method.map = kind
        together, alone = method.predict(images), method.predict(images[:1])
        torch.testing.assert_close(together.anomaly_map[:1], alone.anomaly_map)
        assert together.score.isfinite().all()
