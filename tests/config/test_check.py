"""Mistakes in the configuration: one line that says what was expected and what was found."""

import re

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.config.labels import check_amount
from anomaly_lab.config.overrides import composed
from anomaly_lab.config.schema import refuse_missing, signature
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.messages import explain
from tests.conftest import METHODS, every


def message(*overrides):
    """What a user reads for these overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises((UserError, HydraException)) as caught:
        check(composed(lambda words: compose("train", words), overrides)[0])
    text = str(explain(caught.value))
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("override", "expected"),
    every(5, [
        ("data.categry=screw", "data.categry: no such key; did you mean data.category? keys of data: kind, .* more"),
        ("data.category=scrw", "data.category: expected one of carpet, .*, found 'scrw'; did you mean 'screw'?"),
        ("data.controls=[kdee]", "data.controls: expected some of brightness, .*, found 'kdee'; did you mean 'kde'?"),
        ("data.controls=[]", "data.controls: expected at least 1 item, found .."),
        ("data.controls=pca", r"data.controls: expected a list such as data.controls=\[pca\], found 'pca'"),
        ("data.category=", "data.category: expected one of carpet, .*, found ''; for other data: .*"),
        ("metod=cae", "metod: no such key; did you mean method? keys at the top: .*"),
        ("method=cea", f"method: expected one of {', '.join(METHODS)}, found 'cea'; did you mean 'cae'?"),
        ("logger=wandbb", "logger: expected one of csv, none, .*; did you mean 'wandb'?"),
        (
            "data.labelled_abnormal=3",
            "data.labelled_abnormal: expected none, because method=cae learns from good photos alone, found 3; "
            "method=cavga or method=deep_svdd or method=fcdd learns from defective ones too",
        ),
        ("method=cavga method.labelled=true", "method.labelled: expected False, as data.labelled_abnormal=None .*"),
        (
            "method=cavga data.kind=texture data.labelled_abnormal=0.1",
            "data.labelled_abnormal: expected photos that are shown whole, .* found data.kind=texture; type .*",
        ),
        ("data.patches=0", "data.patches: expected a number greater than 0, found 0"),
        ("data.patches=many", "data.patches: expected integer, found 'many'"),
        ("data.patches=1.5", "data.patches: expected integer, found 1.5"),
        ("data.image_size=-1", "data.image_size: expected a number greater than 0, found -1"),
        ("data.held_out=1", "data.held_out: expected a number less than 1, found 1"),
        ("data.kind=textur", "data.kind: .*'texture' or 'object'.*"),
        ("data.resize=padd", "data.resize: expected 'pad', .* or 'crop', found 'padd'; did you mean 'pad'?"),
        ("trainer.max_epochs=-1", "trainer.max_epochs: expected a number greater than 0, found -1"),
        ("trainer.precision=float", "trainer.precision: expected .*'32-true'.* found 'float'"),
        ("trainer.devices=none", "trainer.devices: expected .* found 'none'"),
        ("data.image_size=200", "data.image_size: expected 128, 256, 512 or 1024, found 200"),
        ("data.patch_size=128", "data.patch_size: expected the image size, 256, because objects are shown whole.*"),
        ("data.root=", "data.root: expected a folder or file, found nothing; set data.root=..."),
        ("data.category=[screw,bottle]", r"data.category: expected one of carpet, .*"),
        ("data.channels=2", "data.channels: expected 1 or 3, found 2"),
        ("trainer.precision=64-true", "trainer.precision: expected .* found '64-true'.*"),
        ("seed=4294967296", "seed: expected a number less than or equal to 4294967295, found 4294967296"),
        ("name=..", "name: expected letters, digits .* found '..'"),
        ("data.settings.rotation=3", "data.settings.rotation: expected no key, .*; set augmentation.rotation=..."),
        ("seed=-1", "seed: expected a number greater than or equal to 0, found -1"),
        ("name=a/b", "name: expected letters, digits .* found 'a/b'"),
        ("rerun=maybe", "rerun: expected boolean or 'judge', found 'maybe'"),
        ("method.network.latent_size=0", "method.network.latent_size: expected a number greater than 0, found 0"),
        ("method.network.output=sigmod", "method.network.output: expected 'linear' or 'sigmoid', found 'sigmod'.*"),
        ("method.network.latent=3", "method.network.latent: no such key; did you mean method.network.latent_.*"),
        ("budget.schedule=cos", "budget.schedule: expected 'constant', 'cosine', 'exponential', .*, found 'cos'.*"),
        ("method.optimizer.lr=0", "method.optimizer.lr: expected a number greater than 0, found 0"),
        ("method.optimizer.weight_decay=-1", "method.optimizer.weight_decay: expected a number greater than or .*"),
        ("method.optimizer.lr=inf", "method.optimizer.lr: expected a finite number, found inf"),
        ("+method.optimizer.lrr=1", "method.optimizer.lrr: no such key; did you mean method.optimizer.lr? keys .*"),
        ("+method.optimizer.amsgrad=yes", "method.optimizer.amsgrad: expected boolean, found 'yes'"),
        ("+method.optimizer.eps=small", "method.optimizer.eps: expected number, found 'small'"),
        ("+trainer.benchmark=1", "trainer.benchmark: expected boolean.*, found 1"),
        ("method=fastflow method.kernels=[]", r"method.kernels: expected at least 1 item, found \[\]"),
        ("method=fastflow method.kernels=[2]", r"method.kernels: expected 1, 3 or 5, found \[2\]"),
        ("+method.optimizer.betas=[0.5]", r"method.optimizer.betas: expected at least 2 items, found \[0.5\]"),
        ("callbacks.pictures.per_defect=0", "callbacks.pictures.per_defect: expected a number greater than 0, found 0"),
        ("+method.bottlneck=3", "method.bottlneck: no such key; keys of method: network, optimizer.*"),
        ("augmentation.rotation=200", "augmentation.rotation: expected a number less than or equal to 180, found 200"),
        ("~threshold", "threshold: expected one of the options of conf/threshold, found none"),
        ("+foo=3", "foo: no such key; keys at the top: augmentation, .*"),
        ("callbacks.pictures=3", "callbacks.pictures: expected its keys below it or null to leave it out, found 3"),
        ("checkpoint.every_batches=two", "checkpoint.every_batches: expected integer.* found 'two'"),
        ("checkpoint.every_batches=0", "checkpoint.every_batches: expected a number greater than 0.*, found 0"),
        ("+trainer.strategy=dpp", "trainer.strategy: expected 'auto', 'ddp' .*found 'dpp'; did you mean 'ddp'?"),
        ("+trainer.gradient_clip=1", "trainer.gradient_clip: no such key; did you mean .*_clip_val? .*"),
        ("+trainer.gradient_clip_val=-3", "trainer.gradient_clip_val: expected .*greater than 0.*found -3"),
        ("~trainer.max_epochs", "trainer.max_epochs: expected a number, found none"),
        ("method.network=null", "method.network: expected its keys below it .*, found None"),
        ("method.tiling=3", "method.tiling: no such key; keys of method: name, network, optimizer, schedule, likeli.*"),
        ("threshold=are", "threshold: expected one of area, .*; did you mean 'area'?"),
        ("threshold.rate=2", "threshold.rate: expected a number less than 1, found 2"),
        ("data=folder", "data.root: expected a folder or file, found nothing; set data.root=..."),
        ("~seed", "seed: expected a value, because the program reads it, found none"),
        ("~trust", "trust: expected a value, because the program reads it, found none"),
        ("~data.patches", "data.patches: expected a value, because data.datamodule.patches reads it, found none"),
        ("~budget", "budget: expected a value, because the program reads it, found none"),
        ("budget=1", "budget.epochs: expected a value, because the program reads it, found none"),
        ("data.datamodule=null", "data.datamodule: expected its keys below it .*, found None"),
        ("tiling=3", "tiling: expected its keys below it .*, found 3"),
        ("data.channels=true", "data.channels: expected 1 or 3, found True"),
        ("data.channels=1.0", "data.channels: expected 1 or 3, found 1.0"),
        ("data.categories=1", "data.categories: expected a table of categories, found 1"),
        ("data.patches=100000000000000000000", "data.patches: expected a number up to 4294967296, found 1.*"),
        ("data.workers=1e20", "data.workers: expected integer, found 1e[+]20"),
        ("budget.epochs=true", "budget.epochs: expected integer, found True"),
        ("method.name=null", "method.name: expected string, found None"),
        ("method.name=../../x", "method.name: expected letters, digits .* found '../../x'"),
        ("method.name=..", "method.name: expected letters, digits .* found '..'"),
        ("data.name=a/b", "data.name: expected letters, digits .* found 'a/b'"),
        ("logger.name=[1,2]", r"logger.name: expected string, found \[1, 2\]"),
        ("data=folder data.root=. data.good=fine", r"data.good: .* a list such as data.good=\[fine\], found 'fine'"),
        ("+logger@logger.csv=csv +logger.csv.prefix=1", "logger.csv.prefix: expected string, found 1"),
        ("logger.tags=3", "logger.tags: expected list, found 3"),
        ("method=spade method.pyramid=a", r"method.pyramid: expected a list such as method.pyramid=\[a\], found 'a'"),
        ("method._target_=null", "method._target_: expected package.module.Class, found None"),
        ("method._target_=nowhere.Net", "method._target_: expected a class of an installed package, found no .*"),
        ("+callbacks.own._target_=nowhere.X", "callbacks.own._target_: expected a class of an installed package, .*"),
        (
            "+callbacks.own._target_=pytorch_lightning.callbacks.Timr",
            "callbacks.own._target_: expected a class of pytorch_lightning.*; did you mean 'Timer'?",
        ),
        ("+callbacks.own._target_=5", "callbacks.own._target_: expected package.module.Class, found 5"),
        (
            "+callbacks.own._target_=pytorch_lightning.callbacks.LearningRateFinder",
            "callbacks.own: expected a callback that does not train, found LearningRateFinder; search with .*",
        ),
        ("+trainer.fast_dev_run=true", "trainer.fast_dev_run: expected none, because .*, found True"),
        ("+trainer.callbacks=[1]", r"trainer.callbacks: expected none, because the program sets it, found \[1\]"),
        ("+trainer.profiler=slow", "trainer.profiler: expected 'simple', 'advanced' or 'pytorch', found 'slow'"),
        ("image_size=64", "image_size: expected the whole key, data.image_size .*; type data.image_size=..."),
        (
            "method=draem data.corruption.probability=1",
            r"data.corruption.probability: expected the whole of data.corruption, which the method sets; type "
            r"'data.corruption=\{_target_: [^']*side: \${data.image_size}\}\}\]\}'",
        ),
        ("data.epochs=3", "data.epochs: expected the whole key, budget.epochs, .*; type budget.epochs=..."),
    ]),
)  # fmt: skip
def test_mistakes_are_told_in_one_line(override, expected):
    assert re.fullmatch(expected.replace("(.*)", r"\(.*\)").replace("?", r"\?"), message(*override.split()))


@pytest.mark.parametrize("category", ["../../../esc", "..", "a/b", "", "x" * 300])
def test_a_category_stays_below_the_folder_of_runs(category, tmp_path):
    said = message("data=folder", f"data.root={tmp_path}", f"data.category='{category}'")
    assert said == f"data.category: expected letters, digits and . _ + - (it names a folder), found {category!r}"


@pytest.mark.parametrize("amount", [True, [1, 2], {"a": 1}, "", 0, -1, 1.5, 0.0, 1.0, float("nan")])
def test_what_is_no_amount_of_labelled_photos_is_told_all_three(amount):
    expected = (
        "data.labelled_abnormal: expected a number of defective test photos, a share of them below 1, or a folder"
    )
    with pytest.raises(UserError, match=f"^{expected} of other ones, found {re.escape(repr(amount))}$"):
        check_amount(amount)


@pytest.mark.parametrize("amount", [None, 1, 50, 0.1, 1e-9, "defects/"])
def test_amounts_of_labelled_photos(amount):
    check_amount(amount)


def test_a_class_method_and_a_compiled_module_are_left_to_the_import():
    for target in ("torch.nn.Embedding.from_pretrained", "math.floor", "torch.nn.Linear"):
        refuse_missing("key", target)


def test_a_mistake_inside_another_exception_is_still_told():
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = UserError("the sentence")
    assert str(explain(wrapped)) == "the sentence"


def test_a_target_that_is_not_there_is_told():
    with pytest.raises(UserError, match="expected a module of anomaly_lab, found 'anomaly_lab.methods.none'"):
        signature("anomaly_lab.methods.none.None")
    with pytest.raises(UserError, match="expected a class or function of anomaly_lab.methods.cae, found 'CEA'"):
        signature("anomaly_lab.methods.cae.CEA")


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ("method=cae", "found own"),
        ("method=cavga method.map=residual", "found own; method=cavga has one with method.map=attention"),
    ],
)
def test_a_line_that_the_method_does_not_draw_is_refused_before_anything_is_read(words, end):
    found = message("threshold=own", *words.split())
    assert (
        found == f"threshold: expected a rule for a method without a threshold of its own (area, false_alarms), {end}"
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = composed(lambda typed: compose("train", typed), ["threshold=own", "method=cavga"])[0]
        assert check(config)["threshold"]["line"] == 0.5
