"""Global contrast normalisation by hand, and the range of the training images."""

import pytest
import torch

from anomaly_lab.networks.contrast import Contrast, normalised


def images(count=4):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_an_image_by_hand():
    image = torch.tensor([0.0, 0.2, 0.4, 0.6]).view(1, 1, 2, 2)
    assert normalised(image).flatten().tolist() == pytest.approx([-1.5, -0.5, 0.5, 1.5])


def test_channels_count_together_and_images_apart():
    found = normalised(images())
    for one, image in zip(found, images(), strict=True):
        centred = image - image.mean()
        torch.testing.assert_close(one, centred / centred.abs().mean())


def test_light_and_contrast_change_nothing():
    torch.testing.assert_close(normalised(0.3 * images() + 0.2), normalised(images()), rtol=1e-4, atol=1e-5)


def test_the_range_of_the_training_is_that_from_0_to_1_in_any_batches():
    one, other = Contrast(), Contrast()
    one.learn([images()])
    other.learn(images().split(1))
    assert one.state_dict() == other.state_dict()
    assert one(images()).aminmax() == (0, 1)
    beyond = images()
    beyond[0, 0, 0, 0] = 5
    assert one(beyond).amax() > 1
    one.learn([])
    assert one.state_dict() == other.state_dict()


def test_an_image_of_one_colour_stays_finite():
    contrast = Contrast()
    contrast.learn([torch.full((2, 1, 4, 4), 0.7)])
    assert contrast(torch.full((2, 1, 4, 4), 0.7)).isfinite().all()
    contrast.learn([images()])
    middle = contrast(torch.full((1, 3, 8, 8), 0.7))
    torch.testing.assert_close(
        middle, (-contrast.low / (contrast.high - contrast.low)).expand(1, 3, 8, 8), rtol=0, atol=1e-3
    )
