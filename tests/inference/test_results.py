"""What `predict` writes: rows, pictures and maps for photos and names of any kind, in memory that does not grow."""

import csv
import gc
import os
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.placement import place
from anomaly_lab.evaluation.drawing import ORANGE
from anomaly_lab.inference import results
from anomaly_lab.inference.detector import Detector
from anomaly_lab.inference.results import doubt, write_results
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.control import Control
from anomaly_lab.metrics.thresholds import Threshold


class Remarking(Control):
    """Says something about dark photos."""

    def forward(self, images, placement=()):
        prediction = super().forward(images, placement)
        return prediction._replace(remarks=tuple("dark" if score < 0.2 else "" for score in prediction.score))


def detector(
    kind="brightness", channels=1, threshold=0.5, batch_size=4, workers=0, size=32, localises=True, **decoding
):
    """Score and map of a photo: its brightness, or what else the control says; without any training."""
    method = Remarking(WholeImage(), size, channels, kind).eval()
    method.localises = localises
    line = Threshold("false_alarms", "score", threshold, threshold, 0.001, 1)
    return Detector(method, line, Decoding(size, channels, **decoding), batch_size, workers)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def judge(folder, out, maps=False, pictures=False, **detectors):
    photos = sorted(path for path in folder.rglob("*") if path.is_file())
    write_results(detectors or {"control": detector()}, photos, folder, out, maps, pictures)
    return rows_of(out / "scores.csv")


@pytest.mark.parametrize("resize", ["pad", "shrink", "stretch", "crop"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 90), (300, 2), (33, 70), (32, 32)])
def test_photos_of_any_size_get_maps_of_their_size(tmp_path, write, height, width, resize):
    write(tmp_path / "photos/a.png", np.full((height, width), 51, np.uint8))
    (row,) = judge(tmp_path / "photos", tmp_path / "out", maps=True, pictures=True, control=detector(resize=resize))
    assert float(row["score"]) == pytest.approx(0.2, abs=1e-6)
    found = tifffile.imread(tmp_path / "out/maps/a.tiff")
    assert (found.shape, found.dtype) == ((height, width), np.float32)
    assert found == pytest.approx(np.full((height, width), 0.2), abs=1e-6)
    assert cv2.imread(str(tmp_path / "out/pictures/a.png")) is not None


def test_one_number_a_photo_is_neither_drawn_nor_written_as_a_map(tmp_path, write, capsys):
    photo = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    write(tmp_path / "photos/a.png", photo)
    blind = {"localises": False, "channels": 3, "threshold": 0.01}
    judge(tmp_path / "photos", tmp_path / "out", maps=True, pictures=True, control=detector(**blind))
    out = capsys.readouterr().out
    assert "; scores and pictures: " in out
    assert "maps: none of control, whose method has one number a photo and no map" in out
    assert not (tmp_path / "out/maps").exists()
    picture = cv2.imread(str(tmp_path / "out/pictures/a.png"))[:, :, ::-1]
    drawn = picture[-171:, :256]  # 48 x 32 at a longer side of 256 px: the photo alone, without an outline
    assert picture.shape[1] == 512  # room for the caption
    assert not picture[-170:, 256:].any()
    assert not (drawn == ORANGE).all(axis=2).any()
    judge(tmp_path / "photos", tmp_path / "two", maps=True, seeing=detector(), blind=detector(**blind))
    assert "; scores and maps: " in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "two/maps").iterdir()] == ["seeing"]


def test_maps_lie_where_the_photo_is_and_padding_is_cut_away(tmp_path, write):
    photo = np.zeros((16, 32), np.uint8)
    photo[4:8, 20:28] = 255
    write(tmp_path / "photos/deep/a.png", photo)
    differing = detector("mean_image")  # of no images: the map is the squared photo
    judge(tmp_path / "photos", tmp_path / "out", maps=True, control=differing)
    assert np.array_equal(tifffile.imread(tmp_path / "out/maps/deep/a.tiff"), (photo / 255.0).astype(np.float32))
    assert not (tmp_path / "out/pictures").exists()


