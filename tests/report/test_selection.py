"""The answer of `select` and its page."""

import json

import pytest

from anomaly_lab.core.files import read_csv
from anomaly_lab.report.ranking import rank
from anomaly_lab.report.selection import Facts, page, steadiness, summary, what_more
from tests.report.test_ranking import FACTS, LABELS, NOISE, contender, painted

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


def test_what_more_photos_would_tell(ranking):
    text = what_more(ranking.standings[0], ranking, FACTS)
    assert text.startswith("One more labelled defect would narrow the interval by about 2%; 50 more good photos")
    assert text.endswith("support 1 false alarm in 11 instead of 1 in 6.")  # 10 of 100, 5 of 50 held out


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
