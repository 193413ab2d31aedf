"""The answer of `select`."""

import math

import numpy as np
import pytest

from anomaly_lab.core.files import read_csv
from anomaly_lab.metrics.intervals import auroc_variance
from anomaly_lab.report.photo_counts import Photos
from anomaly_lab.report.ranking import rank
from anomaly_lab.report.selection import Facts, how_fast, how_sure, narrowing, sentences, steadiness, summary, what_more
from tests.report.test_ranking import FACTS, LABELS, NOISE, PHOTOS_OF_BAR, contender, marked, painted, written

ODD = "<b>cae & co</b>"


def facts(**counts):
    """The usual photos of one data set, but for these."""
    return Facts({"bar": PHOTOS_OF_BAR._replace(**counts)}, 3.0)


@pytest.fixture
def ranking(tmp_path):
    """Two methods and a control."""
    return rank([contender("patchcore", NOISE + 2 * LABELS, 0.4, painted(tmp_path / "p", 3.0)),
                 contender(ODD, NOISE + LABELS, 0.2, tmp_path),
                 contender("control_pca", NOISE, 0.05, tmp_path)], "labels")  # fmt: skip


def test_steadiness_counts_at_the_highest_unchanged_photo(ranking, tmp_path):
    found = steadiness(ranking.standings[0], ("blob", "scar"))
    assert found is not None
    assert found.alarms == 0
    rows = read_csv(tmp_path / "p" / "synthetic.csv")
    highest = max(float(row["score"]) for row in rows if row["change"] == "none")
    defects = [float(row["score"]) > highest for row in rows if row["label"] == "1"]
    assert found.found == sum(defects) / len(defects)
    assert 0 < found.found < 1
    assert steadiness(ranking.standings[1], ("blob",)) is None


def test_small_changes_are_those_of_changed_photos_and_defects_those_of_the_kinds_compared(tmp_path):
    good = [("a", "none", 0), ("a", "shift", 2), ("a", "light", 0), ("a", "noise", 0),
            ("b", "none", 1), ("b", "shift", 2), ("b", "light", 1), ("b", "noise", 0)]  # fmt: skip
    compared = [("a", "blob", 1), ("a", "scar", 3), ("b", "blob", 0.5), ("b", "scar", 0.5)]
    folder = written(tmp_path / "a", [*good, *compared, ("a", "patch", 5), ("b", "patch", 5)])
    there = [contender("a", NOISE, 1, folder), contender("b", NOISE, 2, written(tmp_path / "b", [*good, *compared]))]
    ranking = rank(there, "synthetic")
    first = ranking.standings[0]
    assert steadiness(first, ranking.kinds) == pytest.approx((1 / 4, 2 / 6))  # above 1, that of b
    sure = sentences(ranking, FACTS)[1]
    assert "; it finds 25 % of these defects without a false alarm, and small" in sure
    assert "raise one in 33 % of the cases" in sure
    assert "a stain and a scar were painted into copies of 10 held-out good photos; it finds" in sure
    one = ranking._replace(kinds=("blob",))
    assert "looked at, a stain was painted into copies of 10 held-out good photos" in sentences(one, FACTS)[1]
    assert "of 9 held-out good photos, too few to decide much; it" in sentences(ranking, facts(held_out=9))[1]
    more = [what_more(first, ranking, each) for each in (FACTS, facts(test_good=0), facts(defective=0))]
    assert [text.partition(";")[0] for text in more] == [
        "The labelled test photos, which were not used, would show whether real defects score higher",
        "Good test photos, beside the defective ones, would show whether real defects score higher",
        "One labelled defect would show whether a real one scores above good photos at all",
    ]
    other = written(tmp_path / "c", [("a", "none", 0), ("a", "shift", 0), ("a", "blob", 1), ("a", "scar", 1)])
    first.contender.runs += contender("a", NOISE, 1, other).runs  # another data set
    assert steadiness(first, ranking.kinds) == pytest.approx(((1 / 4 + 1) / 2, (2 / 6 + 0) / 2))


def test_how_sure_follows_from_the_fewer_photos(tmp_path):
    perfect = rank([contender("a", LABELS, folder=tmp_path)], "labels")
    assert how_sure(perfect, facts(defective=10, test_good=40)) == (
        "It rests on 10 defective and 40 good test photos: all of them are in order, and so few cannot exclude a "
        "true value of .905."  # 0.905 ** 30 = 0.05: of the 30 and 30 that were ranked
    )
    ranking = rank([contender("a", NOISE + 2 * LABELS, folder=tmp_path)], "labels")
    figure = ranking.standings[0].figures["image_auroc"]
    off = f"{max(figure.high - figure.value, figure.value - figure.low):.3f}".removeprefix("0")
    assert how_sure(ranking, facts(test_good=19, defective=20)) == (
        "It rests on 20 defective and 19 good test photos, too few to decide much: the value may be off by "
        f"{off} by chance."
    )
    assert "photos: the value" in how_sure(ranking, facts(test_good=20, defective=20))


