"""Which photos are found, in which order, and where what is said of them goes."""

import glob
import os
from pathlib import Path

import pytest

from anomaly_lab.core.errors import UserError
from anomaly_lab.evaluation.evaluation import SCORES as TESTED
from anomaly_lab.inference import sources
from anomaly_lab.inference.results import SCORES
from anomaly_lab.inference.sources import base_of, claim_folder, expand, find, new_folder, result
from anomaly_lab.runs.folder import refuse_unwritable


@pytest.fixture
def photos(tmp_path):
    """A tree of empty files; nothing opens them here."""
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "x/2.tif", "x/10.tif", "x/y/z.webp", "masks/m.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    return tmp_path / "photos"


def names(source, folder, out=Path("elsewhere")):
    return [path.relative_to(folder).as_posix() for path in find(str(source), out)]


def test_a_folder_is_walked_folder_by_folder_each_sorted(photos):
    assert names(photos, photos) == ["a.JPG", "b.png", "x/10.tif", "x/2.tif", "x/y/z.webp"]
    assert names(photos, photos, out=photos / "x") == ["a.JPG", "b.png"]  # what an earlier call wrote is no source
    assert names(photos / "x/2.tif", photos) == ["x/2.tif"]


def test_results_beside_the_photos_are_refused(photos):
    with pytest.raises(UserError, match="out: expected another folder than the photos, found .*photos"):
        find(str(photos), photos / "x/..")


def test_nothing_is_looked_for_before_it_is_wanted(photos):
    found = find(str(photos), Path("elsewhere"))
    next(found)
    (photos / "x/2.tif").unlink()
    (photos / "x/later.tif").touch()
    assert [path.name for path in found] == ["b.png", "10.tif", "later.tif", "z.webp"]


def test_links_lead_to_other_folders_once_and_dead_links_and_foreign_formats_are_reported(photos, tmp_path, capsys):
    (tmp_path / "store/deep").mkdir(parents=True)
    (tmp_path / "store/deep/s.png").touch()
    (tmp_path / "store/deep/back").symlink_to(tmp_path / "store")
    (photos / "linked").symlink_to(tmp_path / "store")
    (photos / "other").symlink_to(tmp_path / "store/deep")
    (photos / "x/again").symlink_to(photos)
    (photos / "dead.png").symlink_to(photos / "nowhere.png")
    (photos / "link.png").symlink_to(photos / "b.png")
    (photos / "phone.HEIC").touch()
    (photos / "@eaDir").mkdir()
    (photos / "@eaDir/b.png").touch()
    here = ["a.JPG", "b.png", "dead.png", "link.png", "phone.HEIC"]
    assert names(photos, photos) == [*here, "linked/deep/s.png", "x/10.tif", "x/2.tif", "x/y/z.webp"]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "1 left out as a folder of masks: photos/masks",
        "3 left out, because the link leads to a folder that is read already: photos/other, deep/back, x/again",
        "1 left out, because the content is no photo: photos/notes.txt",
    ]
    assert names(photos / "*.png", photos) == ["b.png", "dead.png", "link.png"]
    assert names(photos / "masks", photos) == ["masks/m.png"]


def test_a_folder_that_cannot_be_listed_is_told(photos, monkeypatch):
    real, told = os.scandir, []

    def scandir(path):
        if Path(path).name == "x":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [path.name for path in find(str(photos), Path("elsewhere"), told.append)] == ["a.JPG", "b.png"]
    assert [error.filename for error in told] == [str(photos / "x")]


@pytest.mark.parametrize(
    "pattern", ["*.png", "*", "**", "**/*.tif", "*/*", "**/*", "[ab]*", "x/**/*.webp", "none*", "x/"]
)
def test_expand_finds_what_glob_finds(photos, pattern, monkeypatch):
    for at in (str(photos / pattern), pattern):
        monkeypatch.chdir(photos)
        found = [str(path) for path in expand(at)]
        assert sorted(found) == sorted({path for path in glob.glob(at, recursive=True) if Path(path).is_file()})
    assert len(found) == {"*.png": 1, "**": 7, "**/*.tif": 2, "none*": 0, "x/": 0}.get(pattern, len(found))


def test_brackets_in_the_name_of_a_folder_are_no_wildcards(tmp_path):
    (tmp_path / "lot [7]").mkdir()
    (tmp_path / "lot [7]/a.png").touch()
    assert names(tmp_path / "lot [7]", tmp_path) == ["lot [7]/a.png"]
    assert names(tmp_path / "*/*.png", tmp_path) == ["lot [7]/a.png"]


def test_no_image_is_an_error(photos):
    for source in (photos / "none*", photos / "*/*.gif", photos / "nowhere"):
        with pytest.raises(UserError, match="source: expected an image file, a folder or a glob of images, found none"):
            find(str(source), Path("elsewhere"))


def test_results_repeat_the_tree_of_the_source(photos):
    assert base_of(str(photos)) == photos
    assert base_of(str(photos / "x/2.tif")) == photos / "x"
    assert base_of(str(photos / "*/2.tif")) == photos
    assert base_of("*.png") == Path()
    for source in (str(photos / "*/../x/*.tif"), str(photos / "x*/../../*.png")):
        with pytest.raises(UserError, match=r"source: expected no \.\. after the first wildcard"):
            base_of(source)
    assert result(Path("out"), photos / "x/2.tif", photos, ".png") == Path("out/x/2.png")
    assert result(Path("out"), Path("a.png"), base_of("*.png"), ".tiff") == Path("out/a.tiff")


