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


EPOCHS = {  # images that an epoch of the paper shows: those of the classes that are good
    "lsa_paper": 5400, "memae_paper": 5000, "adae_paper": 43200, "egbad_paper": 50200, "ganomaly_paper": 45000,
    "skip_ganomaly_paper": 45000, "avid_paper": 5000, "keras_cae": 60000,
}  # fmt: skip


@pytest.mark.parametrize("experiment", EPOCHS)
def test_an_epoch_of_a_paper_of_classes_is_that_of_the_classes_at_hand(experiment):
    """And typed it is what was typed; elsewhere as many as in the paper."""
    words = f"experiment={experiment}", "data=one_class", "data.root=photos", "data.category=horse"
    assert check(composed(*words))["data"]["patches"] is None
    assert check(composed(*words, "data.patches=7"))["data"]["patches"] == 7
    assert check(composed(words[0], "data.category=screw"))["data"]["patches"] == EPOCHS[experiment]


def test_experiments_that_keep_their_patches_with_classes_are_of_other_data():
    """Those whose number is an epoch of images of classes would show these too often or too seldom."""
    fixed = {
        file.stem for file in CONF.glob("experiment/*.yaml") if OmegaConf.select(OmegaConf.load(file), "data.patches")
    }
    assert fixed == {
        "anogan_paper", "cae_paper", "cavga_paper", "cutpaste_paper", "demo", "f_anogan_paper", "fcdd_paper",
        "htdg_paper", "quick", "slides_ganomaly", "ssim_ae_paper", "vae_paper",
    }  # fmt: skip


def test_a_wish_that_nothing_offers_is_a_mistake():
    with pytest.raises(UserError, match=r"found 'budget.epoch'; did you mean 'budget.epochs'\?"):
        refuse_unoffered({"wants": {"budget.epoch": 3}})
    config = composed()
    OmegaConf.update(config, "method.wants", {"foo": 3}, force_add=True)
    with pytest.raises(
        UserError, match=r"method.wants: expected keys with a default .* in conf/ \(budget.epochs, .*'foo'$"
    ):
        check(config)
