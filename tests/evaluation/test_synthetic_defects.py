"""The objective of a search: from held-out normal images alone, and beside all other metrics."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import read_csv
from anomaly_lab.core.types import Prediction
from anomaly_lab.data.corruption import AnyOf, AtLeast, Blob, Scar, other_corruptions
from anomaly_lab.data.noise import row_keys
from anomaly_lab.data.placement import place
from anomaly_lab.evaluation.synthetic_defects import SyntheticDefects, at_working_size, corruptions_for
from anomaly_lab.launch.space import SYNTHETIC
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.tiling import WholeImage
from tests.conftest import stand_in

SIDE = 32


class Difference(Method):
    """Knows what is normal: a constant gray. Or says noise, or the opposite."""

    def __init__(self, sign=1.0, noise=0.0):
        super().__init__(WholeImage())
        self.sign, self.noise, self.seen = sign, noise, []

    def training_step(self, batch, batch_idx):
        """Nothing."""

    def predict(self, images):
        self.seen.append(images.clone())
        away = (images - 100 / 255).abs().amax(dim=1, keepdim=True)
        return Prediction(self.sign * away + self.noise * torch.rand_like(away), None, None)


def judge(data, method, callback, *others, first=True):
    folder = data.held_out_samples[0].path.parent
    trainer = stand_in(pl.Trainer, datamodule=data, is_global_zero=first, default_root_dir=folder)
    trainer.callbacks = [callback, *others]
    callback.on_predict_end(trainer, method)
    return callback.metrics


def test_a_method_that_knows_what_is_normal_finds_all_defects(data):
    metrics = judge(data, Difference(), SyntheticDefects())
    ones = {"synthetic_image_auroc": 1.0, "synthetic_pixel_auroc": 1.0, "synthetic_pixel_aupro": 1.0}
    assert metrics == pytest.approx(ones, abs=1e-12)
    assert set(metrics) == set(SYNTHETIC)  # the objectives of a search
    assert judge(data, Difference(-1.0), SyntheticDefects())["synthetic_pixel_auroc"] == 0.0
    assert judge(data, Difference(0.0), SyntheticDefects())["synthetic_image_auroc"] == 0.5


def test_pixels_of_unchanged_photos_count_as_normal(data):
    class Shy(Difference):
        """Sees the defects, and more in photos without any."""

        def predict(self, images):
            found = super().predict(images)
            clean = found.anomaly_map[:, :, 8:24].amax((1, 2, 3)) == 0
            return found._replace(anomaly_map=found.anomaly_map + 2 * clean[:, None, None, None])

    batches = SyntheticDefects().batches(data, other_corruptions(()), torch.device("cpu"))
    below = 12 * 16 * 32 - sum(int(mask.sum()) for _, batch in batches for mask in batch.mask)
    found = judge(data, Shy(), SyntheticDefects())["synthetic_pixel_auroc"]
    assert found == pytest.approx(below / (below + 4 * 16 * 32))  # those of the four photos lie above the defects


def test_the_masks_are_those_pixels_of_the_photos_that_differ(data):
    clean = None
    counts = []
    for _, batch in SyntheticDefects(copies=3).batches(data, other_corruptions(()), torch.device("cpu")):
        assert [place.target for place in batch.placement] == [(8, 0, 16, 32)] * len(batch.image)
        if not batch.label.any():
            clean = batch.image
            assert not any(mask.any() for mask in batch.mask)
            continue
        differs = (batch.image != clean).any(dim=1)
        for i in range(len(batch.image)):
            assert torch.equal(batch.mask[i][0], differs[i])
            assert differs[i, 8:24].any()
            assert not differs[i, :8].any()
            assert not differs[i, 24:].any()
        counts.append(batch.label.sum().item())
    assert counts == [3, 3, 3, 1, 1, 1]


def test_every_score_is_written_and_small_changes_enter_no_metric(data, tmp_path):
    plain = judge(data, Difference(), SyntheticDefects(copies=4))
    assert judge(data, Difference(), SyntheticDefects(copies=4, variations=True)) == plain
    rows = read_csv(tmp_path / "synthetic.csv")
    assert Counter((row["change"], row["label"]) for row in rows) == {
        **{(change, "0"): 4 for change in ("none", "shift", "light", "noise")},
        **{(kind, "1"): 4 for kind in ("perlin", "patch", "scar", "blob")},
    }
    assert {row["photo"] for row in rows} == {str(tmp_path / f"{i}.png") for i in range(4)}
    score = {change: [float(row["score"]) for row in rows if row["change"] == change] for change in ("none", "light")}
    assert score["none"] == [0] * 4
    assert 1 / 255 < max(score["light"]) < 10.1 / 255  # 100 +- 10 gray levels
    assert len(set(score["light"])) > 1  # each photo in its own light
    judge(data, Difference(), SyntheticDefects(copies=4, variations=True, defect_seed=1))
    others = [float(row["score"]) for row in read_csv(tmp_path / "synthetic.csv") if row["change"] == "light"]
    assert others != score["light"]
    (tmp_path / "synthetic.csv").unlink()
    judge(data, Difference(), SyntheticDefects(), first=False)
    assert not (tmp_path / "synthetic.csv").exists()


def test_small_changes_leave_the_border_as_it_is(data):
    found = list(SyntheticDefects(copies=1, variations=True).batches(data, other_corruptions(()), torch.device("cpu")))
    clean, changed = found[0][1].image, [batch.image for _, batch in found[2:5]]
    for image in changed:
        assert torch.equal(image[:, :, :8], clean[:, :, :8])
        assert torch.equal(image[:, :, 24:], clean[:, :, 24:])


def test_one_number_an_image_has_no_pixels_to_score(data):
    method = Difference()
    method.localises = False
    assert judge(data, method, SyntheticDefects()) == {"synthetic_image_auroc": 1.0}


def test_kinds_take_turns_and_those_of_the_training_are_left_out(data):
    class Trained(Difference):
        """Makes two kinds itself."""

        synthetic = frozenset({"perlin", "patch"})

    assert [corruption.kinds for corruption in corruptions_for(Trained(), data)] == [{"scar"}, {"blob"}]
    data.corruption = Scar()
    (blob,) = corruptions_for(Trained(), data)
    batches = [batch for _, batch in SyntheticDefects(copies=2).batches(data, (Scar(), blob), torch.device("cpu"))]
    for copy in (0, 1):
        clean, (first, second) = batches[0].image, [batch.image for batch in batches[1:3]]
        photos = torch.arange(3)
        inside = torch.zeros(3, 1, SIDE, SIDE, dtype=torch.bool)
        inside[:, :, 8:24] = True
        scars, blobs = (  # the third and the fourth of four kinds
            AtLeast(kind)(clean, row_keys(0, (place - photos) % 4, photos), inside).image
            for place, kind in ((2, Scar()), (3, blob))
        )
        expected = torch.stack([(scars, blobs)[(i + copy) % 2][i] for i in range(3)])
        assert torch.equal((first, second)[copy], expected)


def test_scars_that_cannot_be_seen_are_no_blobs_for_a_method_that_was_trained_with_these(data):
    def painted(*kinds):  # the photos are of one colour
        batches = SyntheticDefects(copies=1).batches(data, kinds, torch.device("cpu"))
        return [mask.sum().item() for changes, batch in batches for mask in batch.mask if "scar" in changes]

    assert set(painted(Scar(jitter=0.0))) == {SIDE * SIDE // 2}  # all that is photo
    assert max(painted(Scar(jitter=0.0), Blob())) < SIDE * SIDE // 2


def test_methods_that_leave_out_kinds_see_the_same_defects_of_the_others(data):
    def defects(copies, *left_out):
        found = defaultdict(list)
        batches = SyntheticDefects(copies=copies).batches(data, other_corruptions(left_out), torch.device("cpu"))
        for changes, batch in batches:
            for i, change in enumerate(changes):
                found[int(batch.index[i]), change].append(batch.image[i])
        return found

    for copies in (4, 8):
        every, part, few = defects(copies), defects(copies, "patch"), defects(copies, "perlin", "blob")
        assert Counter(kind for _, kind in part) == dict.fromkeys(("none", "perlin", "scar", "blob"), 4)
        assert Counter(kind for _, kind in few) == dict.fromkeys(("none", "patch", "scar"), 4)
        for at, images in [*part.items(), *few.items()]:
            assert len(images) == (1 if at[1] == "none" else copies // 4)
            assert all(torch.equal(one, other) for one, other in zip(images, every[at], strict=True)), at
            assert copies == 4 or at[1] == "none" or not torch.equal(*images)


def test_kinds_that_are_left_out_are_said_to_be(data, capsys):
    class Trained(Difference):
        """Paints patches itself."""

        synthetic = frozenset({"patch"})

    judge(data, Difference(), SyntheticDefects())
    assert "left out" not in capsys.readouterr().out
    judge(data, Trained(), SyntheticDefects())
    of = "synthetic defects: the figures are of blob, perlin, scar; left out, because the method is trained with them:"
    assert f"{of} patch\n" in capsys.readouterr().out
    data.corruption = Scar()
    judge(data, Trained(), SyntheticDefects())
    said = capsys.readouterr().out
    assert "the figures are of blob, perlin; left out, because the method is trained with them: " in said
    assert {"patch", "scar"} == set(said.partition("with them: ")[2].split("\n")[0].split(", "))


def test_a_method_that_trains_with_all_kinds_is_refused_before_it_trains(data):
    data.corruption = AnyOf(other_corruptions(()))
    with pytest.raises(UserError, match="callbacks=synthetic: expected a kind of defect that is not used in training"):
        SyntheticDefects().setup(stand_in(pl.Trainer, datamodule=data), Difference(), "fit")


def test_the_same_defects_in_every_run_and_others_for_another_seed(data):
    first, again, other = Difference(), Difference(), Difference()
    torch.manual_seed(1)
    judge(data, first, SyntheticDefects())
    torch.manual_seed(2)
    judge(data, again, SyntheticDefects())
    judge(data, other, SyntheticDefects(defect_seed=1))
    assert len(first.seen) == 8
    assert all(torch.equal(one, two) for one, two in zip(first.seen, again.seen, strict=True))
    assert not torch.equal(first.seen[1], other.seen[1])


def test_what_a_method_draws_is_seeded_and_leaves_no_trace(data):
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    one = judge(data, Difference(0.0, 1.0), SyntheticDefects())
    assert torch.equal(torch.rand(5), expected)
    assert judge(data, Difference(0.0, 1.0), SyntheticDefects()) == one
    assert 0.3 < one["synthetic_pixel_auroc"] < 0.7


def test_only_the_inspected_part_counts():
    whole = at_working_size(place(100, 50, SIDE, "pad"), SIDE)
    assert whole.photo == (SIDE, SIDE)
    assert whole.source == whole.target == whole.region == (0, 8, 32, 16)
    valid = np.zeros((SIDE, SIDE), bool)
    valid[4:8, 10:12] = True
    part = at_working_size(place(100, 50, SIDE, "pad")._replace(valid=valid), SIDE)
    assert part.white is not None
    assert part.white.shape == (32, 16)
    assert part.white.sum() == 8


@pytest.mark.slow
def test_a_run_has_these_metrics_beside_unchanged_others(lab, toy, tmp_path):
    arguments = (*toy, "trainer.max_epochs=1", "method=control", "method.kind=mean_image", "data.held_out=0.3")
    found = []
    for name, words in (("plain", ()), ("with", ("callbacks=synthetic",))):
        lab(*arguments, f"name={name}", *words)
        (path,) = (tmp_path / "runs" / name).rglob("metrics.json")
        found.append(json.loads(path.read_text()))
    costs = {name for name in found[0] if name.endswith(("_seconds", "per_second", "per_image", "_mb"))}
    costs.add("result_key")
    plain, beside = ({name: value for name, value in each.items() if name not in costs} for each in found)
    added = {name: beside.pop(name) for name in list(beside) if name.startswith("synthetic")}
    assert plain == beside
    assert list(added) == ["synthetic_image_auroc", "synthetic_pixel_auroc", "synthetic_pixel_aupro"]
    assert 0.5 < added["synthetic_pixel_auroc"] < 1
