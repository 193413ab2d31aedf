"""The weights of the extra `offline` classify the photos that other packages ship, and go to no other network."""

from pathlib import Path

import pytest
import skimage
import sklearn
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import v2

from anomaly_lab.core.errors import UserError
from anomaly_lab.networks import offline
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.networks.offline import MODEL, OFFLINE, is_installed, offline_file, translated_lite

PHOTOS = {  # folders of packages, and the classes of ImageNet that are right: numbers of their names
    "camera.png": (skimage, "data", {872}),  # tripod
    "chelsea.png": (skimage, "data", {281, 282, 285}),  # tabby, tiger cat, Egyptian cat
    "coffee.png": (skimage, "data", {967, 968}),  # espresso, cup
    "motorcycle_left.png": (skimage, "data", {665, 670}),  # moped, motor scooter
    "rocket.jpg": (skimage, "data", {657, 744}),  # missile, projectile
    "china.jpg": (sklearn, "datasets/images", {698}),  # palace
    "flower.jpg": (sklearn, "datasets/images", {985}),  # daisy
}


@pytest.fixture(scope="module")
def network():
    network = Backbone(MODEL, [-1], OFFLINE)
    assert {name.partition(".")[0] for name in network.load()} == {"conv_head", "bn2", "classifier"}
    return network


@pytest.fixture(scope="module")
def state():
    """The file under timm's names, by the order of its tensors."""
    state = torch.load(offline_file(), weights_only=True)
    return dict(zip(timm.create_model(MODEL, pretrained=False).state_dict(), state.values(), strict=True))


def test_every_tensor_has_the_place_that_its_number_has(network, state):
    own = network.network.state_dict()
    assert len(own) > 250
    assert all(torch.equal(value, state[name]) for name, value in own.items())
    assert network.sha256.tolist()[:4] == list(bytes.fromhex("57934424"))  # as the name of the file says


def test_it_classifies_photos(network, state):
    whole = timm.create_model(MODEL, pretrained=False).eval()
    whole.load_state_dict(state)
    size = (v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224))  # .875
    change = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), *size])
    paths = [Path(package.__file__).parent / folder / name for name, (package, folder, _) in PHOTOS.items()]
    photos = torch.stack([change(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        (maps,) = network(photos)
        chances = whole.forward_head(whole.bn2(whole.conv_head(maps))).softmax(dim=1)
    for name, chance in zip(PHOTOS, chances, strict=True):
        assert chance.argmax().item() in PHOTOS[name][2], name
    assert chances.max(dim=1).values.mean() > 0.5  # with the twin's padding, epsilon and mean it is unsure


def test_the_twin_without_tf_is_refused(state, tmp_path):
    (tmp_path / "their_names.pth").symlink_to(offline_file())
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "timms_names.safetensors")
    for file in tmp_path.iterdir():
        Backbone("tf_efficientnet_lite0", ["stride4"], str(file)).load()
        words = f"method.backbone.name: expected tf_efficientnet_lite0, because {file} holds its weights, found eff"
        with pytest.raises(UserError, match=f"^{words}"):
            Backbone("efficientnet_lite0.ra_in1k", ["stride4"], str(file)).load()


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18.tv_in1k"])
def test_another_model_is_refused(name):
    words = f"expected {MODEL} for weights=offline, found {name}; method.backbone=offline sets both"
    with pytest.raises(UserError, match=f"^method.backbone.name: {words}$"):
        Backbone(name, [-1], OFFLINE)


def test_without_the_package(monkeypatch):
    assert is_installed()
    monkeypatch.setattr(offline, "PACKAGE", "efficientnet_lite9_pytorch_model")
    assert not is_installed()
    with pytest.raises(UserError, match=r"found none; pip install 'anomaly_lab\[offline\]'$"):
        Backbone(MODEL, [-1], OFFLINE).load()


def test_a_file_of_a_model_with_other_parts_is_no_lite():
    with pytest.raises(KeyError):
        translated_lite({"_blocks.0._se_reduce.weight": 0}, ["blocks.0.0.conv_dw.weight"])
