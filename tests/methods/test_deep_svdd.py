"""Deep SVDD and Deep SAD: both stages, the centre that stays, the radius, labelled images."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage
from anomaly_lab.methods.deep_svdd import DeepSVDD
from tests.adversarial import Losses, Patches, fit, two_processes
from tests.contract import bars


def deep_svdd(image_size=32, channels=3, tiling=None, **changes):
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=1e-3)
    options = {"pretraining_optimizer": adam, "optimizer": adam, "tiling": tiling or WholeImage()} | changes
    method = DeepSVDD(image_size, channels, **options)
    method.training_images = lambda: [Batch.of(images(3)), Batch.of(images(2, seed=1))]
    return method


def images(count=4, seed=0, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


class Epochs(Losses):
    """Keeps of every step the centre, the radius, the distances and the weights of both networks."""

    def __init__(self):
        super().__init__()
        self.centres, self.radii, self.decoders, self.encoders = [], [], [], []

    def on_train_batch_end(self, trainer, method, *rest):
        super().on_train_batch_end(trainer, method, *rest)
        self.centres.append(method.centre.clone())
        self.radii.append(method.radius.item())
        self.decoders.append(next(method.decoder.parameters()).detach().clone())
        self.encoders.append(next(method.encoder.parameters()).detach().clone())


def trained(tmp_path, epochs, **changes):
    method, seen = deep_svdd(**changes), Epochs()
    fit(method, tmp_path, epochs, Patches(2), callbacks=(seen,))
    return method, seen


def same(tensors):
    return all(torch.equal(tensors[0], other) for other in tensors)


def test_the_encoder_learns_in_both_stages_the_decoder_in_the_first_and_the_centre_stays(tmp_path):
    method, seen = trained(tmp_path, 4)
    assert len(seen.steps) == 8
    assert not torch.stack(seen.centres[:4]).any()
    assert same(seen.centres[4:])
    assert same(seen.decoders[3:])
    for before, after in zip(seen.encoders, seen.encoders[1:], strict=False):
        assert not torch.equal(before, after)
    assert not torch.equal(seen.decoders[0], seen.decoders[3])
    assert (method.centre.abs() >= 0.1).all()
    method.conclude(method.training_images())  # as a run does after the training
    assert torch.equal(method.centre, seen.centres[-1])


@pytest.mark.parametrize(("given", "epochs", "first"), [(None, 4, 2), (None, 1, 0), (0, 2, 0), (3, 4, 3)])
def test_the_epochs_of_the_autoencoder(tmp_path, given, epochs, first):
    _, seen = trained(tmp_path, epochs, pretraining_epochs=given)
    assert [bool(centre.any()) for centre in seen.centres] == [False] * 2 * first + [True] * 2 * (epochs - first)


def test_a_training_that_only_pretrains_is_refused():
    deep_svdd(pretraining_epochs=1).check_training(2, painted=False)
    deep_svdd().check_training(1, painted=False)
    with pytest.raises(UserError, match="method.pretraining_epochs: expected at most 1, .*, found 2"):
        deep_svdd(pretraining_epochs=2).check_training(2, painted=False)


def test_a_soft_boundary_without_a_radius_is_refused():
    soft = deep_svdd(boundary="soft", warm_up_epochs=3, pretraining_epochs=1)
    soft.check_training(5, painted=False)
    with pytest.raises(UserError, match="method.warm_up_epochs: expected fewer than the 3 epochs of .*, found 3"):
        soft.check_training(4, painted=False)


def test_the_centre_is_the_mean_code_of_the_training_images_as_the_test_sees_them(tmp_path):
    method, _ = trained(tmp_path, 1, optimizer=partial(torch.optim.SGD, lr=0.0))
    untrained = deep_svdd().eval()
    codes = untrained.embed(torch.cat([images(3), images(2, seed=1)])).mean(dim=0)
    expected = torch.where(codes.abs() >= 0.1, codes, torch.where(codes < 0, -0.1, 0.1))
    torch.testing.assert_close(method.centre, expected)


def test_windows_have_a_centre_too(tmp_path):
    method = deep_svdd(tiling=SlidingWindow(32, 16))
    seen, encode = [], method.encode
    method.encode = lambda shown: (seen.append(shown), encode(shown))[1]
    method.training_images = lambda: [Batch.of(images(2, side=64))]
    fit(method, tmp_path, 1, Patches(1))
    assert seen[0].shape == (8, 3, 32, 32)


def test_the_loss_of_the_autoencoder_is_a_sum_over_the_values():
    method = deep_svdd()
    method.prepare([Batch.of(images())])
    shown = method.contrast(images())
    method.decoder.forward = lambda codes: shown + 0.5
    assert method.reconstruction_loss(images()).item() == pytest.approx(0.25 * 3 * 32 * 32)


def test_all_weights_zero_cost_the_square_of_the_centre(tmp_path):
    """A last bias that is the centre would cost nothing: it is why there is none."""
    method, _ = trained(tmp_path, 1)
    for weight in method.encoder.parameters():
        nn.init.zeros_(weight)
    loss = method.one_class_loss(method.distances(images())).item()
    assert loss == pytest.approx(method.centre.square().sum().item())
    assert loss >= 0.01 * 128 * (1 - 1e-6)


def test_scores_are_squared_distances_and_less_the_square_of_a_radius():
    hard, soft = deep_svdd().eval(), deep_svdd(boundary="soft").eval()
    for method in (hard, soft):
        method.centre.copy_(torch.linspace(-1, 1, 128))
    soft.radius.fill_(2.0)
    found = hard.predict(images())
    codes = hard.encoder(hard.contrast(images()))
    torch.testing.assert_close(found.score, ((codes - hard.centre) ** 2).sum(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(soft.predict(images()).score, found.score - 4)
    assert found.anomaly_map.shape == (4, 1, 1, 1)
    assert not hard.localises


def test_the_radius_is_a_quantile_of_the_last_batch_after_the_warm_up(tmp_path):
    """As long as the rate is zero, of distances that a second look finds again."""
    options = {"boundary": "soft", "nu": 0.25, "warm_up_epochs": 2, "pretraining_epochs": 1}
    method, seen = trained(tmp_path, 4, optimizer=partial(torch.optim.SGD, lr=0.0), **options)
    assert seen.radii[:6] == [0] * 6  # one epoch of the autoencoder and two of the encoder
    method.train()
    distances = method.distances(method.signed(Patches(2).images(1))).detach()
    assert seen.radii[-1] == pytest.approx(np.quantile(distances.sqrt().numpy(), 0.75), rel=1e-5)
    assert seen.radii[-1] > 0


def test_labelled_images_are_pushed_away():
    method = deep_svdd(labelled=True, eta=2.0)
    distances = torch.tensor([4.0, 4.0, 1.0])
    loss = method.one_class_loss(distances, torch.tensor([False, True, False]))
    assert loss.item() == pytest.approx((4 + 0.5 + 1) / 3, abs=1e-6)
    assert method.one_class_loss(distances).item() == 3


def test_a_step_knows_the_labels_of_its_batch():
    method = deep_svdd(labelled=True)
    with pytest.raises(RuntimeError):  # no trainer is attached
        method.training_step(Batch.of(images(3))._replace(label=torch.tensor([0, 1, 0])), 0)
    assert method._abnormal.tolist() == [False, True, False]


def test_labels_and_a_soft_boundary_are_refused_together():
    with pytest.raises(UserError, match="method.boundary: expected hard with data.labelled_abnormal"):
        deep_svdd(labelled=True, boundary="soft")


def test_images_of_another_size_are_refused():
    with pytest.raises(UserError, match="data.patch_size: expected 32 px"):
        deep_svdd().predict(images(side=64))


class Bars(Patches):
    """Bars alone."""

    def images(self, number):
        return bars(self.batch_size, number, self.side)


class Known(Bars):
    """Bars, of which every fourth is of another kind and has a label."""

    def __iter__(self):
        for batch in super().__iter__():
            label = (batch.index % 4 == 3).long()
            image = torch.where(label.bool().view(-1, 1, 1, 1), turned(batch.image), batch.image)
            yield batch._replace(label=label, image=image)


def turned(images):
    return images.mT.contiguous()


@pytest.mark.slow
def test_it_learns_to_tell_what_is_of_another_kind(tmp_path):
    """Vertical bars are good; horizontal ones get a larger score, a larger one if some are known."""
    ratio = {}
    for labelled in (False, True):
        method = deep_svdd(labelled=labelled)
        method.training_images = lambda: [Batch.of(bars(16, 7, 32))]
        method.prepare(method.training_images())
        fit(method, tmp_path, 4, Known(16) if labelled else Bars(16))
        with torch.no_grad():
            good = method.eval().predict(bars(16, 50, 32)).score
            other = method.predict(turned(bars(16, 50, 32))).score
        assert other.min() > good.max()
        ratio[labelled] = (other.mean() / good.mean()).item()
    assert ratio[True] > ratio[False]


def soft():
    """Its distances are known: the brightness of the images."""
    method = deep_svdd(boundary="soft", warm_up_epochs=0, pretraining_epochs=0)
    method.distances = lambda images: images.flatten(1).mean(dim=1) + 1 + 0 * method.encode(images).sum()
    return method


@pytest.mark.slow
def test_the_radius_of_two_processes_is_that_of_the_whole_batch(tmp_path):
    first, second = two_processes(soft, tmp_path)
    fit(alone := soft(), tmp_path, 2, Patches(batch_size=8))
    assert first["radius"].item() == pytest.approx(alone.radius.item(), rel=1e-6)
    assert first["centre"].equal(second["centre"])
    assert first["centre"].equal(alone.centre)
