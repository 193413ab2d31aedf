"""Ranking metrics against scikit-learn and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from anomaly_lab.metrics.ranking import rank

LEVELS = st.lists(st.integers(0, 6).map(lambda level: level * 10.0 - 20), min_size=1, max_size=30)


def test_closed_form():
    ranking = rank(np.array([0.1, 0.4]), np.array([0.35, 0.8]))
    assert ranking.auroc() == 0.75
    assert ranking.aupr() == pytest.approx(5 / 6)
    assert ranking.f1max() == (pytest.approx(0.8), 0.35)


@given(normal=LEVELS, abnormal=LEVELS)
@settings(max_examples=200, deadline=None)
def test_equals_scikit_learn_with_ties_and_scores_of_any_size(normal, abnormal):
    scores, labels = np.array(normal + abnormal), np.array([0] * len(normal) + [1] * len(abnormal))
    ranking = rank(np.array(normal), np.array(abnormal))
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert ranking.auroc() == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert ranking.aupr() == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert ranking.f1max()[0] == pytest.approx(f1.max(), abs=1e-9)


def test_scores_are_not_squashed():
    """A sigmoid would saturate in float32 and give 0.5."""
    ranking = rank(np.array([18, 19, 20], np.float32), np.array([21, 22, 23], np.float32))
    assert ranking.auroc() == 1.0


def test_constant_scores_are_chance():
    ranking = rank(np.zeros(3), np.zeros(1))
    assert ranking.auroc() == 0.5
    assert ranking.aupr() == 0.25


def test_one_class_alone_has_no_ranking():
    assert np.isnan(rank(np.zeros(3), np.zeros(0)).auroc())
    assert np.isnan(rank(np.zeros(0), np.zeros(3)).auroc())
    assert np.isnan(rank(np.zeros(3), np.zeros(0)).aupr())
