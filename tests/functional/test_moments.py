"""Mean and deviation of channels, batch by batch."""

import torch

from anomaly_lab.functional.moments import Moments


def test_batches_of_any_size_have_the_moments_of_all_their_places():
    torch.manual_seed(0)
    maps = 5 + torch.randn(7, 3, 4, 6) * torch.tensor([1.0, 2, 3]).view(3, 1, 1)
    moments = Moments()
    for part in maps.split([1, 4, 2]):
        moments.add(part)
    assert moments.count == 7 * 24
    values = maps.double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(moments.mean, values.mean(dim=1))
    torch.testing.assert_close(moments.deviation, values.std(dim=1, correction=0))


def test_a_channel_of_equal_values_deviates_by_one():
    moments = Moments()
    moments.add(torch.tensor([0.1, 7.3, 0]).view(1, 3, 1, 1).expand(50, 3, 9, 9))
    assert moments.deviation.tolist() == [1, 1, 1]
    moments.add(torch.tensor([0.1, 7.3, 1e-3]).view(1, 3, 1, 1))
    assert moments.deviation[:2].tolist() == [1, 1]
    assert 0 < moments.deviation[2] < 1e-4


def test_a_small_deviation_about_a_large_mean_is_found():
    moments = Moments()
    moments.add(100 + 0.01 * torch.tensor([-1.0, 1]).repeat(200).view(4, 1, 10, 10))
    assert abs(moments.deviation.item() - 0.01) < 1e-5
