"""Figures for papers: which photos, what is read from the pictures of a run, and what stands in the axes."""

import json
from pathlib import Path

import numpy as np
import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_csv
from anomaly_lab.evaluation import drawing
from anomaly_lab.metrics.thresholds import Threshold
from anomaly_lab.report.figures import GREEN, ORANGE, FigureRequest, chosen, figure_of, tiles_of
from anomaly_lab.report.groups import group
from anomaly_lab.runs.collect import Image, Key, Run, collect
from tests.report.synthetic import write_run

NAMES = ("vae:V $x_1$", "cae")
LINE = Threshold("false_alarms", "score", 1.2, 1.2, 0.001, 9)


def panel_of(i, reconstruction=True):
    """The panel of a photo of 20 x 30 px whose defect lies in row `i`, as a run draws it."""
    random = np.random.default_rng(i)
    photo = random.integers(1, 200, (20, 30, 3), dtype=np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[i % 10 : i % 10 + 6, 5:12] = True
    return drawing.Panel("", photo, photo // 2 if reconstruction else None,
                         random.random((20, 30), dtype=np.float32) + mask, mask, LINE)  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """Three methods, two of which have pictures of the first 9 images, in colour and in gray."""
    for method in ("cae", "vae", "ganomaly"):
        folder = write_run(tmp_path, method=method, aupro=0.7, images=20)
        for i in range(1, 9, 2):
            shown = panel_of(i, reconstruction=method == "cae")
            if method == "vae":
                gray = np.repeat(shown.image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
                shown = shown._replace(image=gray)
            name = f"{('scratch', 'hole')[i % 4 // 2]}_{i:03d}"
            if method != "ganomaly":
                drawing.write_picture(folder / "pictures" / f"{name}.png", shown.draw(0, 2))
    return group(collect([tmp_path]))


@pytest.mark.parametrize("reconstruction", [True, False])
def test_a_picture_is_taken_apart_as_it_was_put_together(tmp_path, reconstruction):
    assert (GREEN, ORANGE) == (drawing.GREEN, drawing.ORANGE)
    panel = panel_of(3, reconstruction)
    drawing.write_picture(tmp_path / "a.png", panel.draw(0, 2))
    tiles = tiles_of(tmp_path / "a.png")
    np.testing.assert_array_equal(tiles.photo, panel.image)
    np.testing.assert_array_equal(tiles.overlay, drawing.overlay(panel.image, panel.anomaly_map, 0, 2))
    edge = panel.mask.copy()
    edge[4:8, 6:11] = False  # the inside of the defect, which lies in rows 3 to 8 and columns 5 to 11
    np.testing.assert_array_equal(tiles.mask, edge)


def test_other_pictures_are_refused(tmp_path):
    drawing.write_picture(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (8, 36, 3), dtype=np.uint8))
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert tiles_of(tmp_path / "a.png") is tiles_of(tmp_path / "b.png") is None


def test_photos_are_chosen_by_name_or_by_rank():
    images = [Image(f"{defect}/{i}", defect, 1) for defect in ("cut", "hole") for i in range(3)]
    first, second = ([0.1, 0.5, 0.9, 0.2, 0.6, 0.4], [10, 50, 90, 60, 20, 40])  # ranks 1 4 6 2 5 3, and 1 4 6 5 2 3
    key = Key("a", "cae", "b", "c", "0")
    runs = {str(i): Run(Path(), "", key, "done", images=images, decision_scores=scores)
            for i, scores in enumerate((first, second))}  # fmt: skip
    files = [dict.fromkeys(images, Path()), dict.fromkeys(images[1:], Path())]  # the second run has no picture of cut/0

    def names(choose):
        return [image.name for image in chosen(runs, files, choose)]

    assert names("first") == ["cut/1", "hole/0", "cut/2", "hole/1", "hole/2"]
    assert names("worst") == ["hole/2", "hole/0", "hole/1", "cut/1", "cut/2"]  # mean ranks 3, 3.5, 3.5, 4, 6
    assert names("best") == ["cut/2", "cut/1", "hole/0", "hole/1", "hole/2"]
    assert names("random") == names("random")
    assert sorted(names("random")) == sorted(names("first"))
    assert chosen({}, [], "first") == []


def test_the_same_photos_stand_beside_each_other(runs, caplog):
    caplog.set_level("INFO", "anomaly_lab")
    panel = figure_of(runs, FigureRequest("photos", photos=2), NAMES)
    assert caplog.messages == ["figure: left out, no pictures/ (callbacks.pictures=null): ganomaly on screw"]
    assert [axes.get_title() for axes in panel.axes] == ["photo", "mask", "V $x_1$", "cae", *[""] * 4]
    assert [panel.axes[i].get_ylabel() for i in (0, 4)] == ["hole\n003.png", "scratch\n001.png"]
    for row, i in enumerate((3, 1)):
        photo, mask, _, cae = (axes.images[0].get_array() for axes in panel.axes[4 * row : 4 * row + 4])
        shown = panel_of(i)
        np.testing.assert_array_equal(photo, shown.image)  # in colour, though the first method sees gray
        np.testing.assert_array_equal(cae, drawing.overlay(shown.image, shown.anomaly_map, 0, 2))
        changed = (mask != photo).any(axis=2)
        assert changed[i % 10, 5]
        assert not changed[:, 15:].any()


def test_curves_are_those_of_the_files(runs):
    for row in runs.rows[1:]:  # all but cae
        (run,) = runs.cells[row, runs.columns[0]]
        write_csv(run.folder / "curves/image_roc.csv", ("x", "y", "threshold"), [(0, 0.5, 1), (0.25, 1, 0), (1, 1, 0)])
    panel = figure_of(runs, FigureRequest("curves"), NAMES)
    assert [axes.get_title(loc="left") for axes in panel.axes] == ["screw: ROC of images", "screw: PRO"]
    _, vae, cae, _ = panel.axes[0].lines  # the first is chance
    np.testing.assert_array_equal(vae.get_xydata(), [(0, 0.5), (0.25, 1), (1, 1)])
    assert np.isnan(cae.get_xydata()).all()
    looks = {(line.get_color(), line.get_linestyle()) for line in panel.axes[1].lines}
    assert len(looks) == len(panel.axes[1].lines) == 3
    legend = panel.axes[1].get_legend()
    assert legend.get_title().get_text() == "area: image AUROC | AU-PRO"
    assert [text.get_text().split("  ")[0] for text in legend.get_texts()] == ["V $x_1$", "cae", "ganomaly"]
    assert all(text.get_text().endswith("| .700") for text in legend.get_texts())


def test_figures_of_runs_that_knew_defective_photos_say_so(runs, tmp_path):
    for file in list(tmp_path.rglob("metrics.json")):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"protocol": "weakly_supervised"}))
    known = group(collect([tmp_path]))
    panel = figure_of(known, FigureRequest("curves"), NAMES)
    assert panel.axes[0].get_title(loc="left") == "screw, weakly supervised: PRO"
    panel = figure_of(known, FigureRequest("photos", photos=1), NAMES)
    assert panel.axes[0].get_ylabel() == "screw, weakly\nsupervised\nhole\n003.png"


@pytest.mark.slow
def test_a_figure_is_the_same_file_every_time(runs, tmp_path):
    for name, suffix in (("a", ".svg"), ("b", ".svg"), ("c", ".pdf"), ("d", ".png")):
        figure_of(runs, FigureRequest("curves"), NAMES).write(tmp_path / name, suffix)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    for name, start in (("a", b"<?xml"), ("c", b"%PDF"), ("d", b"\x89PNG")):
        assert (tmp_path / name).read_bytes().startswith(start)


def test_without_a_picture_there_is_no_figure(tmp_path):
    write_run(tmp_path)
    with pytest.raises(
        UserError, match="expected runs with pictures/, found none; run them without callbacks.pictures=null"
    ):
        figure_of(group(collect([tmp_path])), FigureRequest("photos"))
