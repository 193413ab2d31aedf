"""GANomaly by closed forms and by hand, and what it shares with Skip-GANomaly: two optimizers, resume, processes."""

import os
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn.functional import binary_cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.core.errors import UserError
from anomaly_lab.methods import ganomaly as module
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage
from anomaly_lab.methods.ganomaly import GANomaly
from anomaly_lab.methods.skip_ganomaly import SkipGANomaly
from anomaly_lab.metrics.ranking import rank
from anomaly_lab.training.checks import check_manual_optimisation
from anomaly_lab.training.seed import SeedEveryStep
from tests.adversarial import Patches, broken_off, fit, scaled, state_of, two_processes, without_batch_norm

ADAM = partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.999))
BOTH = pytest.mark.parametrize("kind", [GANomaly, SkipGANomaly])


def small(kind=GANomaly, optimizer=ADAM, tiling=None, channels=3, size=32, **changes):
    """A network of a few thousand weights."""
    torch.manual_seed(0)
    return kind(size, channels, optimizer, tiling or WholeImage(), latent_size=8, width=4, **changes)


@pytest.mark.parametrize(
    ("size", "channels", "generator", "discriminator"),
    [
        (32, 1, 3_200_384, 661_248), (32, 3, 3_206_528, 663_296), (64, 3, 10_729_856, 2_765_568),
        (128, 3, 38_359_424, 11_164_416), (256, 3, 143_950_208, 44_739_328),
    ],
)  # fmt: skip
def test_sizes_are_those_of_the_authors(size, channels, generator, discriminator):
    with torch.device("meta"):
        networks = module.Generator(size, channels, 100, 64), module.Discriminator(size, channels, 64)
    assert [sum(weight.numel() for weight in network.parameters()) for network in networks] == [
        generator, discriminator
    ]  # fmt: skip


@BOTH
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_answers(kind, size, channels):
    method = small(kind, size=size, channels=channels).eval()
    with torch.inference_mode():
        prediction = method(torch.rand(3, channels, size, size))
    assert prediction.anomaly_map.shape == (3, 1, size, size)
    assert prediction.score.shape == (3,)
    assert prediction.reconstruction.shape == (3, channels, size, size)
    assert 0 <= prediction.reconstruction.min() <= prediction.reconstruction.max() <= 1
    assert 0 <= prediction.anomaly_map.min() <= prediction.anomaly_map.max() <= 2


def test_the_generator_goes_round_twice():
    generator = small().generator
    images = torch.rand(2, 3, 32, 32)
    _, codes, again = generator(images)
    assert codes.shape == again.shape == (2, 8, 1, 1)
    torch.testing.assert_close(codes, generator.encoder(images))
    torch.testing.assert_close(again, generator.second_encoder(generator.decoder(codes)))
    assert set(map(id, generator.encoder.parameters())).isdisjoint(map(id, generator.second_encoder.parameters()))


def test_losses_by_hand():
    method = small().eval()
    images = 2 * torch.rand(2, 3, 32, 32) - 1
    x_hat, z, z_hat = method.generator(images)
    f, f_hat = (method.discriminator.encoder.features(values) for values in (images, x_hat))
    real, fake = (method.discriminator.encoder.head(values).sigmoid() for values in (f, f_hat))
    losses = method.losses(images)
    parts = ((f - f_hat) ** 2).mean(), (images - x_hat).abs().mean(), ((z - z_hat) ** 2).mean()
    bce = binary_cross_entropy(real, torch.ones_like(real)), binary_cross_entropy(fake, torch.zeros_like(fake))
    torch.testing.assert_close(losses.generator, parts[0] + 50 * parts[1] + parts[2])
    torch.testing.assert_close(losses.discriminator, (bce[0] + bce[1]) / 2)
    names = (
        "generator/adversarial", "generator/contextual", "generator/encoder", "discriminator/real", "discriminator/fake"
    )  # fmt: skip
    assert tuple(losses.parts) == names
    for name, value in zip(names, (*parts, *bce), strict=True):
        torch.testing.assert_close(losses.parts[name], value)


