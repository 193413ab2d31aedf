"""What bash completes: commands, their options, and what Hydra offers for a training."""

import os
import subprocess

import pytest

from anomaly_lab.cli import completion, dashboard, predict


@pytest.fixture
def completed(tmp_path, capsys):
    """The answers of bash for a line; the program stands for Hydra's and answers with the line that it is asked for."""
    program = tmp_path / "anomaly-lab"
    program.write_text('#!/bin/sh\necho "$@" "$COMP_LINE" >> asked; echo method. method= method=cae method=control\n')
    program.chmod(0o755)
    completion.main([])
    script = capsys.readouterr().out
    assert len(script.splitlines()) < 60

    def run(line, breaks=" ="):
        words = 'COMP_WORDBREAKS=$2; _anomaly_lab "$1"; printf "%s\\n" "${COMPREPLY[@]}"'
        line = line.replace("anomaly-lab", str(program))
        shell = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
        command = ["bash", "-c", f"{script}\n{words}", "bash", str(program), breaks]
        done = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.splitlines()

    run.asked = tmp_path / "asked"
    return run


def test_commands_and_their_options_need_no_program(completed):
    assert completed("anomaly-lab predict ") == [f"{name}=" for name in predict.OPTIONS]
    assert completed("anomaly-lab predict run=x s") == ["source="]
    assert completed("anomaly-lab dashboard ") == [f"{name}=" for name in dashboard.OPTIONS]
    assert completed("anomaly-lab compare --m") == ["--metric="]
    assert completed("anomaly-lab data ") == ["check ", "cache "]
    assert completed("anomaly-lab data cache c") == ["clear "]
    assert completed("anomaly-lab predict run=") == [""]  # bash completes files
    assert completed("anomaly-lab doctor ") == completed("anomaly-lab help ") == [""]
    assert not completed.asked.exists()


def test_select_has_options_and_the_keys_of_a_run(completed):
    assert completed("anomaly-lab select mi") == ["minutes="]
    for line in ("select minutes=5 m", "select labels=false data=folder minutes=5 m"):
        assert completed(f"anomaly-lab {line}") == ["minutes=", "method.", "method=", "method=cae ", "method=control "]
    assert completed("anomaly-lab select data=folder method=c") == ["cae ", "control "]
    assert completed.asked.read_text().splitlines() == [
        "-sc query=bash anomaly-lab -m mi",
        "-sc query=bash anomaly-lab -m m",
        "-sc query=bash anomaly-lab -m data=folder m",
        "-sc query=bash anomaly-lab -m data=folder method=c",
    ]


def test_keys_are_those_of_hydra_and_so_is_the_first_word_beside_the_commands(completed):
    assert completed("anomaly-lab met") == [
        "methods ",
        "metrics ",
        "method.",
        "method=",
        "method=cae ",
        "method=control ",
    ]
    assert completed("anomaly-lab -m seed=0,1 method=c") == ["cae ", "control "]
    assert completed("anomaly-lab data check method=", breaks=" ") == ["method=cae ", "method=control "]
    assert completed.asked.read_text().splitlines() == [
        "-sc query=bash anomaly-lab met",
        "-sc query=bash anomaly-lab -m seed=0,1 method=c",
        "-sc query=bash anomaly-lab method=",
    ]
