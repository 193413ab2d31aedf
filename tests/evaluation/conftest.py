"""Held-out photos for what is painted into them."""

import numpy as np
import pytest

from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.samples import Sample
from tests.conftest import stand_in, write_image


@pytest.fixture
def data(tmp_path):
    """Four wide gray photos held out; whoever asks for the test images or the training images fails."""
    paths = [write_image(tmp_path / f"{i}.png", np.full((16, 32, 3), 100, np.uint8)) for i in range(4)]
    samples = [Sample(path, None, 0, "good", str(path)) for path in paths]
    module = stand_in(
        DataModule, held_out_samples=samples, decoding=Decoding(32, 3), test_batch_size=3, workers=0,
        corruption=None,
    )  # fmt: skip
    assert not hasattr(module, "test_samples")
    assert not hasattr(module, "train_samples")
    return module
