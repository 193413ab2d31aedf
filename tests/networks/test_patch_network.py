"""Patch networks: their sizes, one pass against patch by patch, and the files of teachers."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, pad

from anomaly_lab.core.errors import UserError
from anomaly_lab.networks.patch_network import PatchNetwork, PatchTeacher, normalise
from anomaly_lab.networks.pretrained import ORIGIN

PARAMETERS = {  # of the papers and the authors' code
    ("patch17", None): 2_996_480, ("patch33", None): 1_616_000, ("patch65", None): 2_320_640,
    ("pdn_small", None): 2_694_144, ("pdn_medium", None): 8_026_624,
    ("pdn_small", 768): 4_267_392, ("pdn_medium", 768): 11_615_488,
}  # fmt: skip


def saved(path, name="pdn_small", width=0.05, about=None, **changes):
    """A teacher's file."""
    torch.manual_seed(0)
    state = {key: value.contiguous() for key, value in PatchNetwork(name, width).state_dict().items()} | changes
    save_file(state, path, about)
    return state


@pytest.mark.parametrize(("name", "channels"), PARAMETERS)
def test_a_network_is_as_large_as_that_of_its_authors(name, channels):
    with torch.device("meta"):
        network = PatchNetwork(name, channels=channels)
    assert sum(weight.numel() for weight in network.parameters()) == PARAMETERS[name, channels]


def test_tensors_have_the_names_of_the_authors_files():
    with torch.device("meta"):
        for name, layers in (("pdn_small", (0, 3, 6, 8)), ("pdn_medium", (0, 3, 6, 8, 10, 12))):
            expected = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
            assert set(PatchNetwork(name).state_dict()) == expected


@pytest.mark.parametrize("name", ["pdn_small", "pdn_medium"])
def test_a_pdn_sees_33_px_and_has_the_published_grids(name):
    network, images = PatchNetwork(name, 0.01).double(), torch.rand(1, 3, 256, 256).double()
    dense = network(images)
    assert dense.shape == (1, 384, 56, 56)
    assert network.padded(images).shape == (1, 384, 64, 64)
    for row, column in ((0, 0), (3, 17), (55, 55)):
        patch = images[..., 4 * row : 4 * row + 33, 4 * column : 4 * column + 33]
        torch.testing.assert_close(network(patch)[..., 0, 0], dense[..., row, column])


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["patch17", "patch33", "patch65"])
def test_one_pass_says_of_every_patch_what_the_network_says_of_it_alone(name, stride):
    torch.manual_seed(0)
    network, images = PatchNetwork(name, 0.02).double(), torch.rand(1, 3, 14, 21).double()
    dense = network.dense(images, stride)
    assert dense.shape == (1, 128, -(-14 // stride), -(-21 // stride))
    half, offset = network.patch // 2, (stride - 1) // 2
    around = pad(images, [half + 8] * 4, mode="replicate")
    for row in (0, 1, dense.shape[2] - 1):
        for column in (0, 2, dense.shape[3] - 1):
            top, left = (stride * place + offset + 8 for place in (row, column))
            patch = around[..., top : top + network.patch, left : left + network.patch]
            torch.testing.assert_close(network(patch)[..., 0, 0], dense[..., row, column], rtol=0, atol=1e-12)


def test_gray_images_are_shown_in_three_channels_normalised():
    shown = normalise(torch.full((1, 1, 2, 2), 0.485))
    expected = [0, (0.485 - 0.456) / 0.224, (0.485 - 0.406) / 0.225]
    torch.testing.assert_close(shown[0, :, 0, 0], torch.tensor(expected))


def test_a_teacher_reads_its_file_once_stays_frozen_and_says_where_it_comes_from(tmp_path):
    state = saved(file := tmp_path / "teacher.safetensors", about={ORIGIN: "distilled on\nscrews"})
    teacher = PatchTeacher("pdn_small", str(file), 0.05)
    assert teacher.load() == []
    assert teacher.origin == "distilled on\\nscrews"
    assert all(value.equal(state[name]) for name, value in teacher.network.state_dict().items())
    assert not any(weight.requires_grad for weight in teacher.parameters())
    file.unlink()
    teacher.load()  # the weights are there

    restored = PatchTeacher("pdn_small", "elsewhere.safetensors", 0.05)
    restored.load_state_dict(teacher.state_dict())
    restored.load()
    assert all(value.equal(state[name]) for name, value in restored.network.state_dict().items())


def test_a_file_of_pytorch_with_the_authors_names_will_do(tmp_path):
    state = PatchNetwork("pdn_small", 0.05).state_dict()
    torch.save(state, file := tmp_path / "teacher_small.pth")
    teacher = PatchTeacher("pdn_small", str(file), 0.05)
    teacher.load()
    assert teacher.origin == "teacher_small.pth, which does not say what it was distilled on"
    assert all(value.equal(state[name]) for name, value in teacher.network.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "pdn_medium"}, "of pdn_small of width 0.05, found .*, of pdn_medium of width 0.05; python -m"),
        (
            {"name": "patch33"},
            "found .*, of patch33 of width 0.05; python -m .* network=pdn_small .* width=0.05",
        ),
        (
            {"width": 0.1},
            "the 8 tensors of .* of width 0.05, found .*, of pdn_small of width 0.1; teacher.width=0.1",
        ),
        (
            {"extra": torch.zeros(1)},
            "found .*wrong.safetensors of 9 tensors, of pdn_small of width 0.05; teacher",
        ),
        ({"0.bias": torch.full((6,), torch.nan)}, "finite decimal numbers, found others in 0.bias of"),
        ({"0.bias": torch.ones(6, dtype=torch.int32)}, "finite decimal numbers, found others in 0.bias of"),
        ({"8.weight": torch.full((384, 13, 4, 4), torch.inf)}, "finite decimal numbers, found others in 8.weight of"),
    ],
)
def test_a_file_of_another_network_is_refused_by_its_name(tmp_path, wrong, message):
    saved(file := tmp_path / "wrong.safetensors", **wrong)
    with pytest.raises(UserError, match=f"teacher.weights: expected .*{message}"):
        PatchTeacher("pdn_small", str(file), 0.05).load()


