"""The dictionary in closed form, and the two evaluations against a naive loop."""

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.cnn_dictionary import COPIES, CNNDictionary, build_dictionary
from anomaly_lab.networks.backbone import Backbone

SETTINGS = {
    "image_size": 64, "evaluation": "patchwise", "pooling": "mean", "entries": "medoid", "clusters": 4, "restarts": 2,
    "neighbours": 1, "variance": 0.95, "whiten": False, "patch_size": 16, "stride": 4, "patch_resize": 64,
    "vectors_per_image": 20, "vectors": 1000, "batch_size": 50, "seed": 0,
}  # fmt: skip


@pytest.fixture
def network(small_weights):
    backbone = Backbone("test_resnet", ["layer2"], str(small_weights))
    backbone.load()
    return backbone


def dictionary(network, **changes):
    return CNNDictionary(WholeImage(), network, **{**SETTINGS, **changes})


def photos(count=6, channels=3, side=64, seed=0):
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, channels, 8, 8), generator=random)
    return functional.interpolate(coarse, (side, side), mode="bilinear")


def fitted(method, images, batches=((0, 1, 2), (3, 4, 5))):
    for batch in batches:
        index = torch.tensor(batch)
        method.update(images[index], index)
    method.fit()
    return method.eval()


def rows(count=400, width=12, rank=4, seed=0):
    random = np.random.default_rng(seed)
    low = random.normal(size=(count, rank)) @ (random.normal(size=(rank, width)) * 3)
    return (low + random.normal(size=(count, width)) * 0.1).astype(np.float32)


# The grid and the vectors


@pytest.mark.parametrize(("side", "positions"), [(256, 61), (512, 125), (16, 1)])
def test_the_grid_is_the_published_one(network, side, positions):
    assert dictionary(network, image_size=side).side == positions


@pytest.mark.parametrize("channels", [1, 3])
def test_patchwise_is_a_naive_loop_over_the_patches(network, channels):
    image = photos(1, channels, 32)[0]
    method = dictionary(network, image_size=32, batch_size=7)
    expected = []
    for y in range(0, 17, 4):
        for x in range(0, 17, 4):
            patch = image[None, :, y : y + 16, x : x + 16].expand(-1, 3, -1, -1)
            patch = (patch - network.mean) / network.std
            enlarged = functional.interpolate(patch, (64, 64), mode="bilinear")
            expected.append(network.extract(enlarged)[0].mean(dim=(2, 3)))
    torch.testing.assert_close(method.vectors(image), torch.cat(expected))
    some = torch.tensor([3, 17, 18])
    torch.testing.assert_close(method.vectors(image, some), torch.cat(expected)[some])


