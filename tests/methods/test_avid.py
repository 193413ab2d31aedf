"""AVID by closed forms: sizes, the patches of the detector, losses, whose turn it is, the map."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy

from anomaly_lab.methods.avid import AVID, Detector, enlarged
from anomaly_lab.networks.dcgan import batch_statistics
from anomaly_lab.networks.pix2pix import UNet
from tests.adversarial import COMMON, Losses, Patches, fit


def avid(size=32, **changes):
    """An AVID of a few thousand weights."""
    torch.manual_seed(0)
    return AVID(**COMMON | {"image_size": size, "channels": 3, "width": 4} | changes)


class Constant(nn.Module):
    """A detector that says the same of every patch."""

    def __init__(self, logit):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, images):
        return self.logit.expand(len(images), 1, 13, 13)


def random():
    return torch.Generator().manual_seed(0)


def images(count=3):
    return 2 * torch.rand(count, 3, 32, 32, generator=random()) - 1


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_the_detector_has_as_many_patches_whatever_the_size(size):
    network = Detector(size, 1, 2).eval()
    torch.nn.init.constant_(network.features[0][0].weight, 0.1)
    x = torch.zeros(1, 1, size, size, requires_grad=True)
    logits = network(x)
    assert logits.shape == (1, 1, 13, 13)
    halvings = (size // 16).bit_length() - 1
    field = 1
    for stride in [1, *[2] * halvings]:  # from the last convolution, of 4 places
        field = stride * (field - 1) + 4
    for module in network.modules():  # all that is seen, not only what passes a ReLU
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    (seen,) = torch.autograd.grad(network(x)[0, 0, 6, 6], [x])
    rows = seen[0, 0].abs().sum(dim=1).nonzero().flatten()
    assert len(rows) == field
    assert (rows[0] + rows[-1] + 1) / 2 == size / 2  # the middle patch is in the middle of the image
    assert 0.3 < field / size < 0.5


def test_networks_have_the_published_kind_of_layers():
    """At 256 px: strides of 2 down to 16 px, 4 x 4 convolutions, a probability a patch; the U-Net of pix2pix."""
    detector = [layer for layer in Detector(256, 3, 32).modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in detector] == [
        (32, 4, 2), (64, 4, 2), (128, 4, 2), (256, 4, 2), (512, 4, 1), (1, 1, 1)
    ]  # fmt: skip
    assert isinstance(avid().inpainter, UNet)
    for key, weight in avid(width=16).named_parameters():
        if weight.dim() == 4:
            assert weight.std().item() == pytest.approx(0.02, abs=6 * 0.02 / (2 * weight.numel()) ** 0.5), key


def test_a_number_lies_at_the_centre_of_its_patch():
    """A plane over the centres, which are at 2/16, ... 14/16 of the side, is one over the pixels between them."""
    centres = torch.arange(2, 15) / 16
    plane = 3 * centres.view(1, 1, 13, 1) + centres.view(1, 1, 1, 13)
    size = 128
    pixels = (torch.arange(size) + 0.5) / size
    expected = 3 * pixels.view(1, 1, size, 1) + pixels.view(1, 1, 1, size)
    inside = slice(size // 8, -size // 8)
    found = enlarged(plane, size)
    assert found.shape == (1, 1, size, size)
    torch.testing.assert_close(found[..., inside, inside], expected[..., inside, inside], rtol=0, atol=4 * 0.5 / size)
    torch.testing.assert_close(found[..., 0, 0], plane[..., 0, 0])  # outside the nearest
    torch.testing.assert_close(enlarged(torch.ones(1, 1, 13, 13), 32), torch.ones(1, 1, 32, 32))


def test_noise_has_its_deviation_and_goes_beyond_black_and_white():
    x = torch.ones(4, 3, 32, 32)
    noise = avid().noisy(x, random()) - x
    assert noise.std().item() == pytest.approx(0.8, abs=5 * 0.8 / (2 * noise.numel()) ** 0.5)
    assert noise.mean().item() == pytest.approx(0, abs=5 * 0.8 / noise.numel() ** 0.5)
    assert torch.equal(avid(noise=0.0).noisy(x, random()), x)


def test_losses_by_hand():
    method, x = avid(contextual_weight=7.0).eval(), images()
    made = method.inpainter(method.noisy(x, random()))
    on_real, on_fake = method.detector(x).sigmoid(), method.detector(made).sigmoid()
    one, zero = torch.ones_like(on_real), torch.zeros_like(on_real)
    real, fake = binary_cross_entropy(on_real, one), binary_cross_entropy(on_fake, zero)
    contextual, passes = (x - made).abs().mean(), binary_cross_entropy(on_fake, one)
    torch.testing.assert_close(method.validation_losses(x, 0, random()), {"loss": passes + 7 * contextual})
    detector, inpainter = method.turns(x, 0, 0, random())
    assert (detector.name, inpainter.name) == ("detector", "inpainter")
    torch.testing.assert_close(detector.parts, {"real": real, "fake": fake})
    torch.testing.assert_close(detector.loss, real + fake)
    with batch_statistics(method.detector):  # the turn of the inpainter has no other
        passes = binary_cross_entropy(method.detector(made).sigmoid(), one)
    torch.testing.assert_close(inpainter.parts, {"adversarial": passes, "contextual": contextual})
    torch.testing.assert_close(inpainter.loss, passes + 7 * contextual)


def test_a_detector_that_does_not_know_has_two_bits():
    method = avid(contextual_weight=0.0)
    method.detector = Constant(0.0)
    detector, inpainter = method.turns(images(), 0, 0, random())
    assert detector.loss.item() == pytest.approx(2 * 0.693147)
    assert inpainter.loss.item() == pytest.approx(0.693147)


def test_a_turn_leaves_the_other_network_as_it_was():
    method = avid().train()
    state = {key: value.clone() for key, value in method.state_dict().items()}
    turns = method.turns(images(), 0, 0, random())
    for name in ("detector", "inpainter"):
        own = next(turns)
        own.loss.backward(inputs=list(method.networks()[name].parameters()))
        method.optimizer(method.networks()[name].parameters()).step()
        method.zero_grad()
        now = {key: value.clone() for key, value in method.state_dict().items()}
        changed = {key.partition(".")[0] for key in now if "num_batches" not in key and not now[key].equal(state[key])}
        # The inpainter sees the images before the turn of the detector.
        assert changed == ({"detector", "inpainter"} if name == "detector" else {"inpainter"})
        state = now


@pytest.mark.parametrize(("logit", "share"), [(100.0, 0.0), (-100.0, 1.0), (0.0, 0.5)])
def test_the_map_is_what_was_changed_where_the_detector_says_no(logit, share):
    method, photos = avid().eval(), torch.rand(2, 3, 32, 32)
    method.detector = Constant(logit)
    x = 2 * photos - 1
    made = method.inpainter(x)  # no noise
    prediction = method.predict(photos)
    torch.testing.assert_close(prediction.anomaly_map, share * (x - made).abs().mean(1, keepdim=True))
    torch.testing.assert_close(prediction.reconstruction, (made + 1) / 2)
    torch.testing.assert_close(method.samples(photos), prediction.reconstruction)
    assert prediction.score is None


def test_the_detector_is_asked_about_the_image():
    method, photos = avid().eval(), torch.rand(2, 3, 32, 32)
    x = 2 * photos - 1
    no = enlarged(1 - method.detector(x).sigmoid(), 32)
    expected = (x - method.inpainter(x)).abs().mean(1, keepdim=True) * no
    torch.testing.assert_close(method.predict(photos).anomaly_map, expected)
    torch.testing.assert_close(method.embed(photos), method.detector.features(x).mean(dim=(2, 3)))


def test_both_learn_in_every_step(tmp_path):
    losses = Losses()
    method = avid()
    steps = []
    method.on_before_optimizer_step = lambda optimizer: steps.append(method.trainer.optimizers.index(optimizer))
    fit(method, tmp_path, 1, Patches(2), callbacks=(losses,))
    assert steps == [1, 0, 1, 0]
    expected = {"detector/real", "detector/fake", "inpainter/adversarial", "inpainter/contextual", "validation/loss"}
    assert expected <= set(losses.last)
    parts = losses.last["inpainter/adversarial"] + 100 * losses.last["inpainter/contextual"]
    assert losses.last["train/loss_epoch"] == pytest.approx(parts, rel=1e-5)