def test_a_photo_keeps_its_suffix_where_another_has_its_stem(tmp_path):
    for name in ("a.png", "a.JPG", "b.png", "b.txt"):
        (tmp_path / name).touch()
    names = [result(tmp_path / "out", tmp_path / name, tmp_path, ".png").name for name in ("a.png", "a.JPG", "b.png")]
    assert names == ["a.png.png", "a.JPG.png", "b.png"]


def test_results_of_an_earlier_predict_are_left_out(tmp_path, photos, capsys):
    results = photos / "out"
    results.mkdir()
    (photos / "x/2.tif").rename(results / "2.tif")
    for header in (SCORES, TESTED):
        for name in ("scores.csv", "scores.csv.part"):
            (results / name).write_text(",".join(header) + "\n")
            for source in (photos, photos / "**/*.tif"):
                assert "2.tif" not in [path.name for path in find(str(source), tmp_path / "elsewhere")]
                assert "the folder holds results of predict or of a run: photos/out" in capsys.readouterr().out
            (results / name).unlink()
    for own in ("name,grade\nx.png,5\n", "", "path,run\n"):
        (results / "scores.csv").write_text(own)
        assert "2.tif" in [path.name for path in find(str(photos), tmp_path / "elsewhere")]
        assert "results" not in capsys.readouterr().out


def test_a_glob_leaves_out_what_its_folder_would(photos, capsys):
    for name in ("x/@eaDir/2.tif", "x/ground_truth/2.tif", "x/y/labels/z.tif", "x/y/z.tif", "lot/a.tif"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    (photos / "0link").symlink_to("x")
    (photos / "x/back").symlink_to("../lot")
    assert names(photos / "**/*.tif", photos) == ["lot/a.tif", "x/10.tif", "x/2.tif", "x/y/z.tif"]
    assert capsys.readouterr().out.splitlines() == [
        "2 left out, because the link leads to a folder that is read already: photos/0link, x/back",
        "3 left out as a folder of masks: photos/masks, x/ground_truth, y/labels",
    ]
    assert names(photos / "**/*", photos) == [*names(photos, photos)[:2], "notes.txt", *names(photos, photos)[2:]]
    assert names(photos / "*/ground_truth/*.tif", photos) == ["x/ground_truth/2.tif"]
    assert names(photos / "0link/*.tif", photos) == ["0link/10.tif", "0link/2.tif"]
    assert names(photos / "[0z]*/*.tif", photos) == ["0link/10.tif", "0link/2.tif"]
    (photos / "1link").symlink_to("x")
    assert names(photos / "[01]*/*.tif", photos) == ["0link/10.tif", "0link/2.tif"]
    assert names(photos / "*" / "*.tif", photos) == ["lot/a.tif", "x/10.tif", "x/2.tif"]


def test_long_names_are_cut_and_told_apart(tmp_path):
    long = [tmp_path / f"{'ö' * 120}{last}.png" for last in "ab"]
    targets = [result(tmp_path / "out", path, tmp_path, ".tiff") for path in long]
    assert len(set(targets)) == 2
    assert all(len(os.fsencode(target.name)) <= 230 for target in targets)
    assert all(target.name.startswith("ö" * 90) and target.suffix == ".tiff" for target in targets)
    assert result(tmp_path, tmp_path / ("x" * 225), tmp_path, ".tiff").name == f"{'x' * 225}.tiff"


def test_results_get_a_folder_of_their_own(tmp_path):
    assert new_folder(tmp_path, "photos/*.png") == tmp_path / "images"
    assert new_folder(tmp_path, "..") == tmp_path / "images"
    assert new_folder(tmp_path, "photos") == tmp_path / "photos"
    (tmp_path / "photos").mkdir()
    assert new_folder(tmp_path, "a/photos") == tmp_path / "photos-2"


def test_every_process_gets_a_folder_of_its_own(tmp_path, monkeypatch):
    assert claim_folder(tmp_path / "predictions", "photos") == tmp_path / "predictions" / "photos"
    taken = iter([tmp_path / "predictions" / "photos", tmp_path / "predictions" / "photos-2"])
    monkeypatch.setattr(sources, "new_folder", lambda *_: next(taken))  # as another process sees it that took the first
    assert claim_folder(tmp_path / "predictions", "photos").name == "photos-2"


def test_a_folder_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="runs_dir: expected a folder that can be written, found .*/a/x{300}/b"):
        refuse_unwritable(tmp_path / "a" / ("x" * 300) / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    refuse_unwritable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("IMG.jpg IMG.png IMG.jpg.png", "IMG.jpg.png IMG.png.png IMG.jpg.png.png"),
        ("a.jpg a.jpg.png a.jpg.png.png", "a.png a.jpg.png.png a.jpg.png.png.png"),
        ("b.Jpg b.Png", "b.Jpg.png b.Png.png"),
        ("c.jpg C.JPG", "c.jpg.png C.JPG.png"),
        ("d.jpg d.txt d.jpg.bak", "d.png d.txt.png d.jpg.bak.png"),
        ("e.v1.png e.v2.png e.png", "e.v1.png e.v2.png e.png"),
    ],
)
def test_no_two_photos_share_a_result(tmp_path, names, expected):
    paths = [tmp_path / name for name in names.split()]
    for path in paths:
        path.touch()
    found = [result(tmp_path / "out", path, tmp_path, ".png").name for path in paths]
    assert found == expected.split()
    assert len(set(found)) == len(found)