def test_no_file_a_folder_and_a_damaged_file_are_one_line_each(tmp_path):
    with pytest.raises(UserError, match="teacher.weights: expected a file of pdn_small, found none; python"):
        PatchTeacher("pdn_small").load()
    (broken := tmp_path / "x.safetensors").write_bytes(b"PK\3\4 and so on")
    for path, message in ((tmp_path, "found a folder at"), (tmp_path / "a", "found nothing at"), (broken, "damaged")):
        with pytest.raises(UserError, match=f"teacher.weights: expected .*{message}"):
            PatchTeacher("pdn_small", str(path)).load()


def test_between_convolutions_are_the_units_of_the_papers():
    with torch.device("meta"):
        leaky = {module.negative_slope for module in PatchNetwork("patch17") if isinstance(module, nn.LeakyReLU)}
        assert leaky == {5e-3}
        kinds = [type(module).__name__ for module in PatchNetwork("pdn_small")]
        assert kinds == ["Conv2d", "ReLU", "AvgPool2d", "Conv2d", "ReLU", "AvgPool2d", "Conv2d", "ReLU", "Conv2d"]
        assert [type(module).__name__ for module in PatchNetwork("patch33")][2:6:3] == ["MaxPool2d", "MaxPool2d"]
        assert [weight.shape[0] for weight in PatchNetwork("pdn_small", 1e-6).parameters()] == [1] * 6 + [384] * 2


def test_a_padded_pdn_is_that_of_the_paper():
    network, images = PatchNetwork("pdn_small", 0.02), torch.rand(1, 3, 64, 64)
    layers = [module for module in network if isinstance(module, nn.Conv2d)]
    maps = images
    for layer, padding in zip(layers, (3, 3, 1, 0), strict=True):
        maps = conv2d(maps, layer.weight, layer.bias, padding=padding)
        if layer is not layers[-1]:
            maps = maps.relu()
        if padding == 3:
            maps = avg_pool2d(maps, 2, 2, padding=1)
    torch.testing.assert_close(network.padded(images), maps)


def test_one_number_that_is_not_finite_is_enough(tmp_path):
    bias = torch.zeros(384)
    bias[7] = torch.nan
    saved(file := tmp_path / "wrong.safetensors", **{"8.bias": bias})
    with pytest.raises(UserError, match="found others in 8.bias of"):
        PatchTeacher("pdn_small", str(file), 0.05).load()


def test_the_digest_is_that_of_the_file_and_the_home_may_be_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path / "teacher.safetensors", about={ORIGIN: "x" * 1000})
    teacher = PatchTeacher("pdn_small", "~/teacher.safetensors", 0.05)
    teacher.load()
    assert teacher.sha256.numpy().tobytes() == hashlib.sha256((tmp_path / "teacher.safetensors").read_bytes()).digest()
    assert teacher.origin == "x" * 300
    assert not teacher.trainable
    assert teacher.is_local


def test_old_files_of_pytorch_are_read_and_tables_of_other_things_are_not(tmp_path):
    state = PatchNetwork("pdn_small", 0.05).state_dict()
    torch.save(state, file := tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    PatchTeacher("pdn_small", str(file), 0.05).load()
    torch.save(state | {"epoch": 3}, file)
    with pytest.raises(UserError, match="teacher.weights: expected tensors by their names, found something else in"):
        PatchTeacher("pdn_small", str(file), 0.05).load()
