"""Confetti and foreign photos: how many, how large, where, and that no row depends on another."""

import math

import pytest
import torch
from PIL import Image

from anomaly_lab.data import outliers
from anomaly_lab.data.corruption import region_of
from anomaly_lab.data.noise import row_keys
from anomaly_lab.data.outliers import Confetti, ForeignPhoto
from anomaly_lab.data.textures import ForeignTextures


def gray(count, side=60):
    return torch.full((count, 3, side, side), 0.5)


def keys(count):
    return row_keys(0, 0, torch.arange(count))


@pytest.mark.parametrize("corruption", [Confetti(), ForeignPhoto()], ids=["confetti", "foreign"])
def test_a_row_is_the_same_in_any_batch_and_the_mask_is_where_it_differs(corruption):
    images = torch.rand(6, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    image, defect = corruption(images, keys(6))
    assert 0 <= image.min() <= image.max() <= 1
    assert torch.equal((image != images).any(dim=1, keepdim=True), defect)
    for row in range(6):
        alone = corruption(images[row : row + 1], keys(6)[row : row + 1])
        assert torch.equal(alone.image[0], image[row])
        assert torch.equal(alone.defect[0], defect[row])


def test_confetti_darkens_or_lightens():
    image, defect = Confetti()(gray(300), keys(300))
    change = image - 0.5
    darker = (change <= 0).flatten(1).all(dim=1)
    lighter = (change >= 0).flatten(1).all(dim=1)
    assert (darker ^ lighter).all()
    assert darker.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert defect.flatten(1).any(dim=1).float().mean() > 0.97  # of others all pieces lie beside the image
    assert 0.02 < defect.float().mean() < 0.15


def test_confetti_has_colours_and_soft_edges():
    image, _ = Confetti()(gray(100), keys(100))
    assert (image[:, 0] != image[:, 1]).flatten(1).any(dim=1).float().mean() > 0.5
    levels = (image[0] * 255).round().unique()
    assert len(levels) > 20


def test_the_numbers_of_pieces_are_those_of_independent_pixels(monkeypatch):
    """At least one, and as many as of a Poisson distribution, up to 4 and 3."""
    monkeypatch.setattr(outliers, "piece", lambda images, keys, region: torch.full_like(images[:, 0], 0.07))
    image, _ = Confetti()(torch.full((4000, 1, 1, 1), 0.5), keys(4000))
    found = (image - 0.5).abs() / 0.07  # those of full contrast count 1, the others a half on average
    assert found.mean().item() == pytest.approx(1.39 / 2 + 1.19, abs=0.05)
    assert 1 <= found.min() <= 1.1
    assert found.max() <= 7


def test_a_piece_pixel_by_pixel(monkeypatch):
    """Turned by up to an eighth either way about its centre, 8 to 54 of 240 px wide, edges of 23.5 px."""
    drawn = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(outliers, "scalars", lambda keys, count: drawn[..., None, None].unbind(0))
    found = outliers.piece(gray(6, 40), keys(6), region_of(gray(6, 40), None))
    for row, (high, wide, y, x, turns) in enumerate(drawn.T.tolist()):
        angle = (2 * turns - 1) * math.pi / 4
        for v in range(40):
            for u in range(40):
                down, right = v + 0.5 - 40 * y, u + 0.5 - 40 * x
                cos, sin = math.cos(angle), math.sin(angle)
                along = cos * down + sin * right, cos * right - sin * down
                expected = 1.0
                for distance, share in zip(along, (high, wide), strict=True):
                    beyond = 6 * abs(distance) - (8 + 46 * share) / 2  # px of 240
                    t = min(1.0, max(0.0, 0.5 - beyond / 23.5))
                    expected *= t**3 * (10 - 15 * t + 6 * t * t)
                assert found[row].squeeze()[v, u].item() == pytest.approx(expected, abs=1e-3)


def test_nothing_changes_outside_of_a_region():
    inside = torch.zeros(50, 1, 60, 60, dtype=torch.bool)
    inside[..., 10:40, 20:50] = True
    image, defect = Confetti()(gray(50), keys(50), inside)
    assert torch.equal(image.masked_select(~inside), gray(50).masked_select(~inside))
    assert defect.any()


def test_a_foreign_photo_replaces_the_image(tmp_path):
    Image.new("RGB", (80, 60), (200, 40, 90)).save(tmp_path / "foreign.png")
    image, defect = ForeignPhoto(ForeignTextures(str(tmp_path), 32))(gray(3, 32), keys(3))
    assert defect.float().mean() > 0.9
    assert (image.flatten(2).std(dim=2) < 1e-6).all()


def test_what_they_declare_to_have_been_trained_with():
    assert Confetti().kinds == {"blob"}
    assert ForeignPhoto().kinds == set()
