"""Arguments of constructors that no file mentions."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from anomaly_lab.config.files import CONF
from anomaly_lab.config.overrides import as_people_write, composed, of_method
from anomaly_lab.core.errors import UserError


def typed(*words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return composed(lambda overrides: compose("train", overrides), words)


def test_they_are_typed_like_all_others():
    config, words = typed(
        "method=ganomaly",
        "callbacks.finite_loss.every_batches=10",
        "method.optimizer.amsgrad=true",
        "trainer.benchmark=true",
        "method.optimizer.lr=1",
    )
    assert config.callbacks.finite_loss.every_batches == 10
    assert config.method.optimizer.amsgrad is config.trainer.benchmark is True
    assert words == [
        "method=ganomaly", "+callbacks.finite_loss.every_batches=10", "+method.optimizer.amsgrad=true",
        "+trainer.benchmark=true", "method.optimizer.lr=1",
    ]  # fmt: skip


def test_several_may_stand_in_one_word():
    config, _ = typed("callbacks.finite_loss={every_batches: 10}")
    assert config.callbacks.finite_loss.every_batches == 10
    assert config.callbacks.finite_loss._target_.endswith("FiniteLoss")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "callbacks.finite_loss.every_batch=10",
            r"no such key; did you mean callbacks.finite_loss.every_batches\? keys of .*",
        ),
        ("callbacks.progress.every=10", "no such key; keys of callbacks.progress: none"),
        ("method.tiling=3", "no such key; keys of method: name, network, optimizer, schedule"),
        ("method.optimizer.learning_rate=1", "no such key; keys of method.optimizer: lr, weight_decay, "),
    ],
)
def test_what_is_no_argument_is_a_mistake(word, message):
    with pytest.raises(UserError, match=rf"^{word.partition('=')[0]}: {message}"):
        typed(word)


def test_words_that_need_no_plus_stay_as_they_are():
    assert typed("method.optimizer.lr=1", "method=ssim_ae")[1] == ["method.optimizer.lr=1", "method=ssim_ae"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("data.region=1,2,30,40 seed=0,1 -m", "-m data.region=[1,2,30,40] seed=0,1"),
        ("data.value_range=0,4095.5 data.region=mask.png", "data.value_range=[0,4095.5] data.region=mask.png"),
        ("data.root=~/parts", "data.root={home}/parts"),
        ("data.root=/a/Zähler", "data.root='/a/Zähler'"),
        ("data.root=a,b", "data.root='a,b'"),
        ("data.root=x=y~(z)", "data.root='x=y~(z)'"),
        ("data.root=5 runs_dir=it's", r"data.root='5' runs_dir='it\'s'"),
        ("data.root='a' data.cache_dir=null data.region=[1,2,3,4]", None),
        ("method.foreign_images=null method.foreign_images=procedural", None),
        ("-m method.foreign_images=procedural,null method.teacher.weights=null,/a/b.c", None),
        ("method.foreign_images=a,b", "method.foreign_images='a,b'"),
        ("data.foreign_images=~/dtd/it's", r"data.foreign_images='{home}/dtd/it\'s'"),
        (
            "data.labelled_abnormal=5 -m data.labelled_abnormal=0.1,1e-2,./5,~/x",
            "-m data.labelled_abnormal=5 data.labelled_abnormal=0.1,1e-2,'5',{home}/x",
        ),
        ("data.labelled_abnormal=.5 data.labelled_abnormal=-1", None),
        ("-m data.root=a,b", None),
        ("-m data.root=ä,b", "-m data.root='ä',b"),
        ("logger=[wandb,csv]", "logger=wandb +logger@logger.csv=csv"),
        ("logger=[csv]", "logger=csv"),
        (
            "method.backbone=offline",
            "method.backbone.name=tf_efficientnet_lite0.in1k method.backbone.weights=offline",
        ),
        (
            "-m method=padim,cae padim.backbone=offline",
            "-m method=padim,cae padim.backbone.name=choice(tf_efficientnet_lite0.in1k) "
            "padim.backbone.weights=choice(offline)",
        ),
        ("method=cae cae.network.latent_size=3", "method=cae method.network.latent_size=3"),
        ("method=cae +cae.x.y=3", "method=cae +method.x.y=3"),
        (
            "-m method=ganomaly,skip_ganomaly method.width=32",
            "-m method=ganomaly,skip_ganomaly method.width=choice(32)",
        ),
        ("-m method=ganomaly method.width=32", None),
        (
            "-m method=cae,ganomaly ganomaly.width=32,64 method.x=[1,2]",
            "{_} ganomaly.width=32,64 method.x=choice([1,2])",
        ),
    ],
)
def test_what_people_write_becomes_what_hydra_reads(words, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    expected = (expected or words).format(home="/home/x", _="-m method=cae,ganomaly")
    assert as_people_write(words.split()) == expected.split()


@pytest.mark.parametrize(
    "key",
    [
        "runs_dir", "data.root", "data.region", "data.cache_dir", "data.foreign_images", "data.labelled_abnormal",
        "data.layout.root", "data.decoding.region", "method.foreign_images", "method.teacher.weights",
        "method.backbone.weights", "logger.save_dir", "logger.csv.save_dir",
    ],
)  # fmt: skip
def test_every_path_may_begin_at_home_and_have_a_comma(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    assert as_people_write([f"{key}=~/a,b"]) == [f"{key}='/home/x/a,b'"]
    assert as_people_write([f"{key}=~/a"]) == [f"{key}=/home/x/a"]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["data.good=[良]"], [["良"]]),
        (["data.good=良"], [["良"]]),
        (["data.good=fine"], [["fine"]]),
        (["data.good=0"], [[0]]),
        (["data.good=[0,1]"], [[0, 1]]),
        (["data.good=[gut ü, OK 2,b]"], [["gut ü", "OK 2", "b"]]),
        (["data.good=a & b (c)"], [["a & b (c)"]]),
        (["data.good=[it's]"], [["it's"]]),
        (["data.good=['a,b',\"良\"]"], [["a,b", "良"]]),
        (["data.good=[]"], [[]]),
        (["name=ä"], ["ä"]),
        (["name=größe 2"], ["größe 2"]),
        (["logger.tags=[ä,b]"], [["ä", "b"]]),
        (["name='ä'"], ["ä"]),
        (["-m", "data.good=[ü],[b,良]"], [["ü"], ["b", "良"]]),
        (["-m", "data.good=ü,b"], [["ü"], ["b"]]),
        (["-m", "name=ä,b"], ["ä", "b"]),
    ],
)
def test_names_need_no_quotes_whatever_their_letters(words, values):
    (override,) = OverridesParser.create().parse_overrides([as_people_write(words)[-1]])
    if override.is_sweep_override():
        found = [OverridesParser.create().parse_overrides([f"x={one}"])[0] for one in override.sweep_string_iterator()]
    else:
        found = [override]
    assert [one.value() for one in found] == values


def test_a_folder_with_a_comma_is_one_also_in_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert as_people_write(["-m", "data.root=a,b"]) == ["-m", "data.root='a,b'"]


def test_a_job_of_a_sweep_gets_the_keys_of_its_own_method():
    words = ("cae.network.latent_size=3", "ganomaly.width=32", "own.x=1", "method=ganomaly")
    assert of_method(words, {"own"}) == ["method.width=32", "method=ganomaly"]
    assert of_method(words[:3]) == list(words[:3])


@pytest.mark.parametrize("word", ["cavga.backbone=null", "cavga.backbone.weights=NULL", "+cavga.x.y=null"])
def test_null_for_one_of_several_methods_is_null_in_its_jobs(word):
    typed = as_people_write(["-m", "method=cavga,ganomaly", word])[-1]
    (override,) = OverridesParser.create().parse_overrides([typed])
    assert override.is_sweep_override()  # the jobs have it alone: the configuration of the sweep has another method
    key, (value,) = override.get_key_element(), override.sweep_string_iterator()
    for methods in (["method=cavga"], ["method=ganomaly"], []):
        job = of_method([*methods, f"{key}={value}"])
        mine = word.replace("NULL", "null").replace("cavga", "method") if methods else word.replace("NULL", "null")
        assert job == [*methods, *([] if methods == ["method=ganomaly"] else [mine])]


def test_keys_of_another_method_are_refused_in_a_single_run():
    with pytest.raises(UserError, match="expected keys of the method of the run, found keys of another one"):
        as_people_write(["method=cae", "ganomaly.width=3"])
