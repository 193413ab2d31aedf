"""What methods want of other groups."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.config.wants import offered, refuse_unoffered, wants_of
from anomaly_lab.core.errors import UserError
from tests.conftest import METHODS
from tests.contract import OF_TABLES, table_of


def composed(*words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(words))


@pytest.mark.parametrize("method", METHODS)
def test_every_wish_has_a_default_that_it_replaces(method, tmp_path):
    data = ["data=table", f"data.root={table_of(tmp_path)}"] if method in OF_TABLES else []
    config = composed(f"method={method}", *data)
    resolved = check(config)
    wants = dict(config.method.get("wants") or {})
    for key, value in wants.items():
        assert key in offered()
        found = resolved
        for part in key.split("."):
            found = found[part]
        assert found == value


def test_the_line_names_what_is_granted_and_the_defaults():
    config = composed("method=ganomaly", "data.category=screw", "budget.epochs=3", "data.patches=100000")
    assert wants_of(config) == (
        "method=ganomaly sets input.object.image_size=128 (default 256), data.batch_size=64 (default 128), "
        "budget.schedule=cosine (default constant); a key that you type overrides it"
    )
    assert wants_of(composed("method=control")).startswith("method=control sets controls=false (default true);")
    assert wants_of(composed("method=cae")) == ""


def test_a_wish_that_is_the_default_is_no_news():
    assert wants_of(composed("method=ssim_ae", "input.channels=1")) == ""


def test_a_size_of_textures_is_no_news_to_objects():
    assert wants_of(composed("method=padim", "data.category=screw")) == ""
    assert "input.texture.image_size=256" in wants_of(composed("method=padim", "data.category=wood"))


def test_what_is_typed_an_experiment_and_the_data_beat_a_wish():
    resolved = check(composed("method=ganomaly", "data.category=screw", "budget.epochs=3"))
    assert resolved["trainer"]["max_epochs"] == 3
    assert resolved["data"]["batch_size"] == 64
    assert resolved["data"]["image_size"] == 128
    assert check(composed("experiment=quick", "method=ganomaly"))["data"]["patches"] == 4000
    assert check(composed("method=texture_inspection", "data=demo"))["data"]["image_size"] == 128  # of the demo data


def test_a_wish_that_nothing_offers_is_a_mistake():
    with pytest.raises(UserError, match=r"found 'budget.epoch'; did you mean 'budget.epochs'\?"):
        refuse_unoffered({"wants": {"budget.epoch": 3}})
    config = composed()
    OmegaConf.update(config, "method.wants", {"foo": 3}, force_add=True)
    with pytest.raises(
        UserError, match=r"method.wants: expected keys with a default .* in conf/ \(budget.epochs, .*'foo'$"
    ):
        check(config)
