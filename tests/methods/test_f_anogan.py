"""What is particular about f-AnoGAN: its networks, the penalty, the two stages of one run."""

import math
import re
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.f_anogan import Critic, Encoder, FAnoGAN, Generator, ResidualBlock, batch_norm, layer_norm
from anomaly_lab.training.progress import EpochLines
from tests.adversarial import (
    Losses,
    Patches,
    bars,
    broken_off,
    fit,
    scaled,
    state_of,
    two_processes,
    without_batch_norm,
)

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.9))
RMSPROP = partial(torch.optim.RMSprop, lr=1e-3, alpha=0.9, eps=1e-10)


def f_anogan(channels=3, width=2, optimizer=ADAM, encoder_optimizer=RMSPROP, **changes):
    torch.manual_seed(0)
    networks = Generator(32, channels, 16, width), Critic(32, channels, width), Encoder(32, channels, 16, width)
    return FAnoGAN(*networks, optimizer, encoder_optimizer, WholeImage(), **changes)


@pytest.mark.parametrize(
    ("side", "channels", "weights"),
    [
        (64, 1, (8_539_329, 7_490_689, 8_531_200)),
        (64, 3, (8_540_483, 7_491_841, 8_532_352)),  # together the 24.57 million of Bergmann et al. 2021
        (128, 3, (13_524_291, 12_475_649, 13_516_160)),
    ],
)
def test_networks_have_the_published_size(side, channels, weights):
    networks = Generator(side, channels), Critic(side, channels), Encoder(side, channels)
    assert tuple(sum(weight.numel() for weight in network.parameters()) for network in networks) == weights
    images = networks[0](torch.zeros(2, 128))
    assert images.shape == (2, channels, side, side)
    assert images.abs().max() < 1
    assert networks[1].features(images).shape == (2, 8192)
    assert networks[1](images).shape == (2,)
    assert networks[2](images).shape == (2, 128)


def test_layers_have_the_published_settings():
    norm = next(layer for layer in Generator(32, 3).modules() if isinstance(layer, nn.BatchNorm2d))
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in Critic(32, 3).modules())
    images = 5 + 3 * torch.rand(2, 4, 8, 8)
    expected = nn.functional.layer_norm(images, images.shape[1:], eps=1e-5)
    torch.testing.assert_close(layer_norm(4)(images), expected)
    convolutions = [layer for layer in ResidualBlock(8, 4, "up", batch_norm).modules() if isinstance(layer, nn.Conv2d)]
    assert [convolution.bias is None for convolution in convolutions] == [True, False, False]
    weight = ResidualBlock(64, 64, "down", layer_norm).residual[3].weight
    assert weight.std().item() == pytest.approx((4 / (2 * 9 * 64)) ** 0.5, rel=0.02)
    assert weight.abs().max().item() == pytest.approx((3 * 4 / (2 * 9 * 64)) ** 0.5, rel=0.02)
    shortcut = ResidualBlock(64, 64, "down", layer_norm).shortcut[-1].weight
    assert shortcut.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)


def test_blocks_repeat_pixels_upwards_and_average_them_downwards():
    images = torch.rand(1, 2, 4, 4)
    for direction, expected in (
        ("up", images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)),
        ("down", images.view(1, 2, 2, 2, 2, 2).mean(dim=(3, 5))),
    ):
        block = ResidualBlock(2, 2, direction, layer_norm)
        nn.init.eye_(block.shortcut[-1].weight.data[:, :, 0, 0])
        nn.init.zeros_(block.residual[6].weight)
        torch.testing.assert_close(block(images), expected)


class Linear(nn.Module):
    """A critic whose gradient is known."""

    def __init__(self, norm):
        super().__init__()
        weight = torch.rand(3 * 8 * 8)
        self.weight = nn.Parameter(norm * weight / weight.norm())

    def forward(self, images):
        return images.flatten(1) @ self.weight


