"""Ranking metrics against scikit-learn and closed forms."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from anomaly_lab.metrics.ranking import Ranking, Value, as_share, rank, share

LEVELS = st.lists(st.integers(0, 6).map(lambda level: level * 10.0 - 20), min_size=1, max_size=30)
EXTREMES = (0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38, 1.0)
ANY = st.lists(st.sampled_from(EXTREMES) | st.floats(allow_nan=False, width=32), min_size=1, max_size=20)


def exactly(value):
    return Value(*[pytest.approx(value, abs=1e-12)] * 3)


def test_closed_form():
    ranking = rank(np.array([0.1, 0.4]), np.array([0.35, 0.8]))
    assert ranking.auroc() == exactly(0.75)
    assert ranking.aupr() == exactly(5 / 6)
    assert ranking.f1max() == (exactly(0.8), 0.35)


@given(normal=LEVELS, abnormal=LEVELS)
@settings(max_examples=100)
def test_equals_scikit_learn_with_ties_and_scores_of_any_size(normal, abnormal):
    scores, labels = np.array(normal + abnormal), np.array([0] * len(normal) + [1] * len(abnormal))
    ranking = rank(np.array(normal), np.array(abnormal))
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert ranking.auroc() == exactly(roc_auc_score(labels, scores))
    assert ranking.aupr() == exactly(average_precision_score(labels, scores))
    assert ranking.f1max()[0].value == pytest.approx(f1.max(), abs=1e-9)


@given(normal=ANY, abnormal=ANY)
@settings(max_examples=100)
def test_infinities_denormals_and_both_zeros_rank_like_their_order(normal, abnormal):
    normal, abnormal = np.array(normal, np.float32), np.array(abnormal, np.float32)
    pairs = (abnormal[:, None] > normal) + (abnormal[:, None] == normal) / 2
    ranking = rank(normal, abnormal)
    assert ranking.auroc() == exactly(pairs.mean())
    f1, threshold = ranking.f1max()
    true, false = (abnormal >= threshold).sum(), (normal >= threshold).sum()
    assert f1.value == pytest.approx(2 * true / (true + false + len(abnormal)), abs=1e-12)


def test_two_infinite_defects_are_one_tie():
    ranking = rank(np.array([0.0, np.inf], np.float32), np.array([np.inf, np.inf], np.float32))
    assert ranking.auroc() == exactly(0.75)
    assert ranking.aupr() == exactly(2 / 3)


def test_the_largest_finite_defect_overflows_nothing():
    largest = np.float32(3.4028235e38)
    assert rank(np.array([0], np.float32), np.array([-largest, largest])).auroc() == exactly(0.5)


@given(
    groups=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=3).filter(
        lambda groups: sum(n for n, _ in groups) and sum(d for _, d in groups)
    ),
    limit=st.sampled_from((0.1, 0.3, 1.0)),
)
@settings(max_examples=60)
def test_bounds_hold_every_order_inside_a_group(groups, limit):
    normal, abnormal = (np.array(counts) for counts in zip(*groups, strict=True))
    loose = Ranking(
        threshold=-np.arange(len(groups), dtype=np.float64), normal=normal, abnormal=abnormal,
        tied=np.zeros(len(groups), bool), overlap=abnormal / abnormal.sum(),
    )  # fmt: skip
    orders = [sorted(set(permutations([0] * n + [1] * d))) for n, d in groups]
    for choice in range(max(map(len, orders))):
        labels = np.array([label for order in orders for label in order[choice % len(order)]])
        scores = -np.arange(len(labels), dtype=np.float64)
        weight = share(np.full(int(labels.sum()), labels.sum()))
        true = rank(scores[labels == 0], scores[labels == 1], weight, 1)
        for found, expected in (
            (loose.auroc(), true.auroc()),
            (loose.aupr(), true.aupr()),
            (loose.f1max()[0], true.f1max()[0]),
            (loose.aupro(limit), true.aupro(limit)),
        ):
            assert found.low <= found.value <= found.high
            assert found.low - 1e-12 <= expected.value <= found.high + 1e-12


def test_scores_are_not_squashed():
    """A sigmoid would saturate in float32 and give 0.5."""
    ranking = rank(np.array([18, 19, 20], np.float32), np.array([21, 22, 23], np.float32))
    assert ranking.auroc() == exactly(1.0)


def test_constant_scores_are_chance():
    ranking = rank(np.zeros(3), np.zeros(1))
    assert ranking.auroc() == exactly(0.5)
    assert ranking.aupr() == exactly(0.25)


@pytest.mark.parametrize(("normal", "abnormal"), [(3, 0), (0, 3), (0, 0)])
def test_one_class_alone_has_no_ranking(normal, abnormal):
    ranking = rank(np.zeros(normal), np.zeros(abnormal))
    assert np.isnan(ranking.auroc()).all()
    assert np.isnan(ranking.aupro(0.3)).all()
    assert np.isnan(ranking.recall_at_specificity(0.95))
    assert np.isnan(ranking.aupr()).all() == (not abnormal)
    assert np.isnan(ranking.f1max()[1]) == (not abnormal)


@pytest.mark.parametrize(
    ("specificity", "recall"), [(1.0, 0.25), (0.95, 0.5), (0.94, 0.5), (0.9, 0.75), (0.85, 0.75), (0.0, 1.0)]
)
def test_recall_at_specificity_lets_as_many_normal_ones_pass_as_allowed(specificity, recall):
    ranking = rank(np.arange(20.0), np.array([19.5, 18.5, 17.5, -1]))
    assert ranking.recall_at_specificity(specificity) == recall


def test_recall_at_specificity_does_not_split_a_tie():
    ranking = rank(np.array([0.0, 0, 0, 1]), np.array([1.0, 2.0]))
    assert ranking.recall_at_specificity(0.95) == 0.5
    assert ranking.recall_at_specificity(0.75) == 1.0


def test_shares_of_a_region_add_up_to_one():
    areas = np.array([1, 3, 7, 1000, 2**20 + 1])
    assert as_share(share(areas) * areas[:, None], 1) == pytest.approx(np.ones(5), abs=1e-12)
