"""GANomaly by closed forms, and what it shares with Skip-GANomaly: one pass for both losses, a new discriminator."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import binary_cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from anomaly_lab.methods import ganomaly as module
from tests.adversarial import Patches, configured, fit, ganomaly, skip_ganomaly

BOTH = pytest.mark.parametrize("build", [ganomaly, skip_ganomaly])


@pytest.mark.parametrize(
    ("size", "channels", "generator", "discriminator"),
    [
        (32, 1, 3_200_384, 661_248), (32, 3, 3_206_528, 663_296), (64, 3, 10_729_856, 2_765_568),
        (128, 3, 38_359_424, 11_164_416), (256, 3, 143_950_208, 44_739_328),
    ],
)  # fmt: skip
def test_networks_have_the_size_of_the_authors(size, channels, generator, discriminator):
    with torch.device("meta"):
        networks = module.Generator(size, channels, 100, 64), module.Discriminator(size, channels, 64)
    assert [sum(weight.numel() for weight in network.parameters()) for network in networks] == [
        generator, discriminator
    ]  # fmt: skip


def test_the_generator_goes_round_twice():
    generator, images = ganomaly().generator, torch.rand(2, 3, 32, 32)
    _, codes, again = generator(images)
    assert codes.shape == again.shape == (2, 8, 1, 1)
    torch.testing.assert_close(codes, generator.encoder(images))
    torch.testing.assert_close(again, generator.second_encoder(generator.decoder(codes)))
    assert set(map(id, generator.encoder.parameters())).isdisjoint(map(id, generator.second_encoder.parameters()))


def test_losses_by_hand():
    method = ganomaly(adversarial_weight=2.0, contextual_weight=7.0, encoder_weight=3.0).eval()
    images = 2 * torch.rand(2, 3, 32, 32) - 1
    x_hat, z, z_hat = method.generator(images)
    f, f_hat = (method.discriminator.encoder.features(values) for values in (images, x_hat))
    real, fake = (method.discriminator.encoder.head(values).sigmoid() for values in (f, f_hat))
    features, pixels, codes = ((f - f_hat) ** 2).mean(), (images - x_hat).abs().mean(), ((z - z_hat) ** 2).mean()
    on_real, on_fake = (
        binary_cross_entropy(real, torch.ones_like(real)), binary_cross_entropy(fake, torch.zeros_like(fake))
    )  # fmt: skip
    generator, discriminator = method.turns(images, 0, 0, torch.Generator())
    torch.testing.assert_close(dict(generator.parts), {"adversarial": features, "contextual": pixels, "encoder": codes})
    torch.testing.assert_close(generator.loss, 2 * features + 7 * pixels + 3 * codes)
    torch.testing.assert_close(dict(discriminator.parts), {"real": on_real, "fake": on_fake})
    torch.testing.assert_close(discriminator.loss, (on_real + on_fake) / 2)


def test_map_and_score_by_hand():
    method, images = ganomaly().eval(), torch.rand(2, 3, 32, 32)
    x_hat, z, z_hat = method.generator(2 * images - 1)
    prediction = method.predict(images)
    torch.testing.assert_close(prediction.anomaly_map, (2 * images - 1 - x_hat).abs().mean(1, keepdim=True))
    torch.testing.assert_close(prediction.score, (z - z_hat).square().mean((1, 2, 3)))
    torch.testing.assert_close(prediction.reconstruction, (x_hat + 1) / 2)
    torch.testing.assert_close(method.samples(images), prediction.reconstruction)
    assert ganomaly(score="map").eval().predict(images).score is None
    assert ganomaly(score="map").eval()(images).score.shape == (2,)


# Both.


@BOTH
def test_the_initialisation_reached_the_networks(build):
    for key, weight in build(latent_size=100, width=16).named_parameters():
        if weight.dim() == 4:
            assert weight.std().item() == pytest.approx(0.02, abs=5 * 0.02 / (2 * weight.numel()) ** 0.5), key
            assert abs(weight.mean().item()) < 5 * 0.02 / weight.numel() ** 0.5, key


@BOTH
def test_a_score_depends_on_the_other_images_where_the_code_of_the_authors_is_asked_for(build):
    method, images = build(test_batchnorm="batch").eval(), torch.rand(4, 3, 32, 32)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    together, others = method.predict(images).score, method.predict(images[[2, 3, 0]]).score
    torch.testing.assert_close(method.predict(images.flip(0)).score.flip(0), together, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(others, together[[2, 3, 0]], rtol=1e-4, atol=1e-7)
    assert method.export_obstacle
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


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


def straightforward(method, images):
    """Gradients of both networks as they are usually written: the reconstructions are seen twice, once detached."""
    generator, discriminator = method.generator, method.discriminator
    with_codes = isinstance(method, module.GANomaly)

    def latent(x, y):
        return (x - y).square().mean()

    def entropy(logits, target):
        return binary_cross_entropy(logits.sigmoid(), torch.full_like(logits, target))

    x_hat, *codes = generator(images) if with_codes else (generator(images),)
    (p, f), (p_hat, f_hat) = discriminator(images), discriminator(x_hat)
    of_generator = 50 * (images - x_hat).abs().mean() + latent(f, f_hat)
    of_generator = of_generator + (latent(*codes) if with_codes else entropy(p_hat, 1.0))
    (p, f), (p_hat, f_hat) = discriminator(images), discriminator(x_hat.detach())
    of_discriminator = entropy(p, 1.0) + entropy(p_hat, 0.0)
    of_discriminator = of_discriminator / 2 if with_codes else of_discriminator + latent(f, f_hat)
    return [
        torch.autograd.grad(loss, list(network.parameters()))
        for loss, network in ((of_generator, generator), (of_discriminator, discriminator))
    ]


@pytest.mark.parametrize(
    ("build", "passes", "inputs"),
    # generator, twice the discriminator; the weights of each once; inputs: all but those of the images
    [(ganomaly, 12 + 2 * 4, (3 + 11) + 2 * 3), (skip_ganomaly, 10 + 2 * 5, (5 + 9) + 2 * 4)],
)
def test_one_pass_serves_both_losses(build, passes, inputs, tmp_path):
    """That their gradients are those of separate passes is shown below."""
    method, counts = build(), Convolutions()
    step = method.training_step

    def counted(*arguments):
        with counts:
            return step(*arguments)

    method.training_step = counted
    fit(method, tmp_path, 1, Patches(1))
    assert (counts.forward, counts.of_weights, counts.of_inputs) == (passes, passes, inputs)


def test_a_discriminator_that_has_won_starts_anew(tmp_path, monkeypatch):
    """One step later than its loss; the generator is left alone, and so are the moments of the optimizer."""
    monkeypatch.setattr(module, "WON", 100.0)
    seen = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, method, *_):
            weight = method.discriminator.encoder.head.weight
            moments = trainer.optimizers[1].state[weight]["exp_avg"]
            seen.append((weight.std().item(), int(method.reinitialisations), bool(moments.any())))

    method = ganomaly(optimizer=partial(torch.optim.Adam, lr=1e-9))
    torch.nn.init.ones_(method.discriminator.encoder.head.weight)
    before = [weight.clone() for weight in method.generator.parameters()]
    trainer = fit(method, tmp_path, 1, callbacks=(Look(),))
    assert [count for _, count, _ in seen] == [0, 1, 1, 2]  # the loss of the step in which it started anew is not asked
    assert seen[0][0] < 1e-6
    assert 0.01 < seen[1][0] < 0.03
    assert all(moments for *_, moments in seen)
    assert trainer.callback_metrics["discriminator/reinitialisations"] == 2
    for weight, old in zip(method.generator.parameters(), before, strict=True):
        torch.testing.assert_close(weight, old, rtol=0, atol=1e-7)


@BOTH
def test_no_step_leaves_its_graph_behind(build, tmp_path):
    """What the discriminator's turn computes reaches no buffer, nor the parameters of the generator."""
    method, seen = build(), []
    learn = method.after_turns

    def watched(losses):
        seen.extend(losses.values())
        learn(losses)

    method.after_turns = watched
    fit(method, tmp_path, 1)
    assert len(seen) == 2 * 4
    assert not any(value.requires_grad for value in [*seen, *method.buffers()])


