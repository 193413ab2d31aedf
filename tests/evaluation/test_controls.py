"""Controls beside a result: what they find, and which metrics they are not beaten in."""

import csv
import json
import math
from copy import deepcopy

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity, NearestNeighbors

from anomaly_lab.config.schema import class_fact
from anomaly_lab.core.types import Batch, Prediction
from anomaly_lab.data.augmentation import Augmentation
from anomaly_lab.data.datamodule import DataModule
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.layouts import mvtec_ad
from anomaly_lab.evaluation import controls
from anomaly_lab.evaluation.controls import (
    COMPARED,
    FIGURES,
    Controls,
    figures_of,
    learn_statistics,
    not_beaten,
    untrained_figures,
)
from anomaly_lab.evaluation.evaluation import Evaluation
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.metrics.thresholds import Area
from tests.adversarial import configured
from tests.conftest import ROOT, stand_in
from tests.contract import FILES

FOUND = {
    "brightness": {"image_auroc": 0.9},
    "mean_image": {"image_auroc": 0.7, "pixel_auroc": 0.8},
    "gray_ssim": {"image_auroc": 0.6, "pixel_auroc": 0.85},
}


def test_what_is_not_above_the_strongest_control_is_told():
    assert not_beaten({"image_auroc": 0.95, "pixel_auroc": 0.84}, FOUND) == {"pixel_auroc": ("gray_ssim", 0.85)}
    assert not_beaten({"image_auroc": 0.9}, FOUND) == {"image_auroc": ("brightness", 0.9)}
    assert not_beaten({"pixel_auroc": float("nan")}, FOUND) == {"pixel_auroc": ("gray_ssim", 0.85)}


def test_a_run_says_that_it_does_not_beat_them_and_equals_the_control_as_a_method(toy_run, lab, tmp_path):
    """The defects are white squares on gray bars: their images are brighter, and no training is needed to see it."""
    with (toy_run.folder / "controls.csv").open() as file:
        rows = {row["control"]: row for row in csv.DictReader(file)}
    assert len(rows) == 7
    assert float(rows["brightness"]["image_auroc"]) == 1.0
    found = json.loads((toy_run.folder / "metrics.json").read_text())
    told = [name for name in COMPARED if f"{name} {found[name]:.3f} does not beat the control" in toy_run.said]
    assert told == [name for name in COMPARED if not found[name] > found[f"control_{name}"]]
    assert "image_auroc" in told  # no image can score above a control that is perfect
    assert len(list((toy_run.root / "cache").rglob(FIGURES))) == 1  # for the next run
    words = [word for word in toy_run.words if not word.startswith("method")]
    lab(*words, "method=control", "method.kind=mean_image", "trainer.max_epochs=1")
    (path,) = (tmp_path / "runs").rglob("metrics.json")
    metrics = json.loads(path.read_text())
    for name in ("image_auroc", "pixel_auroc", "pixel_aupro_smoothed"):
        assert metrics[name] == pytest.approx(float(rows["mean_image"][name]), abs=1e-9), name


@pytest.fixture
def trainer(parts, tmp_path):
    return trainer_at(64, parts, tmp_path)


def trainer_at(side, parts, tmp_path):
    data = DataModule(
        mvtec_ad(str(parts.parent), "bar"), Augmentation(), "object", Decoding(side, 3), side, "patches", 8, True, 8, 4,
        0, "memory", None, "stop", 0.1, 0, 0,
    )  # fmt: skip
    data.setup("fit")
    strategy = pl.strategies.SingleDeviceStrategy("cpu")
    return stand_in(
        pl.Trainer, datamodule=data, strategy=strategy, global_rank=0, world_size=1, is_global_zero=True,
        limit_test_batches=1.0, default_root_dir=str(tmp_path),
    )  # fmt: skip


CROWDED = pytest.mark.filterwarnings("ignore:.* lies between .* the scores crowd into few bins")


@CROWDED
def test_figures_are_computed_once_for_all_runs(trainer, tmp_path, capsys, monkeypatch):
    counted, compute = [], controls.figures_of
    monkeypatch.setattr(controls, "figures_of", lambda *given: counted.append(1) or compute(*given))
    runs = [Controls(Evaluation(Area(0.1)), tmp_path / "cache" / "entry") for _ in range(2)]
    for run in runs:
        run.setup(trainer, pl.LightningModule(), "fit")
        assert not run.found
        run.setup(trainer, pl.LightningModule(), "test")
    assert counted == [1]
    assert runs[0].found == runs[1].found
    assert set(runs[0].found) == set(controls.KINDS)
    assert runs[0].found["brightness"] == {"image_auroc": 1.0}
    other = Controls(Evaluation(Area(0.1)), tmp_path / "cache" / "other", ("brightness",))
    other.setup(trainer, pl.LightningModule(), "test")
    assert counted == [1, 1]
    assert not list((tmp_path / "cache").glob("*.lock"))

    runs[1].evaluation.metrics = {"image_auroc": 0.8}
    capsys.readouterr()
    runs[1].on_test_epoch_end(trainer, pl.LightningModule())
    assert capsys.readouterr().out == "image_auroc 0.800 does not beat the control sharpness, 1.000\n"
    assert runs[1].metrics() == {"control_image_auroc": 1.0}
    with (tmp_path / "controls.csv").open() as file:
        assert {row["control"]: row["image_auroc"] for row in csv.DictReader(file)}["brightness"] == "1.0"


