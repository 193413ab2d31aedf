"""What a method is given by the names of its parameters."""

import pytest
from hydra import compose, initialize_config_dir

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.config.wiring import wired
from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.build import build_method


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


@pytest.mark.parametrize(
    ("method", "override", "message"),
    [
        ("cae", "+method.optimizer.eps=-1", "method.optimizer: Invalid epsilon value: -1"),
        ("f_anogan", "method.encoder_optimizer.alpha=-1", "method.encoder_optimizer: Invalid alpha value: -1"),
    ],
)
def test_what_an_optimizer_refuses_is_one_line_before_the_data_are_read(method, override, message):
    resolved = check(composed(f"method={method}", "data.category=screw", override))
    with pytest.raises(UserError, match=f"^{message}$"):
        build_method(resolved)


def test_classes_in_the_package_of_a_method_are_supplied_as_ours_are(tmp_path, monkeypatch):
    (tmp_path / "wired_package.py").write_text(
        "from anomaly_lab.methods.ganomaly import GANomaly\n"
        "class Own(GANomaly):\n    def __init__(self, own: int, **options):\n        super().__init__(**options)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("method=ganomaly", "data.category=screw", "method._target_=wired_package.Own", "+method.own=3")
    method = wired(check(composed(*words)))
    assert (method["own"], method["image_size"], method["channels"], method["schedule"]) == (3, 128, 3, "cosine")
    with pytest.raises(UserError, match=r"method.ow: no such key; did you mean method.own\?"):
        check(composed(*words, "+method.ow=3"))
