"""`teacher`: its options, one by one, and a teacher that a method then imitates."""

import numpy as np
import pytest

from anomaly_lab.cli import teacher
from anomaly_lab.core.errors import UserError
from anomaly_lab.training import distillation


@pytest.fixture
def photos(tmp_path, write):
    random = np.random.default_rng(0)
    for number in range(3):
        write(tmp_path / f"varied/{number}.png", random.integers(0, 255, (80, 80, 3), dtype=np.uint8))
    return tmp_path / "varied"


@pytest.fixture
def asked(monkeypatch):
    """What would be distilled."""
    calls = []
    monkeypatch.setattr(distillation, "distil", lambda *given: calls.append(given))
    return calls


def test_defaults_are_as_published(asked, photos, tmp_path):
    out = f"out={tmp_path}/t.safetensors"
    for network, expected, layers in (
        ("pdn_small", (60_000, 16, 1e-4, 0), ("layer2", "layer3")),
        ("patch65", (50_000, 64, 2e-4, 0), ("layer4",)),
    ):
        teacher.main([f"network={network}", f"images={photos}", out])
        name, width, backbone, plan, file = asked.pop()
        assert (name, width, str(file)) == (network, 1.0, f"{tmp_path}/t.safetensors")
        assert (backbone.name, backbone.layers) == ("resnet18.tv_in1k", layers)
        assert plan[2:] == expected
        assert len(plan.paths) == 3
        assert plan.images == f"3 photos of {tmp_path.name}/varied"


def test_options_reach_the_distillation(asked, tmp_path):
    words = "images=procedural steps=7 batch_size=3 learning_rate=1e-2 width=0.5 seed=4 backbone=offline"
    teacher.main(["network=pdn_medium", f"out={tmp_path}/t.safetensors", *words.split()])
    name, width, backbone, plan, _ = asked.pop()
    assert (name, width, plan) == ("pdn_medium", 0.5, ([], "procedural textures", 7, 3, 0.01, 4))
    assert (backbone.name, backbone.weights) == ("tf_efficientnet_lite0.in1k", "offline")
    words = "images=procedural backbone.name=resnet34 backbone.layers=[layer1,-2] backbone.weights=a.pth"
    teacher.main(["network=pdn_small", f"out={tmp_path}/t.safetensors", *words.split()])
    backbone = asked.pop()[2]
    assert (backbone.name, backbone.layers, backbone.weights) == ("resnet34", ("layer1", "layer3"), "a.pth")


def test_words_as_people_type_them(asked, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(photos)
    teacher.main(
        [
            "network=pdn_small",
            "images=.",
            "out=~/deep/t.safetensors",
            "backbone.name=resnet18",
            "backbone.layers=[layer1, layer2,]",
        ]
    )
    _, _, backbone, plan, out = asked.pop()
    assert (backbone.layers, out) == (("layer1", "layer2"), tmp_path / "deep/t.safetensors")
    assert plan.images == f"3 photos of {tmp_path.name}/varied"
    teacher.main(
        ["network=patch17", "images=~/varied", "out=t.safetensors", "backbone=offline", "backbone.weights=a.pth"]
    )
    _, _, backbone, plan, _ = asked.pop()
    assert (backbone.name, backbone.weights, len(plan.paths)) == ("tf_efficientnet_lite0.in1k", "a.pth", 3)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("network=pdn_smal", "network: expected pdn_small, .* found 'pdn_smal'; did you mean 'pdn_small'"),
        ("out=t.pth", "out: expected a file name that ends in .safetensors, found t.pth"),
        ("images=nowhere", "images: expected a folder of photos, or procedural, found no folder at nowhere"),
        ("steps=0", "steps: expected a whole number from 1 to 4294967295, found '0'"),
        ("steps=1.5", "steps: expected a whole number from 1 to 4294967295, found '1.5'"),
        ("width=9", "width: expected a number from 1e-09 to 8, found '9'"),
        ("width=-1", "width: expected a number from 1e-09 to 8, found '-1'"),
        ("learning_rate=nan", "learning_rate: expected a number from 1e-09 to .*, found 'nan'"),
        ("learning_rate=inf", "learning_rate: expected a number from 1e-09 to .*, found 'inf'"),
        ("batch_size=0", "batch_size: expected a whole number from 1 to 4294967295, found '0'"),
        ("seed=99999999999", "seed: expected a whole number from 0 to .*, found '99999999999'"),
        ("seed=-1", "seed: expected a whole number from 0 to .*, found '-1'"),
        ("batch_size=1", "batch_size: expected at least 2, because patches are compared with one another, found 1"),
        ("backbone=resnet18", "backbone: expected offline, or backbone.name=NAME, found 'resnet18'"),
        ("backbone.nam=resnet18", "backbone.nam: expected backbone.name, backbone.layers or backbone.weights"),
        ("backbone.name=resnet19", "^backbone.name: expected a model of timm, found 'resnet19'"),
        ("stepps=3", "teacher: expected .* found 'stepps'; did you mean 'steps'"),
    ],
)
def test_a_mistake_is_one_line(asked, tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    words = {"network": "patch17", "images": "procedural", "out": "t.safetensors"}
    key, _, value = word.partition("=")
    with pytest.raises(UserError, match=message):
        teacher.main([f"{name}={given}" for name, given in (words | {key: value}).items()])
    assert not asked
    assert not list(tmp_path.iterdir())


def test_a_folder_without_photos_and_one_in_the_place_of_the_file_are_refused(asked, tmp_path):
    with pytest.raises(UserError, match="images: expected photos, found none in"):
        teacher.main(["network=patch17", f"images={tmp_path}", f"out={tmp_path}/t.safetensors"])
    (tmp_path / "t.safetensors").mkdir()
    with pytest.raises(UserError, match="out: expected a file, found the folder"):
        teacher.main(["network=patch17", "images=procedural", f"out={tmp_path}/t.safetensors"])


def test_help_names_every_option(capsys):
    teacher.main(["--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m anomaly_lab teacher network=NAME images=FOLDER|procedural out=FILE")
    assert all(f"  {name}: " in said for name in teacher.OPTIONS)


def test_the_file_is_that_of_a_small_distillation(photos, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distillation, "ENLARGED", 32)
    words = f"steps=2 batch_size=2 width=0.02 backbone.weights={weights} backbone.layers=[layer2]"
    teacher.main(["network=patch17", f"images={photos}", f"out={tmp_path}/t.safetensors", *words.split()])
    said = capsys.readouterr().out
    assert (
        f"patch17: distilled from resnet18.tv_in1k (layer2) on 3 photos of {tmp_path.name}/varied, 2 steps of 2 images;"
        in said
    )
    assert f"teacher: {tmp_path}/t.safetensors; its loss was " in said
    from safetensors.torch import load_file

    assert all(value.isfinite().all() for value in load_file(tmp_path / "t.safetensors").values())
