"""ADAE by closed forms: its losses, its margin, whose turn it is, its map."""

from functools import partial

import pytest
import torch
from torch import nn

from anomaly_lab.methods.adae import ADAE, MEMORY
from anomaly_lab.networks.dcgan import batch_statistics
from tests.adversarial import COMMON, SIZE, Losses, Patches, fit, ganomaly

RANDOM = torch.Generator()


def adae(**changes):
    """An ADAE of a few thousand weights for 32 px."""
    torch.manual_seed(0)
    return ADAE(**COMMON | SIZE | changes)


def images(count=3):
    return 2 * torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1


class Darker(nn.Module):
    """Subtracts a number, which can be learnt."""

    def __init__(self, step):
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step))

    def forward(self, images):
        return images - self.step


def simple(of_generator, of_discriminator, **changes):
    method = adae(**changes)
    method.generator, method.discriminator = Darker(of_generator), Darker(of_discriminator)
    return method


def turn(method, step, x=None):
    (only,) = method.turns(images() if x is None else x, 0, step, RANDOM)
    return only


def test_networks_are_two_of_the_three_of_ganomaly():
    method, three = adae(latent_size=100, width=16), ganomaly(latent_size=100, width=16).generator
    sizes = [sum(weight.numel() for weight in network.parameters()) for network in method.networks().values()]
    two = sum(weight.numel() for part in (three.encoder, three.decoder) for weight in part.parameters())
    assert list(method.networks()) == ["generator", "discriminator"]
    assert sizes == [two, two]
    assert {id(weight) for weight in method.generator.parameters()}.isdisjoint(
        map(id, method.discriminator.parameters())
    )
    x = method.generator[0](images())
    assert x.shape == (3, 100, 1, 1)
    for key, weight in method.named_parameters():
        if weight.dim() == 4:
            assert weight.std().item() == pytest.approx(0.02, abs=5 * 0.02 / (2 * weight.numel()) ** 0.5), key


def test_identities_have_no_loss_map_or_score():
    method = simple(0.0, 0.0)
    for step in (0, 1):
        assert turn(method, step).loss == 0
    prediction = method.predict(torch.rand(2, 3, 32, 32))
    assert prediction.anomaly_map.abs().max() < 1e-12
    assert prediction.score.abs().max() < 1e-12


def test_losses_by_hand():
    method, x = adae(margin=None).eval(), images()
    g, d = method.generator(x), method.discriminator(x)
    contextual, adversarial = (x - g).abs().mean(), (g - method.discriminator(g)).abs().mean()
    torch.testing.assert_close(method.validation_losses(x, 0, RANDOM), {"loss": contextual + adversarial})
    with batch_statistics(method.discriminator):  # a turn has no other
        adversarial = (g - method.discriminator(g)).abs().mean()
    own = turn(method, 0, x)
    torch.testing.assert_close(own.parts, {"contextual": contextual, "adversarial": adversarial})
    torch.testing.assert_close(own.loss, contextual + adversarial)
    with batch_statistics(method.generator):
        g = method.generator(x).detach()
    real, fake = (x - d).abs().mean(), (g - method.discriminator(g)).abs().mean()
    own = turn(method, 1, x)
    torch.testing.assert_close(own.parts, {"real": real, "fake": fake, "binds": torch.tensor(0.0)})
    torch.testing.assert_close(own.loss, real - fake)


@pytest.mark.parametrize(("of_generator", "of_discriminator"), [(0.1, 0.3), (0.3, -0.1)])
def test_the_signs_of_the_losses(of_generator, of_discriminator):
    """G(x) = x - g, D(x) = x - d: D errs by |d| on either, G by |g| itself."""
    method = simple(of_generator, of_discriminator, margin=None)
    g, d = abs(of_generator), abs(of_discriminator)
    assert turn(method, 0).loss.item() == pytest.approx(g + d)
    assert turn(method, 1).loss.item() == pytest.approx(d - d, abs=1e-6)
    for step, name in ((0, "generator"), (1, "discriminator"), (2, "generator")):
        assert turn(method, step).name == name


class Mangling(nn.Module):
    """Leaves bright images as they are and takes a number away from those that are not."""

    def __init__(self, step):
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step))

    def forward(self, images):
        return images - self.step * (images.mean(dim=(1, 2, 3), keepdim=True) < 0)


def test_what_the_discriminator_does_to_generated_images_lowers_its_loss_and_raises_that_of_the_generator():
    x = torch.full((2, 3, 32, 32), 0.5)
    found = []
    for step in (0.1, 0.4):
        method = adae(margin=None)
        method.generator, method.discriminator = Darker(1.0), Mangling(step)  # G(x) is dark
        found.append((turn(method, 0, x).loss.item(), turn(method, 1, x).loss.item()))
    assert found == [pytest.approx((1.1, -0.1)), pytest.approx((1.4, -0.4))]


