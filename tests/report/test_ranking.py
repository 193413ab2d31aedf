"""Who is better than whom, on runs whose scores are known."""

import csv

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.variation import VARIATIONS
from anomaly_lab.evaluation.synthetic_defects import GOOD as GOOD_PHOTO
from anomaly_lab.methods.control import IMAGE_LEVEL_CONTROLS
from anomaly_lab.report.ranking import GOOD, IMAGE_LEVEL, Contender, Figure, rank
from anomaly_lab.report.selection import Facts, listed, number, sentences, summary
from anomaly_lab.runs.collect import Image, Key, Run

PHOTOS = 60
LABELS = np.arange(PHOTOS) % 2
NOISE = np.random.default_rng(0).normal(size=PHOTOS)
FACTS = Facts("bar", good=50, held_out=10, test_good=30, defective=30, minutes=3.0)


def contender(name, scores, seconds=1.0, folder=None, labels=LABELS, several=1):
    images = [Image(f"{i:03d}.png", "hole" if label else "good", int(label)) for i, label in enumerate(labels)]
    key = Key("select", name, "folder", "bar", "0")
    metrics = {"predict_seconds_per_image": seconds}
    run = Run(folder, name, key, "done", images=images, scores=list(map(float, scores)), metrics=metrics)
    return Contender(name, [run] * several, minutes=0.5)