@pytest.mark.parametrize(("norm", "penalty"), [(2.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_penalty_of_a_linear_critic(norm, penalty):
    method = f_anogan()
    method.critic = Linear(1.0)
    with torch.no_grad():
        method.critic.weight.mul_(norm)
    found = method.gradient_penalty(torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8), torch.rand(4, 1, 1, 1))
    assert found.item() == pytest.approx(penalty, abs=1e-5)
    assert method.critic_loss(torch.tensor(3.0), torch.tensor(1.0), found).item() == pytest.approx(-2 + 10 * penalty)
    found.backward()  # 2 (norm - 1) times the direction of the weights
    assert method.critic.weight.grad.norm().item() == pytest.approx(2 * abs(norm - 1) if norm else 0.0, abs=1e-4)


class Quadratic(nn.Module):
    """A critic whose gradient at an image is that image."""

    def forward(self, images):
        return images.flatten(1).square().sum(dim=1) / 2


def test_the_penalty_is_taken_between_photo_and_drawing():
    method = f_anogan()
    method.critic = Quadratic()
    photos, drawn, mix = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8), torch.tensor([0.0, 0.2, 0.7, 1.0])
    found = method.gradient_penalty(photos, drawn, mix.view(4, 1, 1, 1))
    between = [(1 - share) * photo + share * other for photo, other, share in zip(photos, drawn, mix, strict=True)]
    expected = sum((image.norm().item() - 1) ** 2 for image in between) / 4
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_draws_are_those_of_the_paper():
    method, random = f_anogan(), torch.Generator().manual_seed(0)
    codes, mixture = method.codes(2000, random), method.mixture(20_000, random)
    assert (codes.mean().item(), codes.std().item()) == pytest.approx((0, 1), abs=0.02)  # normal
    assert codes.abs().max() > 3
    assert (mixture.mean().item(), mixture.var().item()) == pytest.approx((1 / 2, 1 / 12), abs=0.01)  # uniform
    assert 0 <= mixture.min() <= mixture.max() <= 1
    assert not torch.equal(codes, method.codes(2000, random))


def test_the_penalty_is_float32_in_mixed_precision():
    method, images = f_anogan(), torch.rand(4, 3, 32, 32)
    mix = torch.rand(4, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = method.gradient_penalty(images, 1 - images, mix)
    assert torch.equal(mixed, method.gradient_penalty(images, 1 - images, mix))


def test_codes_are_bounded():
    assert f_anogan().encoder(100 * torch.randn(4, 3, 32, 32)).abs().max() <= 1


def test_a_perfect_encoder_has_score_map_and_loss_zero():
    method = f_anogan().eval()
    codes = torch.randn(2, 16)
    photos = method.generator(codes).detach()
    method.encoder.forward = lambda _: codes
    prediction = method.predict((photos + 1) / 2)
    assert prediction.score.abs().max() < 1e-9
    assert prediction.anomaly_map.max() < 1e-9
    for loss in ("izi", "izi_f", "ziz"):
        method.encoder_loss = loss
        assert method.whole_encoder_loss(method.encoder_losses(photos, codes)).item() < 1e-9


def test_score_and_losses_of_the_encoder_are_weighted_means():
    method = f_anogan(feature_weight=0.3).eval()
    images, codes = torch.rand(2, 3, 32, 32), torch.randn(2, 16)
    photos = 2 * images - 1
    drawn = method.generator(method.encoder(photos))
    on_image = (photos - drawn).square().mean(dim=(1, 2, 3))
    on_features = (method.critic.features(photos) - method.critic.features(drawn)).square().mean(dim=1)
    torch.testing.assert_close(method.predict(images).score, on_image + 0.3 * on_features)
    expected = {
        "izi": on_image.mean(),
        "izi_f": on_image.mean() + 0.3 * on_features.mean(),
        "ziz": (codes - method.encoder(method.generator(codes))).square().mean(),
    }
    for name, loss in expected.items():
        method.encoder_loss = name
        torch.testing.assert_close(method.whole_encoder_loss(method.encoder_losses(photos, codes)), loss)


def test_every_weight_matters(tmp_path):
    images, answers = torch.rand(2, 3, 32, 32), []
    for changes in ({}, {"penalty_weight": 1.0}, {"feature_weight": 0.1}, {"encoder_loss": "izi"}, {"critic_steps": 2}):
        method = f_anogan(**changes)
        fit(method, tmp_path, patches=Patches(8))
        answers.append(method.eval().predict(images))
    for answer in answers[1:]:
        assert not torch.equal(answer.score, answers[0].score)
        assert not torch.equal(answer.anomaly_map, answers[0].anomaly_map)


def test_each_stage_trains_its_own_networks(tmp_path):
    first, whole, start = f_anogan(encoder_epochs=1), f_anogan(encoder_epochs=2), f_anogan()
    fit(first, tmp_path, 2)
    fit(whole, tmp_path, 3)
    for name in ("generator", "critic"):  # one epoch of the GAN in both, then one or two of the encoder
        for key, value in getattr(whole, name).state_dict().items():
            assert torch.equal(value, getattr(first, name).state_dict()[key]), key
    weights = [next(method.encoder.parameters()) for method in (first, whole, start)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not whole.generator.training
    assert all(weight.requires_grad for weight in whole.parameters())


def test_the_generator_steps_before_every_fifth_batch_but_the_first(tmp_path):
    steps = []
    method = f_anogan(optimizer=partial(torch.optim.SGD, lr=1e-3))
    method.on_before_optimizer_step = lambda optimizer: steps.append(
        "G" if optimizer.param_groups[0]["params"][0] is next(method.generator.parameters()) else "D"
    )
    fit(method, tmp_path, 4, Patches(6))
    assert "".join(steps).startswith("DDDDDGDDDDDGDD")


def test_what_is_logged_and_told(tmp_path, capsys):
    losses = Losses()
    fit(f_anogan(log_gradient_norms=True), tmp_path, patches=Patches(6), callbacks=(losses,))
    norms = {f"{name}/gradient_norm" for name in ("generator", "discriminator", "encoder")}
    adversarial = {
        "generator/adversarial",
        "discriminator/real",
        "discriminator/fake",
        "discriminator/gradient_penalty",
    }
    seconds = {"seconds/adversarial_training", "seconds/encoder_training"}
    rest = {"encoder/image", "encoder/features", "validation/latent", "validation/loss"}
    totals = {"train/loss", "train/loss_step", "train/loss_epoch"}
    assert set(losses.last) == norms | adversarial | seconds | rest | totals
    told = capsys.readouterr().out
    assert re.search(r"adversarial training: done in \d+ s\n(.|\n)*encoder training: done in \d+ s", told)


def test_losses_of_an_earlier_stage_are_no_news(tmp_path, capsys):
    """The critic learns in the first epoch only."""
    method = f_anogan()
    fit(method, tmp_path, 2, Patches(2), callbacks=(EpochLines(),))
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch"))
    assert "discriminator/gradient_penalty" in first
    assert "discriminator" not in second
    assert "encoder/image" in second


@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 5), (2, 0), (3, 3)])
def test_a_run_that_broke_off_ends_like_one_that_did_not(tmp_path, epoch, batch):
    """In the middle of the first stage, at its end, and in the middle of the second."""
    whole = state_of(fit(f_anogan(), tmp_path, 4, Patches(6)), tmp_path)
    taken_up = broken_off(f_anogan, tmp_path, epoch, batch, 4, Patches(6), Patches(6))
    assert {name[0] for name in whole if name[0].isdigit()} == {"0", "1", "2"}  # what three optimizers remember
    assert set(whole) == set(taken_up)
    assert all(torch.equal(value, taken_up[name]) for name, value in whole.items())


