"""Arguments of constructors that no file mentions."""

import pytest
from hydra import compose, initialize_config_dir

from anomaly_lab.config.files import CONF
from anomaly_lab.config.overrides import composed
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
        ("callbacks.finite_loss.every_batch=10", "expected one of every_batches, .*; did you mean 'every_batches'?"),
        ("callbacks.progress.every=10", "expected no key, found 'every'"),
        ("method.tiling=3", "expected one of name, network, optimizer, schedule, found 'tiling'"),
        ("method.optimizer.learning_rate=1", "expected one of lr, weight_decay, .*, found 'learning_rate'"),
    ],
)
def test_what_is_no_argument_is_a_mistake(word, message):
    with pytest.raises(UserError, match=rf"^{word.partition('=')[0]}: {message}"):
        typed(word)


def test_words_that_need_no_plus_stay_as_they_are():
    assert typed("method.optimizer.lr=1", "method=ssim_ae")[1] == ["method.optimizer.lr=1", "method=ssim_ae"]
