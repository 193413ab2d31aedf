"""Options of the commands: what is known, what is needed, help."""

import pytest

from anomaly_lab.cli.options import parse, switch
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.runs.collect import finished_run, finished_runs
from anomaly_lab.runs.folder import RESULT_VERSION, write_job

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


def test_switches():
    assert switch({"maps": "True"}, "maps", False)
    assert not switch({"maps": "false"}, "maps", True)
    assert (switch({}, "maps", False), switch({}, "maps", True)) == (False, True)
    with pytest.raises(UserError, match="maps: expected true or false, found '1'"):
        switch({"maps": "1"}, "maps", False)


def test_several_runs(tmp_path, monkeypatch):
    def run(name, state="done"):
        write_json(tmp_path / name / "metrics.json", {"result_version": RESULT_VERSION})
        write_job(tmp_path / name, state)

    for name in ("runs/cae/a", "runs/cae/b", "runs/control/c", "x,y"):
        run(name)
    run("runs/cae/unfinished", "failed")
    monkeypatch.chdir(tmp_path)

    def found(text):
        return [path.as_posix() for path in finished_runs(text)]

    assert found("runs/cae/b") == ["runs/cae/b"]
    assert found("runs/control/c,runs/cae/a") == ["runs/control/c", "runs/cae/a"]
    assert found("runs/cae/?") == ["runs/cae/a", "runs/cae/b"]
    assert found("runs") == found("runs/*") == ["runs/cae/a", "runs/cae/b", "runs/control/c"]
    assert found("runs/cae/a,runs/cae,runs/cae/../cae/a") == ["runs/cae/a", "runs/cae/b"]
    assert found("x,y") == ["x,y"]  # a comma in the name of a folder that is there
    for text in ("runs/cae/unfinished", "runs/cae/a,nowhere", "runs/cae/a,", "runs/z*"):
        with pytest.raises(UserError, match="run: expected the folder of a finished run"):
            finished_runs(text)