class Perfect(torch.nn.Module):
    """A generator that copies; any two codes are the same."""

    def forward(self, images):
        return images, torch.ones(len(images), 8, 1, 1), torch.ones(len(images), 8, 1, 1)


def test_closed_forms():
    method = small().eval()
    images = 2 * torch.rand(2, 3, 32, 32) - 1
    torch.nn.init.zeros_(method.discriminator.encoder.head.weight)  # cannot tell
    assert method.losses(images).discriminator.item() == pytest.approx(0.693147, abs=1e-6)
    method.generator = Perfect()
    assert method.losses(images).generator.item() == 0


def test_map_and_score_by_hand():
    method = small().eval()
    images = torch.rand(2, 3, 32, 32)
    x_hat, z, z_hat = method.generator(2 * images - 1)
    prediction = method.predict(images)
    torch.testing.assert_close(prediction.anomaly_map, (2 * images - 1 - x_hat).abs().mean(1, keepdim=True))
    torch.testing.assert_close(prediction.score, (z - z_hat).square().mean((1, 2, 3)))
    torch.testing.assert_close(prediction.reconstruction, (x_hat + 1) / 2)
    assert small(score="map").eval().predict(images).score is None
    assert small(score="map").eval()(images).score.shape == (2,)


@BOTH
def test_the_initialisation_reached_the_networks(kind):
    method = kind(32, 3, ADAM, WholeImage())
    for name, weight in method.named_parameters():
        if weight.dim() == 4:
            assert weight.std().item() == pytest.approx(0.02, abs=5 * 0.02 / (2 * weight.numel()) ** 0.5), name
            assert abs(weight.mean().item()) < 5 * 0.02 / weight.numel() ** 0.5, name


@BOTH
@pytest.mark.parametrize("test_batchnorm", ["running", "batch"])
def test_an_answer_depends_on_the_other_images_only_where_the_authors_code_is_asked_for(kind, test_batchnorm):
    method = small(kind, test_batchnorm=test_batchnorm).eval()
    images = torch.rand(4, 3, 32, 32)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with torch.inference_mode():
        together, others = method.predict(images).score, method.predict(images[[2, 3, 0]]).score
        turned = method.predict(images[[3, 2, 1, 0]]).score.flip(0)
    torch.testing.assert_close(turned, together, rtol=1e-4, atol=1e-7)
    same = torch.allclose(others, together[[2, 3, 0]], rtol=1e-4, atol=1e-7)
    assert same == (test_batchnorm == "running")
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


class Convolutions(TorchDispatchMode):
    """Counts passes through convolutions and the gradients that they compute."""

    def __init__(self):
        super().__init__()
        self.forward = self.of_inputs = self.of_weights = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            self.forward += 1
        if function is torch.ops.aten.convolution_backward.default:
            self.of_inputs += args[-1][0]
            self.of_weights += args[-1][1]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "passes", "weights", "inputs"),
    # generator, twice the discriminator; weights of each once; inputs: all but those of the images
    [(GANomaly, 12 + 2 * 4, 12 + 2 * 4, (3 + 11) + 2 * 3), (SkipGANomaly, 10 + 2 * 5, 10 + 2 * 5, (5 + 9) + 2 * 4)],
)
def test_nothing_is_computed_twice_or_for_nothing(kind, passes, weights, inputs, tmp_path):
    class Counts(pl.Callback):
        def on_train_batch_start(self, *_):
            self.counts = Convolutions().__enter__()

        def on_train_batch_end(self, *_):
            self.counts.__exit__(None, None, None)

    counts = Counts()
    fit(small(kind), tmp_path, 1, Patches(1), callbacks=(counts,))
    counts = counts.counts
    assert (counts.forward, counts.of_weights, counts.of_inputs) == (passes, weights, inputs)


