"""Who is better than whom, on runs whose scores are known."""

import csv
import io

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.variation import VARIATIONS
from anomaly_lab.evaluation.overlaps import arrays, histogram
from anomaly_lab.evaluation.painted_pictures import GOOD as GOOD_PHOTO
from anomaly_lab.methods.control import IMAGE_LEVEL_CONTROLS
from anomaly_lab.metrics.intervals import auroc_difference, auroc_interval
from anomaly_lab.report.photo_counts import Photos
from anomaly_lab.report.ranking import IMAGE_LEVEL, Contender, Figure, rank
from anomaly_lab.report.selection import Facts, listed, number, sentences, spoken, summary
from anomaly_lab.report.synthetic_scores import GOOD, synthetic_scores
from anomaly_lab.runs.collect import Image, Key, Run

PHOTOS = 60
LABELS = np.arange(PHOTOS) % 2
NOISE = np.random.default_rng(0).normal(size=PHOTOS)
PHOTOS_OF_BAR = Photos(good=40, held_out=10, test_good=30, defective=30)
FACTS = Facts({"bar": PHOTOS_OF_BAR}, minutes=3.0)


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


def written(folder, rows):
    """A synthetic.csv of these rows: photo, change, score."""
    folder.mkdir(parents=True)
    lines = (f"{photo},{change},{int(change not in GOOD)},{score}\n" for photo, change, score in rows)
    (folder / "synthetic.csv").write_text("photo,change,label,score\n" + "".join(lines))
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


@pytest.mark.parametrize("measure", ["image_auroc", "pixel_aupro", "synthetic_auroc"])
def test_all_methods_have_the_same_resamples(tmp_path, measure):
    """Of two that say the same of every photo no resample tells one from the other."""
    folder = marked(tmp_path / "a", np.random.default_rng(5).random(PHOTOS))
    painted(tmp_path / "b", 1.0)
    (tmp_path / "b/synthetic.csv").rename(folder / "synthetic.csv")
    there = [contender(name, NOISE + LABELS, 1, folder, several=2) for name in "ab"]
    second = rank(there, "synthetic" if measure == "synthetic_auroc" else "labels").standings[1]
    assert second.figures[measure].low < second.figures[measure].high
    assert second.behind[measure] == Figure(0, 0, 0)


@pytest.mark.parametrize("label", [0, 1])
def test_one_photo_of_a_class_declares_no_winner_that_compare_does_not_see(tmp_path, label):
    """A bootstrap draws it every time: of two equally good methods it calls one better in a quarter of the cases."""
    random, decided = np.random.default_rng(1), 0
    labels = np.array([label] + [1 - label] * 20)
    for _ in range(20):
        photo = random.normal(size=21) + 2 * labels
        one, other = (photo + random.normal(size=21) for _ in range(2))
        ranking = rank([contender(name, each, 1, tmp_path, labels) for name, each in (("a", one), ("b", other))],
                       "labels")  # fmt: skip
        highest, second = sorted(
            ranking.standings, key=lambda each: (each.figures["image_auroc"].value, each.contender.name), reverse=True
        )
        scores = {"a": one, "b": other}
        ours = [scores[each.contender.name] for each in (highest, second)]
        assert second.behind["image_auroc"][1:] == pytest.approx(auroc_difference(*ours, labels == 1))
        for each in ranking.standings:
            score = scores[each.contender.name]
            low, high = auroc_interval(score[labels == 0], score[labels == 1])
            assert each.figures["image_auroc"][1:] == pytest.approx((low, high))
        decided += not ranking.standings[1].tied
    assert decided <= 1  # 5 %


