"""`Detector.load(run).predict(image)` says what the run's own test said, whichever way the photo comes."""

import csv
import re
import shutil
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import anomaly_lab
from anomaly_lab.core.errors import UserError
from anomaly_lab.data.images import Decoding
from anomaly_lab.inference.detector import Detector, PhotoPrediction
from anomaly_lab.runs.collect import Key
from tests.conftest import ROOT
from tests.inference.test_results import detector

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (40, 60, 3), np.uint8)


def as_array(path):
    """A file as an array, read by other libraries than ours."""
    if path.suffix == ".tif":
        return tifffile.imread(path)
    image = Image.open(path)
    return np.asarray(image if image.mode != "P" else image.convert("RGB"))


@pytest.mark.slow
def test_path_pillow_and_array_say_what_the_test_said(lab, toy, parts, tmp_path, write, monkeypatch):
    good = parts / "test/good"
    wide = RANDOM.integers(0, 65536, (90, 150), np.uint16)
    write(good / "gray16.png", wide)
    tifffile.imwrite(good / "colour16.tif", RANDOM.integers(0, 65536, (70, 80, 3), np.uint16), photometric="rgb")
    tifffile.imwrite(good / "float.tif", RANDOM.random((60, 50), np.float32))
    Image.fromarray(np.dstack([COLOURS, COLOURS[:, :, 0]])).save(good / "alpha.png")
    Image.fromarray(COLOURS).quantize(16).save(good / "palette.png")
    Image.fromarray(COLOURS).save(good / "photo.jpg", quality=80)
    words = (word for word in toy if word != "callbacks.anomaly_maps=null")
    lab(*words, "method=control", "method.kind=mean_image", "trainer.max_epochs=1", "threshold=area",
        "data.region=[5,3,40,30]")  # fmt: skip
    (run,) = (path.parent for path in (tmp_path / "runs").rglob("metrics.json"))
    with (run / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16

    judge = Detector.load(run, device="cpu")
    paths = [good.parent / row["path"].split("/test/")[1] for row in rows]
    for row, path, whole in zip(rows, paths, judge.predict(paths), strict=True):
        ways = [whole, judge.predict(str(path)), judge.predict(as_array(path))]
        if path.name != "colour16.tif":  # of which Pillow reads nothing
            ways.append(judge.predict(Image.open(path)))
        stored = next((run / "maps").iterdir()) / "test" / path.parent.name / f"{path.stem}.tiff"
        for said in ways:
            assert said.score == pytest.approx(float(row["score"]), abs=1e-6)
            assert said.decision_score == pytest.approx(float(row["decision_score"]), abs=1e-6)
            assert said.threshold == float(row["threshold"])
            assert said.is_abnormal == (row["decision"] == "abnormal") == (said.decision_score >= said.threshold)
            assert said.anomaly_map.dtype == np.float32
            np.testing.assert_allclose(said.anomaly_map, tifffile.imread(stored), rtol=0, atol=1e-6)
            assert said.remark == whole.remark
    assert {row["decision"] for row in rows} == {"normal", "abnormal"}

    # The example of docs/inference.md, as it stands, beside such a run.
    section = (ROOT / "docs" / "inference.md").read_text().partition("## Predict from Python")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    named = re.search(r'Detector\.load\("(.+?)"\)', code)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / named).parent.mkdir(parents=True)
    shutil.copytree(run, tmp_path / named)
    for photo in ("part.png", "left.png", "right.png"):
        write(tmp_path / "new_photos" / photo, RANDOM.integers(0, 255, (80, 60, 3), np.uint8))
    scope = {}
    exec(code, scope)
    assert isinstance(scope["prediction"], PhotoPrediction)
    assert scope["defect"].shape == (80, 60)
    assert [said.is_abnormal for said in scope["predictions"]] == [True, True]

    # Weights of another method.
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["state_dict"] = {"network.weight": torch.zeros(1)}
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    with pytest.raises(
        UserError, match="last.ckpt: expected the weights of the Control that .* found others; .*rerun="
    ):
        Detector.load(run, device="cpu")


