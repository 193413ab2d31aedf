"""Image metrics against scikit-learn, closed forms and simulation."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, precision_score, roc_auc_score

from anomaly_lab.metrics.image_metrics import by_defect, decision_metrics, ranking_metrics

RANDOM = np.random.default_rng(0)


def test_ranking_equals_scikit_learn():
    label = RANDOM.integers(0, 2, 120)
    score = RANDOM.normal(size=120) + label
    metrics = ranking_metrics(score, label)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(label, score))
    assert metrics["aupr"] == pytest.approx(average_precision_score(label, score))
    assert metrics["auroc_low"] < metrics["auroc"] < metrics["auroc_high"]


def test_recall_at_95_specificity_keeps_19_of_20_normal_images():
    normal, abnormal = np.arange(20.0), np.array([18.5, 17.5, 30.0, 18.5])
    score, label = np.concatenate([normal, abnormal]), np.repeat([0, 1], [20, 4])
    assert ranking_metrics(score, label)["recall_at_95_specificity"] == 3 / 4


def test_decisions_equal_scikit_learn():
    label, abnormal = RANDOM.integers(0, 2, 50), RANDOM.random(50) < 0.4
    metrics = decision_metrics(abnormal, label)
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, abnormal))
    assert metrics["precision"] == pytest.approx(precision_score(label, abnormal))
    assert metrics["f1"] == pytest.approx(f1_score(label, abnormal))
    assert metrics["accuracy_normal"] == (~abnormal[label == 0]).mean()
    assert metrics["recall"] == metrics["accuracy_abnormal"] == abnormal[label == 1].mean()
    assert np.isnan(decision_metrics(np.zeros(50, bool), label)["precision"])
    assert decision_metrics(abnormal[label == 0], label[label == 0]) == {"accuracy_normal": metrics["accuracy_normal"]}


def test_every_defect_type_on_its_own():
    score, label = np.array([0.0, 1.0, 2.0, 0.5, 3.0]), np.array([0, 0, 1, 1, 1])
    table = by_defect(score, score >= 2, label, ["good", "good", "hole", "cut", "hole"])
    assert list(table) == ["good", "hole", "cut"]
    assert table["good"] == {"images": 2, "accuracy": 1.0}
    assert (table["hole"]["images"], table["hole"]["accuracy"], table["hole"]["auroc"]) == (2, 1.0, 1.0)
    assert (table["cut"]["accuracy"], table["cut"]["auroc"]) == (0.0, 0.5)


def test_accuracy_stands_beside_what_the_more_frequent_answer_reaches():
    label = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    abnormal = np.array([True, False, False, True, True, True, False, True])
    metrics = decision_metrics(abnormal, label)
    assert metrics["accuracy"] == 6 / 8
    assert metrics["accuracy_majority"] == 5 / 8
    assert "accuracy" not in decision_metrics(abnormal[:3], label[:3])  # of one kind
