"""What a test says when its scores or the places of its maxima cannot come from defects."""

import numpy as np
import pytest

from anomaly_lab.evaluation.plausibility import CELLS, implausible, peak
from tests.evaluation.test_evaluation import evaluate, set_of


@pytest.mark.parametrize(
    ("shape", "at", "cell"),
    [
        ((64, 64), (0, 0), 0),
        ((64, 64), (1, 1), 0),
        ((64, 64), (2, 1), CELLS),
        ((64, 128), (63, 127), CELLS**2 - 1),
        ((33, 20), (32, 19), CELLS**2 - 1 - 1),  # fewer columns than cells: the last one begins at column 19 of 20
        ((64, 64), (33, 9), 16 * CELLS + 4),
    ],
)
def test_the_cell_of_the_maximum(shape, at, cell):
    anomaly_map = np.zeros(shape)
    anomaly_map[at] = 1
    assert peak(anomaly_map) == cell


def test_a_constant_map_has_no_maximum():
    assert peak(np.full((8, 8), 0.3)) is None
    assert implausible([0.1, 0.2, 0.3, 0.4], [None] * 4) == []


@pytest.mark.parametrize(
    ("scores", "peaks", "words"),
    [
        ([0.5] * 4, [1, 2, 3, 4], ["all 4 test images have the same score, 0.5"]),
        ([1e-9] * 5, [7, 7, 7, 2, 1], ["all 5 test images", "in 3 of 5 test images (2 % from the top, 23 %"]),
        ([1, 2, 3, 4], [1023, 1023, 1023, 0], ["in 3 of 4 test images (98 % from the top, 98 % from the left)"]),
        ([1, 2, 3, 4], [5, 5, 6, 6], []),  # half is not more than half
        ([1, 1, 1, 1 + 1e-12], [1, 2, 3, 4], []),
        ([1, 1, 1], [5, 5, 5], ["all 3 test images have the same score, 1:"]),  # too few to say more
        ([1], [5], []),
    ],
)
def test_equal_scores_and_maxima_at_one_place_are_said(scores, peaks, words):
    lines = implausible(scores, peaks)
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True))


def test_a_test_says_so(tmp_path, capsys):
    samples, maps, masks, scores = set_of()
    evaluate(samples, maps, masks, scores, tmp_path / "fine")
    assert "same" not in capsys.readouterr().out
    maps[:, :, 0, 0] = 100  # the corner, as zero padding makes it
    evaluate(samples, maps, masks, [100.0] * 6, tmp_path / "corner")
    out = capsys.readouterr().out
    assert "all 6 test images have the same score, 100" in out
    assert "same place in 6 of 6 test images (2 % from the top, 2 % from the left)" in out
