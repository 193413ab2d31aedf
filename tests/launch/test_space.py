"""What a search is asked for: from Hydra's words to Optuna's distributions, and from values back to words."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from anomaly_lab.core.errors import UserError
from anomaly_lab.launch.space import ORACLE, SYNTHETIC, SearchRequest, Settings, checked, ends

DEFAULT = Settings()


def asked(*words, settings=DEFAULT):
    return SearchRequest.of(OverridesParser.create().parse_overrides(list(words)), settings)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a.lr=interval(1e-4,1e-2)", FloatDistribution(1e-4, 1e-2)),
        ("a.lr=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("n=int(interval(2,8))", IntDistribution(2, 8)),
        ("n=tag(log,int(interval(2,64)))", IntDistribution(2, 64, log=True)),
        ("n=range(10,40,10)", IntDistribution(10, 30, step=10)),
        ("n=range(4)", IntDistribution(0, 3)),
        ("x=range(0.5,2,0.5)", FloatDistribution(0.5, 1.5, step=0.5)),
        ("n=8,16,32", CategoricalDistribution(["8", "16", "32"])),
        ("n=choice(8,16)", CategoricalDistribution(["8", "16"])),
        ("method=cae,ssim_ae", CategoricalDistribution(["cae", "ssim_ae"])),
        ("data.region=[1,2,3,4],null", CategoricalDistribution(["[1,2,3,4]", "null"])),
        ("w='a b,c','d=e'", CategoricalDistribution(["'a b,c'", "'d=e'"])),
    ],
)
def test_words_become_distributions(word, expected):
    (found,) = asked(word).space.values()
    assert found == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr=interval(1,0)", "lr: expected values that can be searched, found lr=interval(1,0): "),
        ("lr=tag(log,interval(0,1))", "lr: expected values that can be searched"),
        ("n=tag(log,range(1,9))", "n: expected values that can be searched, .* wants an interval"),
        ("lr=1e-3", "expected a key to search"),
    ],
)
def test_what_cannot_be_searched_is_told(word, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        asked(word)


def test_values_become_words_that_hydra_reads_as_the_same_values():
    search = asked("method=cae", "lr=tag(log,interval(1e-7,1))", "n=range(1,9)", "w='a b','c'")
    params = {"lr": 1.2345678901234e-05, "n": 3, "w": "'a b'"}
    (words,) = search.jobs(params)
    assert words == ("method=cae", "callbacks=synthetic", "lr=1.2345678901234e-05", "n=3", "w='a b'")
    values = [override.value() for override in OverridesParser.create().parse_overrides(list(words))]
    assert values[2:4] == [1.2345678901234e-05, 3]
    assert str(values[4]) == "a b"


def test_seeds_and_categories_are_not_chosen_but_averaged_over():
    search = asked("seed=0,1", "data.category=screw,pill", "n=1,2")
    assert list(search.space) == ["n"]
    assert [words[1:3] for words in search.jobs({"n": "2"})] == [
        ("seed=0", "data.category=screw"), ("seed=0", "data.category=pill"),
        ("seed=1", "data.category=screw"), ("seed=1", "data.category=pill"),
    ]  # fmt: skip


def test_the_last_word_for_a_key_counts():
    search = asked("n=1,2", "lr=1", "lr=interval(0,1)", "n=5", "seed=0,1", "seed=3")
    assert (list(search.space), search.repeats) == (["lr"], [()])
    assert search.fixed == ("n=5", "seed=3", "callbacks=synthetic")


def test_the_callbacks_of_the_objective_are_asked_for_where_it_needs_them():
    assert "callbacks=synthetic" in asked("n=1,2").fixed
    assert asked("n=1,2", "callbacks=mine").fixed == ("callbacks=mine",)
    assert asked("n=1,2", settings=Settings(objective="oracle_image_auroc")).fixed == ()


def test_an_objective_of_the_test_set_is_named_so():
    assert checked({}).objective == checked({}).metric == SYNTHETIC[0]
    assert checked({"objective": "oracle_pixel_aupro"}).metric == "pixel_aupro"
    assert all(name == f"oracle_{metric}" and "synthetic" not in metric for name, metric in ORACLE.items())
    for name in ("image_auroc", "validation_loss", "oracle_synthetic_pixel_aupro"):
        with pytest.raises(UserError, match=r"objective: expected one of synthetic_pixel_aupro, .*oracle_image_auroc"):
            checked({"objective": name})


@pytest.mark.parametrize(("key", "value"), [("n_trials", 0), ("sampler", "grid"), ("at_a_time", -1), ("ntrials", 3)])
def test_the_keys_of_the_sweeper_are_checked(key, value):
    with pytest.raises(UserError, match=f"hydra.sweeper.{key}: (expected|no such key; did you mean)"):
        checked({key: value})


def test_what_makes_another_search():
    base = asked("n=1,2", "method=cae", "data.root=here", "data.workers=2")
    assert base.description() == asked("method=cae", "n=1,2", "data.root=there").description()
    for other in (("n=1,3", "method=cae"), ("n=1,2", "method=ssim_ae"), ("n=1,2", "method=cae", "seed=1,2")):
        assert asked(*other).description() != base.description()


def test_both_ends_or_every_choice():
    search = asked("a=interval(0,1)", "b=range(1,9,2)", "c=x,y,z")
    assert [ends(each) for each in search.space.values()] == [[0.0, 1.0], [1, 7], ["x", "y", "z"]]
