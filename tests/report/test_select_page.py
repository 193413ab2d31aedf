"""The page of `select`: the answer, and pictures of the best methods, of real misses or of painted ones."""

import base64
import json

import cv2
import numpy as np
import pytest

from anomaly_lab.core.files import write_csv
from anomaly_lab.evaluation.painted_pictures import FOLDER, HEADER
from anomaly_lab.report.photo_counts import Photos
from anomaly_lab.report.ranking import Contender, rank
from anomaly_lab.report.select_page import page
from anomaly_lab.report.selection import Facts, summary
from anomaly_lab.runs.collect import read as read_run
from tests.report.synthetic import write_run
from tests.report.test_ranking import FACTS, LABELS, NOISE, PHOTOS_OF_BAR, contender, painted
from tests.report.test_selection import ODD

TEXTURE, PATCH = "A foreign texture painted into", "A pasted patch painted into"


def shown(contenders, basis):
    """The data of the page."""
    ranking = rank(contenders, basis)
    text = page(summary(ranking, contenders, FACTS, []), ranking)
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def test_the_page_shows_what_the_first_three_find_hardest_and_whether_they_miss_it(tmp_path):
    there = []
    for method, strength in (("cae", 6), ("padim", 5), ("spade", 4), ("ganomaly", 0)):
        folder = write_run(tmp_path, method, strength=strength, pictures=2, images=4)  # all four are shown
        there.append(Contender(method, [read_run(folder, folder)]))
    pictures = shown(there, "labels")["pictures"]
    assert pictures["title"] == "Test photos that the best methods find hardest"
    assert pictures["note"] == "Found, missed, false alarm: at the threshold of each run."
    assert {group["title"] for group in pictures["groups"]} == {"cae", "padim", "spade"}
    kinds, seen = {"defective, lowest score": 1, "good, highest score": 0}, set[str]()
    for group in pictures["groups"]:
        run = there[[each.name for each in there].index(group["title"])].runs[0]
        assert group["note"] == "from the left: image, overlay, mask"
        assert [shot["name"] for shot in group["shots"]] == [*kinds] * 2
        for shot in group["shots"]:
            name, _, said = shot["note"].partition(": ")
            (place,) = [i for i, image in enumerate(run.images) if image.name == name]
            assert run.images[place].label == kinds[shot["name"]]
            above = run.decision_scores[place] >= 1  # the threshold
            words = ("missed", "found") if run.images[place].label else ("no false alarm", "false alarm")
            assert said == words[above]
            seen.add(said)
    assert seen == {"found", "no false alarm"}  # the title is true where nothing is missed, too


def test_a_picture_of_an_unknown_photo_has_no_verdict(tmp_path):
    folder = write_run(tmp_path, "cae", pictures=2, images=4)
    index = folder / "gallery" / "index.csv"
    index.write_text(index.read_text().replace("/home/somebody/photos", "/elsewhere"))
    (group,) = shown([Contender("cae", [read_run(folder, folder)])], "labels")["pictures"]["groups"]
    assert group["shots"]
    assert not [shot for shot in group["shots"] if ": " in shot["note"]]