def straightforward(method, images, other):
    """Gradients of both networks as they are usually written: the reconstructions are seen twice, once detached."""
    generator, discriminator = method.generator, method.discriminator

    def latent(x, y):
        return (x - y).square().mean()

    if isinstance(method, GANomaly):
        x_hat, z, z_hat = generator(images)
        f, f_hat = discriminator(images)[1], discriminator(x_hat)[1]
        of_generator = latent(f, f_hat) + 50 * (images - x_hat).abs().mean() + latent(z, z_hat)
    else:
        x_hat = generator(images)
        (_, f), (p, f_hat) = discriminator(images), discriminator(x_hat)
        of_generator = other(p.sigmoid(), torch.ones(len(p))) + 50 * (images - x_hat).abs().mean() + latent(f, f_hat)
    (p, f), (p_hat, f_hat) = discriminator(images), discriminator(x_hat.detach())
    of_discriminator = other(p.sigmoid(), torch.ones(len(p))) + other(p_hat.sigmoid(), torch.zeros(len(p)))
    of_discriminator = of_discriminator / 2 if isinstance(method, GANomaly) else of_discriminator + latent(f, f_hat)
    return (
        torch.autograd.grad(of_generator, list(generator.parameters())),
        torch.autograd.grad(of_discriminator, list(discriminator.parameters())),
    )


@BOTH
def test_gradients_are_those_of_separate_passes(kind, tmp_path):
    """Batch norm in training mode, and the generator's step lies between the two."""

    class Gradients(pl.Callback):
        found = ()

        def on_before_optimizer_step(self, trainer, method, optimizer):
            weights = optimizer.param_groups[0]["params"]
            self.found = (*self.found, [weight.grad.clone() for weight in weights])

    gradients = Gradients()
    method = small(kind)
    (batch,) = Patches(1)
    expected = straightforward(method, 2 * batch.image - 1, binary_cross_entropy)
    fit(small(kind), tmp_path, 1, Patches(1), callbacks=(gradients,))
    assert len(gradients.found) == 2
    for ours, theirs in zip(gradients.found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
            assert one.any()


WEIGHTS = {
    GANomaly: ("adversarial_weight", "contextual_weight", "encoder_weight"),
    SkipGANomaly: ("adversarial_weight", "contextual_weight", "latent_weight"),
}


@pytest.mark.parametrize(("kind", "weight"), [(kind, weight) for kind in WEIGHTS for weight in WEIGHTS[kind]])
def test_every_weight_counts(kind, weight, tmp_path):
    images = torch.rand(2, 3, 32, 32)

    def after(**changes):
        method = small(kind, **changes)
        trainer = fit(method, tmp_path, 1, Patches(3))
        with torch.inference_mode():
            prediction = method.eval().predict(images)
        return trainer.callback_metrics["train/loss"].item(), prediction.anomaly_map, prediction.score

    (loss, anomaly_map, score), (other_loss, other_map, other_score) = after(), after(**{weight: 7.0})
    assert loss != pytest.approx(other_loss, rel=1e-4)
    assert not torch.allclose(anomaly_map, other_map, rtol=1e-5)
    assert not torch.allclose(score, other_score, rtol=1e-5)


def test_a_discriminator_that_has_won_starts_anew(tmp_path, monkeypatch):
    """One step later than its loss; the generator is left alone, and so are the moments of the optimizer."""
    monkeypatch.setattr(module, "WON", 100.0)
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, method, *_):
            weight = method.discriminator.encoder.head.weight
            moments = trainer.optimizers[1].state[weight]["exp_avg"]
            seen.append((weight.std().item(), int(method.reinitialisations), bool(moments.any())))

    method = small(optimizer=partial(torch.optim.SGD, lr=0.0, momentum=0.9))
    trained = small(optimizer=partial(torch.optim.Adam, lr=1e-9))
    torch.nn.init.ones_(trained.discriminator.encoder.head.weight)
    before = [weight.clone() for weight in trained.generator.parameters()]
    trainer = fit(trained, tmp_path, 1, callbacks=(Watch(),))
    assert [count for _, count, _ in seen] == [0, 1, 1, 2]  # the loss of the step in which it started anew is not asked
    assert seen[0][0] < 1e-6
    assert 0.01 < seen[1][0] < 0.03
    assert all(moments for *_, moments in seen)
    assert trainer.callback_metrics["discriminator/reinitialisations"] == 2
    for weight, old in zip(trained.generator.parameters(), before, strict=True):
        torch.testing.assert_close(weight, old, rtol=0, atol=1e-7)
    monkeypatch.setattr(module, "WON", 0.0)
    fit(method, tmp_path, 1)
    assert method.reinitialisations == 0


