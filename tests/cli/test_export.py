"""`export` writes a file that is used without this package, and decides as `predict` does."""

import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext

import cv2
import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from anomaly_lab.cli import export, predict
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.data.images import Decoding
from anomaly_lab.inference import graph
from anomaly_lab.inference.graph import FACTS, Answer
from anomaly_lab.methods.ganomaly import GANomaly
from anomaly_lab.runs.folder import RESULT_VERSION, write_job
from tests.conftest import ROOT

README = (ROOT / "docs" / "inference.md").read_text()


@pytest.fixture
def finished(tmp_path):
    """A folder that passes for a finished run, and holds nothing else."""
    folder = tmp_path / "run"
    write_job(folder, "done")
    write_json(folder / "metrics.json", {"result_version": RESULT_VERSION})
    return folder


def facts_of(file):
    if file.suffix == ".onnx":
        (entry,) = onnx.load(file).metadata_props
        assert entry.key == FACTS
        return json.loads(entry.value)
    extra = {f"{FACTS}.json": ""}
    torch.export.load(io.BytesIO(file.read_bytes()), extra_files=extra)
    return json.loads(extra[f"{FACTS}.json"])


def decided_on_the_line(folder, photos):
    """What the program of the documentation decides, in a process that has nothing of ours."""
    snippet = re.search(r"## Export\n.*?```python\n(.*?)```", README, re.S)[1]
    script = folder / "line.py"
    script.write_text(snippet + "\nassert not {'torch', 'anomaly_lab'} & set(sys.modules)\n")
    command = [sys.executable, script.name, *photos]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(" ", 2) for line in done.stdout.splitlines()]
    return {path: (float(score), decision) for path, score, decision in rows}


def decided_by_predict(run, source, out):
    predict.main([f"run={run}", f"source={source}", f"out={out}", "pictures=false"])
    with (out / "scores.csv").open() as file:
        return {row["path"]: (float(row["score"]), row["decision"]) for row in csv.DictReader(file)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["object", "texture"])
