"""What a method is given by the names of its parameters."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from anomaly_lab.config.check import check, wants_of
from anomaly_lab.config.files import CONF
from anomaly_lab.config.wiring import wired
from anomaly_lab.core.errors import UserError
from tests.conftest import METHODS


def composed(*words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(words))


def test_sizes_channels_seed_and_schedule_reach_the_classes_that_have_them():
    resolved = check(composed("method=f_anogan", "data.category=carpet", "seed=7", "budget.schedule=cosine"))
    method = wired(resolved)
    assert (method["seed"], method["schedule"]) == (7, "cosine")
    for part in ("generator", "critic", "encoder"):
        assert (method[part]["image_size"], method[part]["channels"]) == (128, 3)  # windows of an image of 512 px
        assert "seed" not in method[part]
    assert not {"tiling", "name", "wants"} & set(method)


def test_a_method_that_sees_images_is_given_their_size():
    resolved = check(composed("method=variation_model", "data.category=carpet"))
    assert (wired(resolved)["image_size"], resolved["data"]["patch_size"]) == (256, 128)
    assert resolved["tiling"]["_target_"].endswith("WholeImage")
    assert resolved["data"]["datamodule"]["sees"] == "images"
    assert resolved["trainer"]["max_epochs"] == 1


def test_what_is_given_is_checked_under_the_key_that_people_set():
    with pytest.raises(UserError, match="data.image_size: expected 128, 256, 512 or 1024, found 200"):
        check(composed("data.category=screw", "data.image_size=200"))


@pytest.mark.parametrize("method", METHODS)
def test_every_wish_has_a_default_that_it_replaces(method):
    config = composed(f"method={method}", "data.category=screw")
    wants = OmegaConf.to_container(config.method.get("wants") or OmegaConf.create())
    check(config)
    assert [wish.partition("=")[0] for wish in wants_of(config)] == list(wants)


def test_what_is_typed_an_experiment_and_the_data_beat_a_wish():
    resolved = check(composed("method=ganomaly", "data.category=screw", "budget.epochs=3"))
    assert resolved["trainer"]["max_epochs"] == 3
    assert resolved["data"]["batch_size"] == 64
    assert resolved["data"]["image_size"] == 128
    config = composed("method=ganomaly", "data.category=screw", "budget.epochs=3")
    assert not any(wish.startswith("budget.epochs") for wish in wants_of(config))
    assert check(composed("experiment=quick", "method=ganomaly", "data.category=screw"))["data"]["patches"] == 4000
    assert check(composed("method=ganomaly", "data=demo"))["data"]["image_size"] == 128


def test_a_wish_that_nothing_offers_is_a_mistake():
    config = composed("data.category=screw")
    OmegaConf.update(config, "method.wants", {"budget.foo": 3}, force_add=True)
    with pytest.raises(UserError, match=r"method.wants: expected keys with a default .*, found 'budget.foo'"):
        wants_of(config)
