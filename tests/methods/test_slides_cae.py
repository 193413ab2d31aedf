"""What is particular about the slides' autoencoder: its sizes, its normalisations, the loss that is its score."""

import csv
import json
import shutil
from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.config.wiring import wired
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.slides_cae import IMAGENET, SlidesAutoencoder, SlidesCAE, channel_statistics


def slides_cae(image_size=64, channels=3, **changes):
    torch.manual_seed(0)
    return SlidesCAE(image_size, channels, partial(torch.optim.Adam, lr=1e-3), WholeImage(), **changes)


class Constant(torch.nn.Module):
    """A network that reconstructs one gray whatever it sees."""

    def forward(self, images):
        return torch.full_like(images, 0.5)


@pytest.mark.parametrize(
    ("bottleneck", "weights", "side"), [("slides", 697_584 + 697_331, 11), ("true_1x1", 13_191_395, 1)]
)
def test_sizes_are_those_of_the_slides(bottleneck, weights, side):
    network = SlidesAutoencoder(224, 3, bottleneck)
    assert sum(parameter.numel() for parameter in network.parameters()) == weights
    images = torch.rand(2, 3, 224, 224)
    assert network.encoder(images).shape == (2, 256, side, side)
    reconstructions = network(images)
    assert reconstructions.shape == images.shape
    assert 0 < reconstructions.min() <= reconstructions.max() < 1


@pytest.mark.parametrize("bottleneck", ["slides", "true_1x1"])
@pytest.mark.parametrize("side", [64, 80, 128])
def test_other_sizes_come_back_as_they_are(side, bottleneck):
    network = SlidesAutoencoder(side, 1, bottleneck)
    assert network(torch.rand(1, 1, side, side)).shape == (1, 1, side, side)
    if bottleneck == "true_1x1":
        assert network.encoder(torch.rand(1, 1, side, side)).shape == (1, 256, 1, 1)


def test_loss_map_and_score_are_the_squared_difference():
    method = slides_cae().eval()
    method.network = Constant()
    images = torch.tensor([0.5, 0.75, 1.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4).clone()
    images[1, :, :2] = 0.5  # the upper half of the second image is reproduced
    prediction = method.predict(images)
    difference = (0 + 0.25**2 + 0.5**2) / 3
    assert prediction.anomaly_map[0].unique().item() == pytest.approx(difference)
    assert prediction.score.tolist() == pytest.approx([difference, difference / 2])
    index = torch.arange(2)
    assert method.losses(Batch(images, (), index, index, ()))["loss"].item() == pytest.approx(0.75 * difference)
    assert torch.equal(method(images).score, prediction.score)


def test_imagenet_is_the_range_of_map_and_score_and_pictures_are_undone():
    method = slides_cae(normalisation="imagenet").eval()
    method.network = Constant()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    prediction = method.predict(mean.expand(1, 3, 4, 4))
    assert prediction.score.item() == pytest.approx(0.25)
    assert torch.equal(prediction.reconstruction[0], (0.5 * std + mean).expand(3, 4, 4))
    assert method.predict(torch.ones(1, 3, 4, 4)).score.item() > 1  # a sigmoid does not reach white


def test_imagenet_is_for_colour():
    with pytest.raises(UserError, match="method.normalisation: expected none or train for gray images"):
        slides_cae(channels=1, normalisation="imagenet")


def test_images_of_one_colour_give_finite_numbers():
    mean, std = channel_statistics([torch.full((2, 3, 4, 4), 0.3)])
    assert mean.flatten().tolist() == pytest.approx([0.3] * 3)
    assert std.flatten().tolist() == pytest.approx([1 / 255] * 3)
    method = slides_cae(normalisation="train").eval()
    method.mean.copy_(mean)
    method.std.copy_(std)
    assert method.predict(torch.full((1, 3, 64, 64), 0.3)).score.isfinite().all()


@pytest.mark.parametrize("normalisation", ["none", "train", "imagenet"])
def test_the_look_before_the_first_step_gives_the_statistics_of_the_training_images(normalisation):
    images = torch.rand(5, 3, 64, 64) * torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1)
    method = slides_cae(normalisation=normalisation)
    method.prepare(Batch.of(part) for part in images.split(2))
    rebuilt = slides_cae(normalisation=normalisation)
    rebuilt.load_state_dict(method.state_dict())
    expected = {
        "none": ([0, 0, 0], [1, 1, 1]), "imagenet": IMAGENET,
        "train": (images.mean(dim=(0, 2, 3)).tolist(), images.std(dim=(0, 2, 3), correction=0).tolist()),
    }[normalisation]  # fmt: skip
    assert rebuilt.mean.flatten().tolist() == pytest.approx(expected[0], rel=1e-6)
    assert rebuilt.std.flatten().tolist() == pytest.approx(expected[1], rel=1e-6)


