"""The gray of colours."""

import torch

from anomaly_lab.functional.colour import luminance


def test_luminance_weighs_the_colours_and_leaves_gray_as_it_is():
    colours = torch.eye(3).view(3, 3, 1, 1)
    torch.testing.assert_close(luminance(colours).flatten(), torch.tensor([0.299, 0.587, 0.114]))
    torch.testing.assert_close(luminance(torch.full((1, 3, 2, 2), 0.3)), torch.full((1, 1, 2, 2), 0.3))
