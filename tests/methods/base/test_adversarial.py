"""Turns, stages, codes and checks of adversarial methods, of a toy by closed forms."""

import math
import re
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.methods.base.adversarial import (
    AdversarialMethod,
    AsyncScalar,
    Turn,
    lower_learning_rates,
    refuse_unlike,
    residual_map,
    unsigned,
)
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.f_anogan import Critic, Encoder, Generator
from anomaly_lab.training.checks import check_manual_optimisation
from tests.adversarial import GANS, Losses, Patches, configured, fit
from tests.conftest import stand_in

DESCENT = partial(torch.optim.SGD, lr=0.1)


class Toy(AdversarialMethod):
    """Two numbers; its turns are those of a function."""

    stages = ("first half", "second half")
    leaders = ("generator", "discriminator")

    def __init__(self, turns=None, ends=(1, 2), **training):
        super().__init__(**{"tiling": WholeImage(), "optimizer": DESCENT, **training})
        self.image_size, self.channels = 32, 3
        self.generator, self.discriminator = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.generator.weight, 2.0)
        nn.init.constant_(self.discriminator.weight, 3.0)
        self.turns_of, self.ends = turns or one_after_the_other, ends

    def turns(self, images, stage, step, random):
        return self.turns_of(self.generator.weight.sum(), self.discriminator.weight.sum(), self, step)

    def validation_losses(self, images, stage, random):
        return {"loss": images.mean(), "spread": images.std()}

    def predict(self, images):
        return Prediction(images[:, :1], None, None)

    def stage_ends(self):
        return self.ends


def one_after_the_other(g, d, method, step):
    """Both descend the product."""
    yield Turn("discriminator", d * g, {"step": torch.tensor(float(step))})
    yield Turn("generator", method.generator.weight.sum() * method.discriminator.weight.sum(), {})


def spoilt(g, d, method, step):
    """The second network has no number for a loss from the third step on; the first does not depend on it."""
    yield Turn("generator", g, {})
    yield Turn("discriminator", d * torch.nan if step == 2 else d, {})


def of_one_graph(g, d, method, step):
    """Both descend the product as it was before either step; a number is logged in every other step."""
    yield Turn("generator", d * g, {"step": torch.tensor(float(step))} if step % 2 == 0 else {}, keep_graph=True)
    yield Turn("discriminator", d * g, {})


@pytest.mark.parametrize(
    ("turns", "generator", "discriminator"),
    [(one_after_the_other, 2 - 0.1 * (3 - 0.1 * 2), 3 - 0.1 * 2), (of_one_graph, 2 - 0.1 * 3, 3 - 0.1 * 2)],
)
def test_a_loss_reaches_its_own_network_and_a_later_turn_sees_the_step_before_it(
    turns, generator, discriminator, tmp_path
):
    method = Toy(turns)
    fit(method, tmp_path, 1, Patches(1))
    assert (method.generator.weight.item(), method.discriminator.weight.item()) == pytest.approx(
        (generator, discriminator)
    )
    assert method.rehearse(Batch.of(torch.rand(2, 3, 32, 32))).item() == pytest.approx(2 * generator * discriminator)


def test_any_network_without_a_number_stops_the_run_at_that_step(tmp_path):
    with pytest.raises(UserError, match="the loss is nan at batch 2 of epoch 1: training stopped"):
        fit(Toy(spoilt), tmp_path, 1)


class Norms(pl.Callback):
    """The norms of the gradients as they are when the optimizers step, and the learning rates."""

    def __init__(self):
        self.norms, self.rates = [], []

    def on_train_batch_end(self, trainer, method, *_):
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])
        gradients = [
            [weight.grad.norm() for weight in network.parameters() if weight.grad is not None]
            for network in method.networks().values()
        ]
        self.norms.append([torch.stack(found).norm().item() for found in gradients if found])