def configured(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", ["method=slides_cae", *overrides]))


@pytest.mark.parametrize("category", ["carpet", "screw"])
def test_whole_images_of_224_px_without_augmentation_also_of_textures(category):
    config = configured(f"data.category={category}")
    found = [config["data"][name] for name in ("kind", "image_size", "patch_size", "batch_size")]
    assert found == ["object", 224, 224, 32]
    assert config["tiling"]["_target_"].endswith("WholeImage")
    assert config["augmentation"] == {"_target_": "anomaly_lab.data.augmentation.Augmentation"}
    assert wired(config)["image_size"] == 224


def test_what_the_method_chooses_can_be_chosen_otherwise():
    config = configured("experiment=quick", "data.image_size=128", "augmentation=light", "method.bottleneck=true_1x1")
    assert (config["data"]["patches"], wired(config)["image_size"]) == (4000, 128)
    assert (wired(config)["schedule"], config["method"]["bottleneck"]) == ("cosine", "true_1x1")
    assert config["augmentation"]["brightness"] == 0.1
    texture = configured("data.kind=texture", "data.image_size=448", "data.patch_size=224")
    assert (wired(texture)["image_size"], texture["data"]["stride"]) == (224, 224)
    with pytest.raises(UserError, match="data.image_size: expected a multiple of 16, found 200"):
        configured("data.image_size=200")


POOLED = (
    "experiment=slides_pooled", "data.image_size=64", "data.patches=32", "trainer.max_epochs=1", "data.workers=0",
    "trainer.accelerator=cpu", "trainer.precision=32-true", "logger=none",
)  # fmt: skip


@pytest.mark.slow
def test_one_model_over_categories_of_the_same_file_names_and_one_without_masks(lab, parts, tmp_path):
    for name in ("rod", "axle"):
        shutil.copytree(parts, parts.parent / name)
    shutil.rmtree(parts.parent / "rod/ground_truth")
    lab(*POOLED, f"data.root={parts.parent}", "method.normalisation=train")
    (run,) = (path.parent for path in (tmp_path / "runs/default/slides_cae/mvtec_ad/all").rglob("metrics.json"))
    (line,) = json.loads((run / "threshold.json").read_text())
    assert line["normals"] == 27  # the training images, as the slides have it
    assert json.loads((run / "metrics.json").read_text())["image_accuracy_normal"] < 0.5  # by construction
    with (run / "defects.csv").open() as file:
        defects = [row["defect"] for row in csv.DictReader(file)]
    assert defects == [f"{name}/{defect}" for name in ("axle", "bar", "rod") for defect in ("good", "hole")]
    maps = {path.relative_to(run / "maps").as_posix() for path in run.rglob("*.tiff")}
    assert len(maps) == 30
    assert {"axle/test/hole/000.tiff", "bar/test/good/004.tiff", "rod/test/hole/004.tiff"} <= maps
    assert len(list((run / "pictures").rglob("*.png"))) == 6 * 4 + 1
    lab("predict", f"run={run}", f"source={parts}/test/hole", "out=judged")
    assert len(list((tmp_path / "judged/pictures").glob("*.png"))) == 5
