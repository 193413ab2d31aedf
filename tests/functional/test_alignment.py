"""Synthetic parts at known poses are found there; where there is nothing to find, that is said."""

import cv2
import numpy as np
import pytest

from anomaly_lab.functional.alignment import IDENTITY, Aligner, back, background, bring, correlation, foreground

SIDE, FINE = 128, 8  # px, and how much finer the part is drawn
CLUB = np.array([[-40, -4], [20, -4], [20, -16], [36, -12], [36, 14], [20, 16], [20, 4], [-40, 4]], dtype=float)
HOLES = (((28.0, -4.0), 4.0, 0.9), ((-10.0, 0.0), 3.0, 0.5), ((-30.0, 1.0), 2.0, 0.6))


def part(degrees=0.0, shift=(0.0, 0.0), side=SIDE, inverse=False):
    """A dark club with holes on bright ground, turned (x towards y) about the middle of the image and shifted."""
    image = np.full((side * FINE, side * FINE), 0.8, np.float32)
    turn = np.deg2rad(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def placed(points):
        pixels = np.atleast_2d(points) * (side / SIDE) @ rotation.T + (side - 1) / 2 + shift
        return np.rint(pixels * FINE + (FINE - 1) / 2).astype(np.int32)

    cv2.fillPoly(image, [placed(CLUB)], 0.3)
    for middle, radius, level in HOLES:
        cv2.circle(image, placed(middle)[0].tolist(), round(radius * side / SIDE * FINE), level, -1)
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return 1 - small if inverse else small


def pose(matrix, side=SIDE):
    """Turn in degrees, and where the middle of the template lies relative to the middle of the image."""
    middle = np.full(2, (side - 1) / 2)
    shift = matrix[:, :2] @ middle + matrix[:, 2] - middle
    return np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])), shift


@pytest.mark.parametrize(
    ("degrees", "shift"),
    [(0, (0, 0)), (3.3, (2, -1)), (47.6, (5, 3.5)), (90, (0, 8)), (133.2, (-6, 2)), (180, (1, 1)), (-101.7, (4, -7))],
)
@pytest.mark.parametrize("inverse", [False, True])
def test_a_turned_and_shifted_part_is_brought_back(degrees, shift, inverse):
    found = Aligner("rigid", part(inverse=inverse))(part(degrees, shift, inverse=inverse))
    turn, moved = pose(found.matrix)
    assert abs((turn - degrees + 180) % 360 - 180) < 0.5
    assert np.abs(moved - shift).max() < 1
    assert found.correlation > 0.97
    aligned, shown = bring(part(degrees, shift, inverse=inverse), found.matrix)
    assert np.abs(aligned - part(inverse=inverse))[shown].mean() < 0.01


def test_a_template_is_found_in_itself_exactly():
    for motion in ("translation", "rigid"):
        found = Aligner(motion, part())(part())
        assert (found.matrix == IDENTITY).all()
        assert found.correlation == pytest.approx(1)


def test_at_256_px_too():
    turn, moved = pose(Aligner("rigid", part(side=256))(part(200.0, (9.0, -4.0), side=256)).matrix, side=256)
    assert turn % 360 == pytest.approx(200, abs=0.5)
    assert moved == pytest.approx([9, -4], abs=1)


@pytest.mark.parametrize("shift", [(0, 0), (7, 0), (-11, 5), (3, -20)])
def test_a_translation_is_found_exactly(shift):
    found = Aligner("translation", part())(part(shift=shift))
    assert found.matrix.tolist() == [[1, 0, shift[0]], [0, 1, shift[1]]]
    aligned, shown = bring(part(shift=shift), found.matrix)
    assert shown.sum() == (SIDE - abs(shift[0])) * (SIDE - abs(shift[1]))
    np.testing.assert_allclose(aligned[shown], part()[shown], atol=1e-6)


def test_a_translation_is_found_in_noise():
    random = np.random.default_rng(0)
    images = [
        part(shift=shift) + random.normal(0, 0.05, (SIDE, SIDE)).astype(np.float32) for shift in ((0, 0), (9, -4))
    ]
    assert Aligner("translation", images[0])(images[1]).matrix[:, 2].tolist() == [9, -4]


def test_a_map_comes_back_to_where_the_image_has_it():
    found = Aligner("rigid", part())(part(70.0, (4.0, 2.0)))
    in_template = np.zeros((SIDE, SIDE), np.float32)
    in_template[60:63, 90:93] = 1
    row, column = np.unravel_index(back(in_template, found.matrix).argmax(), (SIDE, SIDE))
    assert found.matrix @ [91, 61, 1] == pytest.approx([column, row], abs=1.5)


def test_there_is_0_where_the_template_does_not_reach():
    moved = back(np.ones((SIDE, SIDE), np.float32), np.array([[1.0, 0.0, 10.0], [0.0, 1.0, 0.0]]))
    assert (moved[:, :10] == 0).all()
    assert (moved[:, 10:] == 1).all()


@pytest.mark.parametrize("motion", ["translation", "rigid"])
def test_constant_images_have_no_correlation(motion):
    flat = np.full((SIDE, SIDE), 0.5, np.float32)
    for template, image in ((flat, part()), (part(), flat), (flat, flat)):
        assert Aligner(motion, template)(image).correlation == 0


def test_noise_is_not_taken_for_the_part():
    noise = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    for motion in ("translation", "rigid"):
        assert Aligner(motion, part())(noise).correlation < 0.3


@pytest.mark.parametrize("inverse", [False, True])
def test_the_foreground_is_where_the_border_is_not(inverse):
    image = np.full((20, 30), 0.2, np.float32)
    image[5:12, 10:14] = 0.7
    image = 1 - image if inverse else image
    assert (foreground(image) == (np.abs(image - image[0, 0]) > 0.1)).all()
    assert background(image) == pytest.approx(image[0, 0])
    assert not foreground(np.full((20, 30), 0.4, np.float32)).any()


def test_correlation():
    values = np.random.default_rng(0).random(1000, dtype=np.float32)
    assert correlation(values, 0.3 * values + 0.1) == pytest.approx(1)
    assert correlation(values, -values) == pytest.approx(-1)
    assert correlation(values, np.ones_like(values)) == 0
    other = np.random.default_rng(1).random(1000, dtype=np.float32) + values
    assert correlation(values, other) == pytest.approx(np.corrcoef(values, other)[0, 1], abs=1e-6)
