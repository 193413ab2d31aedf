"""The transformation classifier: closed forms of its losses and scores, all copies at once, refused words."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.functional.transformations import combinations, transformed
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.transformation_classifier import TransformationClassifier, diagonal, triplet_loss
from anomaly_lab.networks.projected_rows import ProjectedRows
from anomaly_lab.networks.wide_resnet import WideResNet
from tests.adversarial import configured
from tests.contract import table_of

ADAM = partial(torch.optim.Adam, lr=1e-3)
ALL = ("flip", "shift_x", "shift_y", "turn")


def classifier(kinds=("turn",), **changes):
    torch.manual_seed(0)
    return TransformationClassifier(WideResNet(10, 1, 3), ADAM, WholeImage(), list(kinds), **changes)


def images(count=4, seed=1):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def score(method, given):
    with torch.no_grad():
        return method.eval().predict(given).score


def indifferent(method):
    """One that thinks everything equally likely."""
    torch.nn.init.zeros_(method.head.weight)
    torch.nn.init.zeros_(method.head.bias)
    return method


@pytest.mark.parametrize(("kinds", "guesses"), [(("turn",), 4), (("shift_x", "turn"), 12), (ALL, 72)])
def test_all_are_equally_likely(kinds, guesses):
    method = indifferent(classifier(kinds, score="probability"))
    torch.testing.assert_close(score(method, images()), torch.full((4,), -1 / guesses))
    method = indifferent(classifier(kinds, score="log_probability"))
    torch.testing.assert_close(score(method, images()), torch.full((4,), math.log(guesses)))
    assert method.losses(Batch.of(images()))["loss"].item() == pytest.approx(math.log(guesses), rel=1e-5)


def test_each_kind_alone_adds_its_probability():
    method = indifferent(classifier(("shift_x", "shift_y", "turn"), objective="separate", score="probability"))
    assert method.head.out_features == 3 + 3 + 4
    torch.testing.assert_close(score(method, images()), torch.full((4,), -(1 / 3 + 1 / 3 + 1 / 4)))
    expected = (math.log(3) + math.log(3) + math.log(4)) / 3
    assert method.losses(Batch.of(images()))["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", ["joint", "separate"])
@pytest.mark.parametrize("which", ["probability", "log_probability"])
def test_scores_copy_by_copy(objective, which):
    """Against a loop over images, transformations and heads."""
    kinds = ("flip", "turn")
    method, given = classifier(kinds, objective=objective, score=which).eval(), images(3)
    states = combinations(kinds)
    slow = torch.zeros(3)
    with torch.no_grad():
        for image in range(3):
            for number, state in enumerate(states):
                copy = transformed(given[image : image + 1], kinds, state[None])
                logits = method.head(method.network(copy))[0]
                heads = [(logits, number)]
                if objective == "separate":
                    heads = [(logits[:2], state[0]), (logits[2:], state[1])]
                for guessed, right in heads:
                    probability = guessed.softmax(dim=0)[right]
                    slow[image] -= probability if which == "probability" else probability.log()
    torch.testing.assert_close(score(method, given), slow / len(states), rtol=1e-4, atol=1e-5)


def test_a_dirichlet_distribution_of_ones_says_nothing():
    method = classifier()
    method.alpha.fill_(1)
    assert torch.equal(score(method, images()), torch.zeros(4))


def test_before_the_training_the_right_guess_counts():
    torch.testing.assert_close(score(classifier(), images()), score(classifier(score="log_probability"), images()))


def test_the_likelihood_of_all_guesses():
    method, given = classifier().eval(), images(2)
    method.alpha.copy_(torch.arange(1.0, 17).view(4, 4))
    slow = torch.zeros(2)
    with torch.no_grad():
        for quarters in range(4):
            logs = method.head(method.network(given.rot90(quarters, (2, 3)))).log_softmax(dim=1)
            slow -= ((method.alpha[quarters] - 1) * logs).sum(dim=1) / 4
    torch.testing.assert_close(score(method, given), slow)


def test_impossible_guesses_count_as_a_little_possible():
    method = indifferent(classifier(score="log_probability"))
    with torch.no_grad():
        method.head.bias.copy_(torch.tensor([100.0, 0, 0, 0]))
    torch.testing.assert_close(score(method, images()), torch.full((4,), -3 / 4 * math.log(1e-12)))


def test_the_training_images_decide_the_distribution_and_the_centres():
    method, given = classifier().eval(), images(40)
    with torch.no_grad():
        method.conclude([Batch.of(given[:20]), Batch.of(given[20:])])
        features = torch.stack([method.network(given.rot90(quarters, (2, 3))) for quarters in range(4)])
        logs = method.head(features).log_softmax(dim=2)
    torch.testing.assert_close(method.centres, features.mean(dim=1))
    # the gradient of the likelihood is zero: the means of the logarithms are those of the distribution
    expected = torch.digamma(method.alpha) - torch.digamma(method.alpha.sum(dim=1, keepdim=True))
    torch.testing.assert_close(expected, logs.mean(dim=1), rtol=1e-4, atol=1e-4)


def test_distances_to_the_centres():
    """Squared distances 0 and 1: the right guess has probability .731059."""
    method, given = classifier(("flip",), score="distance").eval(), images(1)
    with torch.no_grad():
        method.centres.copy_(torch.cat([method.network(given), method.network(given.flip(3))]))
        between = (method.centres[0] - method.centres[1]).norm()
        for weight in (method.network.layers[-2].weight, method.network.layers[-2].bias):  # features of any size
            weight /= between
        method.centres /= between
    torch.testing.assert_close(score(method, given), torch.tensor([0.313262]), rtol=1e-4, atol=0)


def test_the_triplet_loss():
    assert triplet_loss(torch.ones(3, 2, 5), 0.1) == pytest.approx(0.1)  # all alike: the margin
    far = torch.tensor([0.0, 10.0])[:, None, None].expand(2, 3, 4)
    assert triplet_loss(far, 1.0) == 0
    features = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    terms = []
    for own in range(3):
        for vector in features[own]:
            squares = [(vector - features[other].mean(dim=0)).square().sum() for other in range(3)]
            terms.append((squares[own] + 0.5 - min(squares[:own] + squares[own + 1 :])).clamp_min(0))
    torch.testing.assert_close(triplet_loss(features, 0.5), torch.stack(terms).mean())
    assert diagonal(torch.arange(8.0).view(2, 2, 2)).tolist() == [2.5, 4.5]


def test_the_sum_of_goad():
    method, given = classifier(objective="triplet", score="distance", norm_weight=10.0), images()
    losses = method.losses(Batch.of(given))
    parts = losses["entropy"] + losses["triplet"] + losses["norm"]
    torch.testing.assert_close(losses["loss"], parts)
    copies = torch.cat([given.rot90(quarters, (2, 3)) for quarters in range(4)])
    features = method.network(copies)  # in training mode: one batch of all copies
    torch.testing.assert_close(losses["norm"], 10 * features.square().mean())
    labels = torch.arange(4).repeat_interleave(4)
    torch.testing.assert_close(losses["entropy"], functional.cross_entropy(method.head(features), labels))


def test_some_copies_are_drawn_by_row_and_epoch():
    method = classifier(ALL, copies=2)
    shown = []
    method.features = lambda images, drawn: (shown.append(drawn), classifier(ALL).features(images, drawn))[1]
    for rows in ([0, 1, 2, 3], [0, 1, 2, 3], [3, 1, 0, 2]):
        method.losses(Batch.of(images())._replace(row=torch.tensor(rows)))
    assert shown[0].shape == (2, 4)
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[2], shown[0][:, [3, 1, 0, 2]])
    assert (shown[0][0] != shown[0][1]).all()  # of an image, different ones


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"kinds": ("turn", "turn")}, r"method.kinds: expected each of flip, shift_x, shift_y, turn once at most"),
        ({"objective": "separate", "score": "dirichlet"}, r"method.score: expected probability, log_probability or"),
        ({"copies": 5}, r"method.copies: expected 1 to 4, found 5"),
        ({"copies": 2, "objective": "triplet"}, r"method.copies: expected null with method.objective=triplet, found 2"),
    ],
)
def test_words_that_do_not_go_together(words, message):
    with pytest.raises(UserError, match=message):
        classifier(**words)


def test_one_image_has_no_distribution():
    with (
        pytest.raises(UserError, match="expected two training images at least, for a distribution, found 1"),
        torch.no_grad(),
    ):
        classifier().eval().conclude([Batch.of(images(1))])


def of_rows(**options):
    torch.manual_seed(0)
    network = ProjectedRows(channels=5, count=4, size=6, features=8, hidden=1)
    return TransformationClassifier(None, ADAM, WholeImage(), ["turn"], projections=network, **options)


def test_rows_are_judged_by_the_means_of_all_projections():
    """GOAD on tables, one row and one projection after the other; the authors add where the mean is taken here."""
    method, rows = of_rows(objective="triplet", score="distance", margin=1.0).eval(), torch.randn(9, 5, 1, 1) * 3
    method.prepare([Batch.of(rows)])
    method.conclude([Batch.of(rows[:4]), Batch.of(rows[4:])])
    features = method.network(rows)
    means = features.mean(dim=1)
    torch.testing.assert_close(method.centres, means)
    expected = []
    for row in range(9):
        parts = []
        for number in range(4):
            squares = torch.stack([(features[number, row] - mean).square().sum() for mean in means])
            parts.append(-torch.log_softmax(-squares, 0)[number])
        expected.append(torch.stack(parts).mean())
    torch.testing.assert_close(method.predict(rows).score, torch.stack(expected), rtol=1e-4, atol=1e-5)
    losses = method.losses(Batch.of(rows))
    logits = method.head(features.flatten(0, 1))
    torch.testing.assert_close(
        losses["entropy"], functional.cross_entropy(logits, torch.arange(4).repeat_interleave(9))
    )
    torch.testing.assert_close(losses["triplet"], 0.1 * triplet_loss(features, 1.0))
    assert method.embed(rows).shape == (9, 8)


def test_without_a_hidden_layer_all_means_would_be_zero(tmp_path):
    """Features that are linear in rows of mean zero; so the networks of the authors' small tables are not here."""
    network = ProjectedRows(channels=5, count=4, size=6, features=8, hidden=1)
    network.network = network.network[:1]
    rows = torch.randn(50, 5, 1, 1) * 3 + 2
    network.standardise.learn([rows])
    assert network(rows).mean(dim=1).abs().max() < 1e-4
    with pytest.raises(UserError, match="method.projections.hidden: expected a number greater than 0, found 0"):
        configured(
            "experiment=goad_table", "data=table", f"data.root={table_of(tmp_path)}", "method.projections.hidden=0"
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"objective": "separate", "score": "distance"},
            "method.objective: expected joint or triplet with",
        ),
        ({"copies": 2}, "method.copies: expected null with method.projections"),
    ],
)
def test_what_rows_cannot_have_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        of_rows(**words)


def test_both_networks_or_none_are_refused():
    rows, photos = ProjectedRows(5, 4, 6, 8), WideResNet(10, 1, 3)
    for network, projections, found in ((None, None, "neither"), (photos, rows, "both")):
        with pytest.raises(UserError, match=f"method.network: expected .* found {found}"):
            TransformationClassifier(network, ADAM, WholeImage(), ["turn"], projections=projections)


@pytest.mark.parametrize(
    ("copies", "objective"), [(None, "joint"), (2, "joint"), (None, "separate"), (None, "triplet")]
)
def test_one_image_is_learnt_from_by_its_copies(copies, objective):
    """Which is why a batch of one is not refused: `copies` images pass the batch norms together."""
    method, seen = classifier(copies=copies, objective=objective, score="probability"), []
    method.network.register_forward_pre_hook(lambda network, given: seen.append(len(given[0])))
    method.losses(Batch.of(images(1)))["loss"].backward()
    assert seen == [method.copies] == [copies or 4]
    assert all(weight.grad.abs().sum() > 0 for weight in method.network.parameters())
