"""Which folder a configuration gets, and files that are whole or not there."""

import errno
import json

import pytest

from anomaly_lab.core.errors import UserError, full_disk
from anomaly_lab.core.files import growing_csv, write_csv, write_json, write_whole
from anomaly_lab.core.messages import explain, is_user_mistake
from anomaly_lab.runs.folder import (
    RESULT_VERSION,
    is_finished,
    read_job,
    read_thresholds,
    state_of,
    write_job,
    write_threshold,
)
from anomaly_lab.runs.naming import run_folder

CONFIG = {
    "name": "default", "runs_dir": "runs", "seed": 0, "rerun": False, "logger": {"project": "x"}, "run_folder": ".",
    "data": {"name": "demo", "category": "washer", "root": "/a", "workers": 4, "patches": 100,
             "datamodule": {"splits": {"root": "/a"}, "workers": 4, "held_out": 0.1}},
    "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 3, "precision": "auto"},
    "method": {"name": "cae", "schedule": "constant"}, "checkpoint": {"every_batches": None},
    "callbacks": {"checkpoint": {"every_batches": None}, "anomaly_maps": {"dtype": "float32"}},
}  # fmt: skip


def changed(section, key, value):
    return {**CONFIG, section: {**CONFIG[section], key: value}} if section else {**CONFIG, key: value}


def test_the_path_says_what_was_run():
    folder = run_folder(CONFIG, "f")
    assert folder.is_absolute()
    assert folder.parts[-7:-1] == ("runs", "default", "cae", "demo", "washer", "seed=0")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("", "dry_run", True), ("trainer", "num_nodes", 2), ("", "logger", None), ("", "rerun", True),
     ("data", "root", "/b"), ("data", "workers", 0),
     ("trainer", "devices", 2), ("trainer", "accelerator", "gpu"),
     ("checkpoint", "every_batches", 5), ("callbacks", "checkpoint", {"every_batches": 5})],
)  # fmt: skip
def test_what_cannot_change_a_result_does_not_change_the_folder(section, key, value):
    assert run_folder(changed(section, key, value), "f") == run_folder(CONFIG, "f")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("data", "patches", 101), ("trainer", "max_epochs", 4), ("trainer", "precision", "32-true"),
     ("method", "schedule", "cosine"), ("callbacks", "anomaly_maps", None), ("", "seed", 1), ("", "name", "other")],
)  # fmt: skip
def test_what_can_change_a_result_changes_the_folder(section, key, value):
    assert run_folder(changed(section, key, value), "f") != run_folder(CONFIG, "f")


def test_weights_count_by_their_content_and_not_by_their_place(tmp_path):
    def folder_with(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return run_folder(changed("method", "backbone", {"name": "resnet18", "weights": str(path)}), "f")

    one = folder_with("a.safetensors", b"1")
    assert folder_with("b.safetensors", b"1") == one
    assert folder_with("a.safetensors", b"2") != one
    nowhere = changed("method", "backbone", {"name": "resnet18", "weights": str(tmp_path / "nowhere")})
    assert run_folder(nowhere, "f") not in (one, run_folder(CONFIG, "f"))


def test_the_budget_counts_where_it_is_used():
    assert run_folder({**CONFIG, "budget": {"epochs": 7}}, "f") == run_folder(CONFIG, "f")


def test_other_data_is_another_folder():
    assert run_folder(CONFIG, "f") != run_folder(CONFIG, "g")


def test_the_folder_does_not_depend_on_how_the_value_was_written():
    assert run_folder(changed("data", "patches", int(1e2)), "f") == run_folder(CONFIG, "f")


def test_what_the_datamodule_is_told_behind_the_keys_counts_too():
    data = {**CONFIG["data"], "datamodule": {**CONFIG["data"]["datamodule"], "held_out": 0.5}}
    assert run_folder({**CONFIG, "data": data}, "f") != run_folder(CONFIG, "f")
    data = {**CONFIG["data"], "datamodule": {**CONFIG["data"]["datamodule"], "workers": 0, "splits": None}}
    assert run_folder({**CONFIG, "data": data}, "f") == run_folder(CONFIG, "f")


def test_finished_means_done_with_metrics_of_this_version(tmp_path):
    assert not is_finished(tmp_path)
    write_job(tmp_path, "running")
    write_json(tmp_path / "metrics.json", {"result_version": RESULT_VERSION})
    assert not is_finished(tmp_path)
    write_job(tmp_path, "done", finished=1.0)
    assert is_finished(tmp_path)
    assert read_job(tmp_path)["finished"] == 1.0
    write_json(tmp_path / "metrics.json", {"result_version": -1})
    assert not is_finished(tmp_path)
    (tmp_path / "metrics.json").unlink()
    assert not is_finished(tmp_path)


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


def test_what_is_left_to_do(tmp_path):
    assert state_of(tmp_path) == "to start"
    write_job(tmp_path, "interrupted")
    assert state_of(tmp_path) == "to start"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert state_of(tmp_path) == "unfinished"
    write_job(tmp_path, "done")
    write_json(tmp_path / "metrics.json", {"result_version": RESULT_VERSION})
    assert (state_of(tmp_path), state_of(tmp_path, rerun=True)) == ("finished", "to do again")


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