@CROWDED
def test_the_image_auroc_of_brightness_is_that_of_the_better_direction(trainer, monkeypatch):
    """The defects are white; with labels exchanged the bright images are the good ones."""
    kinds = "brightness", "mean_image"
    before = controls.figures_of(trainer, kinds)
    samples = trainer.datamodule.test_samples
    samples[:] = [sample._replace(label=1 - sample.label) for sample in samples]
    after = controls.figures_of(trainer, kinds)
    assert before["brightness"]["image_auroc"] == after["brightness"]["image_auroc"] == 1.0
    assert after["mean_image"]["image_auroc"] == pytest.approx(1 - before["mean_image"]["image_auroc"]) != 0.5


def test_distances_from_the_training_images_are_those_of_scikit_learn_in_one_direction(trainer):
    data = trainer.datamodule
    rows = [batch.image for batch in data.whole_training_images()]
    tested = [data.moved(batch, torch.device("cpu")).image for batch in data.test_dataloader()]
    known, asked = (
        torch.cat(each).unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5)).flatten(1) for each in (rows, tested)
    )
    apart = NearestNeighbors(n_neighbors=2).fit(known).kneighbors(known)[0][:, 1]
    density = KernelDensity(bandwidth=np.median(apart) / 2).fit(known)
    label = [sample.label for sample in data.test_samples]
    expected = {
        "nearest": roc_auc_score(label, NearestNeighbors(n_neighbors=1).fit(known).kneighbors(asked)[0]),
        "kde": roc_auc_score(label, -density.score_samples(asked)),
    }
    kinds = ("nearest", "brightness", "kde")
    found = figures_of(trainer, kinds)
    assert list(found) == list(kinds)
    for kind, auroc in expected.items():
        assert found[kind] == {"image_auroc": pytest.approx(auroc)}, kind
    data.test_samples[:] = [sample._replace(label=1 - sample.label) for sample in data.test_samples]
    for kind, auroc in expected.items():
        assert figures_of(trainer, kinds)[kind]["image_auroc"] == pytest.approx(1 - auroc)
    assert min(expected.values()) > 0.5  # so that the better direction would show


def test_data_name_the_controls():
    words = ("method=deep_svdd", "data.root=x", "data.category=a")
    one_class, folder = (configured(*words, f"data={data}")["data"]["controls"] for data in ("one_class", "folder"))
    local = {"mean_image": "mean_distance", "pca": "pca_distance"}  # another class differs everywhere
    assert set(one_class) == {*(local.get(kind, kind) for kind in controls.KINDS), "nearest", "kde"}
    assert folder is None


@pytest.fixture
def before():
    """Deep SVDD as a training gets it."""
    torch.manual_seed(3)
    return build_method(configured("method=deep_svdd", "data=folder", "data.root=x", "data.image_size=64"))


