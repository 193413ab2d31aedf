"""Textures to paint with: each source, its changes of colour, the same bits in any batch."""

import cv2
import numpy as np
import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.data import textures as module
from anomaly_lab.data.noise import procedural_texture
from anomaly_lab.data.textures import ForeignTextures, shifted, varied
from tests.data.test_corruption import keys, noisy


@pytest.fixture
def folder(tmp_path):
    for level in (50, 200):
        cv2.imwrite(str(tmp_path / f"{level}.png"), np.full((12, 12, 3), level, np.uint8))
    return tmp_path


def test_procedural_textures_are_the_default():
    textures = ForeignTextures()
    assert torch.equal(textures(keys(3), noisy(3)), procedural_texture(keys(3), 3, 48, 48))
    assert not textures.photos
    assert textures.in_words == "procedural textures"


@pytest.mark.parametrize("source", ["own", "folder"])
@pytest.mark.parametrize("shape", [(3, 24, 24), (1, 20, 28)])
def test_a_row_gets_the_same_bits_in_any_batch(folder, source, shape):
    textures = ForeignTextures(str(folder) if source == "folder" else source, side=16)
    images = noisy(6, *shape)
    whole = textures(keys(6), images)
    assert whole.shape == images.shape
    assert whole.min() >= 0
    assert whole.max() <= 1
    for part in ([4], [1, 3, 5]):
        assert torch.equal(textures(keys(6)[part], images[part]), whole[part])


def test_a_shifted_image_has_all_of_its_pixels_and_any_may_come_first():
    images = torch.arange(12.0).view(1, 1, 3, 4).expand(300, -1, -1, -1)
    moved = shifted(keys(300), images)
    assert torch.equal(moved.flatten(1).sort().values, images.flatten(1))
    assert moved[:, 0, 0, 0].unique().tolist() == list(range(12))
    step = (moved[:, 0, 0, 1] - moved[:, 0, 0, 0]) % 4
    assert (step == 1).all()


def test_three_in_ten_textures_are_inverted_and_most_keep_their_colours():
    images = torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1).expand(2000, -1, 1, 1)
    colours = varied(keys(2000), images).view(2000, 3)
    same = (colours == images.view(2000, 3)).all(dim=1).float().mean().item()
    assert same == pytest.approx(0.7**4, abs=0.03)
    assert ((colours - (1 - images.view(2000, 3))).abs().amax(dim=1) < 1e-6).float().mean().item() == pytest.approx(
        0.7**3 * 0.3, abs=0.03
    )


def test_textures_are_mirrored_and_turned():
    images = (torch.arange(4.0).view(1, 1, 2, 2).expand(400, -1, -1, -1) + 2) / 10  # no brightness is cut off
    first = varied(keys(400), images).flatten(1).argsort(dim=1)
    assert len(first.unique(dim=0)) == 8


@pytest.mark.parametrize(
    ("change", "amounts", "expected"),
    [
        (3, (0.4, 0.25, 0, 0), [0.75 * v + 0.25 * v * v for v in (0.04, 0.36, 0.81)]),
        (3, (0.6, 0.25, 0, 0), [0.75 * v + 0.25 * v**0.5 for v in (0.04, 0.36, 0.81)]),
        (4, (0, 0, 1, 0.75), [1.2 * v + 15 / 255 for v in (0.04, 0.36)] + [1]),
        (4, (0, 0, 0, 0), [0, *(0.8 * v - 30 / 255 for v in (0.36, 0.81))]),
        (5, (0, 0, 0, 0), [0.81, 0.04, 0.36]),
        (6, (0, 0, 0, 0), [0.96, 0.64, 0.19]),
    ],
)
def test_each_change_of_colour_by_hand(change, amounts, expected, monkeypatch):
    chances = torch.ones(1, 7)
    chances[0, change] = 0.29
    monkeypatch.setattr(module, "uniform", lambda keys, count: chances)
    monkeypatch.setattr(module, "scalars", lambda keys, count: [torch.full((1, 1, 1), float(a)) for a in amounts])
    found = varied(keys(1), torch.tensor([0.04, 0.36, 0.81]).view(1, 3, 1, 1))
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_what_is_drawn_for_a_texture_comes_from_streams_of_its_own(monkeypatch):
    seen = []
    for name in ("uniform", "scalars"):
        drawn = getattr(module, name)
        monkeypatch.setattr(module, name, lambda keys, count, drawn=drawn: seen.append(int(keys)) or drawn(keys, count))
    ForeignTextures("own")(keys(1), noisy(1))
    assert len(set(seen)) == len(seen) == 3  # the shift, the chances, the amounts


def test_photos_of_a_folder_are_painted_and_can_be_named(folder):
    textures = ForeignTextures(str(folder), side=16)
    assert [path.name for path in textures.photos] == ["200.png", "50.png"]
    assert textures.in_words == f"2 of 2 photos in {folder}"
    levels = textures(keys(400), torch.zeros(400, 3, 16, 16))[:, :, 0, 0].mul(255).round()
    plain = (levels == 50).all(1) | (levels == 200).all(1)
    assert plain.float().mean().item() == pytest.approx(0.7**3, abs=0.06)  # one colour in any order of channels


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(UserError, match="data.foreign_images: expected photos, found none"):
        ForeignTextures(str(tmp_path))(keys(1), noisy(1))