def painted(folder, strength, light=0.0, kinds=("blob", "scar"), photos=12):
    """A synthetic.csv: good photos score by noise, changed ones `light` more, defective ones `strength` more."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(3)
    with (folder / "synthetic.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("photo", "change", "label", "score"))
        for photo in range(photos):
            of_photo = random.normal()
            table.writerow((f"{photo}.png", "none", 0, of_photo))
            for change in ("shift", "light", "noise"):
                table.writerow((f"{photo}.png", change, 0, of_photo + light))
            for kind in kinds:
                table.writerow((f"{photo}.png", kind, 1, of_photo + strength + random.normal() / 10))
    return folder


def names(ranking):
    return [each.contender.name for each in ranking.standings]


def area(scores, labels):
    """The share of pairs in order, pair by pair."""
    normal, abnormal = scores[labels == 0][:, None], scores[labels == 1]
    return ((abnormal > normal) + (abnormal == normal) / 2).mean()


def paired(one, other, labels, seed=0, count=1500):
    """The paired bootstrap written out: the interval of AUROC(one) - AUROC(other)."""
    random = np.random.default_rng(seed)
    places = [np.flatnonzero(labels == label) for label in (0, 1)]
    differences = []
    for _ in range(count):
        drawn = np.concatenate([random.choice(each, len(each)) for each in places])
        differences.append(area(one[drawn], labels[drawn]) - area(other[drawn], labels[drawn]))
    return np.quantile(differences, [0.025, 0.975])


def test_figures_and_differences_are_those_of_a_bootstrap_written_out(tmp_path):
    one, other = NOISE + 1.5 * LABELS, np.random.default_rng(1).normal(size=PHOTOS) + 0.7 * LABELS
    ranking = rank([contender("a", one, folder=tmp_path), contender("b", other, folder=tmp_path)], "labels")
    first, second = ranking.standings
    assert first.figures["image_auroc"].value == pytest.approx(roc_auc_score(LABELS, one))
    found = second.behind["image_auroc"]
    assert found.value == pytest.approx(roc_auc_score(LABELS, one) - roc_auc_score(LABELS, other))
    assert found[1:] == pytest.approx(paired(one, other, LABELS), abs=0.02)
    assert first.behind["image_auroc"] == Figure(0, 0, 0)


def test_a_tie_goes_to_the_fastest_and_a_worse_method_never_does(tmp_path):
    good, alike = NOISE + 2.5 * LABELS, NOISE + 2.5 * LABELS + np.random.default_rng(2).normal(size=PHOTOS) / 20
    there = [
        contender("slow", good, seconds=2, folder=tmp_path),
        contender("fast", alike, seconds=0.1, folder=tmp_path),
        contender("poor", NOISE + 0.3 * LABELS, seconds=0.01, folder=tmp_path),
    ]
    ranking = rank(there, "labels")
    assert names(ranking) == ["fast", "slow", "poor"]
    assert [each.tied for each in ranking.standings] == [True, True, False]
    text = sentences(ranking, FACTS)[0]
    assert text.startswith("Take fast: image AUROC ")
    assert text.endswith("these photos cannot tell slow from it, and it is the fastest of them.")
    alone = sentences(rank([there[0], there[2]], "labels"), FACTS)[0]
    assert alone.endswith("it is better than every other method that was tried.")
    assert names(rank(there[::-1], "labels")) == names(ranking)  # whatever the order


def marked(folder, overlap):
    """An overlaps.npz: of every defect this share is found before the first false positive."""
    folder.mkdir()
    levels = np.linspace(0, 0.5, 20)
    np.savez(
        folder / "overlaps.npz", index=np.arange(PHOTOS), normal_pixels=np.full(PHOTOS, 100.0), regions=LABELS * 1.0,
        false_positives=np.tile(100 * levels, (PHOTOS, 1)), overlaps=LABELS[:, None] * np.full(20, overlap),
    )  # fmt: skip
    return folder


def test_maps_decide_where_scores_do_not_and_nobody_loses_for_having_none(tmp_path):
    scores = NOISE + 2 * LABELS
    sharp = contender("sharp", scores, 3, marked(tmp_path / "sharp", 0.9))
    coarse = contender("coarse", scores, 2, marked(tmp_path / "coarse", 0.4))
    mapless = contender("mapless", scores, 5, tmp_path)
    ranking = rank([coarse, mapless, sharp], "labels")
    assert [(each.contender.name, each.tied) for each in ranking.standings] == [
        ("sharp", True), ("mapless", True), ("coarse", False),
    ]  # fmt: skip
    assert ranking.standings[0].figures["pixel_aupro"] == pytest.approx((0.9, 0.9, 0.9))
    assert ranking.standings[2].behind["pixel_aupro"] == pytest.approx((0.5, 0.5, 0.5))


def test_what_beats_the_control_comes_before_what_is_only_tied(tmp_path):
    control = contender("control_pca", NOISE + 1.0 * LABELS, folder=tmp_path)
    better, unsure = NOISE + 1.6 * LABELS, np.roll(NOISE, 3) + 1.8 * LABELS
    ranking = rank(
        [control, contender("sure", better, 5, tmp_path), contender("unsure", unsure, 1, tmp_path)], "labels"
    )
    by_name = {each.contender.name: each for each in ranking.standings}
    assert [by_name[name].beats_control for name in ("sure", "unsure")] == [True, False]
    assert by_name["unsure"].behind["image_auroc"].low < 0  # not worse, and five times as fast
    assert names(ranking) == ["sure", "unsure"]
    assert [each.tied for each in ranking.standings] == [True, False]
    assert sentences(ranking, FACTS)[0].endswith("; unsure may be as good, but no figure shows it above the control.")
    assert not ranking.nothing_beats_the_control
    assert [each.contender.name for each in ranking.controls] == ["control_pca"]
    assert not ranking.controls[0].tied


def test_a_method_that_beats_the_control_in_its_maps_alone_says_so(tmp_path):
    control = contender("control_pca", NOISE + 2 * LABELS, folder=marked(tmp_path / "pca", 0.3))
    method = contender("padim", NOISE + LABELS, folder=marked(tmp_path / "padim", 0.9))
    ranking = rank([control, method], "labels")
    assert not ranking.nothing_beats_the_control
    assert "; a trivial control reaches as much in image AUROC." in sentences(ranking, FACTS)[0]


def test_where_nothing_beats_the_control_that_is_the_answer(tmp_path):
    bright = contender("control_brightness", -(NOISE + 9 * LABELS), folder=tmp_path)  # darker is as easy as brighter
    ranking = rank([bright, contender("cae", NOISE + LABELS, folder=tmp_path)], "labels")
    assert ranking.controls[0].figures["image_auroc"] == Figure(1, 1, 1)
    assert ranking.nothing_beats_the_control
    assert sentences(ranking, FACTS)[0].startswith(
        "Nothing beats the trivial control control_brightness, image AUROC 1.000"
    )
    found = summary(ranking, [], FACTS, [])
    assert [row["name"] for row in found["ranking"]] == ["cae", "control_brightness"]


def test_painted_defects_rank_and_an_unsteady_method_loses(tmp_path):
    steady = contender("steady", NOISE, 2, painted(tmp_path / "steady", 3.0))
    nervous = contender("nervous", NOISE, 1, painted(tmp_path / "nervous", 3.0, light=3.0))
    ranking = rank([nervous, steady], "synthetic")
    assert names(ranking) == ["steady", "nervous"]
    assert not ranking.standings[1].tied
    assert ranking.kinds == ("blob", "scar")
    rows = {row["name"]: row for row in summary(ranking, [], FACTS, [])["ranking"]}
    assert rows["steady"]["alarms"] == 0 < rows["nervous"]["alarms"]
    sure = sentences(ranking, FACTS)[1]
    assert sure.startswith(
        "This ranks and does not measure: no real defect was seen, blob and scar were painted into 10 "
    )
    assert "1 in 11" in sure


def test_kinds_that_one_method_was_trained_with_count_for_none(tmp_path):
    everything = contender("a", NOISE, 1, painted(tmp_path / "a", 3.0, kinds=("blob", "scar")))
    without = contender("b", NOISE, 1, painted(tmp_path / "b", 3.0, kinds=("scar",)))
    assert rank([everything, without], "synthetic").kinds == ("scar",)


def test_the_mean_over_data_sets_and_a_method_that_lacks_one(tmp_path):
    low, high = NOISE + LABELS, NOISE + 3 * LABELS
    both = contender("both", low, folder=tmp_path)
    both.runs = [both.runs[0], contender("both", high, folder=tmp_path).runs[0]]
    figure = rank([both], "labels").standings[0].figures["image_auroc"]
    assert figure.value == pytest.approx((roc_auc_score(LABELS, low) + roc_auc_score(LABELS, high)) / 2)
    one_class = contender("good_only", NOISE, folder=tmp_path, labels=np.zeros(PHOTOS))
    with pytest.raises(UserError, match="expected a method with a result"):
        rank([one_class], "labels")
    with pytest.raises(UserError, match="expected a method with a result"):
        rank([contender("control_pca", NOISE, folder=tmp_path)], "labels")


def test_the_words_of_the_files_are_those_of_their_writers():
    assert (GOOD_PHOTO, *VARIATIONS) == GOOD
    assert {f"control_{kind}" for kind in IMAGE_LEVEL_CONTROLS} == set(IMAGE_LEVEL)


def test_numbers_and_lists_as_people_write_them():
    assert [number(value) for value in (0.5, 1.0, -0.25, 0.9996)] == [".500", "1.000", "-.250", "1.000"]
    assert [listed(each) for each in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
