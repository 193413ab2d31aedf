"""What Hydra says of a group that was set to null, and what it says of anything else."""

import pytest
from hydra import initialize_config_dir

from anomaly_lab.config.compose import compose
from anomaly_lab.config.files import CONF
from anomaly_lab.config.resolvers import register
from anomaly_lab.core.errors import UserError


@pytest.fixture(autouse=True)
def hydra():
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def test_words_that_hydra_wants_a_plus_for_get_it():
    config, words = compose(["method=ganomaly", "method.optimizer.amsgrad=true"])
    assert config.method.optimizer.amsgrad is True
    assert words == ["method=ganomaly", "+method.optimizer.amsgrad=true"]


def test_a_group_that_is_null_is_named():
    with pytest.raises(UserError, match="^trainer=null: expected one of the group's options, found null$"):
        compose(["method=cae", "trainer=null"])


def test_a_rate_that_the_method_does_not_read_is_refused():
    with pytest.raises(UserError, match="budget.learning_rate: expected none, because method=ganomaly does not read"):
        compose(["method=ganomaly", "budget.learning_rate=1"])