@pytest.mark.parametrize(
    ("layer", "stride", "resize", "below"),
    [
        ("layer1", 4, 64, None),
        ("layer2", 4, 32, None),
        ("layer2", 2, 32, "layer1"),
        pytest.param("layer2", 1, 32, "act1", marks=pytest.mark.slow),
    ],
)
def test_dense_is_the_mean_of_the_map_under_the_patch(weights, layer, stride, resize, below):
    """Where the stride is finer than the map: of the map that follows from the shifted map of the stage below."""
    network = Backbone("resnet18.tv_in1k", [layer], str(weights))
    network.load()
    image = photos(1, 3, 32)[0]
    method = dictionary(network, image_size=32, evaluation="dense", stride=stride, patch_resize=resize)
    maps = functional.interpolate(network.normalise(image[None]), (2 * resize, 2 * resize), mode="bilinear")
    parts = dict(network.network.named_children())
    while below in parts:
        name = next(iter(parts))
        maps = parts.pop(name)(maps)
    step, window = stride * resize // 16, resize // network.reductions[0]
    expected = []
    for y in range(method.side):
        for x in range(method.side):
            top, left = y * step, x * step  # px of the enlarged image
            shifted = maps[..., top % network.reductions[0] // step :, left % network.reductions[0] // step :]
            for part in parts.values():
                shifted = part(shifted)
            row, column = top // network.reductions[0], left // network.reductions[0]
            expected.append(shifted[0, :, row : row + window, column : column + window].mean(dim=(1, 2)))
    found = method.vectors(image)
    assert found.shape == (method.side**2, network.channels[0])
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_of_a_patch_that_is_the_whole_image_both_pool_the_map_and_dense_repeats_its_border(weights, pooling):
    image = photos(1, 3, 16)[0]
    for kind in ("patchwise", "dense"):
        network = Backbone("resnet18.tv_in1k", ["layer1"], str(weights))
        network.load()
        found = dictionary(network, image_size=16, evaluation=kind, pooling=pooling).vectors(image)
        values = functional.interpolate(network.normalise(image[None]), (64, 64), mode="bilinear")
        pad = {"patchwise": "constant", "dense": "replicate"}[kind]
        for part in (network.network.conv1, network.network.bn1, network.network.act1, network.network.maxpool):
            values = convolved(part, values, pad)
        for block in network.network.layer1:
            within = block.act1(block.bn1(convolved(block.conv1, values, pad)))
            values = block.act2(block.bn2(convolved(block.conv2, within, pad)) + values)
        expected = values.mean(dim=(2, 3)) if pooling == "mean" else values.amax(dim=(2, 3))
        torch.testing.assert_close(found, expected)


def convolved(part, values, pad):
    """The part of a network on values that are padded before a convolution."""
    if not isinstance(part, torch.nn.Conv2d):
        return part(values)
    side = part.padding[0]
    return functional.conv2d(functional.pad(values, (side,) * 4, mode=pad), part.weight, None, part.stride)


@pytest.mark.parametrize("layer", ["layer1", "layer2"])
def test_a_plain_image_has_one_vector_everywhere_up_to_its_corners(weights, layer):
    network = Backbone("resnet18.tv_in1k", [layer], str(weights))
    network.load()
    vectors = dictionary(network, image_size=32, evaluation="dense").vectors(torch.full((3, 32, 32), 0.3))
    torch.testing.assert_close(vectors, vectors[:1].expand_as(vectors))


def test_without_enlargement_the_patch_enters_as_it_is(network):
    image = photos(1, 3, 16)[0]
    found = dictionary(network, image_size=16, patch_resize=None).vectors(image)
    torch.testing.assert_close(found[0], network(image[None])[0].mean(dim=(2, 3))[0])


# The dictionary


@pytest.mark.parametrize("entries", ["medoid", "centroid"])
@pytest.mark.parametrize("whiten", [False, True])
def test_entries(entries, whiten):
    data = rows()
    center, components, found = build_dictionary(data, 0.95, whiten, 7, 3, entries, 0)
    assert found.shape == (7, 12)
    inside = [any((entry == row).all() for row in data) for entry in found]
    assert all(inside) if entries == "medoid" else not any(inside)
    np.testing.assert_allclose(center, data.mean(axis=0), atol=1e-5)
    if entries == "centroid":  # every centre is the mean of the projected rows that are nearest to it
        projected, centres = (data - center) @ components.T, (found - center) @ components.T
        nearest = ((projected[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        means = np.stack([projected[nearest == i].mean(axis=0) for i in range(7)])
        np.testing.assert_allclose(centres, means, atol=1e-3)


def test_the_components_keep_just_enough_variance():
    data = rows(rank=6)
    _, components, _ = build_dictionary(data, 0.95, False, 3, 1, "medoid", 0)
    kept = PCA().fit(data).explained_variance_ratio_.cumsum()
    assert kept[len(components) - 1] >= 0.95 > kept[len(components) - 2]
    np.testing.assert_allclose(components @ components.T, np.eye(len(components)), atol=1e-6)
    center, whitened, _ = build_dictionary(data, 0.95, True, 3, 1, "medoid", 0)
    np.testing.assert_allclose(((data - center) @ whitened.T).std(axis=0, ddof=1), 1, rtol=1e-4)


def test_more_clusters_than_distinct_patches_make_every_patch_an_entry():
    data = np.repeat(rows(5), 20, axis=0)
    _, _, found = build_dictionary(data, 0.95, False, 10, 1, "medoid", 0)
    assert {tuple(row) for row in found.tolist()} == {tuple(row) for row in data.tolist()}


def test_every_distinct_training_patch_has_distance_zero_where_all_are_entries(network, capsys):
    images = photos(2, side=20)
    method = dictionary(network, image_size=20, clusters=8, vectors_per_image=4)
    said = fitted(method, images, [(0, 1)])(images)
    assert len(method.dictionary) == 8
    assert said.anomaly_map.abs().max() < 1e-4
    fitted(dictionary(network, image_size=20, clusters=9, vectors_per_image=4), images, [(0, 1)])
    assert "only 8 distinct patches seen, each is an entry" in capsys.readouterr().out


def test_a_patch_of_the_dictionary_has_distance_zero_and_the_mean_of_two_neighbours_is_theirs(network):
    images = photos(3)
    one, two = (fitted(dictionary(network, neighbours=m), images, [(0, 1, 2)]) for m in (1, 2))
    projected = (one.dictionary - one.center) @ one.components.T
    vectors = one.vectors(images[0])
    distance = torch.cdist((vectors - one.center) @ one.components.T, projected).sort(dim=1).values
    for method, m in ((one, 1), (two, 2)):
        expected = method.spread(distance[:, :m].mean(dim=1).view(1, 13, 13))
        torch.testing.assert_close(method(images[:1]).anomaly_map[0], expected, rtol=1e-3, atol=1e-4)
    everywhere = torch.cat([one.vectors(image) for image in images])
    assert all((everywhere - entry).abs().amax(dim=1).min() < 1e-4 for entry in one.dictionary)


# The map


def test_the_map_is_the_mean_of_the_patches_over_a_pixel(network):
    method = dictionary(network, image_size=32)
    scores = torch.rand(1, 5, 5)
    expected = torch.empty(1, 32, 32)
    for y in range(32):
        for x in range(32):
            over = [scores[0, i, j] for i in range(5) for j in range(5) if 0 <= y - 4 * i < 16 and 0 <= x - 4 * j < 16]
            expected[0, y, x] = torch.stack(over).double().mean()
    torch.testing.assert_close(method.spread(scores), expected)
    assert method.spread(torch.full((1, 5, 5), 0.3)).unique().tolist() == [pytest.approx(0.3)]


@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_constant_images_give_finite_numbers(network, channels):
    flat = torch.full((6, channels, 64, 64), 0.5)
    method = fitted(dictionary(network), flat)
    assert len(method.dictionary) == 1
    said = method(torch.cat([flat[:1], photos(1, channels)])).anomaly_map
    assert said.isfinite().all()
    assert said[0].max() < 1e-4
    assert said[1].min() > 1e-2  # what differs from the only entry is seen to differ


# Mistakes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 12}, "data.image_size: expected 16 px .*found 12; 16 fits"),
        ({"image_size": 63}, "data.image_size: .*a multiple of 4 px .*found 63; 60 fits"),
        ({"neighbours": 5}, "method.neighbours: expected at most method.clusters=4, found 5"),
        ({"evaluation": "dense", "patch_resize": 40}, "method.patch_resize: expected a multiple of 16 px .*found 40"),
        ({"evaluation": "dense", "stride": 3, "image_size": 64}, "method.patch_resize: .*stride of 3 px"),
    ],
)
def test_what_does_not_fit_together_is_refused(network, changes, words):
    with pytest.raises(UserError, match=words):
        dictionary(network, **changes)


def test_fewer_entries_than_neighbours(network):
    with pytest.raises(UserError, match="method.neighbours: expected at most 1, the number of distinct patches"):
        fitted(dictionary(network, neighbours=2), torch.full((6, 3, 64, 64), 0.5))


@pytest.mark.slow
def test_memory_is_bounded_and_is_what_the_line_before_the_run_says(network):
    method = dictionary(network, vectors=1000)
    assert method.memory(1) == 20 * network.channels[0] * 4 * COPIES
    assert method.memory(10**6) == method.memory(10**9) == 1000 * network.channels[0] * 4 * COPIES
    data = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)  # nearly all components are kept
    tracemalloc.start()
    build_dictionary(data, 0.95, True, 10, 2, "medoid", 0)
    peak = tracemalloc.get_traced_memory()[1] + data.nbytes
    tracemalloc.stop()
    assert 0.4 * COPIES * data.nbytes < peak <= COPIES * data.nbytes


def test_one_layer_is_one_layer():
    with pytest.raises(UserError, match="method.backbone.layers: expected one layer, found layer1, layer2"):
        dictionary(Backbone("resnet18.tv_in1k", ["layer1", "layer2"]))