def test_false_alarms_of_small_changes_stand_beside_labels(tmp_path):
    changes = [("a", "none", 1), ("a", "shift", 2), ("a", "light", 0), ("a", "noise", 0), ("a", "blob", 0)]
    ranking = rank([contender("a", NOISE + LABELS, folder=written(tmp_path / "a", changes))], "labels")
    assert how_sure(ranking, FACTS).endswith(
        " by chance; small shifts, light changes and noise raise a false alarm in 33 % of the cases."
    )


def test_how_fast_says_no_minutes_that_it_does_not_know(ranking):
    first = ranking.standings[0]
    assert how_fast(first) == "It needs 0.4 s a photo here, and took 0.5 minutes with training and test."
    first.contender.minutes = math.nan
    assert how_fast(first) == "It needs 0.4 s a photo here."


def halves(folder, scores, good, defective):
    """A method that was tested on the first photos of both labels alone."""
    kept = np.sort(np.concatenate([np.flatnonzero(LABELS == 0)[:good], np.flatnonzero(LABELS == 1)[:defective]]))
    return contender("a", scores[kept], folder=folder, labels=LABELS[kept])


def by_hand(scores, good, defective):
    """Both parts of the variance of the AUROC, pair by pair."""
    won = scores[LABELS == 1][:defective, None] > scores[LABELS == 0][:good]
    return won.mean(1).var(ddof=1), won.mean(0).var(ddof=1)


@pytest.mark.parametrize(("good", "defective"), [(30, 30), (4, 20), (30, 3), (5, 2)])
def test_what_more_photos_would_tell(tmp_path, good, defective):
    scores = NOISE + 0.7 * LABELS
    ranking = rank([halves(tmp_path, scores, good, defective)], "labels")
    text = what_more(ranking.standings[0], ranking, FACTS)
    of_defective, of_good = by_hand(scores, good, defective)
    then, now = (of_defective / (defective + more) + of_good / good for more in (1, 0))
    share = 100 * (1 - (then / now) ** 0.5)
    about = f"about {share:.0f} %" if share >= 1 else "less than 1 %"
    assert text.startswith(f"One more labelled defect would narrow the interval by {about}; 50 more good photos")
    assert text.endswith("support 1 false alarm in 21 instead of 1 in 11.")  # 20 of 100, 10 of 50 held out


@pytest.mark.parametrize(("good", "defective"), [(1, 9), (9, 1), (1, 1)])
def test_of_a_single_photo_of_a_label_one_more_defect_still_tells_something(tmp_path, good, defective):
    scores = np.arange(60) // 2 % 2 * (good + defective > 2)  # of one and one: equal
    ranking = rank([halves(tmp_path, scores, good, defective)], "labels")
    assert 0 < ranking.standings[0].figures["image_auroc"].value < 1
    assert 0 < narrowing(ranking.standings[0]) < 0.5


def test_few_good_photos_limit_what_more_defects_tell():
    """Simulated: the spread of the AUROC over tests of 4 good photos, with 20 and with 21 defective ones."""
    random = np.random.default_rng(0)
    tests = [(random.normal(size=4), random.normal(1, size=21)) for _ in range(4000)]
    spread = [np.std([(bad[:count, None] > good).mean() for good, bad in tests]) for count in (20, 21)]
    means = np.mean([[auroc_variance(good, bad[:20], more) for more in (0, 1)] for good, bad in tests[:400]], axis=0)
    assert 1 - (means[1] / means[0]) ** 0.5 == pytest.approx(1 - spread[1] / spread[0], abs=0.003)
    assert 3 * (1 - spread[1] / spread[0]) < 1 - (20 / 21) ** 0.5  # as if good photos added no variance