def test_a_photo_is_left_as_it_is_and_lists_are_answered_in_order():
    judge = detector(batch_size=2, workers=2)
    photos = [np.full((8, 8 + number), 40 * number, np.uint8) for number in range(5)]
    kept = [photo.copy() for photo in photos]
    said = judge.predict(photos)
    assert [round(one.score, 4) for one in said] == [round(40 * number / 255, 4) for number in range(5)]
    assert [one.anomaly_map.shape for one in said] == [photo.shape for photo in photos]
    assert [one.is_abnormal for one in said] == [False, False, False, False, True]
    assert [one.remark for one in said] == ["dark", "dark", "", "", ""]
    assert all(np.array_equal(photo, before) for photo, before in zip(photos, kept, strict=True))
    assert judge.predict(tuple(photos))[3].score == said[3].score
    assert judge.predict([]) == []
    image = Image.fromarray(COLOURS)
    alike = judge.predict([image, COLOURS, image.convert("RGBA"), np.dstack([COLOURS, COLOURS[:, :, 0]])])
    assert len({one.score for one in alike}) == 1
    turned = image.copy()
    turned.getexif()[0x0112] = 6
    assert judge.predict(turned).anomaly_map.shape == (60, 40)
    assert turned.getexif()[0x0112] == 6


def test_a_folder_and_a_glob_are_answered_photo_by_photo(tmp_path, write):
    for name in ("b.png", "a.png", "deep/c.png"):
        write(tmp_path / name, COLOURS)
    asked = detector("brightness", size=32, channels=3)
    below = [said.path.relative_to(tmp_path).as_posix() for said in asked.predict(tmp_path)]
    assert below == ["a.png", "b.png", "deep/c.png"]
    assert [said.path.name for said in asked.predict(str(tmp_path / "*.png"))] == ["a.png", "b.png"]
    assert asked.predict(tmp_path / "a.png").path == tmp_path / "a.png"
    for nothing in (tmp_path / "deep/none*", tmp_path / "none.png"):
        with pytest.raises(UserError):
            asked.predict(nothing)


def test_photos_that_cannot_be_read_stop_a_folder_or_are_skipped_with_a_warning(tmp_path, write, caplog):
    for name in ("a.png", "c.png"):
        write(tmp_path / name, COLOURS)
    (tmp_path / "b.png").write_bytes(b"junk")
    asked = detector(channels=3)
    with pytest.raises(UserError, match=r"photo 2 of 3: .*b\.png: expected a readable image.*on_error='skip' leaves"):
        asked.predict(tmp_path)
    assert [said.path.name for said in asked.predict(tmp_path, on_error="skip")] == ["a.png", "c.png"]
    assert re.search(r"1 of 3 photos skipped: photo 2: .*b\.png: expected a readable", caplog.text)
    with pytest.raises(UserError, match=r"^[^;]*b\.png: expected a readable image"):
        asked.predict(tmp_path / "b.png", on_error="skip")


def test_a_detector_is_described_in_one_line():
    asked = detector(threshold=0.25)
    assert repr(asked) == "Detector(Remarking, 32 px, threshold 0.25 (false_alarms))"
    run = Path("runs/a")
    known = replace(asked, folder=run, key=Key("a", "cae", "folder", "bolts", "0"))
    assert repr(known) == "Detector(cae on folder bolts, seed 0, 32 px, threshold 0.25 (false_alarms), runs/a)"


def test_a_prediction_is_printed_by_its_numbers():
    said = PhotoPrediction(np.zeros((9, 9), np.float32), 1.5, 1.5, 1.0, True, None, "", Path("a.png"))
    about = f"score=1.5, decision_score=1.5, threshold=1.0, is_abnormal=True, remark='', path={Path('a.png')!r}"
    assert repr(said) == f"PhotoPrediction({about})"


