"""HTDG by closed forms: transformations, votes, losses, noise of photos, scales; what five photos teach it."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.functional.transformations import transformed
from anomaly_lab.methods.base.tiling import SlidingWindow
from anomaly_lab.methods.htdg import HTDG, chosen
from tests.adversarial import COMMON, Losses, Patches, configured, fit
from tests.contract import bars

ALL = ["flip", "shift_x", "shift_y", "turn"]


def htdg(**changes):
    """One of two scales, 16 and 32 px."""
    torch.manual_seed(0)
    small = {"image_size": 32, "channels": 3, "kinds": ["turn"], "coarsest": 16, "scales": 2, "width": 4}
    return HTDG(**COMMON | small | changes)


def random():
    return torch.Generator().manual_seed(0)


def images(count=3, seed=0):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def indifferent(method):
    """One whose discriminators think everything equally likely."""
    for network in method.discriminators:
        nn.init.zeros_(network[-1].weight)
        nn.init.zeros_(network[-1].bias)
    return method


def predicted(method, given):
    with torch.no_grad():
        return method.eval().predict(given)


# Transformations.


def test_of_the_combinations_there_are_those_of_the_authors():
    """As they list them: gray, flip, shifts of -1, 0 and 1, turns."""
    both, turns, still = (0, 1), range(4), (0,)
    parts = [
        product(still, both, (-1, 1, 0), (-1,), still), product(still, both, both, both, turns),
        product((1,), both, still, still, turns), product(still, both, (-1,), (1, 0), still),
        product((1,), still, (1, -1), still, still), product((1,), still, still, (1, -1), still),
    ]  # fmt: skip
    expected = [each for part in parts for each in part]
    assert len(expected) == len(set(expected)) == 54
    sign = (0, -1, 1)
    states, grays = chosen(ALL, True)
    found = {
        (int(gray), flip, sign[x], sign[y], turn)
        for (flip, x, y, turn), gray in zip(states.tolist(), grays.tolist(), strict=True)
    }
    assert len(states) == 54
    assert found == set(expected)
    states, grays = chosen(ALL, False)
    assert len(states) == 42
    assert not grays.any()
    assert len(chosen(["turn"], False)[0]) == 4


def test_the_copies_differ_and_the_first_is_the_image():
    method, given = htdg(kinds=ALL, gray=True), images(2)
    copies = method.transformed(given)
    assert len(torch.unique(copies.unflatten(0, (54, 2))[:, 0], dim=0)) == 54
    assert torch.equal(copies[:2], given)
    shifted = copies.unflatten(0, (54, 2))[method.states[:, 1].tolist().index(2), 0]
    assert torch.equal(shifted[:, :, 4:], given[0, :, :, :-4])  # 15 % of 32 px, in whole pixels
    gray = copies.unflatten(0, (54, 2))[-12:]
    assert torch.equal(gray[:, :, 0], gray[:, :, 2])
    flat = torch.full((1, 3, 32, 32), 0.25)
    torch.testing.assert_close(method.transformed(flat), flat.expand(54, -1, -1, -1))


@pytest.mark.parametrize("kinds", [["turn"], ["flip", "turn"], ALL])
def test_what_is_placed_back_lies_where_it_was(kinds):
    """The border is what was next to it, so it is left out, and so is what a shift pushed over an edge."""
    method, plane = htdg(kinds=kinds), images(2)[:, :1]
    states = method.states.repeat_interleave(2, dim=0)
    copies = transformed(plane.repeat(method.copies, 1, 1, 1), kinds, states, 0.15).unflatten(0, (-1, 2))[:, :, 0]
    back = method.placed_back(copies[..., 5:-5, 5:-5])
    assert back.shape == plane.shape
    edge = 5 if "shift_x" not in kinds else 5 + 4
    torch.testing.assert_close(back[..., edge:-edge, edge:-edge], plane[..., edge:-edge, edge:-edge])


# Votes.


@pytest.mark.parametrize(
    ("kinds", "gray", "worst", "count"), [(["turn"], False, 1.0, 4), (["turn"], True, 0.1, 8), (ALL, False, 1.0, 42)]
)
def test_equal_guesses_add_up_to_one(kinds, gray, worst, count):
    method = indifferent(htdg(kinds=kinds, gray=gray, worst=worst))
    prediction = predicted(method, images())
    torch.testing.assert_close(prediction.score, torch.full((3,), -1.0))
    torch.testing.assert_close(prediction.anomaly_map, torch.full((3, 1, 32, 32), 1 - 1 / count))
    discriminator, *_ = turns_of(method, images())
    assert discriminator.loss.item() == pytest.approx(2 * math.log(count + 1), rel=1e-5)


@pytest.mark.parametrize("worst", [1.0, 0.1])
def test_votes_patch_by_patch(worst):
    method, given = htdg(kinds=["flip", "turn"], worst=worst).eval(), images(2)
    slow = torch.zeros(2, 2)
    with torch.no_grad():
        for scale, side in enumerate((16, 32)):
            small = nn.functional.interpolate(2 * given - 1, (side, side), mode="bicubic", antialias=True)
            for image, number in product(range(2), range(8)):
                copy = small[image].rot90(number % 4, (1, 2)) if number < 4 else small[image].flip(2)
                copy = copy.rot90(number % 4, (1, 2)) if number >= 4 else copy
                logits = method.discriminators[scale](copy[None])[0, :-1]  # that it was made counts not
                values = logits.softmax(dim=0)[number].flatten().sort().values
                slow[scale, image] += values[: int(len(values) * worst)].mean()
    torch.testing.assert_close(predicted(method, given).score, -slow.mean(dim=0))


def test_that_an_image_was_made_is_no_vote():
    method, given = htdg(), images()
    before = predicted(method, given).score
    for network in method.discriminators:
        network[-1].bias.data[-1] += 100
    assert torch.equal(predicted(method, given).score, before)


def test_votes_are_scaled_by_the_training_images_alone():
    method, training, test = htdg(normalise=True).eval(), images(4), images(5, seed=1)
    plain = htdg().eval()
    with torch.no_grad():
        method.conclude([Batch.of(training[:3]), Batch.of(training[3:])])
        of_training, of_test = (
            torch.stack([plain.votes(plain.guesses(2 * some - 1, scale)) for scale in range(2)])
            for some in (training, test)
        )
    low, high = of_training.amin(dim=1, keepdim=True), of_training.amax(dim=1, keepdim=True)
    torch.testing.assert_close(method.low, low)
    torch.testing.assert_close(method.high, high)
    expected = -((of_test - low) / (high - low)).mean(dim=0)
    torch.testing.assert_close(predicted(method, test).score, expected, rtol=1e-4, atol=1e-4)
    alone = predicted(method, test[:1]).score
    torch.testing.assert_close(alone, expected[:1], rtol=1e-4, atol=1e-4)  # no other test image matters
    with torch.no_grad():
        method.conclude([Batch.of(training[:1])])  # one photo has no range
    torch.testing.assert_close(predicted(method, training[:1]).score, torch.zeros(1))


# Training.


def turns_of(method, given, stage=0):
    method.photos = torch.arange(len(given))
    return list(method.turns(2 * given - 1, stage, 0, random()))


def test_losses_by_hand():
    """Nothing steps here, so all turns see the same networks."""
    method, given = htdg(reconstruction_weight=7.0, steps=2).train(), 2 * images() - 1
    first, second, generator, again = turns_of(method, images(), stage=1)
    assert [turn.name for turn in (first, second, generator, again)] == ["discriminator"] * 2 + ["generator"] * 2
    torch.testing.assert_close(generator.loss, again.loss)
    (coarse, fine), discriminator = method.generators, method.discriminators[1]
    right = torch.arange(4).repeat_interleave(3)

    def entropy(some, label):
        logits = discriminator(torch.cat([some.rot90(quarters, (2, 3)) for quarters in range(4)]))
        return cross_entropy(logits, label[:, None, None].expand(-1, 22, 22))

    def made_of(finer, coarser):
        below = coarse(torch.zeros(3, 3, 16, 16), coarser.expand(3, 3, 16, 16))
        before = nn.functional.interpolate(below, (32, 32), mode="bicubic", antialias=True)
        return fine(before, before + 0.1 * finer)

    drawing = random()
    coarse.eval()
    for turn in (first, second):  # each with noise of its own, at the coarsest scale the same in all channels
        finer = torch.randn(3, 3, 32, 32, generator=drawing)
        made = made_of(finer, torch.randn(3, 1, 16, 16, generator=drawing))
        real, fake = entropy(given, right), entropy(made, torch.full((12,), 4))
        torch.testing.assert_close(turn.parts, {"real": real, "fake": fake})
        torch.testing.assert_close(turn.loss, real + fake)
    noise = method.fixed(torch.arange(3))
    passes, rebuilt = entropy(made, right), (made_of(noise(1), noise(0)) - given).square().mean()
    torch.testing.assert_close(generator.parts, {"adversarial": passes, "reconstruction": rebuilt})
    torch.testing.assert_close(generator.loss, passes + 7 * rebuilt)
    with torch.no_grad():
        held_out = method.eval().validation_losses(given, 1, random())["loss"]
        torch.testing.assert_close(held_out, entropy(given, right))


def test_a_turn_changes_the_networks_of_its_own_scale_alone():
    method = htdg(steps=1).train()
    method.photos = torch.arange(3)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    turns = method.turns(2 * images() - 1, 1, 0, random())
    for name, own in (("discriminator", "discriminators.1"), ("generator", "generators.1")):
        turn = next(turns)
        assert turn.name == name
        turn.loss.backward(inputs=list(method.networks()[name].parameters()))
        method.optimizer(method.networks()[name].parameters()).step()
        method.zero_grad()
        now = {key: value.clone() for key, value in method.state_dict().items()}
        changed = {key for key in now if "num_batches" not in key and not now[key].equal(state[key])}
        assert {".".join(key.split(".")[:2]) for key in changed} == {own}
        state = now


def test_a_photo_has_a_noise_of_its_own():
    method = htdg()
    noise = method.fixed(torch.tensor([3, 7]))
    assert noise(0).shape == (2, 1, 16, 16)
    torch.testing.assert_close(method.fixed(torch.tensor([7]))(0), noise(0)[1:])
    every = torch.cat(
        [
            noise(0).flatten(1),
            noise(1).flatten(1)[:, :256],
            htdg(seed=1).fixed(torch.tensor([3]))(0)[:, 0].flatten(1).repeat(2, 1),
        ]
    )
    assert len(torch.unique(every[:, 0])) == 5
    assert noise(1).std().item() == pytest.approx(1, abs=0.1)


def test_a_scale_starts_from_the_one_below():
    """And its noise is a part of what that leaves to be made, over all training photos."""
    method = htdg(scales=6, width=2, noise=0.3)
    assert method.widths == [2, 2, 2, 2, 4, 4]
    assert htdg(scales=13, image_size=64, width=64).widths == [64] * 4 + [128] * 9
    photos = torch.rand(4, 3, 32, 32, generator=random())
    method.training_images = lambda: iter(
        [Batch.of(photos[:3]), Batch.of(photos[3:])._replace(index=torch.tensor([3]))]
    )
    for weight in method.parameters():
        nn.init.normal_(weight, 0.0, 0.2)
    differing = []
    for scale in range(1, 6):
        method.start(scale)
        pair = [method.discriminators[each].state_dict() for each in (scale - 1, scale)]
        differing.append(any(not torch.equal(value, pair[1][key]) for key, value in pair[0].items()))
    assert differing == [False, False, False, True, False]
    with torch.no_grad():
        before, _ = method.eval().inputs(5, method.fixed(torch.arange(4)))
    torch.testing.assert_close(method.strengths[5], 0.3 * (2 * photos - 1 - before).abs().mean())
    assert method.strengths[0] == 1


def test_epochs_are_shared():
    method = htdg()
    for epochs, ends in ((2, (1, 2)), (5, (2, 5)), (10, (5, 10))):
        method._trainer = type("Trainer", (), {"max_epochs": epochs})
        assert method.stage_ends() == ends
    method.check_training(2, painted=False)
    with pytest.raises(UserError, match=r"budget.epochs: expected at least 2, one for each of method.scales, found 1"):
        method.check_training(1, painted=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"image_size": 15}, r"data.patch_size: expected at least 16 px, the coarsest scale .*, found 15 px"),
        ({"scales": 18}, r"method.scales: expected fewer, so that all sides from 16 px .* to 32 px differ, found 18"),
        (
            {"image_size": 16},
            r"method.scales: expected fewer, so that all sides from 16 px .* to 16 px differ, found 2",
        ),
        ({"kinds": ["turn", "turn"]}, r"method.kinds: expected each of flip, shift_x, shift_y, turn once at most"),
        ({"channels": 1, "gray": True}, r"method.gray: expected false for gray images"),
        ({"tiling": SlidingWindow(32, 32)}, r"data.kind: expected object with method=htdg, .* found texture"),
    ],
)
def test_what_has_no_sense_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        htdg(**words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method.kinds=[turn,spin]", "method.kinds: expected 'flip', 'shift_x', 'shift_y' or 'turn', found"),
        ("method.coarsest=10", "method.coarsest: expected a number greater than or equal to 11, found 10"),
    ],
)
def test_words_of_the_command_line_are_checked(word, message):
    with pytest.raises(UserError, match=message):
        configured("method=htdg", "data=folder", "data.root=x", word)


class Photos(Patches):
    """The same few photos in every batch."""

    def images(self, number):
        return bars(self.batch_size, 0, self.side, self.channels)


def trained(folder, photos, steps, **changes):
    """A method that has seen them, at both scales, in so many steps of each network."""
    method, losses = (
        htdg(optimizer=partial(torch.optim.Adam, lr=1e-2, betas=(0.5, 0.999)), steps=2, **changes),
        Losses(),
    )
    method.training_images = lambda: Photos(1, photos)
    fit(method, folder, 2, Photos(steps // 2, photos), Photos(1), callbacks=(losses,))
    return method.eval(), losses


def test_five_photos_teach_it_what_is_like_them(tmp_path):
    """An untrained method finds defects no better than by chance, and its generators know no photo."""
    method, losses = trained(tmp_path, 5, 8)
    photos, normal, defective = bars(5, 0, 32), bars(20, 100, 32), bars(20, 100, 32, defective=True)
    shares, differences = [], []
    for each in (htdg(), method):
        scores = [predicted(each, some).score for some in (normal, defective)]
        shares.append((scores[1][:, None] > scores[0]).float().mean())
        with torch.no_grad():
            rebuilt = each.generated(1, each.fixed(torch.arange(5)))
        differences.append((rebuilt - (2 * photos - 1)).square().mean())
    assert shares[0] < 0.5 < 0.65 < shares[1]
    assert differences[1] < 0.75 * differences[0]
    assert {"discriminator/real", "discriminator/fake", "generator/adversarial", "validation/loss"} <= set(losses.last)
    assert {"seconds/scale_of_16_px", "seconds/scale_of_32_px"} <= set(losses.last)
    made = method.samples(images(2))
    assert made.shape == (2, 3, 32, 32)
    assert 0 <= made.min() < made.max() <= 1


def test_one_photo_is_enough(tmp_path):
    """A batch of one, of whose copies batch norm learns, and no range to scale votes by."""
    method, losses = trained(tmp_path, 1, 2, normalise=True)
    assert math.isfinite(losses.last["train/loss_epoch"])
    assert predicted(method, images(2)).score.isfinite().all()