class SpoilDiscriminator(pl.Callback):
    """Its weights are no numbers from the third step on."""

    def on_train_batch_start(self, trainer, method, batch, batch_idx):
        if batch_idx == 2:
            torch.nn.init.constant_(method.discriminator.encoder.head.weight, torch.nan)


def test_a_discriminator_that_is_no_number_stops_the_run_at_that_step(tmp_path):
    with pytest.raises(UserError, match="the loss is nan at batch 2 of epoch 1: training stopped"):
        fit(small(), tmp_path, 1, callbacks=(SpoilDiscriminator(),))


@BOTH
def test_a_rate_out_of_all_proportion_stops_the_run(kind, tmp_path):
    descent = partial(torch.optim.SGD, lr=1e30)
    with pytest.raises(UserError, match=r"the loss is nan at batch . of epoch 1: .* \(method.optimizer.lr\)"):
        fit(small(kind, descent), tmp_path, 1)


@BOTH
def test_what_is_logged(kind, tmp_path):
    method = small(kind, log_gradient_norms=True)
    metrics = fit(method, tmp_path, 1).callback_metrics
    part = "encoder" if kind is GANomaly else "latent"
    assert {name for name in metrics if not name.startswith("train/")} == {
        "generator/adversarial", "generator/contextual", f"generator/{part}", "discriminator/real",
        "discriminator/fake", "discriminator/reinitialisations", "generator/gradient_norm",
        "discriminator/gradient_norm", "validation/loss",
    }  # fmt: skip
    assert metrics["generator/gradient_norm"] > 0
    assert "train/loss_epoch" in metrics
    assert not [name for name in fit(small(kind), tmp_path, 1).callback_metrics if "norm" in name]


@BOTH
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_one_network_at_a_time(kind, precision, tmp_path):
    norms = []

    class Norms(pl.Callback):
        def on_train_batch_end(self, trainer, method, *_):
            norms.append([
                torch.cat([weight.grad.flatten() for weight in network.parameters()]).norm().item()
                for network in (method.generator, method.discriminator)
            ])  # fmt: skip

    method = small(kind, gradient_clip=0.01, log_gradient_norms=True)
    trainer = fit(method, tmp_path, 1, callbacks=(Norms(),), precision=precision)
    assert np.array(norms) == pytest.approx(0.01, rel=1e-3)
    assert trainer.callback_metrics["generator/gradient_norm"] > 0.02  # before it was clipped


@BOTH
def test_a_loss_scale_changes_nothing(kind, tmp_path):
    """float16 on an accelerator: gradients are unscaled before they are clipped, each by the scale that made them."""

    def trained(*plugins):
        method = small(kind, optimizer=partial(torch.optim.SGD, lr=0.01), gradient_clip=0.1)
        return fit(method, tmp_path, 1, plugins=list(plugins)).lightning_module.state_dict()

    scale = scaled()
    torch.testing.assert_close(trained(scale), trained(), rtol=1e-5, atol=1e-7)
    assert scale.scaler.get_scale() == 2.0**18  # two steps for each of four batches


@BOTH
def test_the_schedule_falls_to_zero_for_both(kind, tmp_path):
    trainer = fit(small(kind, schedule="cosine"), tmp_path)
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == pytest.approx([0, 0], abs=1e-12)
    trainer = fit(small(kind), tmp_path, 1)
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == [2e-3, 2e-3]
    assert trainer.global_step == 2 * 4


