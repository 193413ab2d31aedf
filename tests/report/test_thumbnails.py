"""Pictures of a run: which, how many, and what is left out."""

import base64
from pathlib import Path

import cv2
import numpy as np

from anomaly_lab.report.thumbnails import thumbnails
from anomaly_lab.runs.collect import collect
from tests.report.synthetic import read_rows, write_run


def decoded(thumbnail):
    return cv2.imdecode(np.frombuffer(base64.b64decode(thumbnail.data), np.uint8), cv2.IMREAD_COLOR)


def test_the_gallery_is_taken_as_it_is(tmp_path):
    folder = write_run(tmp_path, pictures=2)
    (run,) = collect([tmp_path])
    shots = thumbnails(run, 10**9)
    rows = {row["file"]: row for row in read_rows(folder / "gallery" / "index.csv")}
    assert len(shots) == len(rows) == 6
    for shot in shots:
        row = rows[f"{shot.name}.webp"]
        assert base64.b64decode(shot.data) == (folder / "gallery" / f"{shot.name}.webp").read_bytes()
        assert run.paths[shot.image] == row["path"]
        assert (shot.kind, shot.type, shot.tiles) == (row["kind"], "webp", ("image", "overlay", "mask"))
        assert decoded(shot).shape == (shot.height, shot.width, 3)


def test_a_small_limit_leaves_some_of_each_kind(tmp_path):
    write_run(tmp_path, pictures=4)
    (run,) = collect([tmp_path])
    whole = thumbnails(run, 10**9)
    few = thumbnails(run, sum(len(shot.data) for shot in whole) // 2)
    assert 3 <= len(few) < len(whole)
    assert {shot.kind for shot in few} == {"lowest_defective", "highest_good", "random"}
    assert thumbnails(run, 10) == []


def test_old_runs_show_their_pictures_smaller(tmp_path):
    folder = write_run(tmp_path)
    (folder / "pictures").mkdir()
    for name in ("good_000", "scratch_001", "overview", "nobody_9"):
        cv2.imwrite(str(folder / "pictures" / f"{name}.png"), np.full((256, 1024, 3), 90, np.uint8))
    (folder / "pictures" / "scratch_005.png").write_bytes(b"no picture")
    (run,) = collect([tmp_path])
    shots = thumbnails(run, 10**9)
    assert {shot.name for shot in shots} == {"good_000", "scratch_001", "nobody_9"}
    for shot in shots:
        assert decoded(shot).shape == (160, 640, 3) == (shot.height, shot.width, 3)
    places = {shot.name: shot.image for shot in shots}
    assert run.images[places["scratch_001"]].name == "scratch/001.png"
    assert places["nobody_9"] == -1


def test_a_damaged_index_leads_nowhere(tmp_path):
    folder = write_run(tmp_path, pictures=1)
    secret = tmp_path / "secret.webp"
    secret.write_bytes((folder / "gallery" / "lowest_defective_00.webp").read_bytes())
    index = folder / "gallery" / "index.csv"
    text = index.read_text()
    index.write_text(text.replace("lowest_defective_00.webp", "../../../../../../../secret.webp"))
    (run,) = collect([tmp_path])
    assert {Path(shot.name).name for shot in thumbnails(run, 10**9)} == {"highest_good_00", "random_00"}
    index.write_text("file,kind\n1\n")
    assert thumbnails(run, 10**9) == []