def test_what_more_photos_would_tell_is_of_each_data_set(tmp_path):
    scores = NOISE + 0.7 * LABELS
    both = halves(tmp_path, scores, 30, 30)
    both.runs += halves(tmp_path, scores, 30, 3).runs
    ranking = rank([both], "labels")
    half = Photos(good=20, held_out=5, test_good=15, defective=15)

    def more(*sets):
        return what_more(ranking.standings[0], ranking, Facts(dict(zip("ab", sets, strict=True)), 3.0))

    parts = [(by_hand(scores, 30, count), count) for count in (30, 3)]
    then, now = (
        sum(bad / (count + more) + good / 30 for (bad, good), count in parts) for more in (1, 0)
    )  # variances of the sum
    share = f"{100 * (1 - (then / now) ** 0.5):.0f}"
    text = more(half, half)
    assert text.startswith(
        f"One more labelled defect of each data set would narrow the interval by about {share} %; 50 more"
    )
    assert "50 more good photos of each data set would" in text
    assert text.endswith("support 1 false alarm in 16 instead of 1 in 6.")
    text = more(half, half._replace(held_out=12))
    assert text.endswith("support 1 false alarm in 16 to 32 instead of 1 in 6 to 13.")  # 12 of 32: 19 of 50


def test_each_data_set_hears_what_its_own_photos_lack(tmp_path):
    changes = [("a", "none", 0), ("a", "shift", 0), ("a", "blob", 1), ("b", "none", 0), ("b", "blob", 1)]
    there = [contender("a", NOISE, 1, written(tmp_path / "a", changes))]
    ranking = rank(there, "synthetic")

    def more(**sets):
        photos = {name: Photos(8, 2, *counts) for name, counts in sets.items()}
        text = what_more(ranking.standings[0], ranking, Facts(photos, 3.0))
        *clauses, good = text.removesuffix(".").split("; ")
        assert good.startswith("50 more good photos")
        return clauses

    unused = "which were not used,"
    assert more(bar=(5, 4), nut=(3, 0)) == [
        f"The labelled test photos of bar, {unused} would show whether real defects score higher there",
        "one labelled defect of nut would show whether a real one scores above good photos there at all",
    ]
    assert more(bar=(0, 4), nut=(3, 0), cap=(0, 0)) == [
        "Good test photos of bar, beside the defective ones, would show whether real defects score higher there",
        "one labelled defect each of nut and cap would show whether a real one scores above good photos there at all",
    ]
    assert more(bar=(5, 4), nut=(3, 1)) == [
        "The labelled test photos of each data set, which were not used, would show whether real defects score higher"
    ]
    assert more(bar=(0, 0), nut=(3, 0)) == [
        "One labelled defect of each data set would show whether a real one scores above good photos at all"
    ]


def test_the_rate_of_false_alarms_is_that_of_each_threshold(tmp_path):
    changes = [("a", "none", 0), ("a", "shift", 0), ("a", "blob", 1)]
    ranking = rank([contender("a", NOISE, 1, written(tmp_path / "a", changes))], "synthetic")
    sets = {"bar": Photos(8, 2, 5, 0), "nut": Photos(40, 10, 0, 0)}
    said = "copies of 12 held-out good photos; it finds"
    assert said in (sure := how_sure(ranking, Facts(sets, 3.0)))
    assert sure.endswith("support no rate of false alarms below 1 in 3 to 11, by data set.")


def test_photos_that_are_all_in_order_exclude_lower_values_one_by_one(tmp_path):
    perfect = rank([contender("a", LABELS, folder=tmp_path)], "labels")
    text = what_more(perfect.standings[0], perfect, facts(defective=10, test_good=40))
    assert text.startswith(
        "One more labelled defect, in order again, would exclude values below .762; 50 more"
    )  # of 11
    sets = {name: Photos(40, 10, test_good, 10) for name, test_good in (("bar", 40), ("nut", 30))}
    two = what_more(perfect.standings[0], perfect, Facts(sets, 3.0))
    said = "One more labelled defect of each data set, in order again, would exclude values below "
    off = 1 - 0.05 ** (1 / 11)
    assert two.startswith(f"{said}{f'{1 - off * 2**0.5 / 2:.3f}'.removeprefix('0')};")  # Zou and Donner
    text = what_more(perfect.standings[0], perfect, facts(defective=10, test_good=10))
    assert text.startswith(
        "One more labelled defect and one more good test photo, in order again, would exclude values"
    )


def test_every_row_has_its_own_figures(tmp_path):
    shares = {"padim": 0.9, "cae": 0.4, "control_pca": 0.6}
    there = [contender(name, NOISE, 1, marked(tmp_path / name, share)) for name, share in shares.items()]
    rows = summary(rank(there, "labels"), there, FACTS, [])["ranking"]
    assert [row["name"] for row in rows] == list(shares)
    assert [row["beats_control"] for row in rows] == [True, False, False]
    assert {(row["seconds"], row["minutes"]) for row in rows} == {(1, 0.5)}
    values = {"figures": [0.9, 0.4, 0.6], "behind": [0, 0.5, 0.3], "above_control": [0.3, -0.2, 0]}
    for part, expected in values.items():
        assert [row[part]["pixel_aupro"]["value"] for row in rows] == pytest.approx(expected)