def test_the_margin_is_of_the_running_mean_and_holds_for_each_image():
    """Errors of D on good images: 0.2, then 0.4; on those of G: 0.1 and 0.9 for two images."""
    method, x = adae(margin=2.0), torch.full((2, 3, 32, 32), 0.5)
    errors = iter([0.2, None, 0.4, None])

    class Scripted(nn.Module):
        def forward(self, images):
            error = next(errors)
            each = torch.tensor([0.1, 0.9]) if error is None else torch.full((2,), error)
            return images - each.view(2, 1, 1, 1)

    method.generator, method.discriminator = Darker(1.0), Scripted()
    first, usual = turn(method, 1, x), 0.2
    assert method.usual_error.item() == pytest.approx(usual)
    assert first.parts["binds"] == 0.5
    assert first.loss.item() == pytest.approx(0.2 - (0.1 + 2 * usual) / 2)
    second, usual = turn(method, 3, x), MEMORY * 0.2 + (1 - MEMORY) * 0.4
    assert method.usual_error.item() == pytest.approx(usual)
    assert second.loss.item() == pytest.approx(0.4 - (0.1 + 2 * usual) / 2)
    assert (second.parts["real"].item(), second.parts["fake"].item()) == pytest.approx((0.4, 0.5))


def test_an_image_beyond_the_margin_has_no_gradient():
    """D(x) = x - d: its gain from G(x) is as large as its loss from x, but for the image beyond the margin."""
    for margin, gradient in ((2.0, 0.0), (0.5, 1.0)):
        method = simple(0.5, 0.3, margin=margin)
        loss = turn(method, 1).loss
        (found,) = torch.autograd.grad(loss, [method.discriminator.step])
        assert found.item() == pytest.approx(gradient, abs=1e-6)


@pytest.mark.parametrize("step", [0, 1])
def test_a_turn_leaves_the_other_network_as_it_was(step):
    method = adae(optimizer=partial(torch.optim.SGD, lr=0.1)).train()
    name = ("generator", "discriminator")[step]
    before = {key: value.clone() for key, value in method.state_dict().items()}
    own = turn(method, step)
    own.loss.backward(inputs=list(method.networks()[name].parameters()))
    if step:  # G made its images without a gradient
        assert not any(weight.grad is not None for weight in method.generator.parameters())
    method.optimizer(method.networks()[name].parameters()).step()
    now = {key: value for key, value in method.state_dict().items() if "num_batches" not in key}  # which nothing reads
    changed = {key.partition(".")[0] for key, value in now.items() if not value.equal(before[key])}
    assert changed == ({"discriminator", "usual_error"} if step else {"generator"})


def test_every_batch_is_one_turn_and_the_margin_is_kept(tmp_path):
    method, losses = adae(), Losses()
    steps = []
    method.on_before_optimizer_step = lambda optimizer: steps.append(method.trainer.optimizers.index(optimizer))
    fit(method, tmp_path, 2, Patches(3), callbacks=(losses,))
    assert steps == [0, 1, 0, 1, 0, 1]
    expected = {"generator/contextual", "generator/adversarial", "discriminator/real", "discriminator/fake"}
    assert expected | {"discriminator/binds", "train/loss_epoch", "validation/loss"} <= set(losses.last)
    generator = losses.last["generator/contextual"] + losses.last["generator/adversarial"]  # of steps with its turn
    assert losses.last["train/loss_epoch"] == pytest.approx(generator)
    assert 0 < method.state_dict()["usual_error"] < 1


def test_map_and_score_by_hand():
    method, images = adae().eval(), torch.rand(2, 3, 32, 32)
    x = 2 * images - 1
    made = method.discriminator(method.generator(x))
    prediction = method.predict(images)
    torch.testing.assert_close(prediction.anomaly_map, (x - made).square().mean(1, keepdim=True))
    torch.testing.assert_close(prediction.score, (x - made).square().mean((1, 2, 3)))
    torch.testing.assert_close(prediction.reconstruction, (made + 1) / 2)
    torch.testing.assert_close(method.samples(images), prediction.reconstruction)
    torch.testing.assert_close(method.embed(images), method.generator[0](x).flatten(1))


@pytest.mark.parametrize("margin", [None, 0.5])
def test_what_a_checkpoint_keeps_is_finite_before_any_step(margin):
    assert all(value.isfinite().all() for value in adae(margin=margin).state_dict().values())
