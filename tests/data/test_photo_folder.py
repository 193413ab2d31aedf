"""Photos of a folder as textures: which they are, how they look, what is left out."""

import numpy as np
import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.noise import row_keys
from anomaly_lab.data.photo_folder import PhotoFolder


@pytest.fixture
def folder(tmp_path, write):
    """Six photos of one gray each, two of them in a folder below, and a mask folder, which does not count."""
    for number, name in enumerate(("a.png", "b.png", "c.png", "d.png", "below/e.png", "below/f.png")):
        write(tmp_path / "photos" / name, np.full((20, 30, 3), 40 * number, np.uint8))
    write(tmp_path / "photos/ground_truth/m.png", np.full((20, 30, 3), 255, np.uint8))
    return tmp_path / "photos"


def drawn(photos, count=60, channels=3, size=8):
    """So many of them."""
    return photos(row_keys(0, 0, torch.arange(count)), channels, size, size)


def test_each_photo_comes_and_the_same_key_brings_the_same_one(folder):
    photos = PhotoFolder(str(folder), "method.foreign_images", side=8)
    images = drawn(photos)
    assert images.shape == (60, 3, 8, 8)
    grays = (255 * images[:, 0, 0, 0]).round().int().tolist()
    assert set(grays) == {0, 40, 80, 120, 160, 200}
    assert drawn(photos).equal(images)
    assert drawn(photos, 10).equal(images[:10])
    assert drawn(photos, 3, channels=1, size=5).shape == (3, 1, 5, 5)
    torch.testing.assert_close(drawn(photos, 3, channels=1), images[:3, :1])


def test_the_middle_of_a_larger_image_is_shown(tmp_path, write):
    photo = np.zeros((40, 80, 3), np.uint8)
    photo[10:30, 20:60] = 200
    write(tmp_path / "a.png", photo)
    zoomed, whole = (PhotoFolder(str(tmp_path), "key", side=8, zoom=zoom).images for zoom in (2, 1))
    assert (zoomed == 200).all()
    assert (whole == 200).float().mean() == 0.25


def test_of_many_photos_always_the_same_sample_is_read(folder):
    first, second = (PhotoFolder(str(folder), "key", side=8, most=4) for _ in range(2))
    assert first.in_words == f"4 of 6 photos in {folder}"
    assert len(first.paths) == len(first.images) == 4
    assert first.paths == second.paths


def test_a_photo_that_cannot_be_read_is_named_and_left_out(folder, capsys):
    (folder / "b.png").write_bytes(b"no photo")
    assert len(PhotoFolder(str(folder), "method.foreign_images", side=8).images) == 5
    assert "method.foreign_images: photos left out that cannot be read: 1, such as" in capsys.readouterr().out


def test_no_folder_and_no_photos_are_refused(tmp_path):
    with pytest.raises(
        UserError, match="method.foreign_images: expected a folder of photos, or procedural, found no folder at"
    ):
        _ = PhotoFolder(str(tmp_path / "nowhere"), "method.foreign_images").paths
    with pytest.raises(UserError, match="method.foreign_images: expected photos, found none in"):
        _ = PhotoFolder(str(tmp_path), "method.foreign_images").paths
    (tmp_path / "a.png").write_bytes(b"no photo")
    with pytest.raises(UserError, match="expected photos, found none in .* that can be read"):
        _ = PhotoFolder(str(tmp_path), "method.foreign_images").images


def test_a_sample_is_drawn_from_all_of_them(tmp_path, write):
    for number in range(30):
        write(tmp_path / f"{number:02}.png", np.full((4, 4, 3), number, np.uint8))
    chosen = PhotoFolder(str(tmp_path), "key", side=4, most=8).paths
    assert chosen == PhotoFolder(str(tmp_path), "key", side=4, most=8).paths == sorted(chosen)
    assert chosen != sorted(tmp_path.iterdir())[:8]
    assert len(set(chosen)) == 8


def test_colours_sizes_and_a_small_zoom(tmp_path, write, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "photos/a.png", np.full((6, 6, 3), (30, 60, 90), np.uint8))
    photos = PhotoFolder("~/photos", "key", side=8, zoom=0.5)
    assert photos.images.shape == (1, 3, 8, 8)
    keys = row_keys(0, 0, torch.arange(2))
    assert photos(keys, 3, 4, 6).shape == (2, 3, 4, 6)
    torch.testing.assert_close(photos(keys, 3, 4, 6)[0, :, 0, 0], torch.tensor([90, 60, 30]) / 255)
    torch.testing.assert_close(photos(keys, 1, 8, 8), torch.full((2, 1, 8, 8), 60 / 255))


def test_noise_is_averaged_when_it_is_made_smaller(tmp_path, write):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8)
    write(tmp_path / "a.png", noise.repeat(3, 2))
    shown = drawn(PhotoFolder(str(tmp_path), "key", side=64), 1, size=16)
    assert shown.std() < 0.09  # of 4 x 4 px and more; of the nearest 2 x 2 it would be 0.14
