"""Weights that others have trained are read before a training, and only where they stay as they are."""

import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Prediction
from anomaly_lab.methods.base.pretrained import Pretrained
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.networks.backbone import Backbone


class Students(Pretrained):
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
    assert capsys.readouterr().out == "resnet18: weights above layer1 not used (layer2)\n"


def test_weights_that_are_not_there_are_told_before_the_training(tmp_path):
    with pytest.raises(UserError, match="nowhere.safetensors"):
        Students(str(tmp_path / "nowhere.safetensors")).prepare_data()
