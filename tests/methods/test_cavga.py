"""CAVGA: where it looks against a slow Grad-CAM, its losses in closed form, both of its networks, labelled images."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.functional.attention import grad_cam
from anomaly_lab.inference.graph import ask_onnx, ask_pt2, to_onnx, to_pt2, traced, valid_pixels
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.cavga import CAVGA, ConvolutionalAutoencoder, ResidualAutoencoder
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.dcgan import Decoder


def cavga(layer="layer2", image_size=32, channels=3, latent_size=16, **changes):
    torch.manual_seed(0)
    backbone = layer and Backbone("resnet18.tv_in1k", [layer], fine_tuned=True)
    adam = partial(torch.optim.Adam, lr=1e-3)
    options = {"latent_size": latent_size, "width": 4, "tiling": WholeImage(), "optimizer": adam} | changes
    return CAVGA(image_size, channels, backbone, **options)


def images(count=3, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def turns(method, count=3):
    return list(method.turns(method.signed(images(count)), 0, 0, torch.Generator().manual_seed(2)))


class Looks(nn.Module):
    """A classifier whose two logits are given numbers times the sum of the code."""

    def __init__(self, good, defective, favoured=0.0):
        super().__init__()
        self.factors, self.offset = torch.tensor([good, defective]), torch.tensor([0.0, favoured])

    def forward(self, codes):
        return codes.sum(dim=1, keepdim=True) * self.factors + self.offset


@pytest.mark.parametrize("layer", ["layer2", None], ids=["R", "D"])
@pytest.mark.parametrize("labelled", [False, True], ids=["u", "w"])
def test_the_map_is_one_minus_a_grad_cam_of_each_image_alone(layer, labelled):
    method = cavga(layer, labelled=labelled, gain=0.5).eval()
    found = method.predict(images())
    for image, row in zip(images(), found.anomaly_map, strict=True):
        features = method.autoencoder.features(image[None]).detach().requires_grad_()
        code = method.autoencoder.head(features)[0].flatten(1)
        number = method.autoencoder.classifier(code)[0, 0] if labelled else code.sum() / 4  # the root of 16 channels
        number.backward()
        cam = torch.zeros(features.shape[2:])
        for channel in range(features.shape[1]):
            cam += features.grad[0, channel].mean() * features[0, channel].detach()
        torch.testing.assert_close(row[0], 1 - 1 / (1 + torch.exp(-0.5 * cam)))


def test_with_the_rectifier_of_grad_cam_no_map_would_pass_the_published_threshold():
    features = torch.randn(4, 8, 5, 5, requires_grad=True)
    number = (features * torch.randn(8, 1, 1)).sum(dim=(1, 2, 3))
    assert (1 - grad_cam(features, number, "relu", create_graph=True).sigmoid()).max() <= 0.5
    assert (1 - grad_cam(features, number, None).sigmoid()).max() > 0.5


def test_features_of_zero_are_seen_by_half_and_all_attention_costs_nothing():
    method = cavga(attention_weight=3.0)
    features = torch.zeros(2, 4, 5, 5, requires_grad=True)
    loss, found = method.guidance(features, features * 2)
    assert loss.item() == pytest.approx(3 * 0.5)
    assert (found["attention"].item(), found["attention_deviation"].item()) == (0.5, 0)
    features = torch.full((2, 4, 5, 5), 10.0, requires_grad=True)
    loss, found = method.guidance(features, features * 2)
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("good", "defective", "expected"), [(1.0, -1.0, 0.0), (-1.0, 1.0, 2.0), (0.0, 0.0, 1.0)])
def test_complementary_guided_attention(good, defective, expected):
    """Normal images that are taken for normal: 1 - A of their class + A of the other one."""
    method = cavga(attention_weight=1.0, classification_weight=0.0)
    method.autoencoder.classifier = Looks(good, defective, favoured=-1e6)
    features = torch.full((2, 4, 1, 1), 10.0, requires_grad=True)
    loss, found = method.guidance(features, features * 2)
    assert loss.item() == pytest.approx(expected, abs=1e-3)
    assert found["complementary"].item() == pytest.approx(expected, abs=1e-3)


def test_attention_of_defective_and_of_mistaken_images_is_not_guided():
    method = cavga(attention_weight=1.0, classification_weight=0.0)
    features = torch.full((4, 4, 1, 1), 10.0, requires_grad=True)
    method._defective = torch.tensor([True, False, True, True])
    method.autoencoder.classifier = Looks(-1.0, 1.0, favoured=-1e6)
    assert method.guidance(features, features * 2)[0].item() == pytest.approx(2 / 4, abs=1e-3)
    method.autoencoder.classifier = Looks(-1.0, 1.0, favoured=1e6)  # all are taken for defective
    assert method.guidance(features, features * 2)[0].item() == 0


def test_classes_are_those_of_the_labels():
    method = cavga(labelled=True, attention_weight=0.0, classification_weight=1.0)
    mean = torch.randn(3, 16, 4, 4, requires_grad=True)
    method._defective = torch.tensor([False, True, True])
    loss, _ = method.guidance(mean, mean)
    logits = method.autoencoder.classifier(mean.flatten(1))
    expected = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(loss, expected)


def test_a_step_knows_the_labels_of_its_batch():
    method = cavga(labelled=True)
    batch = Batch.of(images())._replace(label=torch.tensor([0, 1, 0]))
    with pytest.raises(RuntimeError):  # no trainer is attached
        method.training_step(batch, 0)
    assert method._defective.tolist() == [False, True, False]


@pytest.mark.parametrize("labelled", [False, True], ids=["u", "w"])
def test_the_loss_of_attention_reaches_the_first_convolution(labelled):
    method = cavga(labelled=labelled, adversarial_weight=0.0)
    features = method.autoencoder.features(images())
    loss, _ = method.guidance(features, method.autoencoder.codes(features)[0])
    loss.backward()
    first = next(method.autoencoder.encoder.parameters())
    assert first.grad.abs().max() > 0


def test_losses_are_those_of_the_paper_by_value():
    method = cavga(adversarial_weight=2.0, attention_weight=0.0)
    autoencoder, discriminator = turns(method)
    parts = autoencoder.parts
    assert autoencoder.loss.item() == pytest.approx(
        (parts["reconstruction"] + parts["kl"] + 2 * parts["adversarial"]).item()
    )
    assert discriminator.loss.item() == pytest.approx(sum(discriminator.parts.values()).item())
    assert parts["reconstruction"].item() == pytest.approx(0.7, abs=0.2)  # log 2 for gray
    mean, log_variance = cavga().autoencoder.codes(cavga().autoencoder.features(images()))
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 3 / (3 * 32 * 32)
    assert parts["kl"].item() == pytest.approx(kl.item(), rel=1e-3)


def test_the_autoencoder_wants_its_images_taken_for_real():
    method = cavga(attention_weight=0.0)
    method.discriminator.forward = lambda made: (torch.full((len(made),), 3.0), None)
    autoencoder, discriminator = turns(method)
    assert autoencoder.parts["adversarial"].item() == pytest.approx(torch.tensor(-3.0).exp().log1p().item())
    assert discriminator.parts["fake"].item() > 3 > 0.1 > discriminator.parts["real"].item()


def test_the_discriminator_sees_photos_and_generated_images_in_one_range():
    method, seen = cavga(), []
    method.autoencoder.decode = lambda codes: codes.sum() * 0 - torch.full((3, 3, 32, 32), 5.0)
    method.discriminator.forward = lambda shown: (seen.append(shown), (shown.mean(dim=(1, 2, 3)), None))[1]
    turns(method)
    made, photos, again = seen
    torch.testing.assert_close(made, torch.full((3, 3, 32, 32), -2.5).tanh())
    assert torch.equal(made, again)
    torch.testing.assert_close(photos, 2 * images() - 1)


@pytest.mark.parametrize(("layer", "side", "widths"), [("layer2", 32, [8, 8, 8]), ("layer4", 64, [64, 32, 16, 8, 8])])
def test_the_residual_decoder_doubles_the_side_and_halves_the_channels(layer, side, widths):
    backbone = Backbone("resnet18.tv_in1k", [layer], fine_tuned=True)
    latent = 2 * widths[0] if layer == "layer4" else 8
    network = ResidualAutoencoder(backbone, side, 3, latent)
    assert [block.skip[0].out_channels for block in network.decoder[:-1]] == widths
    features = network.features(images(2, side))
    mean, _ = network.codes(features)
    assert mean.shape == (2, latent, *features.shape[2:])
    assert network.decode(mean).shape == (2, 3, side, side)


def test_the_other_network_is_the_dcgan_with_logits():
    network = ConvolutionalAutoencoder(32, 3, 10, 4)
    mean, _ = network.codes(network.features(images()))
    assert mean.shape == (3, 10, 1, 1)
    decoder = Decoder(32, 3, 10, 4)
    decoder.layers[:-1].load_state_dict(network.decoder.state_dict())
    torch.testing.assert_close((decoder(mean) + 1) / 2, (2 * network.decode(mean)).sigmoid())


def test_an_image_that_the_places_do_not_divide_is_refused():
    with pytest.raises(UserError, match="data.image_size: expected a multiple of 32 px, .*found 48"):
        ResidualAutoencoder(Backbone("resnet18.tv_in1k", ["layer4"], fine_tuned=True), 48, 3, 8)


def test_the_score_is_the_mean_difference_and_maps_are_chosen():
    attention = cavga().eval().predict(images())
    residual = cavga(map="residual", score="map").eval().predict(images())
    difference = (images() - attention.reconstruction).abs().mean(dim=1, keepdim=True)
    torch.testing.assert_close(residual.anomaly_map, difference)
    torch.testing.assert_close(attention.score, difference.mean(dim=(1, 2, 3)))
    assert residual.score is None
    assert cavga(map="residual").export_obstacle is None
    assert "is a gradient" in cavga().export_obstacle


@pytest.mark.slow
@pytest.mark.parametrize(("write", "ask"), [(to_pt2, ask_pt2), (to_onnx, ask_onnx)], ids=["pt2", "onnx"])
@pytest.mark.parametrize(("layer", "score"), [("layer2", "residual"), (None, "map")], ids=["R", "D"])
def test_the_map_that_is_no_gradient_is_a_graph(layer, score, write, ask):
    """As the reason says why the other map is none."""
    method = cavga(layer, map="residual", score=score).eval()
    with torch.no_grad():
        right = method(images())
    file = write(traced(method, 3, 32), "{}")
    for some in (slice(0, 3), slice(2, 3)):
        found = ask(file, images()[some], valid_pixels(images()[some], ()))
        for part, expected in ((found.anomaly_map, right.anomaly_map), (found.score, right.score)):
            np.testing.assert_allclose(part, expected[some].numpy(), rtol=0, atol=1e-5)


def test_only_the_scores_of_the_paper_have_its_line():
    assert [cavga(score=score).scaled_line for score in ("residual", "map")] == [0.5, None]


def test_a_frozen_encoder_is_refused():
    told = "method.backbone.fine_tuned: expected true, because .*, found false; method.backbone=null"
    with pytest.raises(UserError, match=told):
        CAVGA(32, 3, Backbone("resnet18.tv_in1k", ["layer2"]), tiling=WholeImage(), optimizer=torch.optim.Adam)


def test_labels_add_a_classifier_and_nothing_else():
    plain, weak = (set(cavga(labelled=labelled).state_dict()) for labelled in (False, True))
    assert weak - plain == {"autoencoder.classifier.weight", "autoencoder.classifier.bias"}
    assert cavga(labelled=True).autoencoder.classifier.in_features == 16 * 4 * 4


@pytest.mark.parametrize("latent_size", [1, 4, 8, 20])
def test_codes_of_any_size_are_decoded(latent_size):
    """Below eight channels too, of which no block has fewer."""
    method = cavga(latent_size=latent_size).eval()
    assert method.predict(images()).reconstruction.shape == images().shape


def test_what_stands_in_for_the_weights_of_celeba_is_said():
    for layer, networks in (("layer2", "decoder and discriminator"), (None, "encoder, decoder and discriminator")):
        (line,) = cavga(layer).substitutes
        assert line.partition(":")[0] == networks
