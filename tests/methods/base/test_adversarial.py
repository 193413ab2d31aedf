"""What all methods share that step their optimizers themselves."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.adversarial import (
    look_at_gradients,
    lower_learning_rates,
    refuse_one_image,
    refuse_other_images,
    refuse_unlike,
)
from anomaly_lab.methods.f_anogan import Critic, Encoder, Generator


@pytest.mark.parametrize(("clip", "after"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
@pytest.mark.parametrize("told", [False, True])
def test_the_norm_is_cut_and_told_as_it_was(clip, after, told):
    weight, untouched = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([3.0, 4.0])
    logged = {}
    method = SimpleNamespace(
        gradient_clip=clip, log_gradient_norms=told, log=lambda name, value, **_: logged.update({name: value.item()})
    )
    look_at_gradients(method, torch.optim.SGD([weight, untouched], lr=1.0), "generator")
    assert weight.grad.norm().item() == pytest.approx(after, rel=1e-5)
    assert untouched.grad is None
    assert logged == ({"generator/gradient_norm": 5.0} if told else {})


@pytest.mark.parametrize(("share", "rate"), [(0.0, 0.4), (0.25, 0.4 * 0.853553), (0.5, 0.2), (1.0, 0.0)])
def test_learning_rates_are_half_a_cosine(share, rate):
    optimizers = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4) for _ in range(2)]
    for done in (0.7, share):  # whatever it was before
        lower_learning_rates(optimizers, done)
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == pytest.approx([rate] * 2, abs=1e-6)


def test_one_image_is_refused_where_batch_norm_learns():
    with pytest.raises(UserError, match="data.batch_size: expected at least 2 images for each process, .* found 1"):
        refuse_one_image(torch.zeros(1, 3, 4, 4), nn.Sequential(nn.BatchNorm2d(3)))
    refuse_one_image(torch.zeros(2, 3, 4, 4), nn.BatchNorm2d(3))
    refuse_one_image(torch.zeros(1, 3, 4, 4), nn.BatchNorm2d(3).eval())


def test_other_images_are_refused():
    refuse_other_images(torch.zeros(2, 3, 32, 32), 3, 32)
    with pytest.raises(UserError, match="data.channels: expected 3, .*found images of 1"):
        refuse_other_images(torch.zeros(2, 1, 32, 32), 3, 32)
    with pytest.raises(UserError, match="data.patch_size: expected 32 px, .*found 48 x 32"):
        refuse_other_images(torch.zeros(2, 3, 48, 32), 3, 32)


def test_networks_that_do_not_fit_are_refused():
    generator, critic, encoder = Generator(64, 3, 8, 2), Critic(64, 3, 2), Encoder(64, 3, 8, 2)
    refuse_unlike(generator=generator, critic=critic, encoder=encoder)
    with pytest.raises(UserError, match="method.critic.image_size: expected 64, that of method.generator, found 32"):
        refuse_unlike(generator=generator, critic=Critic(32, 3, 2))
    with pytest.raises(UserError, match="method.critic.channels: expected 3, that of method.generator, found 1"):
        refuse_unlike(generator=generator, critic=Critic(64, 1, 2))
    with pytest.raises(UserError, match="method.encoder.latent_size: expected 8, that of method.generator, found 9"):
        refuse_unlike(generator=generator, critic=critic, encoder=Encoder(64, 3, 9, 2))
