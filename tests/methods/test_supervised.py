"""The supervised baseline: weights of both kinds, odds, the network of the slides, folds from the command's words."""

from functools import partial

import pytest
import torch
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.supervised import Supervised
from tests.adversarial import configured

ADAM = partial(torch.optim.Adam, lr=1e-3)


def supervised(**changes):
    torch.manual_seed(0)
    return Supervised(WholeImage(), ADAM, 200, 1, **changes)


def batch(labels):
    images = torch.rand(len(labels), 1, 200, 200, generator=torch.Generator().manual_seed(1))
    return Batch.of(images)._replace(label=torch.tensor(labels))


def test_both_kinds_weigh_the_same():
    method, given = supervised(), batch([0, 0, 0, 1])
    costs = functional.cross_entropy(method.head(method.embed(given.image)), given.label, reduction="none")
    expected = (costs[:3].mean() + costs[3]) / 2
    torch.testing.assert_close(method.losses(given)["loss"], expected)
    assert method.seen.tolist() == [3, 1]
    torch.testing.assert_close(supervised(balanced=False).losses(given)["loss"], costs.mean())


def test_weights_are_those_of_all_photos_so_far_and_held_out_photos_do_not_count():
    method = supervised()
    method.losses(batch([0, 0, 0, 0]))
    given = batch([0, 1])
    costs = functional.cross_entropy(method.head(method.embed(given.image)), given.label, reduction="none")
    loss = method.losses(given)["loss"]
    torch.testing.assert_close(loss, (costs * torch.tensor([6 / 10, 6 / 2])).mean())
    assert method.seen.tolist() == [5, 1]
    method.eval().losses(batch([0, 0]))
    assert method.seen.tolist() == [5, 1]


def test_the_score_is_the_logarithm_of_the_odds():
    method, given = supervised().eval(), batch([0, 1, 0])
    with torch.no_grad():
        prediction = method.predict(given.image)
        probability = method.head(method.embed(given.image)).softmax(dim=1)
    torch.testing.assert_close(prediction.score, (probability[:, 1] / probability[:, 0]).log())
    assert prediction.anomaly_map.shape == (3, 1, 1, 1)
    assert method.losses(given)["accuracy"] == ((prediction.score > 0) == (given.label == 1)).float().mean()


def test_it_learns_to_tell_them_apart():
    method = supervised()
    given = batch([0, 1] * 4)
    images = given.image.clone()
    images[1::2, :, 60:120, 60:120] = 1
    given = given._replace(image=images)
    optimizer = ADAM(method.parameters())
    for _ in range(40):
        loss = method.losses(given)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        score = method.eval().predict(images).score
    assert score[1::2].min() > 0 > score[::2].max()


def test_photos_that_are_too_small_for_the_network_of_the_slides():
    with pytest.raises(
        UserError, match="data.image_size: expected at least 200 px with method.backbone=null, found 128"
    ):
        Supervised(WholeImage(), ADAM, 128, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=supervised", "data.fold=null"], "data.fold: expected the number of a fold, 0 to 4, because"),
        (["method=cae", "data.fold=1"], "learns from good photos alone, found 1; method=supervised learns from both"),
        (["method=supervised", "data.kind=texture"], "data.kind: expected object with method=supervised"),
        (["method=supervised", "data.labelled_abnormal=3"], "expected none with method=supervised"),
    ],
)
def test_folds_are_for_methods_that_learn_from_both_kinds(words, message):
    with pytest.raises(UserError, match=message):
        configured(*words, "data=folder", "data.root=x")
