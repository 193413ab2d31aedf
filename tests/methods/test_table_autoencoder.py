"""The autoencoder of rows: its weights, its losses, the floor of its ReLU, a table of scikit-learn."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.datasets import load_breast_cancer

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.table_autoencoder import TableAutoencoder
from tests.conftest import write_image


def made(columns=30, hidden=(14, 7, 7), rate=1e-2, **options):
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=rate)
    return TableAutoencoder(columns, adam, WholeImage(), list(hidden), **options)


def trained(method, rows, steps=600):
    method.prepare([Batch.of(rows)])
    optimizer = method.optimizer(method.trained())
    for _ in range(steps):
        optimizer.zero_grad()
        method.losses(Batch.of(rows))["loss"].backward()
        optimizer.step()
    return method.eval()


def test_thirty_columns_have_the_weights_of_the_slides():
    assert sum(weight.numel() for weight in made().parameters()) == 835


def test_the_loss_is_the_error_and_the_activity_of_the_first_layer():
    method, rows = made(3, (4, 2, 2), activity=0.5), torch.randn(6, 3, 1, 1)
    method.prepare([Batch.of(rows)])
    scaled = (rows.flatten(1) - rows.flatten(1).mean(0)) / rows.flatten(1).std(0, correction=0)
    first = torch.tanh(scaled @ method.first[0].weight.T + method.first[0].bias)
    losses = method.losses(Batch.of(rows))
    errors = (method.reconstruct(scaled) - scaled).square().mean(1)
    torch.testing.assert_close(losses["error"], errors.mean())
    torch.testing.assert_close(losses["activity"], 0.5 * first.abs().sum() / 6)
    torch.testing.assert_close(losses["loss"], losses["error"] + losses["activity"])
    torch.testing.assert_close(method.predict(rows).score, errors, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_relu_cannot_reconstruct_half_of_a_symmetric_column():
    """The mean of max(-x, 0)^2 is a half; a linear output has no such floor."""
    rows = torch.randn(400, 1, 1, 1, generator=torch.Generator().manual_seed(1)).repeat(1, 3, 1, 1)
    rows = torch.cat([rows, -rows])
    least = {output: trained(made(3, (6, 4, 6), output=output), rows) for output in ("relu", "linear")}
    errors = {output: method.predict(rows).score.mean().item() for output, method in least.items()}
    assert errors["relu"] == pytest.approx(0.5, abs=0.02)
    assert errors["linear"] < 0.05


@pytest.fixture
def cancer(tmp_path):
    """A table of 30 columns: 357 benign rows, 212 malignant ones."""
    data = load_breast_cancer()
    with (tmp_path / "cancer.csv").open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow([*data.feature_names, "kind"])
        write.writerows(
            [*row, "good" if benign else "malignant"] for row, benign in zip(data.data, data.target, strict=True)
        )
    return tmp_path / "cancer.csv"


@pytest.mark.slow
def test_a_table_is_checked_learnt_from_and_judged_in_rows(lab, cancer):
    words = f"data.root={cancer}", "data.label=kind", "data=table"
    said = lab("data", "check", *words).stdout
    assert "train: 286 rows (good 286), 29 of them held out for the threshold" in said
    assert "test: 283 rows (malignant 212, good 71)" in said
    assert "columns: mean radius, mean texture" in said
    assert "a run learns from 257 rows, sets its threshold on 29 and tests 283" in said

    run = lab(*words, "budget.epochs=25", "trainer=cpu", "logger=none", "name=cancer")
    assert "257 training rows, 29 held out, 283 test rows" in run.stdout
    assert "of 212 defective rows" in run.stdout
    folder = next(cancer.parent.glob("runs/cancer/table_autoencoder/table/*/seed=0/*"))
    metrics = json.loads((folder / "metrics.json").read_text())
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["path"] == f"{cancer}:2"
    good, bad = ([float(row["score"]) for row in rows if row["label"] == label] for label in "01")
    assert metrics["image_auroc"] == pytest.approx(mannwhitneyu(bad, good).statistic / (len(good) * len(bad)))
    assert metrics["image_auroc"] > 0.9
    with (folder / "controls.csv").open() as file:
        controls = {row["control"]: float(row["image_auroc"]) for row in csv.DictReader(file)}
    assert controls.keys() == {"norm", "mahalanobis", "pca"}
    assert max(controls.values()) > 0.95
    assert not list(folder.rglob("maps")) + list(folder.rglob("pictures"))
    assert "of 212 defective rows" in (folder / "report.html").read_text()

    photo = write_image(cancer.parent / "photo.png", np.zeros((8, 8, 3), np.uint8))
    asked = lab("predict", f"run={folder}", f"source={photo}", code=1)
    assert "data: expected a run on photos, found one on a table" in asked.stderr
