"""Images by their numbers: each photo once a pass, the same again whenever it is asked for, random parts, textures."""

import numpy as np
import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.numbered_images import Batches, Source


@pytest.fixture
def photos(tmp_path, write):
    """Five photos whose gray says which they are."""
    for number in range(5):
        write(tmp_path / f"photos/{number}.png", np.full((40, 60, 3), 50 * number, np.uint8))
    return sorted((tmp_path / "photos").iterdir())


def test_every_photo_comes_once_before_any_comes_again_and_a_number_is_always_the_same_image(photos):
    source = Source(photos, 8, None, seed=3)
    passes = [[int(source.photo(5 * epoch + i)[0, 0, 0]) // 50 for i in range(5)] for epoch in range(3)]
    assert [sorted(one) for one in passes] == [[0, 1, 2, 3, 4]] * 3
    assert len({tuple(one) for one in passes}) > 1
    assert (source.photo(7) == Source(photos, 8, None, seed=3).photo(7)).all()
    other = [int(Source(photos, 8, None, seed=4).photo(i)[0, 0, 0]) // 50 for i in range(5)]
    assert other != passes[0]


def test_batches_go_on_where_they_were_told_to(photos):
    source = Source(photos, 8, None, seed=0)
    whole = list(Batches(source, 0, 4, 2))
    rest = list(Batches(source, 2, 2, 2))
    assert [part[0].tolist() for part in whole] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert all(one.equal(other) for two in zip(whole[2:], rest, strict=True) for one, other in zip(*two, strict=True))
    images = source.batch(*whole[0][:1], whole[0][1:])
    assert images.shape == (2, 3, 8, 8)
    assert 0 <= images.min() <= images.max() <= 200 / 255


def test_a_patch_is_a_random_part_of_a_photo_that_has_4_to_16_of_them_a_side(tmp_path, write):
    """A ramp shows which part: its slope the size, its middle the place."""
    ramp = np.linspace(0, 255, 640).astype(np.uint8)[None, :, None].repeat(640, 0).repeat(3, 2)
    source = Source([write(tmp_path / "ramp.png", ramp)], 10, 10, seed=0)
    parts = [source.photo(i)[0].astype(float) for i in range(150)]
    shares = np.array([(part[:, -1] - part[:, 0]).mean() / 255 * 10 / 9 for part in parts])
    assert 1 / 16 - 0.015 <= shares.min() < 0.08
    assert 0.2 < shares.max() <= 1 / 4 + 0.015
    middles = np.array([part.mean() / 255 for part in parts])
    assert middles.min() < 0.2
    assert middles.max() > 0.8


def test_without_photos_there_are_textures_that_follow_from_their_numbers():
    source = Source([], 16, None, seed=0)
    numbers, *images = next(iter(Batches(source, 3, 1, 4)))
    assert images == []
    shown = source.batch(numbers, [])
    assert shown.shape == (4, 3, 16, 16)
    assert shown[2:3].equal(source.batch(numbers[2:3], []))
    assert shown.std() > 0.02


def test_a_photo_that_cannot_be_read_is_replaced_and_named_once(photos, tmp_path, capsys):
    photos[2].write_bytes(b"no photo")
    source = Source(photos, 8, None, seed=0)
    seen = {int(source.photo(i)[0, 0, 0]) // 50 for i in range(10)}
    assert seen == {0, 1, 3, 4}
    said = capsys.readouterr().out
    assert said.count("left out: ") == said.count("2.png") == 1
    (broken := tmp_path / "broken.png").write_bytes(b"no photo")
    with pytest.raises(UserError, match="images: expected photos, found none of 1 that can be read"):
        Source([broken], 8, None, seed=0).photo(0)


def test_parts_differ_from_number_to_number_and_from_seed_to_seed_and_lie_within_long_photos(tmp_path, write):
    """A photo of 200 x 600 px whose gray says which column it is."""
    ramp = np.linspace(0, 255, 600).astype(np.uint8)[None, :, None].repeat(200, 0).repeat(3, 2)
    path = write(tmp_path / "ramp.png", ramp)
    shown = [np.array([Source([path] * 60, 10, 10, seed).photo(i)[0] for i in range(60)]) for seed in (0, 1)]
    assert len({part.tobytes() for part in shown[0]}) > 50
    assert not (shown[0] == shown[1]).all()
    middles = shown[0].mean(axis=(1, 2)) / 255
    assert middles.max() > 0.8  # anywhere along the long side
    widths = (shown[0][:, :, -1] - shown[0][:, :, 0].astype(float)).mean(axis=1) / 255 * 10 / 9
    assert widths.max() <= 1 / 12 + 0.02  # a quarter of the short side, which is a third of the long one
    textures = [Source([], 8, None, seed).batch(torch.arange(2), []) for seed in (0, 1)]
    assert not textures[0].equal(textures[1])
