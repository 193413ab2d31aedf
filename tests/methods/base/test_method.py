"""What the base class adds to every method: tiling, default score, padding that does not count."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.placement import content, place
from anomaly_lab.functional.scores import default_score
from anomaly_lab.methods.base.method import PADDED, Method
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage
from anomaly_lab.networks.backbone import Backbone


class Brightness(Method):
    """The map is the image."""

    def training_step(self, batch, batch_idx):
        raise NotImplementedError

    def predict(self, images):
        return Prediction(images[:, :1], None, None)


class Scored(Brightness):
    """Defines a score of its own."""

    def predict(self, images):
        return Prediction(images[:, :1], images.mean(dim=(1, 2, 3)), None)


def test_default_score_is_the_maximum_of_the_smoothed_map():
    maps = torch.rand(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    smoothed = [gaussian_filter(m[0].numpy().astype(np.float64), 2.0, mode="constant", truncate=4.0) for m in maps]
    weight = gaussian_filter(np.ones((128, 128)), 2.0, mode="constant", truncate=4.0)
    expected = [float((s / weight).max()) for s in smoothed]
    assert np.allclose(default_score(maps).numpy(), expected, atol=1e-5)


def test_default_score_of_a_map_of_one_pixel_is_that_pixel():
    assert default_score(torch.tensor([[[[2.5]]]])).item() == 2.5


def test_padding_counts_neither_in_the_score_nor_in_what_is_smoothed():
    images = torch.full((1, 3, 64, 64), 0.25)
    images[:, :, :16] = 1.0  # padding, as bright as it gets
    placement = (place(32, 64, 64, "pad"),)
    assert abs(Brightness(WholeImage())(images, placement).score.item() - 0.25) < 1e-6
    assert Brightness(WholeImage())(images).score.item() > 0.9


def test_content_is_none_where_nothing_is_padded():
    images = torch.zeros(2, 3, 64, 64)
    assert content((place(9, 9, 64, "pad"), place(5, 9, 64, "crop")), images) is None
    mixed = content((place(9, 9, 64, "pad"), place(32, 64, 64, "pad")), images)
    assert mixed[0].all()
    assert mixed[1, 0].sum() == 32 * 64


def test_a_score_of_the_paper_is_kept_and_reduced_over_windows():
    images = torch.zeros(2, 1, 64, 64)
    images[1, :, :32, :32] = 1
    assert Scored(WholeImage())(images).score.tolist() == [0.0, 0.25]
    assert Scored(SlidingWindow(32, 32))(images).score.tolist() == [0.0, 1.0]


def test_the_answer_in_a_test_does_not_feel_autocast():
    method = Brightness(WholeImage())
    batch = Batch(torch.rand(1, 3, 32, 32), (), torch.tensor([0]), torch.tensor([0]), ())
    with torch.autocast("cpu", torch.bfloat16):
        inside = method.test_step(batch, 0)
    assert torch.equal(inside.anomaly_map, method(batch.image).anomaly_map)
    assert inside.anomaly_map.dtype == torch.float32


def test_a_score_of_the_method_says_that_it_holds_the_padding():
    images, placement = torch.zeros(2, 3, 64, 64), (place(9, 9, 64, "pad"), place(32, 64, 64, "pad"))
    assert Scored(WholeImage())(images, placement).remarks == ("", PADDED)
    assert Scored(WholeImage())(images, (placement[0], place(32, 64, 64, "crop"))).remarks == ()
    assert Brightness(WholeImage())(images, placement).remarks == ()


class Students(Method):
    """A teacher, and a student of the same shape."""

    def __init__(self, weights):
        super().__init__(WholeImage())
        self.teacher = Backbone("resnet18", ["layer1"], weights)
        self.student = Backbone("resnet18", ["layer1"], weights, trainable=True)

    def training_step(self, batch, batch_idx):
        """Learns nothing."""

    def predict(self, images):
        return Prediction(images[:, :1], None, None)


def test_frozen_networks_are_read_once_and_their_rest_is_named(weights, capsys):
    method = Students(str(weights))
    method.setup("test")
    assert not method.teacher.sha256.any()
    method.prepare_data()
    method.setup("fit")
    assert method.teacher.sha256.any()
    assert not method.student.sha256.any()
    assert capsys.readouterr().out == "resnet18: weights above layer1 not used (layer2, layer3)\n"


def test_weights_that_are_not_there_are_told_before_the_training(tmp_path):
    with pytest.raises(UserError, match="nowhere.safetensors"):
        Students(str(tmp_path / "nowhere.safetensors")).prepare_data()
