"""What a run keeps of its photos tells which files are new to it, and which look unlike those it was trained on."""

import json

import numpy as np
import pytest

from anomaly_lab.data.images import Decoding
from anomaly_lab.data.samples import Sample
from anomaly_lab.data.seen import Look, Seen, names_of

DECODING = Decoding(32, 3)
RANDOM = np.random.default_rng(0)


def photo(height=40, width=60, level=100, coloured=True):
    gray = RANDOM.integers(level - 8, level + 9, (height, width, 1))
    return (gray + np.array([-20, 0, 20] if coloured else [0, 0, 0])).astype(np.uint8)


def seen_of(folder, write, photos):
    samples = [Sample(write(folder / f"{i}.png", one), None, 0, "good", str(i)) for i, one in enumerate(photos)]
    return Seen.of(samples[:-1], samples[-1:], DECODING, 0), [sample.path for sample in samples]


def test_files_are_known_by_their_content(tmp_path, write):
    found, paths = seen_of(tmp_path, write, [photo() for _ in range(4)])
    names = names_of(paths)
    assert (found.trained, found.tested) == (set(names[:3]), {names[3]})
    copy = tmp_path / "renamed.png"
    copy.write_bytes(paths[0].read_bytes())
    assert names_of([copy]) == names[:1]
    assert Seen.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("trained", "new", "remark"),
    [
        ({}, {}, ""),
        ({}, {"level": 130}, ""),
        ({}, {"height": 60, "width": 40}, r"in shape (theirs is 60 x 40 px)"),
        ({}, {"height": 80, "width": 120}, r"in shape (theirs is 60 x 40 px)"),
        ({}, {"coloured": False}, "in channels (theirs are colour)"),
        ({"coloured": False}, {}, "in channels (theirs are gray)"),
        ({"level": 200}, {"level": 30}, "in value range (their mean gray is 200 to 200 of 255)"),
        ({"level": 30}, {"level": 120, "width": 90}, "in shape (theirs is 60 x 40 px), value range (their mean gray"),
    ],
)
def test_what_is_unlike_the_training_photos_is_said(tmp_path, write, trained, new, remark):
    found, _ = seen_of(tmp_path, write, [photo(**trained) for _ in range(3)])
    said = found.unlike(Look.of(*DECODING.read(photo(**new))))
    assert said == "" if not remark else said.startswith(f"unlike the training photos {remark}")


def test_photos_of_several_shapes_have_a_range(tmp_path, write):
    found, _ = seen_of(tmp_path, write, [photo(), photo(80, 90), photo(coloured=False), photo()])
    assert found.unlike(Look.of(*DECODING.read(photo(50, 70, coloured=False)))) == ""
    assert "shape (theirs is 60 x 40 to 90 x 80 px)" in found.unlike(Look.of(*DECODING.read(photo(50, 91))))


def test_labelled_defects_are_known_and_say_nothing_of_how_good_photos_look(tmp_path, write):
    looks = [photo(), photo(), photo(90, 80, level=220, coloured=False)]
    samples = [Sample(write(tmp_path / f"{i}.png", one), None, i // 2, "", str(i)) for i, one in enumerate(looks)]
    found, good = (Seen.of(samples[:number], [], DECODING, 0) for number in (3, 2))
    assert (found.least, found.largest) == (good.least, good.largest)
    assert found.trained == set(names_of([sample.path for sample in samples]))


LOOK = {"height": 40, "width": 60, "coloured": True, "level": 100.0}
FOUND = {"trained": ["0123456789abcdef"], "tested": [], "least": LOOK, "largest": LOOK}


@pytest.mark.parametrize(
    "found",
    [None, [], {}, "text", {"trained": [], "tested": []}, {"trained": 1}]
    + [{**FOUND, "trained": value} for value in ("x", [], {}, None, ["zz"], [5], ["0123456789ABCDEF"], [["0" * 16]])]
    + [{**FOUND, "tested": value} for value in ("x", {"0123456789abcdef": 1}, None, [5])]
    + [{**FOUND, "least": {**LOOK, name: value}} for name in LOOK for value in ("5", None, float("nan"), -1)]
    + [{**FOUND, "largest": {**LOOK, name: value}} for name, value in (("height", True), ("coloured", 1))]
    + [{**FOUND, "least": value} for value in (None, [40, 60, True, 100.0], {})],
)
def test_other_values_are_no_photos(found):
    assert Seen.from_json(FOUND).trained == {"0123456789abcdef"}
    with pytest.raises((ValueError, TypeError, LookupError)):
        Seen.from_json(found)
