"""What is particular about AnoGAN: its networks, its search, that the search leaves the weights alone."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.anogan import SEARCH, AnoGAN, Discriminator, Generator, generator_at, residual_map, unsigned
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage
from anomaly_lab.networks.dcgan import cross_entropy
from tests.adversarial import (
    Bars,
    Losses,
    Patches,
    acquainted,
    auroc_of_bars,
    bars,
    broken_off,
    fit,
    scaled,
    state_of,
    two_processes,
    without_batch_norm,
)

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))


def anogan(channels=3, width=2, optimizer=ADAM, tiling=None, **changes):
    torch.manual_seed(0)
    networks = Generator(32, channels, 8, width), Discriminator(32, channels, width)
    changes = {"search_steps": 10, "search_rate": 0.05, **changes}
    return AnoGAN(*networks, optimizer, tiling or WholeImage(), **changes)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A small one that has learnt to draw bars."""
    method = anogan(width=8, search_steps=100)
    fit(method, tmp_path_factory.mktemp("bars"), 1, Bars(200, 16))
    return method.eval()


@pytest.mark.parametrize(
    ("side", "latent_size", "channels", "weights"),
    [(128, 64, 3, (6_437_891, 4_341_121)), (128, 64, 1, (6_434_689, 4_337_921)), (64, 100, 3, (5_135_363, 4_316_545))],
)
def test_networks_have_the_published_size(side, latent_size, channels, weights):
    generator, discriminator = Generator(side, channels, latent_size), Discriminator(side, channels)
    assert tuple(sum(weight.numel() for weight in net.parameters()) for net in (generator, discriminator)) == weights
    images = generator(torch.zeros(2, latent_size))
    assert images.shape == (2, channels, side, side)
    assert images.abs().max() < 1
    assert discriminator.features(images).shape == (2, 512, side // 16, side // 16)
    assert discriminator(images).shape == (2,)


def test_initial_weights():
    generator, discriminator = Generator(32, 3, 64), Discriminator(32, 3)
    for weight in (generator.network[0].weight, generator.network[4].weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    cut = discriminator.features[2].weight
    assert cut.abs().max() <= 0.04
    assert cut.std().item() == pytest.approx(0.0176, rel=0.05)  # of a normal distribution cut at two deviations
    assert not discriminator.decision.bias.any()


def test_layers_have_the_published_settings():
    generator, discriminator = Generator(32, 3), Discriminator(32, 3)
    norms = [layer for layer in generator.network if isinstance(layer, nn.BatchNorm2d)]
    assert [norm.num_features for norm in norms] == [512, 256, 128, 64]
    slopes = [layer.negative_slope for layer in discriminator.features if isinstance(layer, nn.LeakyReLU)]
    assert slopes == [0.2] * 4
    convolutions = [layer for layer in discriminator.features if isinstance(layer, nn.Conv2d)]
    convolutions += [layer for layer in generator.network if isinstance(layer, nn.ConvTranspose2d)]
    assert [(*layer.kernel_size, *layer.stride) for layer in convolutions] == [(5, 5, 2, 2)] * 8


def test_a_step_of_the_discriminator_then_two_of_the_generator_with_the_same_codes(tmp_path):
    told = []
    method = anogan()
    method.generator.register_forward_pre_hook(
        lambda network, codes: told.append(("draws", codes[0])) if network.training else None
    )

    class Steps(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            first = optimizer.param_groups[0]["params"][0]
            told.append(("generator" if first is next(module.generator.parameters()) else "discriminator", None))

    fit(method, tmp_path, 1, Patches(1), callbacks=(Steps(),))
    names = [name for name, _ in told]
    assert names == ["draws", "discriminator", "draws", "generator", "draws", "generator"]
    codes = [codes for name, codes in told if name == "draws"]
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[0], codes[2])


def test_codes_are_uniform():
    codes = anogan().codes(5000, torch.Generator().manual_seed(0))
    assert (codes.mean().item(), codes.var().item()) == pytest.approx((0, 1 / 3), abs=0.01)
    assert -1 <= codes.min() <= codes.max() <= 1


def test_losses_of_a_discriminator_that_does_not_know():
    method = anogan()
    nn.init.zeros_(method.discriminator.decision.weight)
    images = torch.rand(4, 3, 32, 32)
    assert sum(method.discriminator_losses(images, images)).item() == pytest.approx(1.38629, abs=1e-4)
    assert method.generator_loss(torch.zeros(4, 8)).item() == pytest.approx(0.69315, abs=1e-4)
    logits = torch.tensor([2.0, -1.0])
    expected = (torch.log1p(torch.exp(-logits))).mean()
    assert cross_entropy(logits, True).item() == pytest.approx(expected.item())
    assert cross_entropy(-logits, False).item() == pytest.approx(expected.item())


def test_search_loss_is_a_weighted_pair_of_sums():
    method = anogan(feature_weight=0.3).eval()
    photos, drawn = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    features = method.discriminator.features(photos)
    loss = method.search_loss(photos, features, drawn)
    other = method.discriminator.features(drawn)
    for i in range(2):
        pixels, seen = (photos[i] - drawn[i]).abs().sum(), (features[i] - other[i]).abs().sum()
        assert loss[i].item() == pytest.approx((0.7 * pixels + 0.3 * seen).item(), rel=1e-5)
    assert not method.search_loss(photos, features, photos).any()


def test_a_photo_that_the_generator_draws_has_score_and_map_zero():
    method = anogan(search_rate=1e-30).eval()
    start = method.codes(1, generator_at(method.seed, SEARCH), alone=True)
    photo = unsigned(method.generator(start)).detach()
    prediction = method.predict(photo)
    assert prediction.score.item() < 1e-3
    assert prediction.anomaly_map.max() < 1e-12


@pytest.mark.parametrize(("kind", "expected"), [("l2", (0.25 + 0 + 4) / 3), ("l1", (0.5 + 0 + 2) / 3)])
def test_map(kind, expected):
    photos, drawn = torch.tensor([0.5, 0.2, 1.0]), torch.tensor([0.0, 0.2, -1.0])
    assert residual_map(photos.view(1, 3, 1, 1), drawn.view(1, 3, 1, 1), kind).item() == pytest.approx(expected)


def test_without_a_weight_the_discriminator_is_not_touched():
    method = anogan(feature_weight=0.0).eval()
    del method.discriminator.features  # fails, were it asked
    images = bars(2, 0)
    prediction = method.predict(images)
    difference = (images - prediction.reconstruction).abs() * 2
    torch.testing.assert_close(prediction.score, difference.flatten(1).sum(dim=1), rtol=1e-4, atol=0)


@pytest.fixture
def doubles():
    """Numbers of 64 bits: a search of many steps magnifies rounding, by how much differs between processors."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_eight_images_at_once_are_eight_searches(learnt, doubles):
    exact, images = copy.deepcopy(learnt).double(), 2 * bars(8, 5).double() - 1
    codes, losses, _ = exact.search(images)
    for image, code, loss in zip(images, codes, losses, strict=True):
        alone, alone_loss, start = exact.search(image[None])
        assert alone_loss.item() < start.item()
        torch.testing.assert_close(alone[0], code, rtol=0, atol=1e-6)
        torch.testing.assert_close(alone_loss[0], loss, rtol=1e-6, atol=0)


def test_one_image_and_eight_start_alike(learnt):
    """What is left to rounding in 32 bits: after a few steps nothing to speak of."""
    few, images = copy.deepcopy(learnt), bars(8, 5)
    few.search_steps = 5
    with torch.inference_mode():
        together, alone = few.predict(images), [few.predict(image[None]) for image in images]
    torch.testing.assert_close(together.anomaly_map, torch.cat([one.anomaly_map for one in alone]), rtol=0, atol=1e-3)
    torch.testing.assert_close(together.score, torch.cat([one.score for one in alone]), rtol=1e-4, atol=0)


def test_the_search_at_least_halves_its_loss_on_normal_images(learnt):
    learnt = copy.deepcopy(learnt)
    learnt.restarts = 2
    _, losses, first = learnt.search(2 * bars(16, 5) - 1)
    assert losses.sum() <= first.sum() / 2


def test_a_search_changes_neither_weights_nor_buffers_nor_gradients(learnt):
    before = copy.deepcopy(learnt.state_dict())
    with torch.inference_mode():
        learnt.predict(bars(2, 0))
    assert all(torch.equal(value, before[name]) for name, value in learnt.state_dict().items())
    learnt.zero_grad()
    learnt.predict(bars(2, 0))
    assert all(weight.grad is None for weight in learnt.parameters())


def test_restarts_keep_the_best_search_of_every_image(learnt):
    learnt, images = copy.deepcopy(learnt), 2 * bars(6, 5) - 1
    learnt.search_steps, learnt.restarts = 10, 4
    _, best, _ = learnt.search(images)
    starts, losses = learnt.codes(4, generator_at(learnt.seed, SEARCH), alone=True), []
    learnt.restarts = 1
    for start in starts:
        learnt.codes = lambda *_, start=start, **__: start[None]
        losses.append(learnt.search(images)[1])
    torch.testing.assert_close(best, torch.stack(losses).amin(dim=0), rtol=1e-3, atol=0)
    assert len(set(torch.stack(losses).argmin(dim=0).tolist())) > 1


def test_a_search_that_diverges_is_not_the_best(learnt):
    """Of two restarts, one lies where numbers end."""
    method = copy.deepcopy(learnt)
    method.restarts, method.search_steps = 2, 1
    starts = torch.stack([torch.full((8,), torch.nan), torch.zeros(8)])
    method.codes = lambda *_, **__: starts
    codes, losses, _ = method.search(bars(3, 0))
    assert losses.isfinite().all()
    assert codes.isfinite().all()


def test_weights_of_the_search_matter(learnt):
    images, answers = bars(2, 3, defective=True), []
    for changes in ({}, {"feature_weight": 0.5}, {"search_steps": 5}, {"search_rate": 0.01}, {"seed": 1}):
        other = copy.deepcopy(learnt)
        for name, value in changes.items():
            setattr(other, name, value)
        answers.append(other.predict(images))
    for answer in answers[1:]:
        assert not torch.equal(answer.score, answers[0].score)
        assert not torch.equal(answer.anomaly_map, answers[0].anomaly_map)


def test_training_helps(learnt):
    untrained = acquainted(anogan(width=8, search_steps=100), Bars(200, 16))
    assert auroc_of_bars(learnt) > auroc_of_bars(untrained) + 0.1


def test_a_texture_is_searched_window_by_window():
    method = anogan(tiling=SlidingWindow(32, 32, 64, "max"), channels=1).eval()
    images = torch.rand(2, 1, 64, 96)
    prediction = method(images)
    assert prediction.anomaly_map.shape == (2, 1, 64, 96)
    alone = method.predict(images[1:, :, 32:, 64:])
    torch.testing.assert_close(prediction.anomaly_map[1:, :, 32:, 64:], alone.anomaly_map, rtol=0, atol=1e-4)


def test_what_a_step_logs(tmp_path):
    losses = Losses()
    fit(anogan(log_gradient_norms=True), tmp_path, 1, callbacks=(losses,))
    names = {"generator/adversarial", "discriminator/real", "discriminator/fake", "train/loss", "validation/loss"}
    names |= {"train/loss_step", "train/loss_epoch", "generator/gradient_norm", "discriminator/gradient_norm"}
    assert set(losses.last) == names
    assert min(losses.last.values()) > 0


def test_gradients_are_clipped(tmp_path):
    """Plain descent by 1 moves the weights of a network by at most the norm: per step, three in all."""
    method = anogan(optimizer=partial(torch.optim.SGD, lr=1.0), gradient_clip=1e-3)
    before = copy.deepcopy(method)
    fit(method, tmp_path, 1, Patches(1))
    for name, steps in (("discriminator", 1), ("generator", 2)):
        pairs = zip(getattr(method, name).parameters(), getattr(before, name).parameters(), strict=True)
        moved = sum((one - other).square().sum() for one, other in pairs) ** 0.5
        assert 1e-5 < moved.item() <= steps * 1e-3 * 1.001


def test_the_schedule_falls_to_zero_for_both(tmp_path):
    for schedule, rate in (("cosine", 0.0), ("constant", 1e-3)):
        trainer = fit(anogan(schedule=schedule), tmp_path, 2, Patches(2))
        rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
        assert rates == pytest.approx([rate, rate], abs=1e-12)


def test_mixed_precision_learns(tmp_path):
    losses = Losses()
    fit(anogan(gradient_clip=1.0), tmp_path, 2, callbacks=(losses,), precision="bf16-mixed")
    assert torch.tensor(losses.steps).isfinite().all()


def test_a_loss_scale_changes_nothing(tmp_path):
    def trained(*plugins):
        method = anogan(optimizer=partial(torch.optim.SGD, lr=0.1), gradient_clip=0.1)
        return fit(method, tmp_path, 1, plugins=list(plugins)).lightning_module.state_dict()

    scale = scaled()
    torch.testing.assert_close(trained(scale), trained(), rtol=1e-5, atol=1e-7)
    assert scale.scaler.get_scale() == 2.0**22  # three steps for each of four batches


@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 3), (2, 0)])
def test_a_run_that_broke_off_ends_like_one_that_did_not(tmp_path, epoch, batch):
    whole = state_of(fit(anogan(), tmp_path, 3), tmp_path)
    taken_up = broken_off(anogan, tmp_path, epoch, batch, 3)
    assert any(name.startswith("1.") and name.endswith("exp_avg") for name in whole)  # of both optimizers
    assert set(whole) == set(taken_up)
    assert all(torch.equal(value, taken_up[name]) for name, value in whole.items())


def plain():
    """Plain descent: Adam would make large steps of the last digits of small gradients."""
    return without_batch_norm(anogan(optimizer=partial(torch.optim.SGD, lr=0.1)))


def test_two_processes_learn_what_one_does(tmp_path):
    alone = plain()
    fit(alone, tmp_path, 2, Patches(batch_size=8))
    first, second = two_processes(plain, tmp_path)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    torch.testing.assert_close(first, dict(alone.state_dict()), rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(value, plain().state_dict()[name]) for name, value in first.items())


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match=r"data.batch_size: expected at least 2 images for each process, .* found 1"):
        fit(anogan(), tmp_path, 1, Patches(batch_size=1))
    with pytest.raises(UserError, match="data.channels: expected 3, .*found images of 1"):
        anogan().eval()(torch.zeros(1, 1, 32, 32))
    with pytest.raises(UserError, match="data.patch_size: expected 32 px, .*found 48 x 32"):
        anogan().eval()(torch.zeros(1, 3, 48, 32))


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", ["method=anogan", *overrides]))


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="data.image_size: expected .*multiple of 16, found 100"):
        composed("data.category=screw", "data.image_size=100")


def test_objects_are_shown_whole_at_128_px_and_textures_in_windows_that_do_not_overlap():
    assert composed("data.category=screw")["data"]["image_size"] == 128
    texture = composed("data.category=carpet")
    assert texture["data"]["image_size"] == 512
    assert (texture["tiling"]["size"], texture["tiling"]["stride"]) == (128, 128)
    assert composed("data=demo", "data.category=weave")["tiling"]["stride"] == 128
    assert composed("input.channels=1")["method"]["generator"]["channels"] == 1


def test_the_configuration_is_that_of_the_paper():
    config = composed("data.category=screw")
    method, data, adam = config["method"], config["data"], config["method"]["optimizer"]
    assert (adam["_target_"], adam["lr"], adam["betas"]) == ("torch.optim.Adam", 2e-4, [0.5, 0.999])
    assert (method["generator_steps"], method["generator"]["latent_size"]) == (2, 64)
    assert {method[name]["width"] for name in ("generator", "discriminator")} == {64}
    assert (method["search_steps"], method["search_rate"], method["feature_weight"]) == (300, 0.02, 0.1)
    assert (method["restarts"], method["residual"], method["schedule"]) == (1, "l2", "constant")
    assert (data["image_size"], data["batch_size"], data["patches"]) == (128, 64, 100_000)
    assert config["trainer"]["max_epochs"] == 5
