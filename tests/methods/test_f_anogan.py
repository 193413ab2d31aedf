"""f-AnoGAN by closed forms: its networks, the penalty, the encoder; two stages of one run."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.f_anogan import Critic, Encoder, Generator
from anomaly_lab.training.progress import EpochLines
from tests.adversarial import Patches, f_anogan, fit


@pytest.mark.parametrize(
    ("side", "channels", "weights"),
    [
        (64, 1, (8_539_329, 7_490_689, 8_531_200)),
        (64, 3, (8_540_483, 7_491_841, 8_532_352)),  # together the 24.57 million of Bergmann et al. 2021
        (128, 3, (13_524_291, 12_475_649, 13_516_160)),
    ],
)
def test_networks_have_the_published_size(side, channels, weights):
    with torch.device("meta"):
        networks = Generator(side, channels), Critic(side, channels), Encoder(side, channels)
        images = networks[0](torch.zeros(2, 128))
    assert tuple(sum(weight.numel() for weight in network.parameters()) for network in networks) == weights
    assert images.shape == (2, channels, side, side)
    assert networks[1].features(images).shape == (2, 8192)
    assert networks[2](images).shape == (2, 128)


def test_the_generator_has_batch_norm_and_the_critic_none():
    norms = [layer for layer in Generator(32, 3).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in Critic(32, 3).modules())


def test_the_penalty_is_float32_in_mixed_precision_and_finite_for_a_critic_without_a_gradient():
    method, images, mix = f_anogan(), torch.rand(4, 3, 32, 32), torch.rand(4, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = method.gradient_penalty(images, 1 - images, mix)
    assert torch.equal(mixed, method.gradient_penalty(images, 1 - images, mix))
    nn.init.zeros_(method.critic.decision.weight)
    flat = method.gradient_penalty(images, 1 - images, mix)
    flat.backward()
    assert flat.item() == pytest.approx(1, abs=1e-5)
    assert all(weight.grad.isfinite().all() for weight in method.critic.parameters() if weight.grad is not None)


def test_draws_are_those_of_the_paper():
    method, random = f_anogan(), torch.Generator().manual_seed(0)
    codes, mixture = method.codes(2000, random), method.mixture(20_000, random)
    assert (codes.mean().item(), codes.std().item()) == pytest.approx((0, 1), abs=0.02)  # normal
    assert codes.abs().max() > 3
    assert (mixture.mean().item(), mixture.var().item()) == pytest.approx((1 / 2, 1 / 12), abs=0.01)  # uniform
    assert 0 <= mixture.min() <= mixture.max() <= 1
    assert method.encoder(100 * torch.randn(4, 3, 32, 32)).abs().max() <= 1


def test_the_generator_steps_before_every_fifth_step_of_the_critic_but_the_first():
    method, images = f_anogan(), 2 * torch.rand(2, 3, 32, 32) - 1
    steps = [list(method.turns(images, 0, step, torch.Generator())) for step in range(13)]
    assert "".join(turn.name[0] for turns in steps for turn in turns) == "dddddgdddddgddd"
    parts = steps[5][1].parts
    torch.testing.assert_close(steps[5][1].loss, parts["fake"] - parts["real"] + 10 * parts["gradient_penalty"])
    torch.testing.assert_close(parts["real"], method.critic(images).mean())


def test_score_and_losses_of_the_encoder_are_weighted_means():
    method = f_anogan(feature_weight=0.3).eval()
    images, codes = torch.rand(2, 3, 32, 32), torch.randn(2, 16)
    photos = 2 * images - 1
    generated = method.generator(method.encoder(photos))
    on_image = (photos - generated).square().mean(dim=(1, 2, 3))
    on_features = (method.critic.features(photos) - method.critic.features(generated)).square().mean(dim=1)
    prediction = method.predict(images)
    torch.testing.assert_close(prediction.score, on_image + 0.3 * on_features)
    torch.testing.assert_close(prediction.anomaly_map, (photos - generated).square().mean(dim=1, keepdim=True))
    expected = {
        "izi": on_image.mean(),
        "izi_f": on_image.mean() + 0.3 * on_features.mean(),
        "ziz": (codes - method.encoder(method.generator(codes))).square().mean(),
    }
    for method.encoder_loss, loss in expected.items():
        torch.testing.assert_close(method.whole_encoder_loss(method.encoder_losses(photos, codes)), loss)


def test_each_stage_trains_its_own_networks_and_says_what_it_does(tmp_path, capsys):
    method, images, seen = f_anogan(encoder_epochs=1, critic_steps=1), torch.rand(3, 3, 32, 32), []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer, method):
            state = {key: value.clone() for key, value in method.state_dict().items()}
            modes = {name: module.training for name, module in method.named_children()}
            with torch.no_grad():
                seen.append((state, method.eval().samples(images), method.predict(images).reconstruction))
            for name, module in method.named_children():
                module.train(modes[name])

    start = f_anogan().state_dict()
    fit(method, tmp_path, 2, Patches(2), callbacks=(Look(), EpochLines()))
    (first, generated, other), (second, rebuilt, reconstruction) = seen
    for key in start:
        learns = key.endswith("weight")
        if key.startswith("encoder."):
            assert torch.equal(first[key], start[key])
            assert not (learns and torch.equal(second[key], first[key]))
        else:  # batch norm too, whose statistics are frozen with the generator
            assert not (learns and torch.equal(first[key], start[key]))
            assert torch.equal(second[key], first[key])
    assert not method.generator.training
    assert {name.split(".")[0] for name, weight in method.named_parameters() if weight.requires_grad} == {"encoder"}
    assert not torch.equal(generated, other)
    assert torch.equal(rebuilt, reconstruction)
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if line.startswith("epoch")]
    assert [("discriminator" in line, "encoder/image" in line) for line in lines] == [(True, False), (False, True)]
    assert "the generator learns nothing" not in output
    method.critic_steps = 5
    fit(method, tmp_path, 2, Patches(1))  # another training of the same networks
    assert "the generator learns nothing: it takes a step after 5 of the critic" in capsys.readouterr().out
    assert not torch.equal(method.state_dict()["critic.decision.weight"], second["critic.decision.weight"])


def test_there_must_be_room_for_both_stages():
    f_anogan(encoder_epochs=2).check_training(3, painted=False)
    with pytest.raises(UserError, match="budget.epochs: expected at least 2, .*found 1"):
        f_anogan().check_training(1, painted=False)
    with pytest.raises(UserError, match="method.encoder_epochs: expected 1 to 2, .*found 3"):
        f_anogan(encoder_epochs=3).check_training(3, painted=False)


def moved(loss, network, steps):
    """Step along the gradient of a loss; `steps` makes a step of a gradient."""
    weights = list(network.parameters())
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        for number, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            weight -= steps(number, gradient)


def test_both_stages_written_out(tmp_path):
    """The authors' loops, whose batch norm learns in steps of the generator alone; TensorFlow's RMSprop starts at 1."""
    settings = {
        "optimizer": partial(torch.optim.SGD, lr=0.01),
        "critic_steps": 2,
        "penalty_weight": 7.0,
        "encoder_epochs": 1,
    }
    ours, theirs = f_anogan(**settings), f_anogan(**settings)
    fit(ours, tmp_path, 2, Patches(5))
    generator, critic, encoder = theirs.generator, theirs.critic, theirs.encoder

    def descent(_, gradient):
        return 0.01 * gradient

    for step, batch in enumerate(Patches(5)):
        photos, random = 2 * batch.image - 1, theirs.random_at("training", step)
        if step in (2, 4):
            moved(-critic(generator(theirs.codes(4, random))).mean(), generator, descent)
        kept = {name: buffer.clone() for name, buffer in generator.named_buffers()}
        generated = generator(theirs.codes(4, random)).detach()
        generator.load_state_dict(kept, strict=False)
        between = (photos + theirs.mixture(4, random) * (generated - photos)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), [between], create_graph=True)
        penalty = (slope.square().sum(dim=(1, 2, 3)).sqrt() - 1).square().mean()
        moved(critic(generated).mean() - critic(photos).mean() + 7 * penalty, critic, descent)

    generator.eval()
    squares = [torch.ones_like(weight) for weight in encoder.parameters()]

    def rmsprop(number, gradient):
        squares[number] = 0.9 * squares[number] + 0.1 * gradient**2
        return 1e-3 * gradient / (squares[number] + 1e-10).sqrt()

    for batch in Patches(5):
        photos = 2 * batch.image - 1
        generated = generator(encoder(photos))
        on_features = (critic.features(photos) - critic.features(generated)).square().mean()
        moved((photos - generated).square().mean() + on_features, encoder, rmsprop)
    for (name, one), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=name)
            assert not name.endswith(("running_mean", "decision.weight")) or not torch.equal(
                one, f_anogan().state_dict()[name]
            )
