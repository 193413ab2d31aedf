"""`select`: its arguments, what it refuses, and the whole on a tiny data set."""

import json

import numpy as np
import pytest

from anomaly_lab.cli.select import (
    Photos,
    by_category,
    figure_text,
    main,
    next_steps,
    parse,
    show,
    strongest_control,
)
from anomaly_lab.core.errors import UserError
from anomaly_lab.launch.portfolio import Candidate
from anomaly_lab.report.ranking import Contender
from anomaly_lab.report.selection import number
from anomaly_lab.runs.collect import Key, Run
from tests.conftest import write_image


def test_arguments_are_its_own_or_those_of_a_run(tmp_path):
    words = ["minutes=5", "data=folder", "labels=false", "method=padim,spade", "padim.ridge=0.1"]
    words.append(f"--config-dir={tmp_path}")
    assert parse(words) == (5.0, "default", False, ["padim", "spade"], ["data=folder", "padim.ridge=0.1"], tmp_path)
    assert parse(["data.root=x=y"]) == (20.0, "default", True, [], ["data.root=x=y"], None)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("minutes=soon", "minutes: expected a number above 0, found 'soon'"),
        ("minutes=0", "minutes: expected a number above 0, found '0'"),
        ("minutes=nan", "minutes: expected a number above 0"),
        ("minutes=inf", "minutes: expected a number above 0"),
        ("labels=maybe", "labels: expected true or false, found 'maybe'"),
        ("photos/", "found 'photos/'"),
        ("callbacks=default", "select: expected no callbacks=, because it compares runs of its own"),
        ("name=mine", "select: expected no name="),
        ("rerun=true", "select: expected no rerun="),
        ("portfolio=defualt", "portfolio: expected one of default, found 'defualt'; did you mean 'default'"),
    ],
)
def test_a_bad_argument_is_one_line(word, message):
    with pytest.raises(UserError, match=message):
        main(["data=folder", word])


def test_categories_are_ranked_together():
    assert by_category(["a=b", "data.category=x,y", "c=d,e"]) == [
        ["a=b", "data.category=x", "c=d,e"], ["a=b", "data.category=y", "c=d,e"],
    ]  # fmt: skip
    assert by_category(["data.category=all"]) == [["data.category=all"]]
    assert Photos(10, 2, 3, 4).seen == 10 + 16 + 7


def contender(name, controls, tmp_path):
    run = Run(tmp_path / name, name, Key("select", name, "folder", "bar", "0"), "done", controls=controls)
    return Contender(name, [run])


def test_the_strongest_control_runs_too_unless_it_has(tmp_path):
    figures = {"brightness": {"image_auroc": 0.6}, "sharpness": {"image_auroc": 0.9}, "pca": {}}
    there = [contender("control_brightness", {}, tmp_path), contender("padim", figures, tmp_path)]
    assert strongest_control(there) == "control_sharpness"
    assert strongest_control([*there, contender("control_sharpness", {}, tmp_path)]) is None
    assert strongest_control(there[:1]) is None


def test_the_commands_that_follow(tmp_path):
    best = contender("cae", {}, tmp_path)
    candidates = {"cae": Candidate(words=("method=cae", "experiment=quick"), seconds=1, per_photo=1)}
    request = parse(["data=folder", "data.root=my photos", "minutes=3"])
    (_, train), (_, predict), (_, export) = next_steps(best, candidates, request)
    assert train == "python -m anomaly_lab method=cae data=folder 'data.root=my photos'"
    assert predict == f"python -m anomaly_lab predict run={tmp_path / 'cae'} source=new_photos/"
    assert export.endswith("format=onnx")


def test_the_table_shows_intervals_and_what_was_left_out(capsys):
    figure = {"value": 0.9, "low": 0.8, "high": 1.0}
    assert figure_text(figure, number) == ".900 (.800 to 1.000)"
    row = {"name": "padim", "figures": {"image_auroc": figure}, "seconds": 0.15, "minutes": 1.0, "control": False}
    row["tied"] = True
    show({
        "measures": {"image_auroc": "image AUROC", "pixel_aupro": "AU-PRO"}, "ranking": [row],
        "others": [{"state": "failed", "name": "cae", "note": "out\x1b of memory"}], "sentences": ["Take padim."],
        "commands": [{"what": "predict", "command": "python"}],
    })  # fmt: skip
    printed = capsys.readouterr().out
    for part in (".900", "first", "failed: cae (out\\x1b of memory)", "Take padim.", "predict:\n  python"):
        assert part in printed
    assert "AU-PRO" not in printed


def test_fewer_than_ten_photos_are_refused(lab, tmp_path):
    for i in range(9):
        write_image(tmp_path / f"few/good/{i}.png", np.full((40, 40, 3), 10 * i, np.uint8))
    done = lab("select", "data=folder", "data.root=few", code=1)
    assert done.stderr.strip().splitlines()[-1] == (
        "error: select: expected at least 10 good photos of few, found 9: fewer cannot tell methods apart"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_whole_and_again_without_labels(lab, parts, tmp_path):
    (tmp_path / "select").mkdir()
    (tmp_path / "select" / "tiny.yaml").write_text(
        "control_pca: {words: [method=control, method.kind=pca], seconds: 1, per_photo: 0.01}\n"
        "variation_model: {words: [method=variation_model], seconds: 1, per_photo: 0.01}\n"
        "broken: {words: [method=slides_cae, method.optimizer.lr=1e30, data.patches=64, data.batch_size=16], "
        "seconds: 1, per_photo: 0.01}\n"
        "long: {words: [method=slides_cae], seconds: 9000, per_photo: 0.01}\n"
    )
    words = (
        "select", f"--config-dir={tmp_path}", "portfolio=tiny", "data=folder", f"data.root={parts}",
        "data.category=bar", "data.image_size=64", "data.workers=0", "trainer.accelerator=cpu",
    )  # fmt: skip
    done = lab(*words, "minutes=5")
    folder = tmp_path / "runs/select/bar"
    found = json.loads((folder / "select.json").read_text())
    assert found["basis"] == "labels"
    rows = {row["name"]: row for row in found["ranking"]}
    assert next(iter(rows)) == "variation_model"
    assert {row["name"] for row in found["ranking"] if row["control"]} >= {"control_pca"}
    assert set(rows["variation_model"]["figures"]) == {"image_auroc", "pixel_aupro"}
    others = {other["name"]: other for other in found["others"]}
    assert others["long"]["state"] == "left out"
    assert "would take" in others["long"]["note"]
    assert others["broken"]["state"] == "failed"
    assert others["broken"]["note"].endswith("(exit code 1)")
    assert found["sentences"][0] in " ".join(done.stdout.split("\n"))
    assert (folder / "select.html").is_file()
    again = lab(*words, "minutes=5", "labels=false")
    assert "running: variation_model" not in again.stdout
    painted = json.loads((folder / "select.json").read_text())
    assert painted["basis"] == "synthetic"
    assert painted["kinds"] == ["blob", "patch", "perlin", "scar"]
    assert painted["photos"]["held_out"] == 2


def test_nothing_is_asked_of_a_machine_for_help(capsys):
    main(["--help"])
    assert "minutes: how long it may take" in capsys.readouterr().out