def test_a_prediction_is_drawn_and_saved(tmp_path):
    said = detector("brightness", size=32, channels=3, threshold=0.1).predict(COLOURS)
    picture = said.picture()
    assert said.path is None
    assert said.is_abnormal
    assert picture.shape[1] == 3 * 256  # photo, map, outline
    axes = said.plot()
    assert np.array_equal(axes.images[0].get_array(), picture)
    said.save(tmp_path / "a.png")
    said.save(str(tmp_path / "a.tiff"))
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"))[:, :, ::-1], picture)
    assert np.array_equal(tifffile.imread(tmp_path / "a.tiff"), said.anomaly_map)
    with pytest.raises(UserError, match=r"expected .png for the picture or .tiff for the map, found '.jpg'"):
        said.save(tmp_path / "a.jpg")
    blind = detector(size=32, channels=3, localises=False).predict(COLOURS)
    assert blind.panel.draw(0, 1).shape[1] == 256  # the photo alone
    with pytest.raises(UserError, match=r"expected .png for the picture; the method has one number a photo and no map"):
        blind.save(tmp_path / "b.tif")


def test_one_file_twice_may_be_opened_once(tmp_path, write):
    image = Image.open(write(tmp_path / "a.png", RANDOM.integers(0, 255, (200, 200, 3), np.uint8)))
    said = detector(workers=4).predict([image] * 8)
    assert len({one.score for one in said}) == 1


def test_the_reconstruction_has_the_size_of_the_inspected_part():
    judge = detector()
    method = judge.method

    def forward(images, placement=()):
        return type(method).forward(method, images, placement)._replace(reconstruction=images)

    photo = RANDOM.integers(0, 256, (16, 32), np.uint8)
    assert judge.predict(photo).reconstruction is None
    method.forward = forward
    said = judge.predict(photo).reconstruction
    assert said[:, :, 0] == pytest.approx(photo / 255, abs=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (7, "image: expected a path, a Pillow image, a NumPy array, or a list of these, found int"),
        (None, "found NoneType"),
        (np.zeros((8, 8), np.int64), "image: expected an array of uint8, uint16, int16 or floating point, found int64"),
        (np.zeros((8, 8), bool), "found bool"),
        (
            np.zeros((3, 8, 8), np.uint8),
            r"expected an array \(height, width\) or .* 1 to 4 channels, found \(3, 8, 8\)",
        ),
        (np.zeros((2, 8, 8, 3), np.uint8), r"found \(2, 8, 8, 3\)"),
        (np.zeros((0, 8), np.uint8), r"found \(0, 8\)"),
        (np.full((8, 8), np.nan, np.float32), "image: expected values that are numbers, found NaN or infinity"),
        (
            np.full((8, 8), 255.0, np.float32),
            r"in \[0, 1\], .*found float32 from 255 to 255; divide",
        ),
        (np.linspace(-1, 1, 64).reshape(8, 8), "found float64 from -1 to 1; divide by the value of white"),
        (np.eye(8, dtype=np.uint8), "found uint8 from 0 to 1; multiply by 255 before the cast"),
        (np.full((8, 8), 200, np.uint16), "found uint16 from 200 to 200; pass 8-bit values as uint8"),
        ("nowhere.png", "nowhere.png: expected an image, found no such file"),
        ([np.zeros((8, 8), np.uint8), "nowhere.png"], "photo 2 of 2: nowhere.png: expected an image"),
        ([np.zeros((8, 8), np.uint8), [1]], "found list"),
    ],
)
def test_what_is_no_photo_is_told_in_a_line(image, message):
    with pytest.raises(UserError, match=message) as error:
        detector().predict(image)
    assert "\n" not in str(error.value)