def test_the_time_of_a_stage_goes_on(tmp_path):
    method = f_anogan()
    method.on_load_checkpoint({"stage_seconds": [100.0, 0.0]})
    fit(method, tmp_path)
    assert 100 < method._seconds[0] < 200


def test_mixed_precision_and_clipping_learn(tmp_path):
    losses = Losses()
    fit(f_anogan(gradient_clip=1.0), tmp_path, callbacks=(losses,), precision="bf16-mixed")
    assert torch.tensor(losses.steps).isfinite().all()


def test_a_loss_scale_changes_nothing(tmp_path):
    """Nor does it change the gradient penalty, which is a gradient of a gradient."""

    def trained(*plugins):
        descent = partial(torch.optim.SGD, lr=1e-4)
        method = f_anogan(optimizer=descent, encoder_optimizer=descent, critic_steps=2, gradient_clip=1.0)
        return fit(method, tmp_path, 2, plugins=list(plugins)).lightning_module.state_dict()

    scale = scaled()
    torch.testing.assert_close(trained(scale), trained(), rtol=1e-5, atol=1e-7)
    assert scale.scaler.get_scale() == 2.0 ** (
        10 + 5 + 4
    )  # four of the critic, one of the generator, four of the encoder


def plain():
    """Without batch norm, whose statistics of half a batch are not those of the whole; plain descent."""
    descent = partial(torch.optim.SGD, lr=1e-4)
    return without_batch_norm(f_anogan(optimizer=descent, encoder_optimizer=descent, critic_steps=2))


def test_two_processes_learn_what_one_does(tmp_path):
    alone = plain()
    fit(alone, tmp_path, 2, Patches(batch_size=8))
    first, second = two_processes(plain, tmp_path)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    torch.testing.assert_close(first, dict(alone.state_dict()), rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(value, plain().state_dict()[name]) for name, value in first.items())


def test_while_the_encoder_learns_the_samples_are_reconstructions(tmp_path):
    method, images, told = f_anogan(), torch.rand(3, 3, 32, 32), []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer, method):
            method.eval()
            with torch.no_grad():
                told.append((method.samples(images), method.predict(images).reconstruction))
            method.train()

    fit(method, tmp_path, 2, Patches(2), callbacks=(Look(),))
    (drawn, other), (rebuilt, reconstruction) = told
    assert not torch.equal(drawn, other)
    assert torch.equal(rebuilt, reconstruction)


