"""The memory: weights in closed form, what can come out, queries and thresholds that nothing answers or passes."""

import math
import re

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.networks.memory import Memory, entropy, largest_weight, used


def memory(slots=6, channels=4, shrinkage=0.1, **changes):
    torch.manual_seed(0)
    return Memory(slots, channels, shrinkage, **changes)


def queries(seed=1, scale=1.0, channels=4):
    return scale * torch.randn(3, channels, 5, 2, generator=torch.Generator().manual_seed(seed))


def weights(*values):
    """The weights of one query."""
    return torch.tensor(values).view(1, -1, 1, 1)


def test_weights_up_to_the_threshold_vanish_and_the_others_are_divided_by_their_sum():
    left = memory(4).shrunk(weights(0.5, 0.3, 0.15, 0.05))
    assert left.flatten().tolist() == pytest.approx([0.526316, 0.315789, 0.157895, 0], abs=1e-6)
    assert memory(2, shrinkage=0.25).shrunk(weights(0.75, 0.25)).flatten().tolist() == [1, 0]


def test_attention_is_the_softmax_of_the_similarities():
    bank = memory(2, 2)
    with torch.no_grad():
        bank.slots.copy_(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    query = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)  # products 3 and 4, cosines 1 / sqrt(5) and 2 / sqrt(5)
    assert bank.attention(query)[0, 0].item() == pytest.approx(1 / (1 + math.e))
    bank.similarity = "cosine"
    assert bank.attention(query)[0, 0].item() == pytest.approx(1 / (1 + math.exp(10 / 5**0.5)))
    torch.testing.assert_close(bank.attention(100 * query), bank.attention(query))


def test_slots_start_within_one_over_the_root_of_the_channels():
    slots = memory(500, 16).slots
    assert slots.abs().max() <= 0.25
    assert slots.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.02)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_what_comes_out_lies_between_the_slots_whatever_comes_in(similarity):
    bank = memory(similarity=similarity)
    read = bank(queries(scale=10))
    low, high = (bound.values.view(1, 4, 1, 1) for bound in (bank.slots.min(dim=0), bank.slots.max(dim=0)))
    assert read.maps.shape == (3, 4, 5, 2)
    assert (read.maps >= low - 1e-6).all()
    assert (read.maps <= high + 1e-6).all()
    assert (read.weights >= 0).all()
    torch.testing.assert_close(read.weights.sum(dim=1), torch.ones(3, 5, 2))
    expected = torch.einsum("bshw,sc->bchw", read.weights, bank.slots)
    torch.testing.assert_close(read.maps, expected)


def test_a_single_slot_is_all_that_can_be_read():
    bank = memory(1, shrinkage=1.0)
    read = bank(queries())
    torch.testing.assert_close(read.maps, bank.slots.view(1, 4, 1, 1).expand(3, 4, 5, 2))
    assert read.empty == 1


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_order_of_the_slots_does_not_matter(similarity):
    bank, other = (memory(shrinkage=0.15, similarity=similarity) for _ in range(2))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    with torch.no_grad():
        other.slots.copy_(bank.slots[order])
    one, two = bank(queries()), other(queries())
    torch.testing.assert_close(one.maps, two.maps)
    torch.testing.assert_close(one.weights[:, order], two.weights)


def test_a_query_that_nothing_answers_reads_its_largest_slot_and_has_a_gradient():
    bank = memory(shrinkage=0.9)
    asked = queries().requires_grad_()
    read = bank(asked)
    assert read.empty == 1
    assert (read.weights.amax(dim=1) == 1).all()
    assert torch.equal(read.weights.argmax(dim=1), bank.attention(asked).argmax(dim=1))
    (read.maps.square().sum() + entropy(read.weights)).backward()
    for gradient in (asked.grad, bank.slots.grad):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 1e-3


def test_a_query_that_nothing_answers_has_the_gradient_of_its_largest_weight():
    bank, asked = memory(shrinkage=0.9), queries().requires_grad_()
    pull = torch.randn(bank(asked).maps.shape)
    (bank(asked).maps * pull).sum().backward()
    found, asked.grad = asked.grad, None
    largest, best = bank.attention(asked).max(dim=1)
    slots = bank.slots.detach()[best].movedim(-1, 1)  # what each place reads
    ((slots * pull).sum(dim=1) * largest.log()).sum().backward()  # of w / w without the lower one: that of log w
    torch.testing.assert_close(found, asked.grad)


