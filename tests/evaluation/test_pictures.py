"""Pictures: what they show, one colour range, any shape."""

import cv2
import numpy as np
import pytest
import torch

from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.placement import place
from anomaly_lab.evaluation.drawing import (
    GREEN,
    ORANGE,
    Panel,
    color_range,
    heat,
    panel,
    stack,
    with_outlines,
    write_picture,
)
from anomaly_lab.metrics.thresholds import Threshold


def test_a_panel_shows_image_reconstruction_map_and_outline_without_padding():
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, 16:48] = 1  # the photo is red, the padding black
    anomaly_map = torch.zeros(1, 1, 64, 64)
    anomaly_map[..., 20:30, 20:30] = 1
    mask = torch.zeros(1, 32, 64, dtype=torch.bool)
    mask[:, 4:14, 20:30] = True
    batch = Batch(image, (mask,), torch.tensor([1]), torch.tensor([0]), (place(32, 64, 64, "pad"),))
    shown = panel("a", 0, Prediction(anomaly_map, None, 1 - image), batch, 64, mask, localises=True)
    picture = shown.draw(0.0, 1.0)
    assert picture.shape == (32, 4 * 64, 3)
    assert (picture[:, :64] == (255, 0, 0)).all()
    assert (picture[:, 64:128] == (0, 255, 255)).all()
    assert picture[9, 128 + 25].sum() > picture[28, 128 + 5].sum()
    assert (picture[:, 192:] == (0, 255, 0)).all(axis=2).sum() == 4 * 9  # the outline of a 10 x 10 square


def test_what_has_no_map_is_drawn_without_one():
    batch = Batch(torch.zeros(1, 3, 64, 64), (None,), torch.tensor([1]), torch.tensor([0]), (place(64, 64, 64, "pad"),))
    line = Threshold("false_alarms", "score", 1.5, 0.5, 16 / 256, 9)
    prediction, mask = Prediction(torch.ones(1, 1, 64, 64), None, None), torch.ones(1, 64, 64, dtype=torch.bool)
    blind = panel("a", 0, prediction, batch, 64, None, line, 2.0, localises=False)
    assert blind.anomaly_map is None
    assert blind.caption == "a: image"
    assert blind.decision == ["score 2", "threshold 1.5: abnormal"]
    assert (blind.draw(*color_range([blind.anomaly_map])) == blind.image).all()
    marked = panel("a", 0, prediction._replace(reconstruction=batch.image + 1), batch, 64, mask, line, localises=False)
    assert marked.caption == "a: image, mask (green) | reconstruction"
    image, reconstruction = np.split(marked.draw(0, 1), 2, axis=1)
    assert (image == GREEN).all(axis=2).sum() == 4 * 63
    assert (reconstruction == 255).all()


@pytest.mark.parametrize(
    ("photo", "shown"),
    [
        ((900, 60), (192, 12)), ((60, 900), (12, 192)), ((1024, 128), (128, 16)), ((100, 1), (192, 2)),
        ((256, 64), (64, 16)), ((300, 200), (64, 42)), ((64, 64), (64, 64)),
    ],
)  # fmt: skip
def test_narrow_photos_are_shown_larger(photo, shown):
    placement = place(*photo, 256, "pad")
    batch = Batch(torch.zeros(1, 1, 256, 256), (None,), torch.tensor([1]), torch.tensor([0]), (placement,))
    mask = torch.zeros(1, *photo, dtype=torch.bool)
    drawn = panel("a", 0, Prediction(torch.zeros(1, 1, 256, 256), None, None), batch, 64, mask, localises=True)
    assert drawn.image.shape[:2] == drawn.anomaly_map.shape == drawn.mask.shape
    assert drawn.image.shape[:2] == pytest.approx(shown, abs=2)
    assert drawn.draw(0, 1).shape[1] == 3 * drawn.image.shape[1]