def test_the_schedule_falls_once_in_each_stage(tmp_path):
    rates = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    fit(f_anogan(schedule="cosine", encoder_epochs=1), tmp_path, 3, Patches(2), callbacks=(Look(),))
    expected = [0.5 + 0.5 * math.cos(math.pi * share) for share in (0, 0.25, 0.5, 0.75, 0, 0.5)]
    assert rates == [pytest.approx([1e-3 * share] * 3) for share in expected]


def test_samples_differ_and_stay_the_same():
    method = f_anogan().eval()
    samples = method.samples(torch.zeros(3, 3, 32, 32))
    assert samples.shape == (3, 3, 32, 32)
    assert samples.min() >= 0
    assert samples.max() <= 1
    assert not torch.equal(samples[0], samples[1])
    assert torch.equal(samples, method.samples(torch.zeros(3, 3, 32, 32)))


@pytest.mark.parametrize(("batches", "told"), [(5, True), (6, False)])
def test_a_generator_that_will_learn_nothing_is_told(tmp_path, capsys, batches, told):
    fit(f_anogan(), tmp_path, 2, Patches(batches))
    assert ("the generator learns nothing: it takes a step after 5 of the critic" in capsys.readouterr().out) == told


def test_gray_images_and_bad_input(tmp_path):
    assert f_anogan(channels=1).eval()(bars(2, 0)[:, :1]).anomaly_map.shape == (2, 1, 32, 32)
    with pytest.raises(UserError, match="budget.epochs: expected at least 2, .*found 1"):
        fit(f_anogan(), tmp_path, 1)
    with pytest.raises(UserError, match="method.encoder_epochs: expected 1 to 2, .*found 3"):
        fit(f_anogan(encoder_epochs=3), tmp_path, 3)
    with pytest.raises(UserError, match="data.batch_size: expected at least 2 images for each process"):
        fit(f_anogan(), tmp_path, 2, Patches(batch_size=1))
    with pytest.raises(UserError, match="data.patch_size: expected 32 px, .*found 64 x 64"):
        f_anogan().eval()(torch.zeros(1, 3, 64, 64))


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", list(overrides)))


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="data.image_size: expected 32, 64, 128 or 256, found 100"):
        composed("method=f_anogan", "data.category=screw", "data.image_size=100")


@pytest.mark.parametrize(("category", "side"), [("screw", 256), ("carpet", 512)])
def test_the_paper_looks_at_patches(category, side):
    config = composed("experiment=f_anogan_paper", f"data.category={category}")
    assert (config["data"]["image_size"], config["method"]["generator"]["image_size"]) == (side, 64)
    assert (config["tiling"]["size"], config["tiling"]["stride"]) == (64, 32)
    steps = config["data"]["patches"] // config["data"]["batch_size"]
    assert 49_000 < steps * config["method"]["encoder_epochs"] < 51_000
    assert config["trainer"]["max_epochs"] - config["method"]["encoder_epochs"] == 100
    whole = composed("method=f_anogan", "data.category=screw")
    assert (whole["data"]["image_size"], whole["data"]["kind"]) == (128, "object")


def test_the_configuration_is_that_of_the_paper():
    config = composed("method=f_anogan", "data.category=screw")
    method, data = config["method"], config["data"]
    adam, rmsprop = method["optimizer"], method["encoder_optimizer"]
    assert (adam["_target_"], adam["lr"], adam["betas"]) == ("torch.optim.Adam", 1e-4, [0, 0.9])
    assert (rmsprop["_target_"], rmsprop["lr"], rmsprop["alpha"]) == ("torch.optim.RMSprop", 5e-5, 0.9)
    assert rmsprop["eps"] == 1e-5  # the root of TensorFlow's 1e-10
    assert (method["critic_steps"], method["penalty_weight"], method["feature_weight"]) == (5, 10, 1)
    assert (method["encoder_loss"], method["schedule"], method["generator"]["latent_size"]) == (
        "izi_f",
        "constant",
        128,
    )
    assert {method[name]["width"] for name in ("generator", "critic", "encoder")} == {64}
    assert (data["image_size"], data["batch_size"], data["channels"]) == (128, 64, 3)
    paper = composed("experiment=f_anogan_paper", "data.category=screw")
    steps = paper["data"]["patches"] // paper["data"]["batch_size"]
    assert (paper["data"]["patch_size"], paper["trainer"]["max_epochs"] - paper["method"]["encoder_epochs"]) == (
        64,
        100,
    )
    assert steps * paper["method"]["encoder_epochs"] == pytest.approx(50_000, rel=0.01)
