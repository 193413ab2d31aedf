"""Names of measures: they are those of metrics.json."""

from anomaly_lab.evaluation.controls import COMPARED
from anomaly_lab.runs.measures import BY_KEY, is_loss, strongest
from tests.training.test_run import NAMES

NOT_SHOWN = {"threshold", "pixel_threshold", "image_auroc_low", "image_auroc_high", "precision", "result_version"} | {
    "image_accuracy_majority",
    "result_key",
}


def test_every_metric_of_a_run_has_a_name_and_no_other_is_there():
    shown = {name for name in NAMES if not name.startswith("control_")} - NOT_SHOWN
    assert set(BY_KEY) == shown
    assert set(COMPARED) < set(BY_KEY)


def test_what_is_no_loss():
    names = (
        "epoch",
        "train/loss",
        "generator/encoder",
        "samples/diversity",
        "seconds/encoder",
        "generator/gradient_norm",
    )
    assert [is_loss(name) for name in names] == [False, True, True, False, False, False]


def test_the_strongest_control_counts():
    found = {
        "brightness": {"image_auroc": 0.9},
        "mean_image": {"image_auroc": 0.7, "pixel_auroc": 0.8},
        "gray_ssim": {"image_auroc": 0.6, "pixel_auroc": 0.85},
    }
    assert strongest("pixel_auroc", found) == ("gray_ssim", 0.85)
    assert strongest("image_auroc", found) == ("brightness", 0.9)
