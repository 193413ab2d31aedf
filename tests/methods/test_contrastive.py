"""Contrastive networks: the loss in closed form, scores against slow ones, refused words, all processes' images."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.svm import OneClassSVM
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.functional.views import Views
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.contrastive import Contrastive, nt_xent
from anomaly_lab.networks.resnet import ResNet18

ADAM = partial(torch.optim.Adam, lr=1e-3)


def contrastive(score="csi", turns=True, guess=True, **changes):
    torch.manual_seed(0)
    views = Views(crop=0.2, jitter=0.4, hue=0.1, gray=0.2)
    words = {"projection": [16, 8], "temperature": 0.5} | changes
    return Contrastive(ResNet18(2, 3), ADAM, WholeImage(), views, turns=turns, guess=guess, score=score, **words)


def images(count=4, seed=1):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def concluded(method, given):
    method.eval()
    half = len(given) // 2
    with torch.no_grad():
        method.conclude([Batch.of(given[:half]), Batch.of(given[half:])])
    return method


def score(method, given):
    with torch.no_grad():
        return method.predict(given).score


def test_two_orthogonal_pairs():
    pairs = torch.eye(2)
    assert nt_xent(pairs, 3 * pairs, 0.5).item() == pytest.approx(0.239545, abs=1e-6)


@pytest.mark.parametrize("count", [2, 5])
def test_vectors_that_are_all_alike(count):
    same = torch.ones(count, 3)
    assert nt_xent(same, same, 0.2).item() == pytest.approx(math.log(2 * count - 1), abs=1e-5)


def test_the_loss_pair_by_pair():
    first, second = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    vectors = [vector / vector.norm() for vector in (*first, *second)]
    terms = []
    for i, vector in enumerate(vectors):
        similar = [(vector @ other / 0.3).exp() for j, other in enumerate(vectors) if j != i]  # never itself
        terms.append(-((vector @ vectors[(i + 5) % 10] / 0.3).exp() / sum(similar)).log())
    torch.testing.assert_close(nt_xent(first, second, 0.3), torch.stack(terms).mean())


def test_turns_are_images_of_their_own_and_are_told_apart():
    method, given = contrastive(), images(3)
    seen = []
    method.network.register_forward_hook(lambda _, arguments, features: seen.append((arguments[0], features)))
    losses = method.losses(Batch.of(given))
    ((shown, features),) = seen
    assert shown.shape == (2 * 4 * 3, 3, 16, 16)  # one batch
    one, other = shown.chunk(2)
    assert (one - other).abs().amax(dim=(1, 2, 3)).min() > 0.01  # two views
    torch.testing.assert_close(losses["loss"], losses["similarity"] + losses["turn"])
    first, second = method.projection(features).chunk(2)
    torch.testing.assert_close(losses["similarity"], nt_xent(first, second, 0.5))
    turn = torch.tensor([0] * 3 + [1] * 3 + [2] * 3 + [3] * 3).repeat(2)
    torch.testing.assert_close(losses["turn"], functional.cross_entropy(method.turn(features), turn))
    assert set(contrastive("kde", turns=False, guess=False).losses(Batch.of(given))) == {"loss"}


def test_turns_are_quarters_of_a_turn():
    turned = contrastive().turned(images(2))
    for number in range(4):
        assert torch.equal(turned[2 * number : 2 * number + 2], images(2).rot90(number, (2, 3)))


def test_every_turn_of_an_image_has_a_view_of_its_own():
    """Turns of an image of one colour are the same; their views are not."""
    method, given = contrastive(), torch.full((1, 3, 16, 16), 0.5) * torch.tensor([1.2, 0.8, 1.0]).view(1, 3, 1, 1)
    views = method.view(given, torch.tensor([3])).mean(dim=(2, 3))
    assert torch.cdist(views, views).fill_diagonal_(1).min() > 1e-3


def test_views_follow_from_epoch_and_row(monkeypatch):
    method, given, seen = contrastive(), Batch.of(images(3))._replace(row=torch.arange(3)), []
    method.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    for batch in (given, given, given._replace(row=torch.tensor([3, 4, 5]))):
        method.losses(batch)
    monkeypatch.setattr(Contrastive, "current_epoch", 1)
    method.losses(given)
    first, again, *others = seen
    assert torch.equal(first, again)
    for other in others:
        assert (other - first).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_the_csi_score_image_by_image():
    method, known, given = contrastive(), images(6), images(3, seed=2)
    concluded(method, known)
    slow = torch.zeros(3)
    with torch.no_grad():
        for number in range(4):
            features = [method.network(part.rot90(number, (2, 3))) for part in (known, given)]
            (old, new), (old_logit, new_logit) = (
                [layer(part) for part in features] for layer in (method.projection, method.turn)
            )
            for i in range(3):
                cosine = max(functional.cosine_similarity(new[i], row, dim=0) for row in old)
                slow[i] -= cosine * new[i].norm() / old.norm(dim=1).mean() / 4
                slow[i] -= new_logit[i, number] / old_logit[:, number].mean() / 4
    torch.testing.assert_close(score(method, given), slow, rtol=1e-4, atol=1e-5)


def test_a_training_image_is_as_near_as_can_be():
    method, known = contrastive(), images(6)
    concluded(method, known)
    with torch.no_grad():
        projections, _ = method.judged(known)
    cosines = functional.normalize(projections, dim=2) @ method.known.mT
    torch.testing.assert_close(cosines.amax(dim=2), torch.ones(4, 6))


def test_draws_are_the_same_for_every_image_and_every_call():
    method = concluded(contrastive(draws=3), images(6))
    given = images(3, seed=2)
    torch.testing.assert_close(score(method, given)[1:2], score(method, given[1:2]))
    assert torch.equal(score(method, given), score(method, given))
    plain = concluded(contrastive(), images(6))
    assert not torch.allclose(score(plain, given), score(method, given), rtol=1e-3)
    assert "3 random views" in method.export_obstacle
    areas, view = [], method.view
    method.view = lambda shown, keys, area=None: areas.append(area) or view(shown, keys, area)
    score(method, given)
    assert areas == [0.54] * 3
    assert plain.export_obstacle is None


def test_the_distance_is_that_of_scikit_learn():
    method, known, given = contrastive("mahalanobis"), images(20), images(3, seed=2)
    concluded(method, known)
    with torch.no_grad():
        old, new = (functional.normalize(method.network(part), dim=1).double().numpy() for part in (known, given))
    spread = old.std(axis=0)
    expected = LedoitWolf().fit(old / spread).mahalanobis(new / spread)
    np.testing.assert_allclose(score(method, given), expected, rtol=1e-3)


def test_a_density_and_a_support_vector_machine():
    known, given = images(20), images(3, seed=2)
    density, machine = concluded(contrastive("kde"), known), concluded(contrastive("ocsvm"), known)
    with torch.no_grad():
        old, new = (functional.normalize(density.network(part), dim=1).double().numpy() for part in (known, given))
    gamma = 10 / (old.var() * old.shape[1])
    distances = ((new[:, None] - old) ** 2).sum(axis=2)
    np.testing.assert_allclose(score(density, given), -np.log(np.exp(-gamma * distances).sum(axis=1)), rtol=1e-3)
    expected = -OneClassSVM(gamma=gamma).fit(old).decision_function(new)
    np.testing.assert_allclose(score(machine, given), expected, rtol=1e-3, atol=1e-4)
    assert machine.known.shape[1] <= 20


def test_what_is_known_is_in_the_checkpoint():
    method = concluded(contrastive("ocsvm"), images(12))
    other = contrastive("ocsvm").eval()
    other.load_state_dict(method.state_dict())
    assert torch.equal(score(other, images(2)), score(method, images(2)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"turns": False}, "method.guess: expected false with method.turns=false, found true"),
        ({"guess": False}, "method.score: expected mahalanobis, kde or ocsvm with method.guess=false, found csi"),
    ],
)
def test_words_that_do_not_go_together(words, message):
    with pytest.raises(UserError, match=message):
        contrastive(**words)


def test_a_feature_that_never_varied_does_not_decide_alone():
    method, known = contrastive("mahalanobis"), images(20)
    vectors = method.vectors
    method.vectors = lambda shown: (
        vectors(shown) * (torch.arange(16) != 3) + 1e-3 * (shown.mean() > 0.6) * (torch.arange(16) == 3)
    )
    concluded(method, known)
    usual, odd = score(method, known), score(method, 0.5 + known / 2)
    assert odd.isfinite().all()
    assert odd.median() < 1e6 * usual.median()


@pytest.mark.parametrize(("turns", "copies"), [(True, 4), (False, 1)])
def test_one_image_is_learnt_from_by_its_turns_and_not_without(turns, copies):
    """Two views of one image are compared with nothing else: a loss of zero, without a gradient."""
    method = contrastive("kde", turns=turns, guess=False)
    loss = method.losses(Batch.of(images(1)))["loss"]
    loss.backward()
    moved = max(weight.grad.abs().max().item() for weight in method.network.parameters())
    assert method.copies == copies
    assert (loss.item() > 0.01) == (moved > 1e-6) == turns
