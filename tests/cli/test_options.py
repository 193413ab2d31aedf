"""Options of the commands: what is known, what is needed, help."""

import pytest

from anomaly_lab.cli.options import parse, switch
from anomaly_lab.core.errors import UserError

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


def test_a_pattern_that_the_shell_has_expanded_is_told(tmp_path):
    (tmp_path / "b.png").touch()
    with pytest.raises(UserError, match=r"found the file '.*b.png' alone; a pattern, .* 'source=photos/\*.png'"):
        parsed("run=x", "source=a.png", str(tmp_path / "b.png"))


def test_help(capsys):
    assert parsed("--help") is None
    assert "usage: python -m anomaly_lab predict run=DIR" in capsys.readouterr().out


def test_switches():
    assert switch({"maps": "True"}, "maps", False)
    assert not switch({"maps": "false"}, "maps", True)
    assert (switch({}, "maps", False), switch({}, "maps", True)) == (False, True)
    with pytest.raises(UserError, match="maps: expected true or false, found '1'"):
        switch({"maps": "1"}, "maps", False)