def test_the_method_before_its_training_is_a_control(trainer, before, tmp_path):
    """Its score: the distance from the mean code of the training images, whose range it has seen."""
    data, slow = trainer.datamodule, deepcopy(before).eval()
    with torch.no_grad():
        slow.contrast.learn(batch.image for batch in data.whole_training_images())
        norms = [part for part in slow.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.train().momentum = None
        for batch in data.whole_training_images():
            slow.encode(batch.image)
        slow.eval()
        centre = torch.cat([slow.encode(batch.image) for batch in data.whole_training_images()]).mean(dim=0)
        centre[(centre.abs() < 0.1) & (centre < 0)] = -0.1
        centre[(centre.abs() < 0.1) & (centre >= 0)] = 0.1
        images = [data.moved(batch, torch.device("cpu")).image for batch in data.test_dataloader()]
        distances = torch.cat([(slow.encode(each) - centre).square().sum(dim=1) for each in images])
    expected = roc_auc_score([sample.label for sample in data.test_samples], distances)

    run = Controls(Evaluation(Area(0.1)), tmp_path / "cache" / "entry", ("brightness",), before)
    run.setup(trainer, pl.LightningModule(), "test")
    assert run.found == {"brightness": {"image_auroc": 1.0}, "untrained": {"image_auroc": pytest.approx(expected)}}
    assert controls._read(tmp_path / "cache" / "entry") == {"brightness": {"image_auroc": 1.0}}  # of no method
    run.evaluation.metrics = {"image_auroc": 0.8}
    assert run.metrics() == {"control_image_auroc": 1.0, "control_untrained_image_auroc": pytest.approx(expected)}
    run.on_test_epoch_end(trainer, pl.LightningModule())
    with (tmp_path / "controls.csv").open() as file:
        assert [row["control"] for row in csv.DictReader(file)] == ["brightness", "untrained"]


def test_methods_that_have_themselves_as_a_control_are_named_in_the_docs():
    having = {name for name, node in FILES.items() if class_fact(node["_target_"], "control_untrained")}
    assert having == {"deep_svdd", "fcdd", "patch_svdd"}
    (row,) = [line for line in (ROOT / "docs/protocol.md").read_text().splitlines() if line.startswith("| `untrained`")]
    assert all(f"`{name}`" in row for name in having)


class Normed(Method):
    """Two batch norms, of which one has statistics already, and a third that has none."""

    training_step = None

    def __init__(self):
        super().__init__(WholeImage())
        self.known, self.new = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
        self.without = torch.nn.BatchNorm2d(3, track_running_stats=False)
        self.known.running_mean.fill_(0.5)

    def predict(self, images):
        answer = self.new(3 * self.known(self.without(images))).mean(dim=1, keepdim=True)
        return Prediction(answer, answer.amax(dim=(1, 2, 3)), None)


def test_batch_norms_that_have_seen_nothing_get_the_statistics_of_the_training_images(trainer):
    method = Normed().eval()
    with torch.no_grad():
        learn_statistics(method, [Batch.of(torch.rand(count, 3, 8, 8)) for count in (4, 4, 1)])  # of one, none
    assert (method.known.running_mean == 0.5).all()
    torch.testing.assert_close(method.new.running_mean, torch.full((3,), -1.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(method.new.running_var, torch.full((3,), 9.0), atol=0.1, rtol=0)
    assert not any(part.training for part in method.modules())
    assert method.new.num_batches_tracked == 2


def test_the_method_before_its_training_is_calibrated_on_the_held_out_photos(trainer, before, monkeypatch):
    seen = []
    monkeypatch.setattr(before, "calibrate", lambda held_out: seen.extend(batch.image for batch in held_out))
    untrained_figures(trainer, before)
    held_out = torch.cat([batch.image for batch in trainer.datamodule.val_dataloader()])
    torch.testing.assert_close(torch.cat(seen), held_out / 255)


@CROWDED
def test_the_maps_of_a_method_before_its_training_have_pixel_metrics(parts, tmp_path):
    method = build_method(configured("method=patch_svdd", "data=folder", "data.root=x", "data.image_size=128"))
    found = untrained_figures(trainer_at(128, parts, tmp_path), method)["untrained"]
    assert set(found) > {"image_auroc", "pixel_auroc", "pixel_aupro"}
    assert method.small_bank.bank.shape == (9 * 25**2, 64)


@CROWDED
@pytest.mark.filterwarnings("ignore:pixel metrics need normal and defective pixels")
def test_figures_of_a_part_of_the_test_are_those_of_its_images(trainer):
    kinds = "brightness", "mean_image"
    whole = controls.figures_of(trainer, kinds)
    trainer.limit_test_batches = 0.34  # the first of three batches: good images alone
    assert "image_auroc" not in controls.figures_of(trainer, kinds)["brightness"]
    trainer.limit_test_batches = 3
    assert controls.figures_of(trainer, kinds) == whole


@CROWDED
@pytest.mark.filterwarnings("ignore:pixel metrics need normal and defective pixels")
@pytest.mark.parametrize("limit", [1, 0.34])
def test_figures_of_a_part_are_never_those_of_another_run(trainer, tmp_path, limit):
    """Lightning sets this limit by itself for `fast_dev_run`."""
    trainer.limit_test_batches = limit
    part = Controls(Evaluation(Area(0.01)), tmp_path / "entry", ("brightness",))
    part.setup(trainer, pl.LightningModule(), "test")
    assert part.found
    assert not (tmp_path / "entry").exists()
    part.evaluation.metrics = {"image_auroc": 0.9}
    part.found = {"brightness": {}}  # the part has no defect
    assert part.metrics() == not_beaten(part.evaluation.metrics, part.found) == {}


def test_a_figure_that_does_not_exist_is_read_as_it_was_written(tmp_path):
    controls._write(tmp_path / "entry", {"pca": {"pixel_aupro": math.nan, "image_auroc": 0.1 + 0.2}})
    found = controls._read(tmp_path / "entry")
    assert math.isnan(found["pca"].pop("pixel_aupro"))
    assert found == {"pca": {"image_auroc": 0.1 + 0.2}}
    for damaged in ('{"pca":', "[1]", '{"pca": 7}', '{"pca": {"image_auroc": []}}', "[" * 100_000):
        (tmp_path / "entry" / FIGURES).write_text(damaged)
        assert controls._read(tmp_path / "entry") == {}


@CROWDED
def test_a_cache_that_cannot_be_used_costs_no_result(trainer, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    run = Controls(Evaluation(Area(0.1)), tmp_path / "file" / "cache" / "entry", ("brightness",))
    run.setup(trainer, pl.LightningModule(), "test")
    assert run.found["brightness"] == {"image_auroc": 1.0}
    assert "cannot be used" in capsys.readouterr().out


def test_controls_see_textures_whole():
    config = configured("method=control", "data=folder", "data.root=x", "data.kind=texture", "data.image_size=140")
    assert isinstance(build_method(config).tiling, WholeImage)
