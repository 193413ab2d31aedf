"""The sentences about a result, on tables written out here."""

import pytest

from anomaly_lab.metrics.thresholds import Threshold
from anomaly_lab.report.verdict import against, decides, found, verdict

LINE = Threshold("false_alarms", "score", 1.25, 2.0, 0.001, 19)
METRICS = {"image_auroc": 0.95, "image_auroc_low": 0.9, "image_auroc_high": 0.98}


def rows(*pairs):
    return [{"label": str(label), "decision": decision} for label, decision in pairs]


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            rows((1, "abnormal"), (1, "normal"), (1, "abnormal"), (0, "normal"), (0, "abnormal")),
            "Found 2 of 3 defective images, 1 of 2 good images rejected.",
        ),
        (rows((0, "normal")), "0 of 1 good image rejected."),
        (rows((1, "normal")), "Found 0 of 1 defective image."),
        ([], "No labelled test images: a threshold, and no metrics."),
    ],
)
def test_what_was_found(scores, sentence):
    assert found(scores) == sentence


@pytest.mark.parametrize(
    ("controls", "end"),
    [
        ([], "0.980)."),
        ([{"control": "gray", "image_auroc": "0.9"}], "the best trivial control, gray, reaches 0.900."),
        (
            [{"control": "gray", "image_auroc": "0.95"}, {"control": "otsu", "image_auroc": ""}],
            "gray, reaches 0.950: this method shows nothing that the control does not.",
        ),
    ],
)
def test_beside_the_best_control(controls, end):
    sentence = against(METRICS, controls)
    assert sentence.startswith("Image AUROC 0.950 (95 % interval 0.900 to 0.980)")
    assert sentence.endswith(end)


def test_without_both_kinds_of_images_nothing_is_compared():
    assert against({}, [{"control": "gray", "image_auroc": "0.9"}]) == ""
    assert len(verdict(rows((0, "normal")), {}, [], LINE)) == 2


def test_what_decides():
    assert decides(LINE) == (
        "An image whose score reaches 1.25 is rejected (threshold rule false_alarms). The threshold comes from 19 "
        "good images. They cannot guarantee a false alarm rate below 1 in 20."
    )
    region = LINE._replace(name="area", decided_by="component")
    assert "with a region above 1.25 that covers 0.10% of it is rejected (threshold rule area)" in decides(region)
