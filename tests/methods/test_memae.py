"""MemAE: the published layers, its loss in closed form, what a memory of one slot can say, remarks on its size."""

from functools import partial

import pytest
import torch
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.memae import MemAE, stages
from anomaly_lab.networks.autoencoder import Autoencoder
from anomaly_lab.networks.memory import entropy


def memae(image_size=32, channels=3, slots=20, shrinkage=1.0, **changes):
    torch.manual_seed(0)
    return MemAE(WholeImage(), partial(torch.optim.Adam, lr=1e-3), image_size, channels, slots, shrinkage, **changes)


def images(count=4, side=32, channels=3):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def weights(network):
    return sum(weight.numel() for weight in network.parameters())


def test_at_32_px_the_layers_are_those_of_the_paper():
    method = memae(slots=500)
    down = [layer for layer in method.encoder[0] if isinstance(layer, nn.Conv2d)]
    up = [layer for layer in method.decoder[0] if isinstance(layer, nn.ConvTranspose2d)]
    assert [(layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in down] == stages(32)
    assert [layer.out_channels for layer in up] == [128, 128, 64, 3]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in method.modules()) == 4 + 3
    assert method.encoded(images())[-1].shape == (4, 256, 2, 2)
    kernels = 9 * (3 * 64 + 64 * 128 + 128 * 128 + 128 * 256)
    assert weights(method.encoder) == kernels + 2 * (64 + 128 + 128 + 256)
    assert weights(method.decoder) == kernels + 2 * (128 + 128 + 64) + 3
    assert weights(method.memories) == 500 * 256


@pytest.mark.parametrize("image_size", [128, 256])
def test_above_it_has_the_trunk_of_cae(image_size):
    """All its convolutions down to 8 x 8 places of 128 channels, and their mirrors."""

    def shapes(network, kind):
        return [layer.weight.shape for layer in network if isinstance(layer, kind) and layer.kernel_size != (8, 8)]

    with torch.device("meta"):
        method, cae = memae(image_size), Autoencoder(image_size, 3, initialisation="default")
    trunk = shapes(method.encoder[0], nn.Conv2d)
    assert trunk == shapes(cae.encoder, nn.Conv2d)[: len(trunk)]
    assert [shape[0] for shape in trunk][-1] == 128
    mirror = shapes(method.decoder[0], nn.ConvTranspose2d)
    assert mirror == trunk[::-1]


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_every_place_asks_the_memory_and_the_image_comes_back(image_size):
    method = memae(image_size, channels=1).eval()
    with torch.no_grad():
        reconstructions, (read,) = method.answer(images(2, image_size, 1))
    assert read.maps[0, 0].numel() == method.places
    assert reconstructions.shape == (2, 1, image_size, image_size)


def test_loss_is_the_squared_difference_in_the_published_range_and_the_entropy():
    method = memae(entropy_weight=0.5)
    parts = method.losses(Batch.of(images()))
    reconstructions, (read,) = memae().answer(images())
    squared = ((2 * images() - 1) - (2 * reconstructions - 1)).square().mean()
    torch.testing.assert_close(parts["squared"], squared)
    torch.testing.assert_close(parts["loss"], squared + 0.5 * entropy(read.weights))
    assert 0 <= parts["empty_queries"] <= 1
    assert 0 < parts["used_slots"] <= 1


def test_a_threshold_is_in_units_of_one_over_the_slots():
    assert memae(slots=20, shrinkage=2.0).memories[0].shrinkage == 0.1


def test_features_are_those_of_images_in_the_published_range():
    method = memae().eval()
    torch.testing.assert_close(method.embed(images()), method.encoder[0](2 * images() - 1).mean(dim=(2, 3)))


def test_a_memory_of_one_slot_makes_the_same_of_every_image():
    method = memae(slots=1).eval()
    with torch.no_grad():
        reconstructions, _ = method.answer(images())
        prediction = method.predict(images())
    assert torch.equal(reconstructions, reconstructions[:1].expand_as(reconstructions))
    expected = (images() - reconstructions).square().mean(dim=1, keepdim=True)
    torch.testing.assert_close(prediction.anomaly_map, expected)


def test_an_empty_memory_still_learns():
    method = memae(shrinkage=19.0)  # a threshold of 0.95, which no weight passes
    parts = method.losses(Batch.of(images()))
    parts["loss"].backward()
    assert parts["empty_queries"] == 1
    gradients = [weight.grad for weight in method.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert method.memories[0].slots.grad.any()
    assert next(method.parameters()).grad.abs().max() > 1e-6  # of the encoder


def test_skips_reach_the_decoder_through_memories_of_their_own():
    method = memae(64, block=4, skips=2).eval()
    assert [memory.slots.shape[1] // 16 for memory in method.memories] == [32, 64, 128]
    with torch.no_grad():
        reconstructions, readings = method.answer(images(2, 64))
    assert [tuple(read.maps.shape[1:]) for read in readings] == [(32, 32, 32), (64, 16, 16), (128, 8, 8)]
    assert [tuple(read.weights.shape[2:]) for read in readings] == [(8, 8), (4, 4), (2, 2)]
    assert reconstructions.shape == (2, 3, 64, 64)


def test_loss_and_state_are_means_over_the_memories():
    method = memae(block=2, skips=1, shrinkage=3.0)
    parts = method.losses(Batch.of(images()))
    _, readings = memae(block=2, skips=1, shrinkage=3.0).answer(images())
    assert len(readings) == 2
    torch.testing.assert_close(parts["entropy"], sum(entropy(read.weights) for read in readings) / 2)
    torch.testing.assert_close(parts["empty_queries"], (readings[0].empty + readings[1].empty) / 2)


def test_large_blocks_of_one_slot_make_one_image_of_all_whatever_the_skips():
    method = memae(slots=1, block=2, skips=2).eval()
    with torch.no_grad():
        reconstructions, _ = method.answer(images())
    assert torch.equal(reconstructions, reconstructions[:1].expand_as(reconstructions))


def test_a_block_larger_than_the_innermost_map_is_refused():
    with pytest.raises(UserError, match="method.block: expected at most 2 for images of 32 px, found 4"):
        memae(block=4)


def test_the_score_is_the_default_or_the_mean_of_the_map():
    assert memae().eval().predict(images()).score is None
    answer = memae(score="mean").eval().predict(images())
    torch.testing.assert_close(answer.score, answer.anomaly_map.mean(dim=(1, 2, 3)))
    assert answer.reconstruction.min() >= 0
    assert answer.reconstruction.max() <= 1


def test_a_memory_as_large_as_the_data_is_remarked(capsys):
    batches = [Batch.of(images(2))] * 3  # 6 images of 4 places
    memae(slots=23).prepare(batches)
    assert not capsys.readouterr().out
    memae(slots=24).prepare(batches)
    assert "memae: 24 slots, and 6 training images of 4 places each" in capsys.readouterr().out
    looked = iter(batches)
    memae(slots=7).prepare(looked)
    assert len(list(looked)) == 2  # no further than it takes
