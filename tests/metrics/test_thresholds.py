"""The line that the held-out normal images draw."""

import torch

from anomaly_lab.metrics.thresholds import maximum


def test_maximum_calls_every_held_out_image_normal():
    scores = torch.tensor([0.3, -1.0, 0.7])
    threshold = maximum(scores)
    assert threshold == torch.tensor(0.7).item()
    assert not (scores > threshold).any()
