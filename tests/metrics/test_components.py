"""From which score on a region is large enough, against labelling at every score."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from anomaly_lab.metrics.components import component_score

SMALL = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-3, 3).map(float)
)


def slow(anomaly_map, minimum_area):
    for score in np.unique(anomaly_map)[::-1]:
        _, region = cv2.connectedComponents((anomaly_map >= score).astype(np.uint8), connectivity=8)
        if np.bincount(region.ravel())[1:].max() >= minimum_area:
            return float(score)
    return -np.inf


@given(anomaly_map=SMALL, minimum_area=st.integers(1, 40), above=st.integers(-3, 3))
@settings(max_examples=300)
def test_equals_labelling_at_every_score(anomaly_map, minimum_area, above):
    expected = slow(anomaly_map, minimum_area)
    assert component_score(anomaly_map, minimum_area) == expected
    assert component_score(anomaly_map, minimum_area, above=above) == max(expected, above)


@pytest.mark.parametrize("minimum_area", [1, 30, 1000])
def test_large_smooth_maps(minimum_area):
    noise = np.random.default_rng(0).normal(size=(90, 120)).astype(np.float32)
    anomaly_map = np.round(cv2.GaussianBlur(noise, (0, 0), 3), 2)
    assert component_score(anomaly_map, minimum_area) == slow(anomaly_map, minimum_area)


def test_a_chain_and_a_corner():
    chain = np.zeros((9, 9), np.float32)
    chain[4, 2:7] = [9, 8, 7, 6, 5]
    assert component_score(chain, 3) == 7
    assert component_score(chain, 1) == 9
    assert component_score(np.eye(3, dtype=np.float32), 3) == 1  # pixels touch at their corners
    assert component_score(np.zeros((2, 2), np.float32), 5) == -np.inf
