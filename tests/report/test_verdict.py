"""The sentences about a result, on runs written out here."""

from dataclasses import replace
from pathlib import Path

import pytest

from anomaly_lab.metrics.thresholds import Threshold
from anomaly_lab.report.verdict import judged, verdict
from anomaly_lab.runs.collect import Image, Key, Run

LINE = Threshold("false_alarms", "score", 1.25, 2.0, 0.001, 19)._asdict()
METRICS = {"image_accuracy_normal": 1.0, "image_auroc": 0.95, "image_auroc_low": 0.9, "image_auroc_high": 0.98}
IMAGES = ((1, 2.0), (1, 1.0), (1, 1.25), (0, 1.0), (0, 2.0))


def run_of(pairs=IMAGES, metrics=METRICS, thresholds=(LINE,), **controls):
    return Run(
        Path("runs/a"), "a", Key("a", "cae", "folder", "bolts", "0"), "done", metrics=metrics, threshold=1.25,
        images=[Image(f"{i}.png", "", label) for i, (label, _) in enumerate(pairs)],
        decision_scores=[score for _, score in pairs], thresholds=list(thresholds),
        controls={name: {"image_auroc": value} for name, value in controls.items()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("images", "metrics", "sentence"),
    [
        (IMAGES, METRICS, "Found 2 of 3 defective images, 1 of 2 good images rejected."),
        (IMAGES[3:4], METRICS, "0 of 1 good image rejected."),
        (IMAGES[1:2], METRICS, "Found 0 of 1 defective image."),
        ((), {}, "No labelled test images: no metrics."),
        (IMAGES[3:], {}, "No labelled test images: no metrics."),  # held out
    ],
)
def test_what_was_found(images, metrics, sentence):
    assert verdict(run_of(images, metrics))[0] == sentence


def test_each_image_at_the_threshold_of_its_run():
    run = run_of()
    words = ["found", "missed", "found", "no false alarm", "false alarm"]  # reaching it is enough
    assert [judged(run, place) for place in range(5)] == words
    assert judged(run, -1) == judged(run, 5) == ""  # of a picture whose photo is not known
    assert judged(run_of([(-1, 2.0)]), 0) == ""  # no label
    assert judged(replace(run, threshold=float("nan")), 0) == ""


@pytest.mark.parametrize(
    ("controls", "end"),
    [
        ({}, "0.980)."),
        ({"gray": 0.9, "pca": 0.8}, "; the best trivial control, gray, reaches 0.900."),
        (
            {"gray": 0.95, "otsu": float("nan")},
            "gray, reaches 0.950: this method shows nothing that the control does not.",
        ),
    ],
)
def test_beside_the_best_control(controls, end):
    sentence = verdict(run_of(**controls))[1]
    assert sentence.startswith("Image AUROC 0.950 (95 % interval 0.900 to 0.980)")
    assert sentence.endswith(end)


def test_a_tie_of_perfect_rankings_says_that_the_test_is_too_easy():
    perfect = METRICS | {"image_auroc": 1.0, "image_auroc_high": 1.0}
    easy = "gray, reaches 1.000, too: these test images are too easy to tell the method from it."
    assert verdict(run_of(metrics=perfect, gray=1.0))[1].endswith(easy)
    tied = verdict(run_of(gray=0.95))[1]
    assert tied.endswith("gray, reaches 0.950: this method shows nothing that the control does not.")


def test_a_run_that_is_not_done_has_no_result():
    assert verdict(replace(run_of(), state="running")) == []


def test_without_both_kinds_of_images_nothing_is_compared():
    assert len(verdict(run_of(metrics={}, gray=0.9))) == 2


def test_what_decides():
    guarantee = "The threshold comes from 19 good images. They cannot guarantee a false alarm rate below 1 in 20."
    assert (
        verdict(run_of())[2]
        == f"An image is rejected if its score reaches 1.25 (threshold rule false_alarms). {guarantee}"
    )
    region = LINE | {"name": "area", "decided_by": "component"}
    later = [LINE | {"image": 9.0}, region, LINE | {"image": 7.0}]  # the second one was tested
    assert verdict(run_of(thresholds=later))[2] == (
        f"An image is rejected if a region of at least 0.10% of it lies above 1.25 (threshold rule area). {guarantee}"
    )
    for damaged in ([], [{"image": 1.25}], [LINE | {"image": "high"}], [LINE | {"normals": None}]):
        assert len(verdict(run_of(thresholds=damaged))) == 2