def test_the_experiment_of_the_slides():
    config = configured("experiment=slides_ganomaly", "data.category=screw")
    assert (config["method"]["name"], config["data"]["channels"], config["data"]["patch_size"]) == ("ganomaly", 1, 128)
    assert (config["data"]["batch_size"], config["trainer"]["max_epochs"]) == (32, 100)
    assert (config["method"]["optimizer"]["lr"], config["budget"]["schedule"]) == (1e-3, "constant")


@BOTH
def test_three_steps_written_out(build, tmp_path):
    """As in the code of the authors: both losses at the weights before a step, then a step of each network."""
    sgd = partial(torch.optim.SGD, lr=0.05)
    ours, theirs = build(optimizer=sgd), build(optimizer=sgd)
    fit(ours, tmp_path, 1, Patches(3))
    networks = theirs.generator, theirs.discriminator
    for batch in Patches(3):
        gradients = straightforward(theirs, 2 * batch.image - 1)
        with torch.no_grad():
            for network, own in zip(networks, gradients, strict=True):
                for weight, gradient in zip(network.parameters(), own, strict=True):
                    weight -= 0.05 * gradient
    moved = [
        (weight - start).abs().max() for weight, start in zip(ours.parameters(), build().parameters(), strict=True)
    ]
    assert min(moved) > 1e-5
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