@BOTH
@pytest.mark.parametrize(("epoch", "batch"), [(0, 2), (1, 3), (2, 0)])
def test_a_run_that_broke_off_ends_like_one_that_did_not(kind, epoch, batch, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WON", 0.6 if kind is GANomaly else 1.4)  # some steps start the discriminator anew
    build = partial(small, kind, partial(torch.optim.Adam, lr=2e-2), schedule="cosine")
    whole = state_of(fit(build(), tmp_path, 3), tmp_path)
    taken_up = broken_off(build, tmp_path, epoch, batch, 3)
    assert 1 <= whole["reinitialisations"] <= 6
    assert any(name.startswith("1.") and name.endswith("exp_avg") for name in whole)  # of both optimizers
    assert set(whole) == set(taken_up)
    assert all(torch.equal(value, taken_up[name]) for name, value in whole.items())


def plain(kind, rate, won):
    """Without batch norm, whose statistics of half a batch are not those of the whole; plain descent.

    Some steps start the discriminator anew. That all processes start from the same weights is not left to the seed.
    """
    module.WON = won
    method = without_batch_norm(small(kind, partial(torch.optim.SGD, lr=rate), gradient_clip=1.0))
    if os.environ.get("LOCAL_RANK") == "1":
        torch.nn.init.ones_(next(method.generator.parameters()))
    return method


@pytest.mark.parametrize(("kind", "rate", "won"), [(GANomaly, 0.05, 0.6935), (SkipGANomaly, 0.01, 1.405)])
def test_two_processes_learn_what_one_does(kind, rate, won, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WON", module.WON)  # put back after the training in this process
    build = partial(plain, kind, rate, won)
    alone = build()
    fit(alone, tmp_path, 2, Patches(batch_size=8))
    first, second = two_processes(build, tmp_path)
    assert 1 <= alone.reinitialisations <= 4
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    torch.testing.assert_close(first, dict(alone.state_dict()), rtol=1e-4, atol=1e-6)


@BOTH
def test_wrong_images(kind):
    method = small(kind)
    with pytest.raises(UserError, match="data.channels: expected 3, .* found images of 1"):
        method.predict(torch.rand(2, 1, 32, 32))
    with pytest.raises(UserError, match="data.patch_size: expected 32 px, .* found 48 x 32"):
        method.predict(torch.rand(2, 3, 48, 32))


@BOTH
def test_one_image_teaches_batch_norm_nothing(kind, tmp_path):
    with pytest.raises(UserError, match="data.batch_size: expected at least 2 images for each process.*found 1"):
        fit(small(kind), tmp_path, 1, Patches(batch_size=1))
    fit(without_batch_norm(small(kind)), tmp_path, 1, Patches(1, batch_size=1))


@BOTH
def test_what_the_trainer_cannot_do_is_refused_in_a_line(kind):
    check_manual_optimisation(small(kind), {"accumulate_grad_batches": 1, "gradient_clip_val": None})
    with pytest.raises(UserError, match="trainer.accumulate_grad_batches: expected 1, .* found 2; set data.batch_size"):
        check_manual_optimisation(small(kind), {"accumulate_grad_batches": 2})
    with pytest.raises(UserError, match="trainer.gradient_clip_val: .* found 0.5; set method.gradient_clip"):
        check_manual_optimisation(small(kind), {"gradient_clip_val": 0.5})


@BOTH
def test_textures_are_tiled(kind):
    method = small(kind, tiling=SlidingWindow(32, 10)).eval()
    images = torch.rand(2, 3, 50, 50)
    with torch.inference_mode():
        prediction = method(images)
        corners = torch.stack([
            method.predict(images[:, :, y : y + 32, x : x + 32]).score for y in (0, 10, 18) for x in (0, 10, 18)
        ])  # fmt: skip
    assert prediction.anomaly_map.shape == (2, 1, 50, 50)
    torch.testing.assert_close(prediction.score, corners.amax(0))


def configured(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", list(overrides))
    OmegaConf.update(config, "hydra", None, force_add=True)
    return check(config)


@pytest.mark.parametrize("name", ["ganomaly", "skip_ganomaly"])
def test_the_configuration_is_that_of_the_paper(name):
    config = configured(f"method={name}", "data.category=screw")
    method, data = config["method"], config["data"]
    assert (data["image_size"], data["patch_size"], data["batch_size"], data["channels"]) == (128, 128, 64, 3)
    assert method["optimizer"] == {
        "_target_": "torch.optim.Adam", "_partial_": True, "lr": 2e-4, "betas": [0.5, 0.999]
    }  # fmt: skip
    assert (method["latent_size"], method["width"], method["contextual_weight"]) == (100, 64, 50)
    assert (config["trainer"]["max_epochs"], method["test_batchnorm"]) == (15, "running")
    assert method["schedule"] == ("cosine" if name == "ganomaly" else "constant")  # the first is ours
    data = configured(f"method={name}", "data.category=carpet")["data"]
    assert (data["image_size"], data["patch_size"], data["stride"]) == (512, 128, 30)
    quick = configured("experiment=quick", f"method={name}")
    assert (quick["data"]["patches"], quick["data"]["batch_size"], quick["trainer"]["max_epochs"]) == (4000, 8, 4)
    assert configured(f"method={name}", "input.channels=1")["method"]["channels"] == 1
    with pytest.raises(UserError, match="data.image_size: expected 32, 64, 128 or 256, found 100"):
        configured(f"method={name}", "data.category=screw", "data.image_size=100")


def test_the_experiment_of_the_slides():
    config = configured("experiment=slides_ganomaly", "data.category=screw")
    assert (config["method"]["name"], config["method"]["channels"], config["method"]["image_size"]) == (
        "ganomaly", 1, 128
    )  # fmt: skip
    assert (config["data"]["batch_size"], config["trainer"]["max_epochs"]) == (32, 100)
    assert (config["method"]["optimizer"]["lr"], config["method"]["schedule"]) == (1e-3, "constant")


@pytest.mark.parametrize("name", ["ganomaly", "skip_ganomaly"])
def test_trained_it_beats_itself_untrained_on_the_demo_data(name, tmp_path, monkeypatch):
    """Untrained: a learning rate that changes no weight, while batch norm gets to know the data as well."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.set_num_threads(1)
    auroc = {}
    for rate in ("1e-12", "1e-3"):
        config = configured(
            "data=demo", f"method={name}", "data.image_size=32", "data.patches=1600", "data.batch_size=8",
            "data.test_batch_size=40", "budget.epochs=1", "data.workers=0", "method.width=16",
            f"method.optimizer.lr={rate}",
        )  # fmt: skip
        pl.seed_everything(0, verbose=False)
        data, method = instantiate(config["data"]["datamodule"]), build_method(config)
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, callbacks=[SeedEveryStep(0)], default_root_dir=tmp_path,
            reload_dataloaders_every_n_epochs=1, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(method, data)
        assert trainer.callback_metrics["validation/loss"].isfinite()
        normal, abnormal = [], []
        with torch.inference_mode():
            for batch in data.test_dataloader():
                images = data.on_after_batch_transfer(batch, 0).image
                mask = torch.nn.functional.interpolate(torch.stack(batch.mask).float(), images.shape[-2:]) > 0
                anomaly_map = method.eval()(images).anomaly_map
                normal.append(anomaly_map[~mask])
                abnormal.append(anomaly_map[mask])
        assert normal
        auroc[rate] = rank(torch.cat(normal).numpy(), torch.cat(abnormal).numpy()).auroc().value
    assert auroc["1e-3"] > auroc["1e-12"] + 0.05


@BOTH
def test_samples_are_the_reconstructions_and_a_rehearsal_costs_both_losses(kind):
    method = small(kind).eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(method.samples(images), method.predict(images).reconstruction)
        losses = method.losses(method.normalised(images))
        assert method.rehearse(images) == losses.generator + losses.discriminator
