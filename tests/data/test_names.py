"""What names mean."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from anomaly_lab.config.overrides import as_people_write
from anomaly_lab.data.names import (
    as_typed,
    category_of,
    is_good,
    is_masks,
    is_system,
    may_be_masks,
    photo_of,
    photo_of_several,
    speaks_of_defects,
    speaks_of_good,
)  # fmt: skip


def test_data_sets_of_different_folders_have_different_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    roots = ["part.v1", "part.v2", "lineA/part", "lineB/part", "../part", "../../part", "/a/june/part", "/b/june/part",
             "~/part", ".", "..", "part.csv", "lineA/part.csv"]  # fmt: skip
    names = [category_of(root) for root in roots]
    assert names[:4] == ["part.v1", "part.v2", "lineA-part", "lineB-part"]
    assert len(set(names[:-2])) == len(names) - 2
    assert names[-2:] == ["part", "lineA-part"]
    assert names[6].startswith("june-part-")
    assert not any("/" in name or name.startswith(".") for name in names)
    assert category_of("lineA/part/") == category_of("./lineA/x/../part") == "lineA-part"
    assert category_of("..") == category_of(str(Path("..").resolve()))


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        (is_good, "good Good OK NORMAL pass 0", "goods 1 okay intact"),
        (is_masks, "mask MASKS gt GT ground_truth Ground-Truth groundtruth", "masked gts truth ground"),
        (is_system, ".hidden @eaDir __MACOSX $RECYCLE.BIN lost+found", "eaDir recycle"),
        (may_be_masks, "label Labels annotations SEG segmentation", "mask labelled annotated segment good"),
        (speaks_of_defects, "ng_parts ng defekt scrap-1 ko NG_0 not_ok Ausschuss no_good",
         "bang ring kodak undamaged no_defect defect-free non-defective ohne_fehler reworked rework-station"),
        (speaks_of_good, "OK_2 good_rotated good-2024 Good NORMAL_1", "not_ok abnormal ng_ok goods book_1 intact"),
        (lambda stem: photo_of(stem) == "0", "0_mask 0_GT 0-label 0.gt 0_groundtruth 0mask label_0 mask_0 gt-0 0_seg "
         "0_anno 0_annotation 0_labels 0-segmentation mask0", "mask 0_masked 0_m 0_defect masked_0"),
        (lambda stem: photo_of_several(stem) == "0", "0_mask_1 0_mask2 0_GT-03 0-label.1 0_mask(2) 0_mask_(2) mask_0_1",
         "0_mask 0 0_1 mask_0 0_m_1 mask_1 0_1_mask"),
    ],
)  # fmt: skip
def test_names_are_whole_words_in_any_case(rule, yes, no):
    assert [bool(rule(name)) for name in yes.split()] == [True] * len(yes.split())
    assert [bool(rule(name)) for name in no.split()] == [False] * len(no.split())


@pytest.mark.parametrize("names", [["intact"], ["良", "gut ü"], ["it's", 'a "b"'], ["a,b", "[c]"], ["$(rm) & x"]])
def test_a_proposed_word_comes_back_from_a_shell(names):
    (word,) = as_people_write(shlex.split(as_typed(names)))
    assert OverridesParser.create().parse_overrides([word])[0].value() == names