def test_without_a_mask_the_map_is_laid_over_the_image():
    gray = np.full((8, 8, 3), 100, np.uint8)
    picture = Panel("a", gray, None, np.zeros((8, 8), np.float32), None).draw(0, 1)
    assert picture.shape == (8, 3 * 8, 3)
    assert (picture[:, 16:] < 100).all()


def test_colours_rise_with_the_score_and_ignore_a_few_extremes():
    levels = np.linspace(0, 1, 64, dtype=np.float32)[None]
    assert (np.diff(heat(levels, 0, 1).astype(int).sum(axis=2)[0]) >= -8).all()
    maps = [np.zeros((100, 100), np.float32), np.ones((100, 100), np.float32)]
    maps[0][0, 0] = 1e9
    assert color_range(maps) == (0.0, 1.0)


def test_pictures_of_differing_widths_are_stacked():
    assert stack([np.ones((2, 3, 3), np.uint8), np.ones((4, 5, 3), np.uint8)]).shape == (6, 5, 3)


def test_colours_survive_the_file(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    write_picture(tmp_path / "red.png", red)
    assert (cv2.imread(str(tmp_path / "red.png")) == (0, 0, 255)).all()


def test_what_is_found_and_what_the_mask_marks_have_outlines_of_their_own():
    anomaly_map = np.zeros((16, 16), np.float32)
    anomaly_map[1:5, 1:5] = 0.5
    mask = np.zeros((16, 16), bool)
    mask[8:12, 8:12] = True
    image = np.full((16, 16, 3), 50, np.uint8)
    line = Threshold("false_alarms", "score", 1.5, 0.5, 16 / 256, 9)
    both = Panel("a", image, None, anomaly_map, mask, line, 1.25)
    picture = both.outlined(0, 1)
    for color, (top, left) in ((ORANGE, (1, 1)), (GREEN, (8, 8))):
        found = (picture == color).all(axis=2)
        assert found.sum() == 12
        assert found[top, left : left + 4].all()
    assert both.caption == "a: image | anomaly map | regions above 0.5 (orange), mask (green)"
    assert both.decision == ["score 1.25", "threshold 1.5: normal"]
    abnormal = both._replace(decision_score=1.5)
    assert (abnormal.decision[1], abnormal.color) == ("threshold 1.5: abnormal", ORANGE)
    assert both.captioned(0, 1).shape == (44 + 16, 512, 3)  # the caption is whole
    assert (image == 50).all()
    for other in (line._replace(pixel=0.6), line._replace(minimum_area=17 / 256)):  # the region is too small
        assert (both._replace(threshold=other).outlined(0, 1) == ORANGE).all(axis=2).sum() == 0
    assert both._replace(threshold=None).caption.endswith("| mask (green)")
    assert both._replace(mask=mask & False).caption.endswith("| regions above 0.5 (orange)")


@pytest.mark.parametrize("value", [True, False])
def test_an_outline_may_be_that_of_everything_or_nothing(value):
    image = with_outlines(np.zeros((8, 8, 3), np.uint8), [(np.full((8, 8), value), GREEN)])
    assert (image == GREEN).all(axis=2).sum() == (28 if value else 0)


def test_a_black_border_lies_outside_of_an_outline_and_covers_no_other():
    red, ring, beside = (
        np.full((12, 12, 3), (255, 120, 0), np.uint8),
        np.zeros((12, 12), bool),
        np.zeros((12, 12), bool),
    )
    ring[2:9, 2:7] = True
    ring[5, 4] = False  # a hole, which has neither outline nor border
    beside[2:9, 7:10] = True
    picture = with_outlines(red, [(ring, ORANGE), (beside, GREEN)])
    both = np.zeros((12, 12), bool)
    both[1:10, 1:11] = True
    both[2:9, 2:10] = False
    np.testing.assert_array_equal((picture == 0).all(axis=2), both)
    assert [(picture == color).all(axis=2).sum() for color in (ORANGE, GREEN)] == [20, 16]