def test_the_line_decides_as_predict_does(lab, toy, toy_run, tmp_path, write, capsys, kind):
    folder, size, method, threshold = toy_run.folder, 64, "ganomaly", "false_alarms"
    if kind == "texture":
        size, method, threshold = 80, "slides_cae", "area"
        texture = ("data.kind=texture", "data.patch_size=64", "data.image_size=80", "data.stride=16")
        lab(*toy, *texture, "threshold=area")
        (folder,) = (path.parent for path in (tmp_path / "runs").rglob("metrics.json"))
    photos = shutil.copytree(toy_run.photos / "test", tmp_path / "photos")
    hole = cv2.imread(str(photos / "hole/000.png"))
    write(photos / "of_working_size.png", cv2.resize(hole, (size, size)))
    write(photos / "wide and large.jpg", cv2.resize(hole, (433, 311)))
    write(photos / "high.png", hole[:, 40:100])

    for suffix in ("onnx", "pt2"):
        export.main([f"run={folder}", f"format={suffix}", f"out={tmp_path}/model.{suffix}"])
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert re.findall(r"\d of 3: (\w+)", said.out) == ["tracing", "writing", "asking"] * 2
    assert [line.startswith(f"export: {tmp_path}/model.") for line in lines] == [False] * 3 + [True] + [False] * 3 + [
        True
    ]
    figures = re.findall(r"differs by at most (\S+)", said.out)
    assert len(figures) == 4
    assert max(map(float, figures)) <= 1e-5

    expected = decided_by_predict(folder, photos, tmp_path / "judged")
    found = decided_on_the_line(tmp_path, expected)
    assert len(expected) == 14
    assert {decision for _, decision in expected.values()} == {"normal", "abnormal"}
    for path, (score, decision) in expected.items():
        assert found[path][0] == pytest.approx(score, rel=1e-4)
        assert found[path][1] == decision

    facts = facts_of(tmp_path / "model.onnx")
    assert facts == facts_of(tmp_path / "model.pt2")
    drawn = json.loads((folder / "threshold.json").read_text())[-1]
    assert facts["threshold"].items() <= drawn.items()
    assert (facts["classes"], facts["method"], drawn["name"]) == (["normal", "abnormal"], method, threshold)
    assert facts["inputs"]["image"]["shape"] == ["batch", 3, size, size]
    assert facts["preprocessing"]["resize"] == "pad"
    windows = {"kind": "SlidingWindow", "size": 64, "stride": 16, "score": "max"}
    assert facts["tiling"] == (windows if kind == "texture" else {"kind": "WholeImage"})
    assert str(tmp_path) not in json.dumps(facts)

    # The two lines for PyTorch say what ONNX says.
    snippet = re.search(r"With `format=pt2`.*?```python\n(.*?)```", README, re.S)[1].replace(
        "model.pt2", f"{tmp_path}/model.pt2"
    )
    images, valid = torch.rand(2, 3, size, size), torch.ones(2, 1, size, size, dtype=torch.bool)
    names = {"torch": torch, "image": images, "valid": valid}
    exec(snippet, names)
    right = graph.ask_onnx((tmp_path / "model.onnx").read_bytes(), images, valid)
    np.testing.assert_allclose(names["anomaly_map"].numpy(), right.anomaly_map, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(names["score"].numpy(), right.score, rtol=1e-4)
    assert json.loads(names["facts"]["anomaly_lab.json"])["method"] == method


def test_more_than_8_bits_are_refused_on_the_line(tmp_path):
    (guard,) = [line.strip() for line in README.splitlines() if "more than 8 bits" in line]
    for name, pixels, refused in (("a.png", np.zeros((4, 4), np.uint16), True), ("b.tif", np.zeros((4, 4), "f"), True),
                                  ("c.png", np.zeros((4, 4, 3), np.uint8), False)):  # fmt: skip
        cv2.imwrite(str(tmp_path / name), pixels)
        told = pytest.raises(AssertionError, match="more than 8 bits") if refused else nullcontext()
        with Image.open(tmp_path / name) as file, told:
            exec(guard, {"file": file, "path": name})


@pytest.mark.slow
def test_what_cannot_be_exported_or_says_something_else_is_not_written(toy_run, tmp_path, monkeypatch, capsys):
    folder = toy_run.copy(tmp_path)
    scores = folder / "scores.csv"
    scores.write_text(scores.read_text().replace(f"{toy_run.photos}", "gone"))  # random images do too
    obstacle = "run: expected a method of one forward pass, found ganomaly: it is not"
    with monkeypatch.context() as patch:
        patch.setattr(GANomaly, "export_obstacle", "it is not")
        with pytest.raises(UserError, match=obstacle):
            export.main([f"run={folder}", "format=pt2"])
    with monkeypatch.context() as patch:
        patch.setattr(export, "ONNX_BYTES", 100)
        with pytest.raises(UserError, match="format: expected a method of at most 2 GB, .* found ganomaly of 0.0 GB; "):
            export.main([f"run={folder}", "format=onnx"])
    assert not (folder / "export").exists()
    assert capsys.readouterr().out == ""

    def wrong(content, images, valid):
        answer = graph.ask_pt2(content, images, valid)
        return answer._replace(score=answer.score * np.float32(1.0001))

    with monkeypatch.context() as patch:
        patch.setattr(graph, "ask_onnx", wrong)
        patch.setattr(graph, "to_onnx", graph.to_pt2)
        with pytest.raises(
            UserError, match="expected the score of the file within 1e-05 .* found a difference of 1.0e-04"
        ):
            export.main([f"run={folder}", "format=onnx"])
    assert not (folder / "export").exists()
    export.main([f"run={folder}", "format=pt2"])
    assert "on 3 random images" in capsys.readouterr().out
    assert [path.name for path in (folder / "export").iterdir()] == ["model.pt2"]

    name = "x" * 250 + ".pt2"  # fits, but not with the name of the temporary file
    with pytest.raises(UserError, match="out: expected a file that can be written, found .*too long"):
        export.main([f"run={folder}", "format=pt2", f"out={tmp_path}/{name}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=onnx"], "export: expected .* found no run="),
        (["run={}"], "export: expected .* found no format="),
        (["run={}", "format=onx"], "format: expected onnx or pt2, found 'onx'; did you mean 'onnx'?"),
        (["run={}", "format=../pt2"], "format: expected onnx or pt2, found '../pt2'"),
        (["run={}/no", "format=onnx"], "run: expected the folder of a finished run"),
        (["run={}", "format=pt2", "out={}"], "out: expected a file, found the folder"),
        (
            ["run={}", "format=pt2", "out=m.onnx"],
            r"out: expected a file called \*.pt2, as format=pt2 says, found m.onnx",
        ),
        (["run={}", "format=onnx", "out=m.PT2"], r"out: expected a file called \*.onnx"),
        (
            ["run={}", "format=pt2", "out={}/job.json/model.pt2"],
            "out: expected a file in a folder, found the file",
        ),
        (["run={}", "format=pt2", "out={}/" + "x" * 300], "out: expected a file that can be written, .* too long"),
        (["run={}", "format=pt2", "where=x"], "export: expected .* found 'where'"),
    ],
)
def test_mistakes_are_told_in_a_line(finished, arguments, message):
    with pytest.raises(UserError, match=message) as told:
        export.main([argument.format(finished) for argument in arguments])
    assert "\n" not in str(told.value)
    assert len(list(finished.iterdir())) == 2


def test_packages_that_are_not_there_are_named(finished, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name != "onnx" else object())
    message = r"found no onnxscript and no onnxruntime; pip install 'anomaly_lab\[export\]'"
    with pytest.raises(UserError, match=message):
        export.main([f"run={finished}", "format=onnx"])


def test_the_difference_is_measured_against_the_largest_value():
    maps, scores = np.array([[[[0.0, 50.0]]]], np.float32), np.array([1e-3], np.float32)
    right = Answer(maps, scores)
    assert "anomaly_map differs by at most 8.0e-06" in export.compare(right, Answer(maps + np.float32(4e-4), scores))
    with pytest.raises(UserError, match="anomaly_map .* difference of 1.6e-05"):
        export.compare(right, Answer(maps + np.float32(8e-4), scores))
    with pytest.raises(UserError, match="score .* difference of 1.0e-03"):
        export.compare(right, Answer(maps, scores + np.float32(1e-6)))
    with pytest.raises(UserError, match="score .* difference of nan"):
        export.compare(right, Answer(maps, scores * np.nan))
    nothing = Answer(maps * 0, scores)
    assert "anomaly_map differs by at most 0.0e+00" in export.compare(nothing, nothing)


def test_the_region_is_told_without_the_name_of_its_file(tmp_path, write):
    mask = write(tmp_path / "mask.png", np.full((9, 9), 255, np.uint8))
    of_mask = Decoding(64, 3, region=str(mask))
    assert export.region(of_mask) == {"mask_sha256": hashlib.sha256(mask.read_bytes()).hexdigest()}
    assert any("white pixels of the mask" in step for step in export.steps(of_mask))
    assert export.region(Decoding(64, 3, region=[1, 2, 3, 4])) == [1, 2, 3, 4]
    assert export.region(Decoding(64, 1)) is None
    mask.unlink()
    with pytest.raises(UserError, match=r"data.region: expected the mask image .* found none at .*mask.png"):
        export.region(of_mask)