@pytest.mark.parametrize(("clip", "after"), [(None, (3.0, 2.0)), (10.0, (3.0, 2.0)), (1.0, (1.0, 1.0))])
@pytest.mark.parametrize("log", [False, True])
def test_the_norm_of_each_network_is_clipped_and_logged_as_it_was(clip, after, log, tmp_path):
    norms = Norms()
    method = Toy(of_one_graph, gradient_clip=clip, log_gradient_norms=log)
    metrics = fit(method, tmp_path, 1, Patches(1), callbacks=(norms,)).callback_metrics
    assert norms.norms[0] == pytest.approx(after, rel=1e-5)
    assert {name: float(value) for name, value in metrics.items() if "norm" in name} == (
        {"generator/gradient_norm": 3.0, "discriminator/gradient_norm": 2.0} if log else {}
    )


def test_what_a_turn_logs_is_averaged_over_the_steps_of_an_epoch_that_log_it(tmp_path):
    """The first step too, although norms are logged between the turns."""
    metrics = []

    class Epochs(pl.Callback):
        def on_train_epoch_end(self, trainer, method):
            metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    fit(Toy(of_one_graph, log_gradient_norms=True), tmp_path, 2, Patches(4), callbacks=(Epochs(),))
    assert [epoch["generator/step"] for epoch in metrics] == [1.0, 5.0]
    assert {"validation/loss", "validation/spread", "train/loss", "train/loss_epoch"} < set(metrics[0])