def test_methods_that_put_all_photos_in_order_are_tied_and_not_certain(tmp_path):
    close = np.where(LABELS == 1, 0.1, 0.0) + np.arange(PHOTOS) / 1e4
    ranking = rank([contender("a", LABELS, 1, tmp_path), contender("b", close, 2, tmp_path)], "labels")
    assert [each.tied for each in ranking.standings] == [True, True]
    for each in ranking.standings:
        assert each.figures["image_auroc"] == pytest.approx((1, 0.05 ** (1 / 30), 1))
    two = contender("c", LABELS, folder=tmp_path, several=2)
    low = 1 - (1 - 0.05 ** (1 / 30)) / 2**0.5  # half of the root of two squares
    assert rank([two], "labels").standings[0].figures["image_auroc"] == pytest.approx((1, low, 1))
    far = rank([contender("a", LABELS, 1, tmp_path), contender("b", NOISE, 2, tmp_path)], "labels").standings[1]
    assert not far.tied
    assert far.behind["image_auroc"][1:] == pytest.approx(auroc_difference(1.0 * LABELS, NOISE, LABELS == 1))


def test_one_marked_or_one_held_out_photo_tells_no_methods_apart(tmp_path):
    alone = (np.arange(PHOTOS) == 7).astype(int)
    there = []
    for name, share in (("a", 0.9), ("b", 0.2)):
        folder = marked(tmp_path / name, share)
        with np.load(folder / "overlaps.npz") as arrays:
            kept = {each: arrays[each] for each in arrays}
        kept |= {"regions": 1.0 * alone, "overlaps": kept["overlaps"] * alone[:, None]}
        np.savez(folder / "overlaps.npz", **kept)
        painted(tmp_path / f"painted_{name}", 9 * share - 2, photos=1)
        (tmp_path / f"painted_{name}/synthetic.csv").rename(folder / "synthetic.csv")
        there.append(contender(name, NOISE + LABELS, 1, folder))
    for basis, measure in (("labels", "pixel_aupro"), ("synthetic", "synthetic_auroc")):
        first, second = rank(there, basis).standings
        assert second.tied
        assert first.figures[measure].low == pytest.approx(0.05 if measure == "synthetic_auroc" else 0)
        assert first.figures[measure].high == 1
        assert second.behind[measure].value > 0.5
        assert second.behind[measure].low < 0
        assert first.behind[measure] == Figure(0, 0, 0)


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
    """An overlaps.npz: of every defect this share (one for all, or one an image) is found without a false positive."""
    folder.mkdir()
    levels = np.linspace(0, 0.5, 20)
    np.savez(
        folder / "overlaps.npz", index=np.arange(PHOTOS), normal_pixels=np.full(PHOTOS, 100.0), regions=LABELS * 1.0,
        false_positives=np.tile(100 * levels, (PHOTOS, 1)), overlaps=(LABELS * overlap)[:, None] * np.ones(20),
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
    control = contender("control_pca", 9.0 * LABELS, folder=marked(tmp_path / "pca", 0.95))
    ranking = rank([control, coarse, sharp], "labels")
    assert names(ranking) == ["sharp", "coarse"]
    assert not ranking.standings[1].unsure  # nobody is above the control


def test_a_tie_is_one_with_the_highest_value_and_not_with_the_surest(tmp_path):
    halves = np.where(np.arange(PHOTOS) < PHOTOS / 2, 1.0, 0.7)  # 0.85, give or take 0.05
    overlaps = {"high": halves, "sure": 0.84, "third": 0.83}  # which is surely below `sure`, and maybe not below `high`
    there = [contender(name, NOISE, 1, marked(tmp_path / name, share)) for name, share in overlaps.items()]
    assert [each.tied for each in rank(there, "labels").standings] == [True] * 3


def test_the_first_is_worse_than_none_that_it_is_called_tied_with(tmp_path):
    halves = np.where(np.arange(PHOTOS) < PHOTOS / 2, 1.0, 0.7)  # 0.85, give or take 0.05
    overlaps = {"high": (halves, 3), "sure": (0.84, 2), "third": (0.83, 1)}  # which is surely below `sure`
    there = [contender(name, NOISE, fast, marked(tmp_path / name, share)) for name, (share, fast) in overlaps.items()]
    ranking = rank(there, "labels")
    assert [(each.contender.name, each.tied) for each in ranking.standings] == [
        ("sure", True), ("high", True), ("third", False),
    ]  # fmt: skip
    assert ranking.standings[2].is_worse
    assert sentences(ranking, FACTS)[0].endswith("cannot tell high from it, and it is the fastest of them.")


def test_a_faster_method_that_is_tied_with_the_first_but_worse_than_another_is_named(tmp_path):
    halves = np.where(np.arange(PHOTOS) < PHOTOS / 2, 1.0, 0.7)
    overlaps = {"high": (halves, 2), "sure": (0.84, 3), "third": (0.83, 1)}
    there = [contender(name, NOISE, fast, marked(tmp_path / name, share)) for name, (share, fast) in overlaps.items()]
    ranking = rank(there, "labels")
    assert names(ranking) == ["high", "third", "sure"]
    assert [each.tied for each in ranking.standings] == [True] * 3
    assert sentences(ranking, FACTS)[0].endswith(
        "cannot tell third and sure from it, and it is the fastest of those that are worse than no other."
    )


def test_a_method_of_unknown_speed_comes_after_those_it_is_tied_with(tmp_path):
    there = [contender(name, NOISE + LABELS, fast, tmp_path) for name, fast in (("a", np.nan), ("b", 3), ("c", 1))]
    assert names(rank(there, "labels")) == ["c", "b", "a"]


def test_it_is_called_better_than_all_others_only_where_that_is_tested(tmp_path):
    scores = {"first": NOISE + 3 * LABELS, "high": NOISE + 3.3 * LABELS, "maps": NOISE + LABELS}
    shares = {"first": 0.9, "high": 0.5, "maps": 0.95}
    there = [contender(name, scores[name], 1, marked(tmp_path / name, share)) for name, share in shares.items()]
    ranking = rank(there, "labels")
    by_name = {each.contender.name: each for each in ranking.standings}
    assert names(ranking)[0] == "first"
    assert by_name["high"].figures["image_auroc"].value > by_name["first"].figures["image_auroc"].value
    assert by_name["high"].is_worse  # by its maps alone
    assert by_name["maps"].exceeds_first == ["pixel_aupro"]
    assert not by_name["maps"].is_worse  # although it is in its scores
    assert sentences(ranking, FACTS)[0].endswith("; maps is above it in AU-PRO.")
    there[2] = contender("maps", scores["maps"], 1, marked(tmp_path / "again", 0.85))
    assert sentences(rank(there, "labels"), FACTS)[0].endswith("; it is better than every other method that was tried.")
    blind = contender("blind", NOISE, folder=tmp_path)
    strong = contender("strong", NOISE, folder=painted(tmp_path / "strong", 3.0))
    assert sentences(rank([strong, blind], "synthetic"), FACTS)[0].endswith("; no figure shows it above blind.")


def test_worse_methods_follow_by_their_first_figure_and_one_without_any_is_last(tmp_path):
    there = [contender("blind", NOISE, 0.01, tmp_path)]
    for name, strength in (("poor", 0.2), ("strong", 3.0), ("fair", 1.0)):
        there.append(contender(name, NOISE, 1, painted(tmp_path / name, strength)))
    ranking = rank(there, "synthetic")
    assert [(each.contender.name, each.tied) for each in ranking.standings] == [
        ("strong", True), ("fair", False), ("poor", False), ("blind", False),
    ]  # fmt: skip
    labelled = [contender("best", NOISE + 9 * LABELS, 1, tmp_path)]
    for name, strength, overlap in (("poor", 0.2, 0.9), ("fair", 1.0, 0.1)):
        labelled.append(contender(name, NOISE + strength * LABELS, 1, marked(tmp_path / f"maps_{name}", overlap)))
    assert names(rank(labelled, "labels")) == ["best", "fair", "poor"]


def damages(whole):
    """What may be left of a file of arrays, by name."""
    yield "empty", b""
    yield "short", whole[: len(whole) // 2]
    yield "junk", b"junk" * 50
    yield "flipped", bytes(byte ^ (1000 < i < 9000) for i, byte in enumerate(whole))
    for name, found in {
        "one array": np.zeros(3),
        "others": {"regions": LABELS},
        "lengths": {name: np.ones((3, 20)) for name in ("false_positives", "overlaps", "normal_pixels", "regions")},
        "pickle": dict.fromkeys(("false_positives", "overlaps", "normal_pixels", "regions"), np.array([{}])),
    }.items():
        file = io.BytesIO()
        np.savez(file, **found) if isinstance(found, dict) else np.save(file, found)
        yield name, file.getvalue()


def test_a_method_with_damaged_overlaps_has_failed(tmp_path):
    folder = marked(tmp_path / "a", 0.5)
    path = folder / "overlaps.npz"
    for name, left in damages(path.read_bytes()):
        path.write_bytes(left)
        there = [contender("a", NOISE + LABELS, 1, folder), contender("b", NOISE, 1, tmp_path)]
        assert names(rank(there, "labels")) == ["b"], name
        assert there[0].note.startswith("overlaps.npz: expected what its run has written, found another or a damaged ")
        assert there[0].note.endswith(f"; delete {folder}, and the same command makes it again")
    path.unlink()
    there = [contender(name, NOISE, 1, folder) for name in "ab"]
    there[0].runs[0].metrics["pixel_aupro"] = 0.5
    assert names(rank(there, "labels")) == ["b"]
    assert "found no file; delete" in there[0].note


def test_a_method_with_a_damaged_table_of_painted_defects_has_failed_where_these_rank(tmp_path):
    there = [contender(name, NOISE + LABELS, 1, painted(tmp_path / name, 3.0)) for name in "ab"]
    there[0].runs[0].metrics["synthetic_image_auroc"] = 0.123  # another one than its rows make
    assert set(names(rank(there, "labels"))) == {"a", "b"}
    assert names(rank(there, "synthetic")) == ["b"]
    assert (there[0].state, there[0].runs) == ("failed", [])
    assert there[0].note.startswith("synthetic.csv: expected what its run has written, found another or a damaged file")


def test_defects_that_are_all_found_without_a_false_positive_are_no_certain_figure(tmp_path):
    """Sums of shares of pixels are not exact: resamples that are all alike differ in their last digits."""
    random, images = np.random.default_rng(0), []
    for place, label in enumerate(LABELS[:6]):
        mask = np.zeros((20, 20), bool)
        mask[3 : 6 + place, 3:8] = label
        images.append(histogram(place, [(mask + random.random((20, 20)) / 2).astype(np.float32)], [mask]))
    np.savez(tmp_path / "overlaps.npz", **arrays(images))
    one = contender("one", NOISE[:6], folder=tmp_path, labels=LABELS[:6])
    assert rank([one], "labels").standings[0].figures["pixel_aupro"] == Figure(1.0, 0.0, 1.0)


def test_images_with_and_without_a_defect_are_drawn_apart_for_maps_too(tmp_path):
    levels = np.linspace(0, 0.5, 20)
    np.savez(
        tmp_path / "overlaps.npz", index=np.arange(PHOTOS), normal_pixels=np.full(PHOTOS, 100.0), regions=LABELS * 1.0,
        false_positives=100 * levels * (1 + LABELS[:, None]), overlaps=2 * levels * LABELS[:, None],
    )  # fmt: skip  # in every resample the curve is the line through 0 and (1.5, 2)
    figure = rank([contender("a", NOISE, folder=tmp_path)], "labels").standings[0].figures["pixel_aupro"]
    assert figure == pytest.approx((0.2, 0.2, 0.2))


@pytest.mark.parametrize("measure", ["image_auroc", "pixel_aupro", "synthetic_auroc"])
def test_chance_of_two_data_sets_is_less_than_that_of_one(tmp_path, measure):
    folder = marked(tmp_path / "a", np.random.default_rng(5).random(PHOTOS))
    painted(tmp_path / "b", 1.0, photos=40)
    (tmp_path / "b/synthetic.csv").rename(folder / "synthetic.csv")
    widths = []
    for several in (1, 2):
        there = [contender("a", NOISE + LABELS, folder=folder, several=several)]
        figure = rank(there, "synthetic" if measure == "synthetic_auroc" else "labels").standings[0].figures[measure]
        widths.append(figure.high - figure.low)
    assert widths[1] / widths[0] == pytest.approx(0.5**0.5, rel=0.1)  # independent halves


def test_what_beats_the_control_comes_before_what_is_only_tied(tmp_path):
    better, unsure = NOISE + 1.6 * LABELS, np.roll(NOISE, 3) + 1.8 * LABELS
    folders = [marked(tmp_path / f"{overlap}", overlap) for overlap in (0.95, 0.4, 0.9)]
    control = contender("control_pca", NOISE + 1.0 * LABELS, folder=folders[0])
    ranking = rank(
        [control, contender("sure", better, 5, folders[1]), contender("unsure", unsure, 1, folders[2])], "labels"
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
    method = contender("padim", np.roll(NOISE, 3) + 3.2 * LABELS, folder=tmp_path / "padim")
    ranking = rank([control, method], "labels")
    above = ranking.standings[0].above_control["image_auroc"]
    assert above.low < 0 < above.value
    said = sentences(ranking, FACTS)[0]
    assert "; these photos cannot tell it from a trivial control in image AUROC." in said
    assert "reaches as much" not in said


def test_where_nothing_beats_the_control_that_is_the_answer(tmp_path):
    bright = contender("control_brightness", -(NOISE + 9 * LABELS), folder=tmp_path)  # darker is as easy as brighter
    ranking = rank([bright, contender("cae", NOISE + LABELS, folder=tmp_path)], "labels")
    assert ranking.controls[0].figures["image_auroc"] == pytest.approx((1, 0.05 ** (1 / 30), 1))
    assert ranking.nothing_beats_the_control
    said = sentences(ranking, FACTS)[0]
    assert said.startswith("No method that was tried beats the trivial control control_brightness, image AUROC 1.000")
    first = ranking.standings[0].figures["image_auroc"]
    assert first.low > 0.5  # it does see defects
    figure = spoken("image_auroc", first)
    assert said.endswith(
        f": these photos do not show that any of them sees more than the control; cae comes first with {figure}."
    )
    found = summary(ranking, [], FACTS, [])
    assert [row["name"] for row in found["ranking"]] == ["cae", "control_brightness"]


def test_what_is_tied_is_named_where_nothing_beats_the_control_too(tmp_path):
    bright = contender("control_brightness", LABELS, folder=tmp_path)
    scores = {"cae": (NOISE + 2 * LABELS, 1), "padim": (NOISE + 2.1 * LABELS, 2), "spade": (NOISE, 3)}
    there = [contender(name, *scores[name], tmp_path) for name in scores]
    ranking = rank([bright, *there], "labels")
    assert ranking.nothing_beats_the_control
    tied = [each.contender.name for each in ranking.standings if each.tied]
    assert tied == ["cae", "padim"]
    assert sentences(ranking, FACTS)[0].endswith(
        "); these photos cannot tell padim from it, and it is the fastest of them."
    )


@pytest.mark.parametrize(
    ("strength", "said"),
    [(2, ""), (0, ", and its image AUROC has an interval that holds .500, which is chance"),
     (-2, ", and its image AUROC lies below .500, which is chance")],
)  # fmt: skip
def test_an_answer_without_a_control_says_so(tmp_path, strength, said):
    there = [contender("cae", NOISE + strength * LABELS, folder=tmp_path)]
    said = f"; no trivial control has a result to compare it with{said}"
    assert sentences(rank(there, "labels"), FACTS)[0].endswith(f"){said}.")
    there.append(contender("padim", NOISE + (strength - 9) * LABELS, 2, folder=tmp_path))
    assert f"){said}; " in sentences(rank(there, "labels"), FACTS)[0]
    there.append(contender("control_pca", NOISE - 9 * LABELS, folder=tmp_path))
    assert "no trivial control" not in sentences(rank(there, "labels"), FACTS)[0]


def test_a_control_without_painted_defects_compares_nothing(tmp_path):
    there = [
        contender("cae", NOISE, folder=painted(tmp_path / "cae", 3.0)),
        contender("control_pca", NOISE, 1, tmp_path),
    ]
    ranking = rank(there, "synthetic")
    assert not ranking.nothing_beats_the_control
    assert "; no trivial control has a result to compare it with." in sentences(ranking, FACTS)[0]


def test_the_strongest_control_is_the_one_to_beat_and_leads_no_method(tmp_path):
    shares = {"control_pca": 0.2, "control_mean_image": 0.7, "weak": 0.1, "method": 0.5}
    there = [contender(name, NOISE, 1, marked(tmp_path / name, share)) for name, share in shares.items()]
    ranking = rank(there, "labels")
    first, second = ranking.standings
    assert first.above_control["pixel_aupro"] == pytest.approx((-0.2, -0.2, -0.2))
    assert second.behind["pixel_aupro"] == pytest.approx((0.4, 0.4, 0.4))
    assert first.behind["pixel_aupro"] == Figure(0, 0, 0)
    scores = {"control_pca": 0.2, "control_mean_image": 2.0, "method": 1.0}
    ranking = rank([contender(name, NOISE + up * LABELS, folder=tmp_path) for name, up in scores.items()], "labels")
    assert [each.contender.name for each in ranking.controls] == ["control_mean_image", "control_pca"]
    assert ranking.nothing_beats_the_control
    assert sentences(ranking, FACTS)[0].startswith(
        "No method that was tried beats the trivial control control_mean_image, "
    )


def test_only_a_control_of_one_number_has_two_directions_and_it_keeps_the_one_it_has(tmp_path):
    backwards = contender("cae", -LABELS, folder=tmp_path)
    bright = contender("control_brightness", np.tile([0, 0, 1, 1], PHOTOS // 4), folder=tmp_path)  # at chance
    ranking = rank([backwards, bright], "labels")
    assert ranking.standings[0].figures["image_auroc"] == pytest.approx((0, 0, 1 - 0.05 ** (1 / 30)))
    figure = ranking.controls[0].figures["image_auroc"]
    assert figure.value == 0.5
    assert figure.low < 0.4 < 0.6 < figure.high


def test_what_failed_or_was_left_out_is_named_and_not_ranked(tmp_path):
    there = [
        contender("padim", NOISE + LABELS, folder=tmp_path),
        Contender("cae", state="failed", note="out of memory"),
        Contender("ganomaly", state="left out", note="needs a GPU"),
    ]
    found = summary(rank(there, "labels"), there, FACTS, [])
    assert [row["name"] for row in found["ranking"]] == ["padim"]
    assert found["others"] == [
        {"name": "cae", "state": "failed", "note": "out of memory"},
        {"name": "ganomaly", "state": "left out", "note": "needs a GPU"},
    ]


@pytest.mark.parametrize("strength", [1, 9], ids=["some", "all in order"])
def test_a_method_with_other_test_photos_has_failed_whatever_its_place(tmp_path, strength):
    kept = np.arange(PHOTOS - 2)  # two rows of scores.csv are missing
    for place in range(3):
        there = [contender(name, NOISE + strength * LABELS, folder=tmp_path) for name in "ab"]
        short = contender("short", (NOISE + LABELS)[kept], folder=tmp_path / "short", labels=LABELS[kept])
        there.insert(place, short)
        assert set(names(rank(there, "labels"))) == {"a", "b"}
        assert (short.state, short.note) == (
            "failed", "scores.csv: expected the 60 test photos of the other methods, found 58; delete "
            f"{tmp_path / 'short'}, and the same command makes it again",
        )  # fmt: skip
    short = contender("short", (NOISE + LABELS)[kept], folder=tmp_path, labels=LABELS[kept])
    assert names(rank([short, there[0]], "labels")) == ["a"]  # of two the one with more
    there, other = [contender(name, NOISE, folder=tmp_path, several=2) for name in "abc"], 1 - LABELS
    there[2].runs[1] = contender("c", NOISE, folder=tmp_path, labels=other).runs[0]
    assert set(names(rank(there, "labels"))) == {"a", "b"}
    assert there[2].note.startswith("scores.csv: expected the 60 test photos of the other methods, found 60 others;")


def test_a_method_with_damaged_files_has_failed(tmp_path):
    there = [contender(name, NOISE + LABELS, folder=tmp_path) for name in "ab"]
    there[1].runs[0].trouble = "scores.csv: expected one row per image, found none"
    there[1].runs[0].images = []
    assert names(rank(there, "labels")) == ["a"]
    assert (there[1].state, there[1].runs) == ("failed", [])
    assert there[1].note.startswith("scores.csv: expected one row per image, found none; delete ")
    assert names(rank(there, "labels")) == ["a"]
    there[0].runs[0].trouble = "metrics.json: not there"
    with pytest.raises(UserError, match="found none; the lines above say why"):
        rank(there, "labels")


def test_painted_photos_are_drawn_with_all_of_their_copies(tmp_path):
    folder = painted(tmp_path / "a", 1.0, light=0.5, photos=30)
    figure = rank([contender("a", NOISE, folder=folder)], "synthetic").standings[0].figures["synthetic_auroc"]
    rows = synthetic_scores(Run(folder, "a", Key("select", "a", "folder", "bar", "0"), "done"))
    random, values = np.random.default_rng(0), []
    places = [np.flatnonzero(rows.photo == photo) for photo in np.unique(rows.photo)]
    for drawn in random.integers(0, 30, (1000, 30)):
        at = np.concatenate([places[photo] for photo in drawn])
        values.append(area(rows.score[at], (~np.isin(rows.change[at], GOOD)).astype(int)))  # as many of either kind
    assert figure[1:] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.015)


def test_painted_defects_that_are_all_found_are_not_certain(tmp_path):
    there = [contender(name, NOISE, 1, painted(tmp_path / name, sign * 99)) for name, sign in (("a", 1), ("b", -1))]
    figures = {each.contender.name: each.figures["synthetic_auroc"] for each in rank(there, "synthetic").standings}
    assert figures["a"] == pytest.approx((1, 0.05 ** (1 / 12), 1))  # of 12 photos
    assert figures["b"] == pytest.approx((0, 0, 1 - 0.05 ** (1 / 12)))
    two = rank([contender("a", NOISE, 1, tmp_path / "a", several=2)], "synthetic").standings[0]
    assert two.figures["synthetic_auroc"].low == pytest.approx(1 - (1 - 0.05 ** (1 / 12)) / 2**0.5)


@pytest.mark.parametrize(("photos", "beats"), [(2, False), (12, True)])
def test_resamples_that_are_all_alike_put_no_method_above_another_but_by_many_photos(tmp_path, photos, beats):
    def rows(*found):
        good = [(f"{photo:02d}", change, 0.5) for photo in range(photos) for change in GOOD]
        return good + [(f"{photo:02d}", "blob", found[photo % len(found)]) for photo in range(photos)]

    there = [contender("a", NOISE, 1, written(tmp_path / "a", rows(1.0))),
             contender("b", NOISE, 1, written(tmp_path / "b", rows(0.0))),
             contender("control_pca", NOISE, 1, written(tmp_path / "c", rows(0.5)))]  # fmt: skip
    ranking = rank(there, "synthetic")
    first, second = ranking.standings
    off = 1 - 0.05 ** (1 / photos)
    assert first.below_first == {"synthetic_auroc": Figure(0, 0, 0)}
    assert second.below_first["synthetic_auroc"] == pytest.approx((1, 1 - off * 2**0.5, 1))  # Zou and Donner
    assert second.is_worse == (off * 2**0.5 < 1)
    assert ranking.controls[0].figures["synthetic_auroc"] == (0.5, 0, 1)  # all alike, and not in order
    assert first.above_control["synthetic_auroc"].low < 0
    assert not first.beats_control
    assert second.is_worse == beats


def test_kinds_weigh_alike_however_often_they_were_painted(tmp_path):
    good = [(photo, change, 0.0) for photo in "ab" for change in GOOD]
    found, missed = [("a", "blob", 1.0), ("b", "blob", 1.0), ("b", "blob", 1.0)], [("a", "scar", -1), ("b", "scar", -1)]
    trained = [("a", "patch", 1.0), ("b", "patch", 1.0)]  # by y, which has not seen it
    there = [
        contender("x", NOISE, folder=written(tmp_path / "x", [*good, *found, *missed, *trained])),
        contender("y", NOISE, folder=written(tmp_path / "y", [*good, *found, *missed])),
    ]
    ranking = rank(there, "synthetic")
    assert ranking.kinds == ("blob", "scar")
    assert [each.figures["synthetic_auroc"] for each in ranking.standings] == [Figure(0.5, 0, 1)] * 2  # alike in both


@pytest.mark.parametrize("text", ["", "photo,score\na,1\n", "photo,change,label,score\na,none,0,high\n"])
def test_a_damaged_table_of_painted_defects_counts_as_none(tmp_path, text):
    (tmp_path / "synthetic.csv").write_text(text)
    with pytest.raises(UserError, match="expected a method with a result"):
        rank([contender("a", NOISE, folder=tmp_path)], "synthetic")


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
        "This ranks and does not measure: no real defect was looked at, a stain and a scar were painted into copies "
    )
    assert "1 in 11" in sure


def test_kinds_that_one_method_was_trained_with_count_for_none(tmp_path):
    everything = contender("a", NOISE, 1, painted(tmp_path / "a", 3.0, kinds=("blob", "scar")))
    without = contender("b", NOISE, 1, painted(tmp_path / "b", 3.0, kinds=("scar",)))
    assert rank([everything, without], "synthetic").kinds == ("scar",)
    both = contender("c", NOISE, 1, tmp_path / "a")
    both.runs += without.runs  # of another data set
    everything.runs *= 2
    assert rank([everything, both], "synthetic").kinds == ("scar",)


def test_the_mean_over_data_sets_and_a_method_that_lacks_one(tmp_path):
    low, high = NOISE + LABELS, NOISE + 3 * LABELS
    both = contender("both", low, folder=tmp_path)
    both.runs = [both.runs[0], contender("both", high, folder=tmp_path).runs[0]]
    figure = rank([both], "labels").standings[0].figures["image_auroc"]
    assert figure.value == pytest.approx((roc_auc_score(LABELS, low) + roc_auc_score(LABELS, high)) / 2)
    both.runs[1].metrics["predict_seconds_per_image"] = 2.0
    assert both.seconds == 1.5
    del both.runs[1].metrics["predict_seconds_per_image"]
    assert np.isnan(both.seconds)
    one_class = contender("good_only", NOISE, folder=tmp_path, labels=np.zeros(PHOTOS))
    half = contender("half", high, folder=marked(tmp_path / "half", 0.5))
    half.runs += both.runs[1:]
    figures = {each.contender.name: set(each.figures) for each in rank([both, half], "labels").standings}
    assert figures == {"both": {"image_auroc"}, "half": {"image_auroc"}}  # maps of one data set alone
    with pytest.raises(UserError, match="expected a method with a result"):
        rank([one_class], "labels")
    with pytest.raises(UserError, match="expected a method with a result"):
        rank([contender("control_pca", NOISE, folder=tmp_path)], "labels")


def test_the_words_of_the_files_are_those_of_their_writers():
    assert (GOOD_PHOTO, *VARIATIONS) == GOOD
    assert {f"control_{kind}" for kind in IMAGE_LEVEL_CONTROLS} == set(IMAGE_LEVEL)


def test_numbers_and_lists_as_people_write_them():
    assert [number(value) for value in (0.5, 1.0, -0.25, 0.9996)] == [".500", "1.000", "-.250", "1.000"]
    assert spoken("pixel_aupro", Figure(0.5, 0.25, 0.75)) == "AU-PRO .500 (95 % interval .250 to .750)"
    assert [listed(each) for each in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