def test_a_damaged_file_in_pillow_is_told(tmp_path, write):
    path = write(tmp_path / "cut.png", RANDOM.integers(0, 255, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    truncated = "cut.png: expected a readable image, found: image file is truncated"
    with Image.open(path) as image, pytest.raises(UserError, match=truncated):
        detector().predict(image)
    path.write_bytes(cv2.imencode(".png", np.zeros((64, 64), np.uint8))[1].tobytes())
    small = detector(max_pixels=1000)
    for photo in (path, Image.fromarray(np.zeros((64, 64), np.uint8)), np.zeros((64, 64), np.uint8)):
        with pytest.raises(UserError, match="expected at most 1000 pixels"):
            small.predict(photo)


def test_a_region_that_does_not_fit_is_told():
    judge = detector(region=[0, 0, 20, 20])
    with pytest.raises(UserError, match=r"image: expected data.region .* inside the photo of 10 x 10 px"):
        judge.predict(np.zeros((10, 10), np.uint8))
    assert judge.decoding == Decoding(32, 1, region=[0, 0, 20, 20])


def test_what_is_no_run_and_no_device_is_told(tmp_path):
    with pytest.raises(UserError, match="run: expected the folder of a finished run"):
        Detector.load(tmp_path)


@pytest.mark.slow
def test_the_mask_image_of_a_region_is_kept_with_the_run(lab, toy, parts, tmp_path, write):
    mask = np.full((140, 140), 255, np.uint8)
    mask[:, :20] = 0
    region = write(tmp_path / "mask.png", mask)
    lab(*toy, "method=control", "method.kind=mean_image", "trainer.max_epochs=1", f"data.region={region}")
    region.unlink()
    (run,) = (path.parent for path in (tmp_path / "runs").rglob("metrics.json"))
    judge = Detector.load(run, device="cpu")
    assert judge.decoding.region == str(run / "region.png")
    with (run / "scores.csv").open() as file:
        row = next(csv.DictReader(file))
    assert judge.predict(row["path"]).score == pytest.approx(float(row["score"]), rel=1e-5)


def test_the_package_has_no_other_name():
    with pytest.raises(AttributeError, match="module 'anomaly_lab' has no attribute 'Detectr'"):
        attrgetter("Detectr")(anomaly_lab)


@pytest.mark.parametrize(
    "photo",
    ["", Image.new("RGB", (0, 5)), Image.new("L", (5, 0)), Image.new("LA", (4, 4)).convert("La"), "x" * 300, "a\0b",
     "~nobody_of_this_name/x.png", "https://example.org/x.png"],
)  # fmt: skip
def test_what_is_no_photo_is_an_error_in_one_line(photo):
    with pytest.raises(UserError) as caught:
        detector().predict(photo)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    ["/proc/o.png", "/dev/null/o.png", "x" * 300 + ".png", "~nobody_of_this_name/o.png", "", "/proc/o.tif"],
)
def test_a_picture_that_cannot_be_written_is_an_error_in_one_line(target):
    prediction = detector().predict(np.full((32, 32), 90, np.uint8))
    with pytest.raises(UserError) as caught:
        prediction.save(target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["meta", 0, 7, "cuda:9", "nowhere", torch.device("meta")])
def test_a_device_that_computes_nothing_here_is_refused(toy_run, device):
    if torch.cuda.is_available() and device == 0:
        pytest.skip("it is here")
    with pytest.raises(UserError, match="device: expected one of this machine, found"):
        Detector.load(toy_run.folder, device)


def test_an_empty_path_is_no_run(monkeypatch, toy_run):
    monkeypatch.chdir(toy_run.folder)
    with pytest.raises(UserError, match="expected a path, found ''"):
        Detector.load("")


def test_a_bad_path_of_several_is_a_photo_that_cannot_be_read():
    good = np.full((32, 32), 90, np.uint8)
    bad = ["", "https://example.org/x.png", "~nobody_of_this_name/x.png", "x" * 300]
    assert len(detector().predict([good, *bad], on_error="skip")) == 1
    for number, one in enumerate(bad, start=1):
        with pytest.raises(UserError, match=f"photo {number + 1} of 5"):
            detector().predict([good] * number + [one] + [good] * (4 - number))