def test_queries_that_are_answered_are_told_which_slots_to_read():
    bank = memory(shrinkage=0.1)
    asked = queries().requires_grad_()
    read = bank(asked)
    assert read.empty == 0
    read.maps[..., 0].sum().backward()
    assert asked.grad[..., 0].any()
    assert not asked.grad[..., 1].any()  # every place reads for itself


def test_blocks_of_a_place_are_places():
    torch.testing.assert_close(memory(block=1)(queries()), memory()(queries()))


def test_a_memory_that_holds_every_block_gives_the_map_back():
    """Cut into blocks, found, and put together again in the same order."""
    maps = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    bank = memory(6, 3, 0.5, similarity="cosine", temperature=0.01, block=2)
    cut = [maps[0, :, y : y + 2, x : x + 2].flatten() for y in (0, 2) for x in (0, 2, 4)]
    with torch.no_grad():
        bank.slots.copy_(torch.stack(cut))
    read = bank(maps)
    torch.testing.assert_close(read.maps, maps)
    assert read.weights.shape == (1, 6, 2, 3)
    assert read.weights.argmax(dim=1).flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_block_as_large_as_the_map_and_one_slot_are_one_image():
    bank = memory(1, 4, 1.0, block=4)
    maps = bank(torch.randn(3, 4, 4, 4)).maps
    assert torch.equal(maps, bank.slots.view(1, 4, 4, 4).expand(3, 4, 4, 4))


def test_entropy_is_that_of_a_query():
    assert entropy(torch.full((2, 4, 3, 3), 0.25)).item() == pytest.approx(1.386294)
    assert entropy(weights(0.0, 1.0, 0.0)).item() == pytest.approx(0, abs=1e-6)
    assert entropy(torch.cat([weights(0.5, 0.5), weights(1.0, 0.0)])).item() == pytest.approx(math.log(2) / 2)


def test_slots_that_some_place_reads_are_counted():
    assert used(weights(0.6, 0.4, 0.0, 0.0)) == 0.5
    assert used(torch.cat([weights(0.6, 0.4, 0.0, 0.0), weights(0.0, 0.4, 0.6, 0.0)])) == 0.75


def test_a_threshold_that_no_cosine_can_pass_is_refused():
    assert largest_weight(2, 1.0) == pytest.approx(1 / (1 + math.exp(-2)))
    said = re.escape("below 7.3 times 1 / 500 for the cosine at a temperature of 1, found 7.5; lower")
    with pytest.raises(UserError, match=f"method.shrinkage: expected .*{said}"):
        memory(500, shrinkage=0.015, similarity="cosine", temperature=1.0)
    memory(500, shrinkage=0.015, similarity="cosine", temperature=0.1)
    memory(500, shrinkage=0.015)


@pytest.mark.parametrize(("slots", "shrinkage"), [(500, 1.0), (500, 2.0), (2, 1.0)])
def test_a_threshold_that_no_weight_of_products_can_pass_is_refused(slots, shrinkage):
    said = re.escape(f"below {slots} times 1 / {slots}, found {slots * shrinkage:.3g}; lower method.shrinkage")
    with pytest.raises(UserError, match=f"method.shrinkage: expected .*{said}$"):
        memory(slots, shrinkage=shrinkage)
    bank = memory(slots, shrinkage=0.999)
    asked = 1e5 * bank.slots[0].detach().sign().view(1, 4, 1, 1)
    assert bank(asked).empty == 0  # some weight passes


def test_the_largest_cosine_weight_is_reached_by_the_slot_itself_among_its_opposites():
    bank = memory(5, 2, 0.0, similarity="cosine", temperature=1.0)
    with torch.no_grad():
        bank.slots.copy_(torch.tensor([[1.0, 1.0], *[[-2.0, -2.0]] * 4]))
    largest = bank.attention(torch.tensor([3.0, 3.0]).view(1, 2, 1, 1)).max()
    assert largest.item() == pytest.approx(largest_weight(5, 1.0))


def test_published_thresholds_leave_random_queries_of_a_plain_cosine_nothing():
    """Directions that have nothing to do with each other: at a threshold of 2 / slots all are empty."""
    bank = memory(500, 64, 2 / 500, similarity="cosine", temperature=1.0)
    assert bank(queries(channels=64)).empty == 1
    bank.temperature = 0.1
    assert bank(queries(channels=64)).empty == 0
