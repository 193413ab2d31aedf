"""The state of a run folder, its thresholds, its region."""

from pathlib import Path

import numpy as np
import pytest

from anomaly_lab.config.schema import class_fact
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.data.placement import read_white
from anomaly_lab.runs.folder import (
    RESULT_VERSION,
    is_finished,
    keep_region,
    maker_of,
    read_job,
    read_thresholds,
    region_of,
    remove_result,
    state_of,
    write_job,
    write_threshold,
)
from anomaly_lab.runs.lookup import finished_run, finished_runs


def test_finished_means_done_with_metrics(tmp_path):
    assert not is_finished(tmp_path)
    write_job(tmp_path, "running")
    write_json(tmp_path / "metrics.json", {"result_version": RESULT_VERSION})
    assert not is_finished(tmp_path)
    write_job(tmp_path, "done", finished=1.0)
    assert is_finished(tmp_path)
    assert read_job(tmp_path)["finished"] == 1.0
    (tmp_path / "metrics.json").unlink()
    assert not is_finished(tmp_path)


def test_a_finished_run_is_judged_again_by_another_key(tmp_path):
    assert state_of(tmp_path, "a") == "to start"
    write_job(tmp_path, "interrupted")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert state_of(tmp_path, "a") == "unfinished"
    write_job(tmp_path, "done")
    write_json(tmp_path / "metrics.json", {"result_key": "a"})
    assert state_of(tmp_path, "a") == "finished"
    assert state_of(tmp_path, "b") == "to test again"
    assert state_of(tmp_path, "a", "judge") == "to test again"
    assert state_of(tmp_path, "a", True) == state_of(tmp_path, "b", True) == "to train again"
    (tmp_path / "checkpoints" / "last.ckpt").unlink()
    assert state_of(tmp_path, "a") == "finished"
    for key, rerun in (("b", False), ("a", "judge")):  # never trained anew unasked
        with pytest.raises(UserError, match="expected checkpoints/last.ckpt, .* found none; rerun=true trains it anew"):
            state_of(tmp_path, key, rerun)
    assert state_of(tmp_path, "b", True) == "to train again"


def test_of_an_earlier_test_nothing_is_left_and_of_the_training_all(tmp_path):
    kept = ["checkpoints/last.ckpt", "curves/losses.csv", "curves/losses.png", "samples/epoch_1.png", "threshold.json"]
    gone = ["scores.csv", "maps/a/test/good/0.tiff", "pictures/good_0.png", "gallery/index.csv", "curves/image_roc.csv"]
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_result(tmp_path)
    remove_result(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == kept


def test_a_run_whose_method_has_changed_since_is_refused(tmp_path):
    def job(**versions):
        write_job(tmp_path, "done", versions=versions)

    write_json(tmp_path / "metrics.json", {"result_key": "a"})
    (tmp_path / ".hydra").mkdir()
    target = "anomaly_lab.methods.cae.CAE"
    write_json(tmp_path / ".hydra/config.yaml", {"method": {"name": "cae", "_target_": target}})  # JSON is YAML
    now = class_fact(target, "version")
    job(method=now, weights=0)
    assert finished_run(str(tmp_path)) == tmp_path
    job(method=now + 1, weights=0)
    with pytest.raises(UserError, match=f"expected a run of version {now} of cae, found version {now + 1}: .*again"):
        finished_run(str(tmp_path))
    with pytest.raises(UserError, match="found version"):
        finished_runs(str(tmp_path))
    job(method=now, weights=0)
    write_json(tmp_path / ".hydra/config.yaml", {"method": {"name": "cae", "_target_": f"{target}s"}})
    with pytest.raises(UserError, match="expected a run of a method of this version, found another .*'CAEs'"):
        finished_run(str(tmp_path))
    write_json(tmp_path / ".hydra/config.yaml", {"method": {"name": "own", "_target_": "own_methods.a.A"}})
    with pytest.raises(UserError, match="^run: .* found no module 'own_methods'; put the folder .* on PYTHONPATH: /"):
        finished_run(str(tmp_path))


def test_a_folder_of_another_version_is_named_with_its_maker(tmp_path):
    assert maker_of(tmp_path) is None
    write_json(tmp_path / "job.json", {"state": "done", "result_version": 2})
    write_json(tmp_path / "metrics.json", {"result_version": 2})
    assert maker_of(tmp_path) == "another version of anomaly_lab"
    write_json(tmp_path / "environment.json", {"versions": {"anomaly_lab": "0.1.0"}})
    assert not is_finished(tmp_path)
    with pytest.raises(UserError, match="found one that anomaly_lab 0.1.0 made: .*; run its command again"):
        finished_run(str(tmp_path))
    write_job(tmp_path, "done")
    assert maker_of(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_file_that_is_no_json_is_no_state(tmp_path, capsys, content):
    (tmp_path / "job.json").write_text(content)
    assert read_job(tmp_path) == {}
    assert not is_finished(tmp_path)
    assert state_of(tmp_path, "key") == "to start"
    assert capsys.readouterr().out == f"{tmp_path}/job.json is damaged: what the run has reached is not known\n"


def test_thresholds_are_added_and_the_earlier_ones_stay(tmp_path):
    assert read_thresholds(tmp_path) == []
    for line in (1.5, 2.5):
        write_threshold(tmp_path, {"strategy": "area", "image": line})
    assert [entry["image"] for entry in read_thresholds(tmp_path)] == [1.5, 2.5]
    assert all("drawn" in entry for entry in read_thresholds(tmp_path))


def test_json_that_is_no_object_is_no_result(tmp_path):
    write_job(tmp_path, "done")
    (tmp_path / "metrics.json").write_text("[1]")
    assert not is_finished(tmp_path)


def test_a_run_keeps_the_mask_image_that_it_was_trained_with(tmp_path, write):
    mask = np.zeros((8, 6), np.uint8)
    mask[2:5] = 255
    path = write(tmp_path / "mask.bmp", mask)
    run = tmp_path / "run"
    for _ in range(2):  # the second time the run goes on, and the file has changed
        data = {"region": str(path), "decoding": {}, "datamodule": {"decoding": {}}}
        keep_region(data, run)
        stored = data["datamodule"]["decoding"]["region"]
        assert (
            stored == data["region"] == data["decoding"]["region"] == region_of(run, str(path)) == f"{run}/region.png"
        )
        assert np.array_equal(read_white(Path(stored), 100), mask > 0)
        write(path, 255 - mask)
    for region in (None, [0, 0, 3, 3]):
        data = {"region": region}
        keep_region(data, tmp_path / "other")
        assert data == {"region": region}
        assert region_of(run, region) == region