HOSTILE = [
    b"a.png", b"a.jpg", b"line\nbreak.png", b"quote\".png", b"comma,semi;.png", b"-dash.png", b" space .png",
    b"\xff\xfe.png", b"\xfd.png", b"\x1b[31mred.png", b"%s{0}.png", b"*[x]?.png", b"=1+1.png", "größe.png".encode(),
    b"x" * 251 + b".png", b"x" * 250 + b"y.png", b"scores.csv/a.png", b"maps/a.png", b"...png", b"$(ls).png",
]  # fmt: skip


def test_hostile_names(tmp_path, capsys):
    png = cv2.imencode(".png", np.full((8, 8), 30, np.uint8))[1].tobytes()
    folder = os.fsencode(tmp_path / "photos")
    for name in HOSTILE:
        path = Path(os.fsdecode(folder + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    (tmp_path / "photos/bad\n\x1b[31m\udcff.png").write_bytes(b"junk")
    with pytest.raises(UserError, match="1 of 21 files could not be read") as error:
        judge(tmp_path / "photos", tmp_path / "out", maps=True, pictures=True)
    assert str(error.value).isprintable()
    assert r"bad\n\x1b[31m\udcff.png: expected a readable image" in str(error.value)
    rows = rows_of(tmp_path / "out/scores.csv")
    expected = {os.fsdecode(name).encode(errors="backslashreplace").decode() for name in HOSTILE}
    assert {row["path"].removeprefix(f"{tmp_path}/photos/") for row in rows} == expected
    assert [row["reason"].partition(": ")[2][:27] for row in rows_of(tmp_path / "out/unreadable.csv")] == [
        "expected a readable image, f"[:27]
    ]
    for kind, suffix in (("maps", "*.tiff"), ("pictures", "*.png")):
        assert len([path for path in (tmp_path / "out" / kind).rglob(suffix) if path.is_file()]) == len(HOSTILE)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"20 images scored, 0 abnormal; scores and pictures and maps: {tmp_path / 'out'}"
    assert told[1].startswith("20 dark: ")
    assert told[2].startswith("All 20 photos have the same score")  # they are one photo
    assert told[3:] == ["The threshold comes from 1 good image. It cannot guarantee a false alarm rate below 1 in 2."]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "maps", "pictures", "scores.csv", "unreadable.csv"
    ]  # fmt: skip


def test_many_unreadable_files_are_counted_and_the_first_named(tmp_path, write):
    whole = write(tmp_path / "photos/whole.png", np.full((64, 64), 200, np.uint8))
    for number in range(7):
        (tmp_path / f"photos/cut{number}.png").write_bytes(whole.read_bytes()[: 40 + number])
    (tmp_path / "photos/empty.png").touch()
    with pytest.raises(UserError, match=r"8 of 9 files could not be read, see .*unreadable.csv: ") as error:
        judge(tmp_path / "photos", tmp_path / "out")
    assert sum(f"cut{number}.png" in str(error.value) for number in range(7)) == 5
    unreadable = rows_of(tmp_path / "out/unreadable.csv")
    assert len(unreadable) == 8
    assert unreadable[-1]["reason"].endswith("expected a readable image, found: empty file")
    (row,) = rows_of(tmp_path / "out/scores.csv")
    assert (row["path"], row["run"], row["decision"]) == (str(whole), "control", "abnormal")

    for number in range(7):
        (tmp_path / f"photos/cut{number}.png").unlink()
    (tmp_path / "photos/empty.png").unlink()
    judge(tmp_path / "photos", tmp_path / "out")
    assert not (tmp_path / "out/unreadable.csv").exists()  # no longer true


def test_folders_that_could_not_be_listed_and_photos_that_are_all_abnormal_are_named(tmp_path, write, capsys):
    photo = write(tmp_path / "photos/a.png", np.zeros((8, 8), np.uint8))
    runs = {"dark": detector(threshold=0.0), "other": detector()}
    refused = [PermissionError(13, "Permission denied", "photos/secret")]
    with pytest.raises(
        UserError, match="0 of 3 files and 1 folders could not be read.*photos/secret: expected a folder"
    ):
        write_results(runs, [photo] * 3, photo.parent, tmp_path / "out", False, False, refused)
    assert [line for line in capsys.readouterr().out.splitlines() if "camera" in line] == [f"dark: {doubt(3, 3)}"]
    assert rows_of(tmp_path / "out/unreadable.csv")[0]["path"] == "photos/secret"


def test_an_interruption_keeps_the_rows_and_the_earlier_table(tmp_path, write, monkeypatch):
    for number in range(6):
        write(tmp_path / f"photos/{number}.png", np.full((8, 8), 40 * number, np.uint8))
    before = judge(tmp_path / "photos", tmp_path / "out")

    def interrupted(*arguments):
        if arguments[1].name == "4.png":
            raise KeyboardInterrupt
        return Path(tmp_path / "out/pictures", arguments[1].name)

    monkeypatch.setattr(results, "result", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted: 4 images scored, see .*scores\.csv\.part"):
        judge(tmp_path / "photos", tmp_path / "out", pictures=True, control=detector(batch_size=2))
    assert rows_of(tmp_path / "out/scores.csv") == before
    assert rows_of(tmp_path / "out/scores.csv.part") == before[:5]


def test_several_runs_share_the_reading_and_the_picture(tmp_path, write, monkeypatch):
    photo = np.zeros((20, 40, 3), np.uint8)
    photo[:, :20] = 250
    write(tmp_path / "photos/a.png", photo)
    write(tmp_path / "photos/small.png", np.full((10, 10), 250, np.uint8))
    reads = []
    real = Decoding.read
    monkeypatch.setattr(Decoding, "read", lambda self, path: (reads.append(path.name), real(self, path))[1])
    runs = {
        "gray": detector(threshold=0.6),
        "again": detector(threshold=0.1),
        "left": detector(channels=3, region=[0, 0, 20, 20]),
    }
    with pytest.raises(UserError, match="1 of 2 files could not be read.*small.png: expected data.region"):
        judge(tmp_path / "photos", tmp_path / "out", maps=True, pictures=True, **runs)
    # Of three runs two share a decoding; in their pictures the photo has its colours.
    assert sorted(reads) == ["a.png"] * 3 + ["small.png"] * 3
    rows = {(Path(row["path"]).name, row["run"]): row for row in rows_of(tmp_path / "out/scores.csv")}
    assert {key: row["decision"] for key, row in rows.items()} == {
        ("a.png", "gray"): "normal", ("a.png", "again"): "abnormal", ("a.png", "left"): "abnormal",
        ("small.png", "gray"): "abnormal", ("small.png", "again"): "abnormal",
    }  # fmt: skip
    assert float(rows["a.png", "left"]["score"]) == pytest.approx(250 / 255)
    assert float(rows["a.png", "gray"]["score"]) == pytest.approx(125 / 255, abs=2e-3)
    maps = {path.relative_to(tmp_path / "out/maps").as_posix() for path in (tmp_path / "out/maps").rglob("*.tiff")}
    assert maps == {f"{run}/a.tiff" for run in runs} | {"gray/small.tiff", "again/small.tiff"}

    drawn = cv2.imread(str(tmp_path / "out/pictures/a.png"))[:, :, ::-1].astype(int)
    strip, side = 62, 256
    assert drawn.shape == (strip + side, 4 * side, 3)  # the region is square, the whole photo twice as wide as high
    tiles = [drawn[strip:, side * number : side * (number + 1)] for number in range(4)]
    assert (tiles[0][128:] == 0).all()  # the whole photo, below it nothing
    assert tiles[0][:128, 0].sum() > tiles[0][:128, 255].sum()
    assert (tiles[3] == 250).mean() > 0.9  # the region of the last run, and its outline
    captions = [drawn[:strip, side * number : side * (number + 1)] for number in range(4)]
    assert all(caption.max() > 200 for caption in captions)
    coloured = [bool((caption.max(axis=2) - caption.min(axis=2)).max() > 50) for caption in captions]
    assert coloured == [False, False, True, True]  # what is abnormal stands out
    small = cv2.imread(str(tmp_path / "out/pictures/small.png"))
    assert (small[strip:, 3 * side :] == 0).all()  # the run that could not read it


def peak(count, out, monkeypatch):
    """Memory at most, in bytes, while so many photos are judged; every tenth is unreadable, every one has a remark."""
    image, placement = np.zeros((1, 8, 8), np.uint8), place(8, 8, 8, "pad")

    def read(decoding, path):
        if path.name.endswith("0.png"):
            raise UserError(f"{path}: expected an image, found junk")
        return image, placement

    monkeypatch.setattr(Decoding, "read", read)
    photos = (Path(f"photos/{number}.png") for number in range(count))
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=f"{count // 10} of {count} files could not be read"):
            write_results({"a": detector(size=8, batch_size=64)}, photos, Path("photos"), out, False, False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photos(tmp_path, monkeypatch):
    few, many, bound = 200, 2_000, 100_000  # photos, photos, bytes
    peak(200, tmp_path / "warm", monkeypatch)
    before, after = (peak(count, tmp_path / str(count), monkeypatch) for count in (few, many))
    assert len(rows_of(tmp_path / f"{many}/scores.csv")) == many * 9 // 10
    assert after - before < bound < (many - few) * 200  # what a list of paths would take


def test_several_photos_of_one_score_are_told(tmp_path, write, capsys):
    for number in range(4):
        write(tmp_path / f"photos/{number}.png", np.full((8, 8), 51, np.uint8))
    judge(tmp_path / "photos", tmp_path / "out")
    assert "All 4 photos have the same score, 0.2: the method cannot tell them apart" in capsys.readouterr().out
    write(tmp_path / "photos/3.png", np.full((8, 8), 52, np.uint8))
    judge(tmp_path / "photos", tmp_path / "out")
    assert "the same score" not in capsys.readouterr().out


def test_pictures_and_maps_of_photos_that_are_gone_are_told(tmp_path, write, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a", "b", "c"):
        write(photos / f"{name}.png", np.full((32, 32), 51, np.uint8))
    judge(photos, out, maps=True, pictures=True)
    assert "earlier" not in capsys.readouterr().out
    for path in out.rglob("*"):
        os.utime(path, (path.stat().st_mtime - 60,) * 2)
    (photos / "b.png").unlink()
    assert [Path(row["path"]).name for row in judge(photos, out, maps=True, pictures=True)] == ["a.png", "c.png"]
    assert f"out: 2 pictures or maps in {out} are of an earlier predict" in capsys.readouterr().out


class Lost(Remarking):
    """Says NaN, or infinity, of dark photos: in the score, in the map or in both."""

    score, value = 0.0, 0.0

    def forward(self, images, placement=()):
        prediction = super().forward(images, placement)
        dark = prediction.score < 0.2
        maps = prediction.anomaly_map.clone()
        maps[dark, :, 0, 0] = self.value
        return prediction._replace(anomaly_map=maps, score=torch.where(dark, self.score, prediction.score))


@pytest.mark.parametrize(
    ("score", "value"), [(np.nan, 0.0), (0.1, np.nan), (np.inf, 0.0), (-np.inf, 0.0), (0.1, -np.inf), (np.nan, np.nan)]
)
def test_a_score_or_a_map_that_is_no_number_is_an_error_and_never_normal(tmp_path, write, score, value):
    lost = detector()
    lost.method.__class__, lost.method.score, lost.method.value = Lost, score, value
    dark = write(tmp_path / "photos/dark.png", np.full((32, 32), 20, np.uint8))
    write(tmp_path / "photos/light.png", np.full((32, 32), 90, np.uint8))
    with pytest.raises(UserError, match="1 of 2 files could not be read, .*finite map and score, found NaN or infin"):
        judge(tmp_path / "photos", tmp_path / "out", control=lost)
    assert [Path(row["path"]).name for row in rows_of(tmp_path / "out/scores.csv")] == ["light.png"]
    with pytest.raises(UserError, match="expected a finite map and score, found NaN or infinity"):
        lost.predict(dark)
