"""Pictures of curves: they show what they are given, and any name."""

import matplotlib
import numpy as np

from anomaly_lab.evaluation import figures

BLUE, VERMILION = (0, 114, 178), (213, 94, 0)


def near(picture, colour, tolerance=12):
    return (np.abs(picture.astype(int) - colour).max(axis=2) <= tolerance).sum()


def test_a_curve_is_drawn_where_it_lies():
    x = np.linspace(0, 1, 50)
    high, low = (figures.curve(x, y, "t", ("x", "y")) for y in (np.ones(50), np.full(50, 0.1)))
    rows = [
        np.flatnonzero((np.abs(picture.astype(int) - BLUE).max(axis=2) < 12).any(axis=1)) for picture in (high, low)
    ]
    assert len(rows[0])
    assert len(rows[1])
    assert rows[0].max() < rows[1].min()


def test_normal_and_abnormal_scores_have_the_colours_of_the_page():
    values = {"good": np.linspace(0, 1, 20), "a $broken$ name" + "x" * 300: np.linspace(1, 2, 20)}
    picture = figures.scores(values, {"good"}, 1.0)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    alone = figures.scores({"good": values["good"]}, {"good"}, float("inf"))
    reddish = [((p[..., 0].astype(int) - p[..., 2]) > 60).sum() for p in (picture, alone)]
    assert reddish[0] > 100
    assert reddish[1] == 0


def test_losses_and_features_show_every_group():
    lines = figures.losses({"train/loss": ([1, 2, 3], [1.0, 0.1, 0.01]), "validation/loss": ([2], [0.5])})
    assert near(lines, BLUE) > 20
    assert near(lines, VERMILION) > 5
    points = np.random.default_rng(0).normal(size=(30, 2))
    both = figures.feature_map(points, np.arange(30) % 2, "t", ("a", "b"))
    one = figures.feature_map(points, np.zeros(30, int), "t", ("a", "b"))
    reddish = [((p[..., 0].astype(int) - p[..., 2]) > 60).sum() for p in (both, one)]
    assert reddish[0] > 50
    assert reddish[1] == 0


def test_matplotlib_keeps_its_global_state():
    before = matplotlib.rcParams.copy()
    figures.losses({"a": ([1], [1.0])})
    assert dict(matplotlib.rcParams) == dict(before)
