"""The answer of `select` and its page."""

import json
import math

import pytest

from anomaly_lab.core.files import read_csv
from anomaly_lab.report.ranking import Contender, rank
from anomaly_lab.report.selection import Facts, how_fast, how_sure, page, sentences, steadiness, summary, what_more
from anomaly_lab.runs.collect import read as read_run
from tests.report.synthetic import write_run
from tests.report.test_ranking import FACTS, LABELS, NOISE, contender, marked, painted, written

ODD = "<b>cae & co</b>"


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
    assert "of 9 held-out good photos, too few to decide much; it" in sentences(ranking, FACTS._replace(held_out=9))[1]
    more = [
        what_more(first, ranking, facts) for facts in (FACTS, FACTS._replace(test_good=0), FACTS._replace(defective=0))
    ]
    assert [text.partition(" would ")[0] for text in more] == [
        "The labelled test photos, which were not used,", "Labelled test photos, defective and good ones,",
        "One labelled defect",
    ]  # fmt: skip
    other = written(tmp_path / "c", [("a", "none", 0), ("a", "shift", 0), ("a", "blob", 1), ("a", "scar", 1)])
    first.contender.runs += contender("a", NOISE, 1, other).runs  # another data set
    assert steadiness(first, ranking.kinds) == pytest.approx(((1 / 4 + 1) / 2, (2 / 6 + 0) / 2))


def test_how_sure_follows_from_the_fewer_photos(tmp_path):
    perfect = rank([contender("a", LABELS, folder=tmp_path)], "labels")
    facts = FACTS._replace(defective=10, test_good=40)
    assert how_sure(perfect, facts) == (
        "It rests on 10 defective and 40 good test photos: all of them are in order, and so few cannot exclude a "
        "true value of .905."  # 0.905 ** 30 = 0.05: of the 30 and 30 that were ranked
    )
    ranking = rank([contender("a", NOISE + 2 * LABELS, folder=tmp_path)], "labels")
    figure = ranking.standings[0].figures["image_auroc"]
    off = f"{max(figure.high - figure.value, figure.value - figure.low):.3f}".removeprefix("0")
    assert how_sure(ranking, facts._replace(test_good=19, defective=20)) == (
        "It rests on 20 defective and 19 good test photos, too few to decide much: the value may be off by "
        f"{off} by chance."
    )
    assert "photos: the value" in how_sure(ranking, facts._replace(test_good=20, defective=20))


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


def test_what_more_photos_would_tell(ranking):
    text = what_more(ranking.standings[0], ranking, FACTS)
    assert text.startswith("One more labelled defect would narrow the interval by about 2 %; 50 more good photos")
    assert text.endswith("support 1 false alarm in 21 instead of 1 in 11.")  # 20 of 100, 10 of 50 held out
    ranking.standings[0].contender.runs *= 2  # two data sets
    text = what_more(ranking.standings[0], ranking, FACTS)
    assert "50 more good photos of each data set would" in text
    assert text.endswith("support 1 false alarm in 16 instead of 1 in 6.")
    few = what_more(ranking.standings[0], ranking, FACTS._replace(defective=3))
    assert "by about 13 %;" in few  # 1 - sqrt(3 / 4)


def test_photos_that_are_all_in_order_exclude_lower_values_one_by_one(tmp_path):
    perfect = rank([contender("a", LABELS, folder=tmp_path)], "labels")
    text = what_more(perfect.standings[0], perfect, FACTS._replace(defective=10, test_good=40))
    assert text.startswith(
        "One more labelled defect, in order again, would exclude values below .762; 50 more"
    )  # of 11
    text = what_more(perfect.standings[0], perfect, FACTS._replace(defective=10, test_good=10))
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


def test_the_page_shows_the_worst_misses_of_the_first_three(tmp_path):
    there = []
    for method, strength in (("cae", 6), ("padim", 5), ("spade", 4), ("ganomaly", 0)):
        folder = write_run(tmp_path, method, strength=strength, pictures=2, images=4)  # all four are shown
        there.append(Contender(method, [read_run(folder, folder)]))
    ranking = rank(there, "labels")
    data = page(summary(ranking, there, FACTS, []), ranking).partition('id="data">')[2].partition("</script>")[0]
    shots = json.loads(data)["shots"]
    assert {shot["method"] for shot in shots} == {"cae", "padim", "spade"}
    assert [shot["kind"] for shot in shots[:4]] == ["lowest_defective", "highest_good"] * 2
    for shot in shots:
        run = there[[each.name for each in there].index(shot["method"])].runs[0]
        label = int(shot["kind"] == "lowest_defective")
        assert shot["photo"] in {image.name for image in run.images if image.label == label}


def test_the_page_holds_the_answer_and_no_code_of_others(ranking):
    facts = Facts(ODD, *FACTS[1:])
    found = summary(ranking, [], facts, [("predict", "python </script>")])
    text = page(found, ranking)
    assert ODD not in text
    assert "</script>" not in text.partition('id="data">')[2].partition("</script>")[0]
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert [row["name"] for row in data["ranking"]] == ["patchcore", ODD, "control_pca"]
    assert data["sentences"] == found["sentences"]
    assert data["shots"] == []
    assert json.loads(json.dumps(found))["ranking"][0]["figures"]["image_auroc"]["value"] > 0.8


@pytest.mark.slow
def test_the_page_in_a_browser(browser, ranking, tmp_path):
    found = summary(ranking, [], Facts(ODD, *FACTS[1:]), [("predict", "python -m anomaly_lab predict")])
    found["others"] = [{"name": "cae", "state": "failed", "note": "error: out of memory (exit code 1)"}]
    (tmp_path / "select.html").write_text(page(found, ranking), encoding="utf-8")
    browser.get((tmp_path / "select.html").as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
    assert not browser.get_log("browser")
    shown = browser.execute_script("return document.body.innerText")
    for part in (*found["sentences"], ODD, "failed", "python -m anomaly_lab predict", "30 good and 30 defective"):
        assert part in shown
    names = "return [...document.querySelectorAll('#ranking tbody tr')].map((row) => row.className)"
    rows = browser.execute_script(names)
    assert rows == ["", "", "control"]
    assert browser.execute_script("return document.querySelectorAll('#ranking svg.whisker').length") == 3
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    folder = write_run(tmp_path, "cae", pictures=2, images=4)
    there = [Contender("cae", [read_run(folder, folder)])]
    ranking = rank(there, "labels")
    (tmp_path / "select.html").write_text(page(summary(ranking, there, FACTS, []), ranking), encoding="utf-8")
    browser.get((tmp_path / "select.html").as_uri())
    legend = browser.execute_script("return document.querySelector('#columns p').innerText")
    assert legend == "from the left: image, overlay, mask"
