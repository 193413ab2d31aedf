"""Reverse Distillation: its networks by their counts, its two losses by hand, its map."""

from functools import partial

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.reverse_distillation import Decoder, OneClassEmbedding, ReverseDistillation
from anomaly_lab.networks.backbone import Backbone

RESNET18 = (64, 128, 256), "basic", (2, 2, 2), 64, 12_205_312, 3_703_168
WIDE = (256, 512, 1024), "bottleneck", (3, 4, 6), 128, 67_277_824, 24_917_504


def count(network):
    return sum(weight.numel() for weight in network.parameters())


def reverse_distillation(backbone, loss="flattened"):
    return ReverseDistillation(WholeImage(), backbone, partial(torch.optim.Adam, lr=5e-3), loss, "basic", (1, 1, 1), 64)


@pytest.mark.parametrize(("channels", "block", "blocks", "base_width", "embedding", "decoder"), [RESNET18, WIDE])
def test_the_networks_are_as_large_as_those_of_the_authors(channels, block, blocks, base_width, embedding, decoder):
    with torch.device("meta"):
        made = OneClassEmbedding(channels, block, blocks[0], base_width), Decoder(channels, block, blocks, base_width)
    deepest = channels[-1]
    unused = 4 * deepest * 2 * deepest + 2 * 2 * deepest  # theirs has a 1 x 1 convolution with batch norm beside it
    assert (count(made[0]) + unused, count(made[1])) == (embedding, decoder)


def test_fused_maps_are_never_negative_and_weights_are_drawn_by_the_fan_out():
    torch.manual_seed(0)
    embedding, seen = OneClassEmbedding((64, 128, 256), "basic", 1, 64).eval(), []
    embedding.embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    maps = [torch.randn(1, channels, side, side) for channels, side in ((64, 16), (128, 8), (256, 4))]
    embedding(maps)
    fused = seen[0][:, :512]  # then comes the deepest map itself
    assert fused.min() == 0 < fused.max()
    assert seen[0][:, 512:].equal(maps[2])
    assert embedding.fuse[1][0].weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("side", [64, 80, 100])
def test_the_decoder_restores_maps_of_the_teachers_shapes_from_half_of_the_deepest_grid(side):
    torch.manual_seed(0)
    method = reverse_distillation(Backbone("resnet18", ("layer1", "layer2", "layer3"))).eval()
    images = torch.rand(1, 3, side, side)
    teacher = method.backbone(images)
    assert method.embedding(teacher).shape[2] == -(-teacher[2].shape[2] // 2)
    assert method.embed(images).shape == (1, 512)
    for known, restored in method.pairs(images):
        assert known.shape == restored.shape
    assert method.predict(images).anomaly_map.shape == (1, 1, side, side)


class Fixed(ReverseDistillation):
    """Pairs of given maps."""

    def pairs(self, images):
        return self.given


@pytest.mark.parametrize(("loss", "expected"), [("per_place", 0.5), ("flattened", 0.1)])
def test_the_two_losses_weigh_a_place_alike_or_by_its_length(loss, expected):
    teacher = torch.tensor([[1.0, 0], [0, 3]]).view(1, 2, 1, 2)  # places (1, 0) and (0, 3)
    student = torch.tensor([[0.0, 0], [1, 3]]).view(1, 2, 1, 2)  # places (0, 1) and (0, 3)
    backbone = Backbone("resnet18", ("layer1", "layer2", "layer3"))
    method = Fixed(WholeImage(), backbone, torch.optim.Adam, loss, "basic", (1, 1, 1), 64)
    method.given = [(teacher, student), (teacher, teacher), (teacher, teacher)]
    losses = method.losses(Batch.of(torch.rand(1, 3, 8, 8)))
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(
        {"loss": expected, "layer1": expected, "layer2": 0, "layer3": 0}
    )


def test_the_map_is_the_sum_over_the_layers_each_enlarged_to_the_image():
    backbone = Backbone("resnet18", ("layer1", "layer2", "layer3"))
    method = Fixed(WholeImage(), backbone, torch.optim.Adam, "flattened", "basic", (1, 1, 1), 64)
    one, other = torch.tensor([1.0, 0]).view(1, 2, 1, 1), torch.tensor([0.0, 1]).view(1, 2, 1, 1)
    rows = torch.cat([one, other], dim=2)  # differs from `one` in its lower place
    method.given = [(one, other), (one, one), (one.expand(1, 2, 2, 1), rows)]
    answer = method.predict(torch.rand(1, 3, 4, 1))
    assert answer.score is None
    assert answer.anomaly_map.flatten().tolist() == pytest.approx([1, 1.25, 1.75, 2])


def test_the_teacher_stays_as_it_is_and_the_decoder_learns():
    torch.manual_seed(0)
    method = reverse_distillation(Backbone("resnet18", ("act1", "layer1", "layer2"))).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimizer, images, losses = method.optimizer(method.trained()), torch.rand(4, 3, 64, 64), []
    for _ in range(3):
        losses.append(method.losses(Batch.of(images))["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[2] < losses[0]
    for name, value in method.state_dict().items():
        assert value.equal(before[name]) == name.startswith("backbone"), name


@pytest.mark.parametrize(
    "layers", [("layer1", "layer2"), ("layer1", "layer2", "layer4"), ("layer3", "layer2", "layer1")]
)
def test_layers_that_do_not_halve_the_grid_twice_are_refused(layers):
    with pytest.raises(UserError, match="method.backbone.layers: expected three layers, each at twice the stride"):
        reverse_distillation(Backbone("resnet18", layers))