def test_the_learning_rates_fall_by_half_a_cosine_in_each_stage(tmp_path):
    norms = Norms()
    fit(Toy(ends=(2, 3), schedule="cosine"), tmp_path, 3, Patches(2), callbacks=(norms,))
    expected = [0.5 + 0.5 * math.cos(math.pi * share) for share in (0, 0.25, 0.5, 0.75, 0, 0.5)]
    assert norms.rates == [pytest.approx([0.1 * share] * 2) for share in expected]
    optimizer = DESCENT([nn.Parameter(torch.zeros(1))])
    lower_learning_rates([optimizer], 1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_any_schedule_holds_in_each_stage(tmp_path):
    norms = Norms()
    fit(Toy(ends=(2, 3), schedule="early_drop"), tmp_path, 3, Patches(2), callbacks=(norms,))
    assert norms.rates == [pytest.approx([0.1 * factor] * 2) for factor in (1, 1, 0.1, 0.1, 1, 0.1)]


def test_stages_are_timed_and_each_has_its_own_loss(tmp_path, capsys):
    method, losses = Toy(), Losses()
    method.on_load_checkpoint({"stage_seconds": [100.0, 0.0]})  # a run that goes on
    fit(method, tmp_path, 2, Patches(1), callbacks=(losses,))
    assert 100 < losses.last["seconds/first_half"] < 200
    assert 0 < losses.last["seconds/second_half"] < 100
    assert re.search(r"first half: done in 2 min\nsecond half: done in \d+ s", capsys.readouterr().out)
    g, d = 2 - 0.1 * 2.8, 2.8  # after the first step
    assert losses.steps == pytest.approx([2 * d, d * g])  # of the generator, then of the discriminator
    assert Toy().stage == 0


def test_processes_take_rows_of_the_same_random_numbers():
    method = Toy(seed=1)
    whole = method.random_rows(torch.rand, 6, 2, random=method.random_at("training", 0, 3))
    for rank in range(3):
        method._trainer = stand_in(pl.Trainer, global_rank=rank, world_size=3)
        rows = method.random_rows(torch.rand, 2, 2, random=method.random_at("training", 0, 3))
        assert torch.equal(rows, whole[rank::3])
        rows = method.random_rows(torch.rand, 6, 2, random=method.random_at("training", 0, 3), alone=True)
        assert torch.equal(rows, whole)


def test_random_numbers_follow_from_seed_purpose_and_place():
    places = [("training", 0, 3), ("training", 3, 0), ("validation", 3), ("search",), ("samples",)]
    found = {method.random_at(*place).initial_seed() for method in (Toy(), Toy(seed=1)) for place in places}
    assert len(found) == 2 * len(places)
    assert found == {method.random_at(*place).initial_seed() for method in (Toy(), Toy(seed=1)) for place in places}


def test_one_image_is_refused_where_batch_norm_learns(tmp_path):
    method = Toy()
    fit(method, tmp_path, 1, Patches(1, batch_size=1))
    method.norm = nn.BatchNorm2d(3)
    with pytest.raises(UserError, match="data.batch_size: expected at least 2 images for each process, .* found 1"):
        fit(method, tmp_path, 1, Patches(1, batch_size=1))


@pytest.mark.parametrize("build", GANS)
def test_other_images_are_refused(build):
    method = build().eval()
    with pytest.raises(UserError, match="data.channels: expected 3, .*found images of 1"):
        method.predict(torch.zeros(2, 1, 32, 32))
    with pytest.raises(UserError, match="data.patch_size: expected 32 px, .*found 48 x 32"):
        method.predict(torch.zeros(2, 3, 48, 32))


@pytest.mark.parametrize(
    ("name", "stride", "training", "sizes"),
    [
        ("anogan", 128, (100_000, 5, "constant"), "a multiple of 16"),
        ("f_anogan", 30, (100_000, 20, "constant"), "32, 64, 128 or 256"),
        ("ganomaly", 30, (50_000, 15, "cosine"), "32, 64, 128 or 256"),
        ("skip_ganomaly", 30, (50_000, 15, "constant"), "32, 64, 128 or 256"),
        ("adae", 30, (50_000, 30, "constant"), "32, 64, 128 or 256"),
    ],
)
def test_what_they_see_of_textures_and_how_long(name, stride, training, sizes):
    config = configured(f"method={name}", "data.category=carpet")
    seen = [config["data"][key] for key in ("image_size", "patch_size", "stride", "batch_size", "channels")]
    assert seen == [512, 128, stride, 64, 3]
    budget = config["data"]["patches"], config["trainer"]["max_epochs"], config["budget"]["schedule"]
    assert budget == training
    with pytest.raises(UserError, match=f"data.image_size: expected .*{sizes}.*, found 100"):
        configured(f"method={name}", "data.category=screw", "data.image_size=100")


def test_networks_that_do_not_fit_are_refused():
    generator, critic, encoder = Generator(64, 3, 8, 2), Critic(64, 3, 2), Encoder(64, 3, 8, 2)
    refuse_unlike(generator=generator, critic=critic, encoder=encoder)
    with pytest.raises(UserError, match="method.critic.image_size: expected 64, that of method.generator, found 32"):
        refuse_unlike(generator=generator, critic=Critic(32, 3, 2))
    with pytest.raises(UserError, match="method.critic.channels: expected 3, that of method.generator, found 1"):
        refuse_unlike(generator=generator, critic=Critic(64, 1, 2))
    with pytest.raises(UserError, match="method.encoder.latent_size: expected 8, that of method.generator, found 9"):
        refuse_unlike(generator=generator, critic=critic, encoder=Encoder(64, 3, 9, 2))


def test_settings_of_the_trainer_that_do_nothing_are_refused():
    check_manual_optimisation(Toy(), {"accumulate_grad_batches": 1, "gradient_clip_val": None})
    with pytest.raises(UserError, match="trainer.accumulate_grad_batches: expected 1, .* found 2; set data.batch_size"):
        check_manual_optimisation(Toy(), {"accumulate_grad_batches": 2})
    with pytest.raises(UserError, match="trainer.gradient_clip_val: .* found 0.5; set method.gradient_clip"):
        check_manual_optimisation(Toy(), {"gradient_clip_val": 0.5})


@pytest.mark.parametrize(("kind", "expected"), [("l2", (0.25 + 0 + 4) / 3), ("l1", (0.5 + 0 + 2) / 3)])
def test_residuals_are_averaged_over_channels(kind, expected):
    photos, other = torch.tensor([0.5, 0.2, 1.0]), torch.tensor([0.0, 0.2, -1.0])
    assert residual_map(photos.view(1, 3, 1, 1), other.view(1, 3, 1, 1), kind).item() == pytest.approx(expected)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(unsigned(Toy().signed(images)), images)


def test_a_number_on_its_way_is_the_one_that_was_sent():
    assert AsyncScalar(torch.tensor(0.25)).item() == 0.25
