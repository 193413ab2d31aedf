"""The two keys of a run: what decides its weights, what decides how they are judged, and what decides neither."""

import copy

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_lab.cli.train import run_directory  # noqa: F401  # what it imports is what a run imports
from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.runs import naming
from anomaly_lab.runs.naming import (
    DATA,
    DECODING,
    PATCHES,
    TILING,
    TRAINER,
    place_of,
    result_key,
    run_folder,
    weights_key,
)

PATCHWISE = {"data": "demo", "data.category": "weave"}
ONCE = {"method": "variation_model", **PATCHWISE}


def configured(**words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", [f"{key}={value}" for key, value in words.items()]))


@pytest.fixture(scope="module")
def config():
    return configured(**PATCHWISE)


def keys(config):
    return weights_key(config, "train"), result_key(config, "test")


def changed(config, path, value):
    config = copy.deepcopy(config)
    *parents, last = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


def leaves(node, path=""):
    if isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, f"{path}.{key}" if path else key)
    else:
        yield path


# The method is given the size of what it sees, its channels, the seed and the schedule.
WEIGHTS = (
    *(f"data.datamodule.{name}" for name in (*DATA, *PATCHES)), *(f"trainer.{name}" for name in TRAINER),
    *("seed", "method", "data.patch_size", "data.channels", "budget.schedule"),
    *(f"data.datamodule.decoding.{name}" for name in (*DECODING, "region")),
)  # fmt: skip
RESULT = ("threshold", "controls", *(f"tiling.{name}" for name in TILING), "callbacks.synthetic")
REGION = "data.datamodule.decoding.region"
NEITHER = ("method.name", "method.wants")


def belongs(path, names):
    return any(path == name or path.startswith(f"{name}.") for name in names)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_key_of_a_list_changes_its_own_key_and_a_key_of_none_changes_nothing(config, data):
    path = data.draw(st.sampled_from(sorted(leaves(config))))
    if path in {"method._target_", REGION}:  # no class of that name, no such image
        return
    before, after = keys(config), keys(changed(config, path, "another"))
    weights = belongs(path, WEIGHTS) and not belongs(path, NEITHER)
    assert (before[0] != after[0]) == weights, path
    assert (before[1] != after[1]) == belongs(path, RESULT), path


@pytest.mark.parametrize(
    "path",
    ["callbacks.pictures.per_defect", "callbacks.anomaly_maps", "logger", "data.workers", "data.test_batch_size",
     "data.root", "trainer.devices", "tiling.batch_size", "tilings.object", "checkpoint.every_batches"],
)  # fmt: skip
def test_what_only_looks_or_only_runs_decides_nothing(config, path):
    assert keys(changed(config, path, "another")) == keys(config)


@pytest.mark.parametrize("path", ["patches", "patch_size", "batch_size", "redraw"])
def test_a_method_that_sees_whole_images_reads_nothing_of_patches(path):
    config = configured(**ONCE)
    assert keys(changed(config, f"data.datamodule.{path}", "another")) == keys(config)


def test_another_threshold_keeps_the_weights_and_another_seed_does_not(config):
    other = configured(**PATCHWISE, threshold="area")
    assert keys(other)[0] == keys(config)[0]
    assert keys(other)[1] != keys(config)[1]
    assert keys(configured(**PATCHWISE, seed=1))[0] != keys(config)[0]


def test_the_version_of_a_method_touches_its_own_runs_alone(config, monkeypatch):
    others = {method: configured(**PATCHWISE, method=method) for method in ("ssim_ae", "ganomaly")}
    before = {method: keys(other) for method, other in others.items()}
    monkeypatch.setattr(naming, "class_fact", lambda target, name: 2 if target.endswith("SSIMAE") else 1)
    after = {method: keys(other) for method, other in others.items()}
    assert after["ganomaly"] == before["ganomaly"]
    assert after["ssim_ae"][0] != before["ssim_ae"][0]
    assert after["ssim_ae"][1] == before["ssim_ae"][1]


def test_new_test_photos_are_judged_by_the_old_weights(tmp_path, write):
    for number in range(4):
        write(tmp_path / f"train/good/{number}.png", np.full((8, 8), number, np.uint8))
    write(tmp_path / "test/bad/0.png", np.full((8, 8), 9, np.uint8))
    words = {"data": "folder", "data.root": tmp_path, "runs_dir": tmp_path / "runs"}
    before = place_of(configured(**words))
    write(tmp_path / "test/bad/1.png", np.full((8, 8), 10, np.uint8))
    naming._fingerprints.cache_clear()
    after = place_of(configured(**words))
    assert after.folder == before.folder
    assert after.result_key != before.result_key
    write(tmp_path / "train/good/4.png", np.full((8, 8), 4, np.uint8))
    naming._fingerprints.cache_clear()
    assert place_of(configured(**words)).folder != before.folder


def test_a_mask_image_counts_by_its_pixels(config, tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5] = 255
    for name in ("a.png", "b.bmp"):
        cv2.imwrite(str(tmp_path / name), mask)
    one, other = (keys(changed(config, REGION, str(tmp_path / name))) for name in ("a.png", "b.bmp"))
    assert one == other
    mask[5] = 255
    cv2.imwrite(str(tmp_path / "a.png"), mask)
    assert keys(changed(config, REGION, str(tmp_path / "a.png")))[0] != one[0]


def test_weights_count_by_their_content(config, tmp_path):
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (
        keys(changed(config, "method.network", {"weights": str(tmp_path / name)})) for name in ("a", "b", "c")
    )
    assert one == same
    assert one[0] != other[0]
    nowhere = {"weights": str(tmp_path / "nowhere")}  # of a hub, or a mistake that is found later
    assert keys(changed(config, "method.network", nowhere))[0] not in {one[0], other[0]}


def test_the_folder_says_what_was_run(config):
    folder = run_folder(config, "f")
    assert folder.is_absolute()
    assert folder.parts[-7:-1] == ("runs", "default", "cae", "demo", "weave", "seed=0")