def looked_at(folder, scores, changed=0.0, kept=None):
    """What a run leaves of photos a, b, ...: their scores by change, and a picture of each, or of those kept.

    A photo that is changed a little scores `changed` more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, index = [], []
    (folder / FOLDER).mkdir()
    for number, (change, values) in enumerate(scores.items()):
        for name, value in zip("abcdefgh", values, strict=False):
            photo = f"/secret/photos/good/{name}.png"
            rows.append((photo, change, int(change != "none"), value))
            rows += [(photo, "light", 0, value + changed)] if change == "none" else []
            if kept is None or name in kept:
                picture = np.full((16, 48, 3), 40 * number + ord(name) % 40, np.uint8)
                assert cv2.imwrite(str(folder / FOLDER / f"{name}_{change}.webp"), picture)
                index.append((f"{name}_{change}.webp", photo, change, value))
    write_csv(folder / "synthetic.csv", ("photo", "change", "label", "score"), rows)
    write_csv(folder / FOLDER / "index.csv", HEADER, index)
    return folder


ONE = {"none": [1, 4, 2, 3], "perlin": [9, 8, 7, 5], "patch": [2.5, 9, 8, 7]}
OTHER = {"none": [1, 2, 3, 4], "perlin": [9, 8, 7, 6], "patch": [9, 9, 1.5, 3.5]}


def two(tmp_path, **settings):
    return [contender(name, NOISE, 1, looked_at(tmp_path / name, scores, **settings))
            for name, scores in (("one", ONE), ("other", OTHER))]  # fmt: skip


def test_without_labels_the_same_painted_photos_stand_side_by_side_worst_first(tmp_path):
    there = two(tmp_path)
    pictures = shown(there, "synthetic")["pictures"]
    assert pictures["side_by_side"]
    assert "No real defect is shown: these are painted into held-out good photos." in pictures["note"]
    assert "of 8 whose pictures are kept; then those with the highest scores of 4 good photos" in pictures["note"]
    # The patch in c: all of 'one' see it, and 6 of 8 good photos score as high for 'other'; in a: 4 of 8 for 'one'.
    # No texture is missed; that of d is the lowest of both.
    assert [group["title"] for group in pictures["groups"]] == [
        f"{PATCH} good/c.png", f"{TEXTURE} good/d.png", "Good photo good/d.png, as it is",
        "Good photo good/b.png, as it is",
    ]  # fmt: skip
    for group in pictures["groups"]:
        assert {shot["name"] for shot in group["shots"]} == {"one", "other"}
    notes = [{shot["name"]: shot["note"] for shot in group["shots"]} for group in pictures["groups"]]
    assert notes[0] == {
        "one": "found: no good photo scores as high",
        "other": "missed: 6 of 8 good photos score as high",
    }
    assert notes[1] == dict.fromkeys(("one", "other"), "found: no good photo scores as high")
    assert notes[2] == {
        "one": "number 2 of 4 by score, from the highest",
        "other": "number 1 of 4 by score, from the highest",
    }
    assert "secret" not in json.dumps(pictures)


def test_a_defect_is_found_above_unchanged_photos_though_changed_ones_score_as_high(tmp_path):
    (row,) = [group for group in shown(two(tmp_path, changed=1.5), "synthetic")["pictures"]["groups"]
              if group["title"].startswith(TEXTURE)]  # fmt: skip
    notes = {shot["name"]: shot["note"] for shot in row["shots"]}
    assert notes["one"] == "found: 1 of 8 good photos score as high"  # 4 + 1.5 of 8, above 5


def test_a_row_holds_the_picture_that_each_run_has_kept(tmp_path):
    groups = shown(two(tmp_path), "synthetic")["pictures"]["groups"]
    for shot in groups[0]["shots"]:
        data = base64.b64decode(shot["source"].partition("base64,")[2])
        assert data == (tmp_path / shot["name"] / FOLDER / "c_patch.webp").read_bytes()
        assert (shot["width"], shot["height"]) == (48, 16)
        assert shot["alt"].startswith(f"{PATCH} good/c.png, by {shot['name']}, as the photo, its map, the outline")


def test_only_photos_that_all_of_the_best_have_kept_are_shown(tmp_path):
    there = two(tmp_path, kept="ab")
    rows = [group["title"] for group in shown(there, "synthetic")["pictures"]["groups"]]
    assert rows[0] == f"{PATCH} good/a.png"
    (tmp_path / "one" / FOLDER / "index.csv").write_text("file,photo\n")  # damaged
    groups = shown(there, "synthetic")["pictures"]["groups"]
    assert [[shot["name"] for shot in group["shots"]] for group in groups] == [["other"]] * len(groups)
    assert groups
    note = shown(there, "synthetic")["pictures"]["note"]
    assert note.endswith(
        "the last one alone, without it. The runs of one keep no pictures: they are older, or damaged."
    )
    (tmp_path / "other" / FOLDER / "index.csv").unlink()  # of a run that has kept none
    pictures = shown(there, "synthetic")["pictures"]
    assert pictures["groups"] == []
    assert pictures["note"] == "The runs of one and other keep no pictures: they are older, or damaged."


def test_kinds_that_do_not_count_for_all_are_not_shown(tmp_path):
    there = two(tmp_path)
    less = {change: values for change, values in ONE.items() if change != "patch"}
    there.append(contender("third", NOISE, 1, looked_at(tmp_path / "third", less)))
    titles = [group["title"] for group in shown(there, "synthetic")["pictures"]["groups"]]
    assert [title for title in titles if "painted" in title] == [f"{TEXTURE} good/d.png"]


def test_each_data_set_has_rows_of_its_own(tmp_path):
    there = [contender(name, NOISE, 1, looked_at(tmp_path / name, ONE)) for name in ("one", "two")]
    for each in there:
        each.runs *= 2
        each.runs[1] = each.runs[1].__class__(
            **{**vars(each.runs[1]), "key": each.runs[1].key._replace(category="nut")}
        )
    titles = [group["title"] for group in shown(there, "synthetic")["pictures"]["groups"]]
    assert titles[:2] == [f"bar: {PATCH} good/a.png", f"bar: {TEXTURE} good/d.png"]
    assert [title.partition(":")[0] for title in titles] == ["bar"] * 4 + ["nut"] * 4


def test_labelled_photos_are_not_shown_where_painted_defects_rank(tmp_path):
    folder = write_run(tmp_path, "cae", pictures=2, images=4)
    looked_at(folder, ONE)
    there = [Contender("cae", [read_run(folder, folder)])]
    data = shown(there, "synthetic")
    assert [group["title"] for group in data["pictures"]["groups"]][:2] == [
        f"{PATCH} good/a.png",
        f"{TEXTURE} good/d.png",
    ]
    text = json.dumps(data["pictures"])
    for image in there[0].runs[0].images:
        assert image.name not in text


def three(tmp_path):
    """Two methods and a control, with scores of labelled photos."""
    return [
        contender("patchcore", NOISE + 2 * LABELS, 0.4, painted(tmp_path / "p", 3.0)),
        contender(ODD, NOISE + LABELS, 0.2, tmp_path),
        contender("control_pca", NOISE, 0.05, tmp_path),
    ]


def test_the_page_holds_the_answer_and_no_code_of_others(tmp_path):
    there = three(tmp_path)
    ranking = rank(there, "labels")
    found = summary(ranking, [], Facts({ODD: PHOTOS_OF_BAR}, 3.0), [("predict", "python </script>")])
    text = page(found, ranking)
    assert ODD not in text
    assert "</script>" not in text.partition('id="data">')[2].partition("</script>")[0]
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert [row["name"] for row in data["ranking"]] == ["patchcore", ODD, "control_pca"]
    assert data["sentences"] == found["sentences"]
    assert data["pictures"]["groups"] == []
    assert json.loads(json.dumps(found))["ranking"][0]["figures"]["image_auroc"]["value"] > 0.8


@pytest.mark.slow
def test_the_page_in_a_browser(browser, tmp_path):
    def look(contenders, basis, others=()):
        ranking = rank(contenders, basis)
        facts = Facts({ODD: Photos(40, 10, 30, 30)}, 3.0)
        found = summary(ranking, [], facts, [("predict", "python -m anomaly_lab predict")]) | {"others": list(others)}
        (tmp_path / "select.html").write_text(page(found, ranking), encoding="utf-8")
        browser.get((tmp_path / "select.html").as_uri())
        assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
        assert not browser.get_log("browser")
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        return found, browser.execute_script("return document.body.innerText")

    there = three(tmp_path)
    failed = {"name": "cae", "state": "failed", "note": "error: out of memory (exit code 1)"}
    found, text = look(there, "labels", [failed])
    for part in (*found["sentences"], ODD, "failed", "python -m anomaly_lab predict", "30 good and 30 defective"):
        assert part in text
    names = "return [...document.querySelectorAll('#ranking tbody tr')].map((row) => row.className)"
    assert browser.execute_script(names) == ["", "", "control"]
    assert browser.execute_script("return document.querySelectorAll('#ranking svg.whisker').length") == 3
    assert browser.execute_script("return document.getElementById('pictures').hidden")
    scores = {"a": NOISE, "b": np.roll(NOISE, 2), "control_pca": NOISE + LABELS}  # b: as high, in other photos
    found, _ = look([contender(name, score, 1, tmp_path) for name, score in scores.items()], "labels")
    behind = [row["behind"]["image_auroc"] for row in found["ranking"]]
    assert behind[0]["value"] == behind[1]["value"] == 0 > behind[2]["value"]
    column = "return [...document.querySelectorAll('#ranking tr')].map((row) => row.cells[2].innerText)"
    header, *cells = browser.execute_script(column)
    assert header == "behind the highest method"  # a control may be higher

    def digits(value):
        return f"{value:.3f}".replace("0.", ".", 1)

    assert sorted(cells[:2]) == sorted(
        "{} ({} to {})".format(*map(digits, each.values())) if each["high"] else "–" for each in behind[:2]
    )
    assert cells[2].startswith(f"{digits(behind[2]['value'])} (")
    assert sorted(cell[:4] for cell in cells[:2]) == [".000", "–"]
    folder = write_run(tmp_path, "cae", pictures=2, images=4)
    look([Contender("cae", [read_run(folder, folder)])], "labels")
    legend = browser.execute_script("return document.querySelector('#groups p').innerText")
    assert legend == "from the left: image, overlay, mask"
    _, text = look(two(tmp_path / "painted"), "synthetic")
    for part in ("Painted defects that the best methods find worst", "No real defect is shown", f"{PATCH} good/c.png"):
        assert part in text
    tops = "return [...document.querySelectorAll('#groups img')].map((image) => image.getBoundingClientRect().top)"
    tops = browser.execute_script(tops)
    assert tops[0::2] == tops[1::2] == sorted(set(tops))  # the two methods side by side, a row for each photo
