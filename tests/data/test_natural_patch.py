"""NSA's defect: no seam, nothing where the image is a plane, the published sizes, the same bits in any batch."""

import pytest
import torch

from anomaly_lab.data import natural_patch as module
from anomaly_lab.data.corruption import Corruption, other_corruptions, region_of, sampled
from anomaly_lab.data.natural_patch import NaturalPatch, piece, quantiles
from anomaly_lab.data.noise import row_keys
from tests.data.test_corruption import keys, noisy


def ramp(count, height=48, width=40):
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.stack([y, x, (x + y) / 2]).expand(count, -1, -1, -1)


def test_it_is_a_corruption_of_pieces_of_the_image():
    assert isinstance(NaturalPatch(), Corruption)
    assert [next(iter(every.kinds)) for every in other_corruptions(NaturalPatch().kinds)] == ["perlin", "blob"]


@pytest.mark.parametrize("shape", [(3, 37, 29), (1, 24, 24)])
def test_a_row_gets_the_same_bits_in_any_batch_on_any_number_of_threads(shape, threads):
    images, rows, inside = noisy(6, *shape), torch.tensor([7, 10**6, 3, 0, 2**40, 1]), noisy(6, 1, *shape[1:]) < 0.8
    threads(2)
    whole = NaturalPatch()(images, row_keys(2, 5, rows), inside)
    threads(1)
    for part in ([4], [1, 3, 5], [0, 2, 4]):
        alone = NaturalPatch()(images[part], row_keys(2, 5, rows[part]), inside[part])
        assert torch.equal(alone.image, whole.image[part])
        assert torch.equal(alone.defect, whole.defect[part])


def test_the_mask_is_exactly_what_changed_within_the_region():
    images, inside = noisy(40), noisy(40, 1) < 0.7
    image, defect = NaturalPatch()(images, keys(40), inside)
    assert torch.equal(defect, (image != images).any(dim=1, keepdim=True))
    assert not (defect & ~inside).any()
    assert defect.any(dim=(1, 2, 3)).float().mean() > 0.9
    assert image.min() >= 0
    assert image.max() <= 1


def test_pieces_of_a_plane_cannot_be_seen():
    """What a piece of a plane differs from the plane is a plane again, which its outline tells."""
    image, defect = NaturalPatch()(ramp(200), keys(200))
    assert not defect.any()
    assert torch.equal(image, ramp(200))


def test_along_the_outline_nothing_changes_and_within_it_something_does():
    images = noisy(60)
    pasted, covered = piece(images, keys(60), region_of(images, None))
    change = (pasted - images).abs().amax(dim=1)
    for mask, here in zip(covered[:, 0], change, strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        box = here[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert mask.sum() == box.numel()  # a rectangle
        for side in (box[0], box[-1], box[:, 0], box[:, -1]):
            assert side.max() < 1e-5
        assert box.numel() < 25 or box.max() > 0.1


def test_sizes_are_those_of_the_paper():
    half, factor = quantiles(torch.device("cpu"))
    assert half.min() == pytest.approx(0.03, abs=2e-3)
    assert half.max() == pytest.approx(0.4)
    assert half.mean().item() == pytest.approx(0.03 + 2 * 0.05, abs=2e-3)  # of a gamma distribution: shape times scale
    assert (factor == 0.7).float().mean().item() == pytest.approx(0.274, abs=1e-3)  # of N(1, 0.5) below 0.7
    images = noisy(300, 1, 100, 100)
    _, covered = piece(images, keys(300), region_of(images, None))
    high, wide = covered.any(3).sum(2).float(), covered.any(2).sum(2).float()
    for side in (high, wide):
        assert side.mean().item() == pytest.approx(26, abs=2)
        assert side.min() >= 6
        assert side.max() <= 80


def test_half_of_the_images_have_a_second_piece_and_a_quarter_a_third():
    images = noisy(400, 1, 64, 64)
    covers = [NaturalPatch(most)(images, keys(400)).defect.sum((1, 2, 3)) for most in (1, 2, 3)]
    assert (covers[1] != covers[0]).float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert (covers[2] != covers[1]).float().mean().item() == pytest.approx(0.25, abs=0.07)


def test_a_further_piece_is_pasted_on_what_those_before_it_made(monkeypatch):
    everywhere = torch.ones(400, 1, 2, 2, dtype=torch.bool)
    monkeypatch.setattr(module, "piece", lambda images, keys, region: (images + 0.1, everywhere))
    levels = NaturalPatch()(torch.zeros(400, 1, 2, 2), keys(400)).image[:, 0, 0, 0].mul(10).round()
    shares = [(levels == number).float().mean().item() for number in (1, 2, 3)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.07)


def test_source_and_target_lie_anywhere_in_the_region_and_nowhere_else(monkeypatch):
    """Where the middles of the corners of a piece are read."""
    corners = []

    def noted(images, y, x, mode):
        if y.numel() == x.numel() == len(images):
            corners.append(torch.stack([y.flatten(), x.flatten()]))
        return sampled(images, y, x, mode)

    monkeypatch.setattr(module, "sampled", noted)
    inside = torch.zeros(500, 1, 40, 44, dtype=torch.bool)
    inside[:, :, 10:22, 20:40] = True
    region = region_of(noisy(500, 1, 40, 44), inside)
    piece(noisy(500, 1, 40, 44), keys(500), region)
    target, source = torch.stack(corners[::2]), torch.stack(corners[1::2])  # (corner, axis, image)
    assert target.amin(dim=(0, 2)).tolist() == [10.5, 20.5]
    assert target.amax(dim=(0, 2)).tolist() == [21.5, 39.5]
    for axis, (start, end) in enumerate([(10, 22), (20, 40)]):
        assert start < source[:, axis].min() < start + 1
        assert end - 1 < source[:, axis].max() < end
