"""Refusals of what reads photos for a table, and of what reads tables for photos."""

import pytest

from anomaly_lab.core.errors import UserError
from tests.adversarial import configured
from tests.contract import table_of


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=padim"], "method: expected method=table_autoencoder or .* with data=table, found method=padim"),
        (
            ["data.corruption={_target_: anomaly_lab.data.outliers.Confetti}"],
            "data.corruption: expected none with",
        ),
        (["data.image_size=32"], "data.image_size: expected none with data=table, whose rows are no photos, found 32"),
        (["data.resize=crop"], "data.resize: expected none with data=table"),
        (["data.labelled_abnormal=3"], "data.labelled_abnormal: expected none"),
        (["method=supervised", "data.fold=0"], "method: expected method="),
        (["method=transformation_classifier"], "experiment=goad_table with data=table, found method=tra"),
        (["data.controls=[brightness]"], "data.controls: expected some of norm, mahalanobis, pca, found 'brightness'"),
        (["data.train_share=1"], "data.train_share: expected .*found 1"),
    ],
)
def test_what_is_of_photos_is_refused(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        configured("method=table_control", "data=table", f"data.root={table_of(tmp_path)}", *words)


def test_a_method_of_tables_reads_no_photos():
    with pytest.raises(UserError, match="data: expected data=table with method=table_autoencoder, .*found demo"):
        configured("data=demo", "method=table_autoencoder")
    with pytest.raises(UserError, match="method.projections, as experiment=goad_table has them, which.*found demo"):
        configured("data=demo", "experiment=goad_table")


@pytest.mark.parametrize(
    ("kinds", "message"),
    [("[norm]", "expected some of brightness, .*found 'norm'"), ("[pac]", "did you mean 'pca'"), ("[]", "at least 1"),
     ("pca", "data.controls: expected"), ("[3]", "found 3")],
)  # fmt: skip
def test_controls_of_photos_are_some_of_those(kinds, message):
    with pytest.raises(UserError, match=message):
        configured("data=demo", "method=control", f"data.controls={kinds}")
