"""Photos of a `select`: which do not count, and what the held-out ones support."""

import pytest

from anomaly_lab.report.photo_counts import Photos, supported, total, unused


def test_every_look_at_a_photo_counts():
    assert Photos(10, 2, 3, 4).seen == 10 + 16 + 7
    assert total({"bar": Photos(10, 2, 3, 4), "nut": Photos(1, 1, 0, 5)}) == Photos(11, 3, 3, 9)


@pytest.mark.parametrize(
    ("photos", "labels", "line"),
    [((5, 4), True, ""), ((0, 0), True, ""),
     ((5, 4), False, "labels=false: 4 defective and 5 good test photos are not used for the ranking"),
     ((5, 0), True, "5 good test photos are not used: there are no defective ones"),
     ((0, 4), True, "4 defective test photos are not used: put good ones beside them, such as test/good")],
)  # fmt: skip
def test_test_photos_that_do_not_count_are_named(photos, labels, line):
    assert unused({"bar": Photos(8, 2, *photos)}, labels) == line


def test_one_data_set_without_labels_leaves_those_of_the_others_unused():
    sets = {"bar": Photos(8, 2, 5, 4), "nut": Photos(8, 2, 3, 0), "cap": Photos(8, 2, 0, 2)}
    said = "without both kinds in nut, cap, all sets are ranked by painted defects"
    assert unused(sets, True) == f"6 defective and 8 good test photos are not used: {said}"
    assert unused(sets, False).startswith("labels=false: 6 defective")


def test_more_photos_are_held_out_in_the_same_share():
    assert Photos(40, 10, 3, 4).more(50) == Photos(80, 20, 3, 4)
    assert Photos(8, 3, 0, 0).more(50) == Photos(44, 17, 0, 0)  # 13.6 of 50
    assert [supported([Photos(8, held_out, 0, 0) for held_out in each]) for each in ((10,), (2, 2), (10, 2, 5))] == [
        "11", "3", "3 to 11",
    ]  # fmt: skip
