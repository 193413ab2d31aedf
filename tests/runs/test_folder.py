"""Which folder a configuration gets, and files that are whole or not there."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from anomaly_lab.core.errors import UserError, full_disk
from anomaly_lab.core.files import growing_csv, write_csv, write_json, write_whole
from anomaly_lab.core.messages import explain, is_user_mistake
from anomaly_lab.data.placement import read_white
from anomaly_lab.runs.collect import finished_run
from anomaly_lab.runs.folder import (
    RESULT_VERSION,
    is_finished,
    keep_region,
    maker_of,
    read_job,
    read_thresholds,
    region_of,
    state_of,
    write_job,
    write_threshold,
)


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
    assert state_of(tmp_path, "b") == "to judge again"
    assert state_of(tmp_path, "b", rerun=True) == "to do again"


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


def test_a_file_that_is_no_json_is_no_state(tmp_path):
    (tmp_path / "job.json").write_text("")
    assert read_job(tmp_path) == {}
    assert not is_finished(tmp_path)


def test_what_is_no_number_is_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.0, float("inf")], "c": {"d": 2.5}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.0, None], "c": {"d": 2.5}}


def test_thresholds_are_added_and_the_earlier_ones_stay(tmp_path):
    assert read_thresholds(tmp_path) == []
    for line in (1.5, 2.5):
        write_threshold(tmp_path, {"strategy": "area", "image": line})
    assert [entry["image"] for entry in read_thresholds(tmp_path)] == [1.5, 2.5]
    assert all("drawn" in entry for entry in read_thresholds(tmp_path))


def test_files_are_whole_or_the_old_ones(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"x": 1.5})

    def fails(part):
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "deep" / "a.json", fails)
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"x": 1.5}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_a_full_disk_is_the_users_to_mend(tmp_path):
    def fails(part):
        part.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    write_json(tmp_path / "a.json", 1)
    with pytest.raises(UserError, match=r"a.json: expected room on the disk, found none \(No space left on device\)"):
        write_whole(tmp_path / "a.json", fails)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["1\n"]
    wrapped = RuntimeError("unexpected pos")
    wrapped.__context__ = OSError(errno.EDQUOT, "Disk quota exceeded", "maps/001.tiff")
    assert is_user_mistake(wrapped)
    assert str(explain(wrapped)).startswith(
        "maps/001.tiff: expected room on the disk, found none (Disk quota exceeded)"
    )
    assert full_disk(OSError(errno.EACCES, "Permission denied")) is None


def test_csv(tmp_path):
    write_csv(tmp_path / "a.csv", ("path", "score"), [("a, b.png", 0.5)])
    assert (tmp_path / "a.csv").read_text().splitlines() == ["path,score", '"a, b.png",0.5']


def test_a_table_that_grows_has_its_name_when_it_is_whole(tmp_path):
    path, part = tmp_path / "deep/scores.csv", tmp_path / "deep/scores.csv.part"
    with growing_csv(path, ("path", "score")) as add:
        add(("größe\udcff,.png", 0.5))
        assert part.read_bytes() == b'path,score\r\n"gr\xc3\xb6\xc3\x9fe\\udcff,.png",0.5\r\n'  # at once
        assert not path.exists()
    whole = path.read_bytes()
    assert not part.exists()
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert path.read_bytes() == whole
    assert part.read_bytes() == b"path,score\r\nb.png,1\r\n"


def interrupted(path):
    with growing_csv(path, ("path", "score")) as add:
        add(("b.png", 1))
        raise KeyboardInterrupt


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="expected a folder that can be written, found .*/file/deep"):
        interrupted(tmp_path / "file/deep/scores.csv")


def test_json_that_is_no_object_is_no_result(tmp_path):
    write_job(tmp_path, "done")
    (tmp_path / "metrics.json").write_text("[1]")
    assert not is_finished(tmp_path)


class Full:
    def __str__(self):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_of_a_table_that_grows(tmp_path):
    told = pytest.raises(UserError, match=r"scores.csv.part: expected room on the disk")
    with told, growing_csv(tmp_path / "scores.csv", ("path",)) as add:
        add((Full(),))


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
