"""The two keys of a run: what decides its weights, what decides how they are judged, and what decides neither."""

import copy
import re

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from anomaly_lab.cli.train import run_directory  # noqa: F401  # what it imports is what a run imports
from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.config.schema import class_fact
from anomaly_lab.core.errors import UserError
from anomaly_lab.runs import naming
from anomaly_lab.runs.naming import by_content, fingerprints_of, place_of, result_key, run_folder, weights_key

PATCHWISE = {"data": "demo", "data.category": "weave"}
ONCE = {"method": "variation_model", **PATCHWISE}


def configured(**words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", [f"{key}={value}" for key, value in words.items()]))


@pytest.fixture(scope="module")
def config():
    return configured(**PATCHWISE)


@pytest.fixture(scope="module")
def configs(config):
    return [
        config,
        configured(data="demo", **{"data.category": "washer"}, method="ganomaly", threshold="area"),
        configured(**PATCHWISE, callbacks="synthetic"),
    ]


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
    if isinstance(node, dict) and not any("." in key for key in node):  # `method.wants` has such keys
        for key, child in node.items():
            yield from leaves(child, f"{path}.{key}" if path else key)
    else:
        yield path


REGION = "data.datamodule.decoding.region"
# Written out: what the two keys are for, whatever the module says. The method is supplied with the size of what it
# sees, its channels, the seed and the schedule.
DATA = "kind sees passes augmented corruption on_error held_out split_seed seed patch_size patches redraw batch_size"
WEIGHTS = (
    *(f"data.datamodule.{name}" for name in DATA.split()),
    *(f"data.datamodule.decoding.{name}" for name in ("image_size", "channels", "resize", "value_range", "region")),
    *("data.datamodule.augmentation", "data.patch_size", "data.channels", "budget.schedule", "seed", "method"),
    *("trainer.max_epochs", "trainer.precision", "trainer.accumulate_grad_batches", "trainer.sync_batchnorm"),
    *("trainer.limit_train_batches", "trainer.gradient_clip_val", "trainer.gradient_clip_algorithm", "callbacks.seed"),
    *("trainer.max_steps", "trainer.fast_dev_run", "trainer.reload_dataloaders_every_n_epochs"),
)  # fmt: skip
RESULT = (
    *("threshold", "controls", "tiling._target_", "tiling.size", "tiling.stride", "tiling.score"),
    *("callbacks.synthetic", "trainer.limit_test_batches", "trainer.limit_predict_batches"),
    *("data.datamodule.threshold_images", "data.controls"),
)  # fmt: skip
NEITHER = ("method.name", "method.wants")


def belongs(path, names):
    return any(path == name or path.startswith(f"{name}.") for name in names)


LIMITS = [f"trainer.limit_{part}_batches" for part in ("train", "test", "predict")]
ABSENT = (*LIMITS, "trainer.gradient_clip_algorithm", "trainer.max_steps", "trainer.fast_dev_run")


def can_be_changed(path):
    return path not in {"method._target_", REGION} and not re.fullmatch(r"callbacks\.\w+\._target_", path)


def test_each_key_of_a_list_changes_its_own_key(configs):
    for config in configs:
        before = keys(config)
        listed = [path for path in {*leaves(config), *ABSENT} if belongs(path, (*WEIGHTS, *RESULT))]
        assert len(listed) > 30
        for path in filter(can_be_changed, listed):
            after = keys(changed(config, path, "another"))
            weights = belongs(path, WEIGHTS) and not belongs(path, NEITHER)
            assert (before[0] != after[0]) == weights, path
            assert (before[1] != after[1]) == belongs(path, RESULT), path


def sections(node, path=""):
    """The parts of a configuration that have keys, the whole included."""
    if isinstance(node, dict):
        yield path
        for key, child in node.items():
            yield from sections(child, f"{path}.{key}" if path else key)


@pytest.fixture(scope="module")
def unlisted(configs):
    """The keys that stand in no list, with their configuration, and a new one in every section."""
    found = []
    for config in configs:
        old = [section for section in sections(config) if section not in {"callbacks", "trainer"}]
        new = [f"{section}.NEW".removeprefix(".") for section in old]
        paths = [path for path in sorted({*leaves(config), *new}) if not belongs(path, (*WEIGHTS, *RESULT))]
        found += [(config, keys(config), path) for path in paths if can_be_changed(path)]
    return found


@given(data=st.data(), name=st.text("abcdefgh_", min_size=1), value=st.none() | st.booleans() | st.floats() | st.text())
def test_no_other_key_changes_anything_whether_it_is_new_or_old(unlisted, data, name, value):
    config, before, path = data.draw(st.sampled_from(unlisted))
    assert keys(changed(config, path.replace("NEW", name), value)) == before, path


def test_what_lightning_offers_beside_our_files_counts_for_the_weights(config):
    for name, value in (("max_time", "00:01"), ("max_steps", 3), ("not_yet_invented", 1)):
        after = keys(changed(config, f"trainer.{name}", value))
        assert after[0] != keys(config)[0]
        assert after[1] == keys(config)[1]


def test_the_size_of_a_batch_counts_where_batches_are_counted(config):
    for limit, which in (("trainer.limit_test_batches", 1), ("trainer.limit_train_batches", 0)):
        some = changed(config, limit, 2)
        other = changed(some, "data.datamodule.test_batch_size", 3)
        assert keys(other)[which] != keys(some)[which]
        assert keys(other)[1 - which] == keys(some)[1 - which]


def test_the_largest_size_of_a_file_counts_where_larger_ones_are_left_out(config):
    path = "data.datamodule.decoding.max_pixels"
    assert keys(changed(config, path, 1000)) == keys(config)
    skipping = changed(config, "data.datamodule.on_error", "skip")
    assert keys(changed(skipping, path, 1000))[0] != keys(skipping)[0]


def test_a_callback_enters_the_key_that_its_class_names_whatever_it_is_called(configs):
    config, with_synthetic = configs[0], configs[2]
    assert keys(with_synthetic)[0] == keys(config)[0]
    assert keys(with_synthetic)[1] != keys(config)[1]
    callbacks = with_synthetic["callbacks"]
    renamed = {**callbacks, "synthetic": None, "other_name": callbacks["synthetic"]}
    assert keys(changed(with_synthetic, "callbacks", renamed)) == keys(with_synthetic)
    assert keys(changed(config, "callbacks.seed", None))[0] != keys(config)[0]  # torch's generators decide


def test_a_callback_of_another_package_counts_for_the_weights(config):
    average = {"_target_": "pytorch_lightning.callbacks.StochasticWeightAveraging", "swa_lrs": 0.01}
    changed_key = keys(changed(config, "callbacks.average", average))
    assert changed_key[0] != keys(config)[0]
    assert changed_key[1] == keys(config)[1]


def test_without_a_callback_that_only_writes_both_keys_stay(config):
    assert keys(changed(config, "callbacks.anomaly_maps", None)) == keys(config)


@pytest.mark.parametrize("path", ["patches", "patch_size", "batch_size", "redraw"])
def test_a_method_that_sees_whole_images_reads_nothing_of_patches(path):
    config = configured(**ONCE)
    assert keys(changed(config, f"data.datamodule.{path}", "another")) == keys(config)


def test_another_threshold_keeps_the_weights_and_another_seed_does_not(config):
    other = configured(**PATCHWISE, threshold="area")
    assert keys(other)[0] == keys(config)[0]
    assert keys(other)[1] != keys(config)[1]
    assert keys(configured(**PATCHWISE, seed=1))[0] != keys(config)[0]


def test_the_controls_of_every_photo_keep_the_key_and_a_network_before_its_training_is_one(config, monkeypatch):
    before = keys(config)
    without = changed(config, "data", {key: value for key, value in config["data"].items() if key != "controls"})
    assert keys(without) == before  # a configuration of earlier
    monkeypatch.setattr(naming, "class_fact", lambda target, name: name == "control_untrained" or 1)
    after, (_, left_out) = keys(config), keys(changed(config, "controls", False))
    assert after[1] not in (before[1], left_out)
    monkeypatch.setattr(naming, "class_fact", class_fact)
    assert keys(changed(config, "controls", False))[1] == left_out


def test_the_version_of_a_method_touches_its_own_runs_alone(config, monkeypatch):
    others = {method: configured(**PATCHWISE, method=method) for method in ("ssim_ae", "ganomaly")}
    before = {method: keys(other) for method, other in others.items()}

    def raised(target, name):
        found = class_fact(target, name)
        return found + 1 if name == "version" and target.endswith("SSIMAE") else found

    monkeypatch.setattr(naming, "class_fact", raised)
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


def test_good_photos_decide_weights_and_not_the_test_and_too_many_are_refused(tmp_path, write):
    for number in range(6):
        write(tmp_path / f"train/good/{number}.png", np.full((8, 8), number, np.uint8))
    write(tmp_path / "test/bad/0.png", np.full((8, 8), 9, np.uint8))
    words = {"data": "folder", "data.root": tmp_path, "runs_dir": tmp_path / "runs"}
    config = configured(**words, **{"data.good_photos": 4})
    every, few, more, whole, too_many = (
        changed(config, "data.datamodule.good_photos", number) for number in (None, 2, 4, 6, 7)
    )
    assert more == config
    places = [place_of(config) for config in (every, few, more)]
    assert len({place.folder for place in places}) == 3
    assert len({place.result_key for place in places}) == 1
    assert place_of(whole) == places[0]  # all of them: the same run
    assert fingerprints_of(few).train != fingerprints_of(changed(few, "data.datamodule.seed", 1)).train  # other photos
    with pytest.raises(UserError, match="^data.good_photos: expected at most 6, found 7$"):
        place_of(too_many)


def test_labelled_photos_decide_weights_and_test(tmp_path, write):
    for number in range(6):
        write(tmp_path / f"train/good/{number}.png", np.full((8, 8), number, np.uint8))
        write(tmp_path / f"test/bad/{number}.png", np.full((8, 8), 10 + number, np.uint8))
    words = {"data": "folder", "data.root": tmp_path, "runs_dir": tmp_path / "runs"}
    config = configured(**words)
    none, one, three, other = (
        place_of(
            changed(changed(config, "data.datamodule.labelled_abnormal", amount), "data.datamodule.split_seed", seed)
        )
        for amount, seed in ((None, 0), (1, 0), (0.5, 0), (1, 3))
    )
    assert none == place_of(config)
    assert len({place.folder for place in (none, one, three, other)}) == 4
    assert len({place.result_key for place in (none, one, three, other)}) == 4


def test_masks_of_labelled_photos_count_where_a_method_learns_from_them(config):
    """Without labelled photos the key is that of before there were masks."""
    labelled = changed(config, "data.datamodule.labelled_abnormal", 3)
    asking = [changed(each, "data.datamodule.masks", True) for each in (config, labelled)]
    assert weights_key(asking[0], "train") == weights_key(config, "train")
    assert weights_key(asking[1], "train") != weights_key(labelled, "train")


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


def test_foreign_images_without_photos_are_named_by_the_key_that_was_typed(tmp_path):
    node = {"textures": [{"foreign_images": str(tmp_path)}]}
    with pytest.raises(UserError, match="^method.foreign_images: expected photos, found none in"):
        by_content(node)
    with pytest.raises(UserError, match="^data.foreign_images: expected photos, found none in"):
        weights_key(
            {**configured(**PATCHWISE), "data": {"datamodule": {"corruption": node, "sees": "patches"}}}, "train"
        )


def test_foreign_images_enter_the_key_by_their_content(tmp_path, write):
    for name in ("one/a.png", "one/deep/b.png", "two/a.png", "two/deep/b.png"):
        write(tmp_path / name, np.full((4, 4, 3), len(name), np.uint8))
    write(tmp_path / "two/a.png", np.full((4, 4, 3), len("one/a.png"), np.uint8))
    node = {"method": {"foreign_images": str(tmp_path / "one"), "weights": "nowhere"}}
    other = {"method": {"foreign_images": str(tmp_path / "two"), "weights": "nowhere"}}
    assert by_content(node) == by_content(other)
    assert by_content(node)["method"]["weights"] == "nowhere"
    painted = [{"corruption": {"corruptions": [{"textures": method["method"]}]}} for method in (node, other)]
    assert by_content(painted[0]) == by_content(painted[1]) != painted[1]
    before = by_content(node)
    write(tmp_path / "one/c.png", np.zeros((4, 4, 3), np.uint8))
    assert by_content(node) != before
    for plain in ("procedural", "own", None):
        assert by_content({"foreign_images": plain}, "data") == {"foreign_images": plain}
    with pytest.raises(UserError, match="^method.foreign_images: expected a folder of photos, or procedural, found no"):
        by_content({"foreign_images": "own"})
    with pytest.raises(UserError, match="^method.foreign_images: expected a folder of photos, or procedural, found no"):
        by_content({"foreign_images": str(tmp_path / "gone")})


def test_what_is_painted_with_counts_by_its_content_and_a_home_is_found(config, tmp_path, write, monkeypatch):
    for name, level in (("one", 1), ("two", 1), ("three", 3)):
        write(tmp_path / name / "a.png", np.full((4, 4, 3), level, np.uint8))
        write(tmp_path / f"{name}.png", np.full((4, 4, 3), level, np.uint8))  # any file does for weights
    monkeypatch.setenv("HOME", str(tmp_path))

    def key(folder):
        corruption = {"corruptions": [{"textures": {"foreign_images": folder}}]}
        return keys(changed(config, "data.datamodule.corruption", corruption))[0]

    one, two, three = (key(str(tmp_path / name)) for name in ("one", "two", "three"))
    assert one == two == key("~/one")
    assert one != three
    assert by_content({"weights": "~/one.png"}) == by_content({"weights": str(tmp_path / "two.png")})
