"""The frozen network: the layers and weights that were asked for, and clear words where they are not there."""

import hashlib

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from anomaly_lab.core.errors import UserError
from anomaly_lab.networks import features
from anomaly_lab.networks.features import Features


@pytest.fixture
def loaded(weights):
    network = Features(layer="layer2", weights=str(weights))
    assert network.load() == []
    return network


def test_the_map_is_that_of_the_whole_network(loaded, weights):
    whole = timm.create_model("resnet18", pretrained=False).eval()
    assert not whole.load_state_dict(load_file(weights), strict=False).unexpected_keys
    images = torch.rand(2, 3, 64, 64)
    normalised = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.inference_mode():
        x = whole.layer2(whole.layer1(whole.maxpool(whole.act1(whole.bn1(whole.conv1(normalised))))))
        torch.testing.assert_close(loaded(images), x)
    assert x.shape == (2, loaded.channels, 64 // loaded.reduction, 64 // loaded.reduction)


def test_gray_is_shown_three_times(loaded):
    gray = torch.rand(2, 1, 32, 32)
    assert torch.equal(loaded(gray), loaded(gray.expand(-1, 3, -1, -1)))


def test_the_mean_of_the_last_stage_is_the_average_pooling_of_the_network():
    last = Features(layer="avgpool")
    assert (last.layer, last.channels, last.reduction) == ("layer4", 512, 32)
    whole = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    whole.load_state_dict(last.network.state_dict())
    assert sum(parameter.numel() for parameter in whole.parameters()) == 11_176_512
    for side in (16, 32, 64, 224):
        images = torch.rand(1, 3, side, side)
        with torch.inference_mode():
            torch.testing.assert_close(last.of_normalised(images).mean(dim=(2, 3)), whole(images))


def test_layers_above_are_not_built():
    assert not any(name.startswith("layer3") for name in Features(layer="layer2").network.state_dict())


def test_it_is_never_trained(loaded):
    before = loaded(torch.rand(4, 3, 32, 32))
    assert not loaded.train().training
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    loaded(torch.rand(4, 3, 32, 32))
    assert before.isfinite().all()
    assert loaded.network.bn1.num_batches_tracked == 0


def test_the_weights_say_which_they_are(loaded, weights):
    assert bytes(loaded.sha256.tolist()) == hashlib.sha256(weights.read_bytes()).digest()
    again = Features(layer="layer2")
    assert not again.sha256.any()
    again.load_state_dict(loaded.state_dict())
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(again(images), loaded(images))
    assert torch.equal(again.sha256, loaded.sha256)


def test_what_lies_above_the_layer_is_named_and_what_is_missing_is_an_error(weights):
    lower = Features(layer="layer1", weights=str(weights))
    unused = lower.load()
    assert unused
    assert all(name.startswith("layer2") for name in unused)
    higher = Features(layer="layer3", weights=str(weights))
    before = [parameter.clone() for parameter in higher.network.parameters()]
    with pytest.raises(
        UserError, match=r"up to layer3, found .*, where 25 are missing.*\(layer3.0.conv1.*features.layer=layer2"
    ):
        higher.load()
    assert all(map(torch.equal, before, higher.network.parameters()))


def wrapped(state):
    return {"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": state}, wrapped])
def test_a_pytorch_file_is_as_good(weights, tmp_path, loaded, wrap):
    torch.save(wrap(load_file(weights)), tmp_path / "w.pth")
    other = Features(layer="layer2", weights=str(tmp_path / "w.pth"))
    other.load()
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(other(images), loaded(images))


class Pickled:
    """What a pickle can do."""

    def __reduce__(self):
        return (print, ("executed",))


def other(architecture, path):
    save_file(timm.create_model(architecture, features_only=True, pretrained=False).state_dict(), path)


BAD = {
    "found nothing at": lambda path: None,
    "found a folder at": lambda path: path.mkdir(),
    "0 are missing, 0 have another shape and .* belong to another network": lambda path: other("resnet34", path),
    "have another shape": lambda path: other("resnet50", path),
    r"[1-9]\d* are missing": lambda path: save_file({"x": torch.zeros(1)}, path),
    "expected a safetensors or PyTorch file of tensors and nothing else": lambda path: path.write_bytes(b"no weights"),
}


@pytest.mark.parametrize("words", BAD)
def test_a_file_that_is_no_weights_of_this_network(words, tmp_path):
    path = tmp_path / "bad.safetensors"
    BAD[words](path)
    network = Features(layer="layer1", weights=str(path))
    before = [parameter.clone() for parameter in network.network.parameters()]
    with pytest.raises(UserError, match=rf"method.features.weights: .*{words}"):
        network.load()
    assert all(map(torch.equal, before, network.network.parameters()))
    assert not network.sha256.any()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Pickled(), "tensors and nothing else, .*Python objects, which are never loaded"),
        ([torch.zeros(1)], "expected tensors by their names, found something else in"),
        ({"epoch": 3}, "expected tensors by their names, found something else in"),
        ({}, "expected tensors by their names, found something else in"),
    ],
)
def test_a_pickle_that_is_no_table_of_tensors(content, words, tmp_path, capsys):
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=rf"method.features.weights: .*{words}"):
        Features(layer="layer1", weights=str(tmp_path / "bad.pth")).load()
    assert "executed" not in capsys.readouterr().out


def test_unknown_models_and_layers():
    with pytest.raises(UserError, match=r"expected one of act1, layer1, .*, avgpool, found 'layer9'"):
        Features(layer="layer9")
    with pytest.raises(UserError, match=r"architecture: expected a model of timm .*found 'resnet17'"):
        Features(architecture="resnet17")
    for architecture in ("convnext_atto", "vgg11", "efficientnet_b0"):  # parts of other names than in the weights
        with pytest.raises(UserError, match=rf"expected a model whose stages lie in a row .*found '{architecture}'"):
            Features(architecture=architecture)


def test_the_hub_s_cache_needs_no_network(weights, monkeypatch):
    asked = []

    def download(repository, file, local_files_only=False):
        asked.append((repository, file, local_files_only))
        return str(weights)

    monkeypatch.setattr(features, "hf_hub_download", download)
    network = Features(layer="layer2")
    network.load()
    assert network.sha256.any()
    assert asked == [("timm/resnet18.tv_in1k", "model.safetensors", True)]


def test_without_a_network_it_says_which_file_to_place_where(monkeypatch):
    def download(*_, **__):
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr(features, "hf_hub_download", download)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(
        UserError, match=r"not on this machine .*get https://.*resnet18.tv_in1k/.*/model.safetensors .*weights=PATH"
    ):
        Features(layer="layer1").load()


def test_a_model_without_weights_on_the_hub():
    with pytest.raises(UserError, match="method.features.weights: expected a file, timm's hub has none for resnet50t"):
        Features(architecture="resnet50t", layer="layer1").load()
