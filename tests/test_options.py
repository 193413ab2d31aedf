"""Options of the commands: what is known, what is needed, help."""

import pytest

from anomaly_lab.errors import UserError
from anomaly_lab.options import finished_run, parse

USAGE = "predict run=DIR source=FILE|FOLDER|GLOB [out=DIR]"
KNOWN = {"run": "the folder of a finished run", "source": "images", "out": "result folder"}


def parsed(*arguments):
    return parse(list(arguments), USAGE, KNOWN, needed=("run", "source"))


def test_names_and_values():
    assert parsed("run=a=b", "source=c", "out.deep=1") == {"run": "a=b", "source": "c", "out.deep": "1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=x"], "predict: .* found no source="),
        (["run=x", "sorce=y"], "found 'sorce'; did you mean 'source'"),
        (["run", "DIR"], "found 'run' without a value"),
    ],
)
def test_wrong_options_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        parsed(*arguments)


def test_help(capsys):
    assert parsed("--help") is None
    assert "usage: python -m anomaly_lab predict run=DIR" in capsys.readouterr().out


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(UserError, match="run: expected the folder of a finished run"):
        finished_run(str(tmp_path))
