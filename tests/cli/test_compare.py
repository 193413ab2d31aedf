"""The command from the outside: tables, files, states, mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_lab.cli.compare import main, one_line, parse, show
from anomaly_lab.core.errors import UserError
from anomaly_lab.report.figures import FigureRequest
from anomaly_lab.report.groups import group
from anomaly_lab.report.matrix import matrices
from anomaly_lab.report.sheets import Style, sheet
from anomaly_lab.runs.collect import Key, Run
from tests.conftest import ROOT
from tests.report.synthetic import read_metrics, write_run


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """The command in the test's folder; what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments):
        main(list(arguments))
        return capsys.readouterr().out

    return run


def test_one_call_prints_the_matrix_and_writes_page_and_tables(compare, tmp_path):
    folder = write_run(tmp_path / "runs", aupro=0.8)
    write_run(tmp_path / "runs", seed=1, state="failed", error="ValueError: no\nluck")
    write_run(tmp_path / "runs", seed=2, state="running")
    (write_run(tmp_path / "runs", seed=3) / "metrics.json").write_text("{")
    said = compare("runs", "--out", "a.html", "--out=b.csv", "out=c.md", "--out", "sub/d.tex")
    auroc = f"{read_metrics(folder)['image_auroc']:.3f}".removeprefix("0")
    assert auroc in said
    assert ".800" in said
    assert "failed: sweep/cae/mvtec_ad/screw/seed=1/0123456789 (ValueError: no luck)" in said
    assert "running: sweep/cae/mvtec_ad/screw/seed=2" in said
    assert "unreadable: sweep/cae/mvtec_ad/screw/seed=3/0123456789 (metrics.json: expected JSON" in said
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    for name in ("b.csv", "c.md", "sub/d.tex"):
        text = (tmp_path / name).read_text()
        assert "cae" in text
        assert ".8" in text
    assert not list(tmp_path.rglob(".*.html.*"))


def test_without_a_file_the_page_lies_in_the_first_folder(compare, tmp_path):
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", method="ganomaly")
    said = compare("one", "two", "--metric", "image_aupr")
    assert "report: one/report.html" in said
    assert (tmp_path / "one" / "report.html").is_file()
    assert not (tmp_path / "two" / "report.html").exists()
    assert "image AUPR" in said
    assert "image AUROC" not in said
    assert "ganomaly" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "found no folder"),
        (("nowhere",), "expected a folder of runs, found no nowhere"),
        (("empty",), "expected runs, folders with a job.json or a metrics.json, found none below empty"),
        (("runs", "--out"), "without a value"),
        (("runs", "--oot=x.html"), "found '--oot=x.html'; did you mean 'out'?"),
        (("runs", "--out", "x.pdf"), "expected a name that ends in .html, .csv, .md, .tex, found x.pdf"),
        (("runs", "--out", "empty.html"), "found the folder empty.html"),
        (("runs", "--out", "file/x.html"), "expected a folder to write to, found the file file"),
        (("runs", "--metric", "image_auroq"), "did you mean 'image_auroc'?"),
        (("runs", "--metric", "pixel_aupro"), "expected one that some run has"),
        (("runs", "--out", "x.tex", "figure=curves"), "expected a name that ends in .pdf, .svg, .png for the figure"),
        (("runs", "figure=curve"), "--figure: expected photos or curves, found 'curve'"),
        (("runs", "figure=curves"), "expected runs with curves/, found none; run them without callbacks.curves=null"),
        (("runs", "figure=photos", "category=scew"), "expected one of screw, found 'scew'; did you mean 'screw'?"),
        (("runs", "figure=curves", "photos=3"), "--photos: expected figure=photos beside it, found none"),
        (("runs", "figure=photos", "photos=0"), "--photos: expected a whole number from 1 to 100, found '0'"),
        (("runs", "digits=0"), "--digits: expected a whole number from 1 to 6, found '0'"),
        (("runs", "percent=yes"), "percent: expected true or false, found 'yes'"),
        (
            ("runs", "kinds=true"),
            "expected several textures or several objects (categories of MVTec AD), found neither",
        ),
        (("runs", "names=kae"), "did you mean 'cae'?"),
    ],
)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(compare, tmp_path, capsys, arguments, told):
    write_run(tmp_path / "runs")
    for name in ("empty", "empty.html"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        compare(*arguments)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_where_nothing_can_be_written_the_table_is_printed_and_the_error_says_so(compare, tmp_path, capsys):
    write_run(tmp_path / "runs")
    with pytest.raises(UserError, match=r"--out: expected a place to write to, found /proc/report.html \("):
        compare("runs", "--out", "/proc/report.html")
    assert "image AUROC" in capsys.readouterr().out


def test_help(compare):
    assert "usage: python -m anomaly_lab compare FOLDER" in compare("--help")


@pytest.mark.slow
def test_neither_torch_nor_lightning_is_loaded(tmp_path):
    write_run(tmp_path / "runs", pictures=1)
    code = (
        "import sys; from anomaly_lab.cli.compare import main; main(['runs']); "
        "sys.exit(bool({'torch', 'pytorch_lightning', 'matplotlib', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0


def test_options_in_any_order():
    found = parse(
        ["--metric=image_auroc,image_f1", "a", "out=x.md", "b", "names=a:A 1,b · layers=[1, 2]:B", "rank=true"]
    )
    assert [str(path) for path in found.folders + found.outs] == ["a", "b", "x.md"]
    assert found.metrics == ["image_auroc", "image_f1"]
    assert found.style == Style(("a:A 1", "b · layers=[1, 2]:B"), ranks=True)
    assert found.figure is None
    drawn = parse(["a", "figure=photos", "photos=3", "category=b,c", "--choose", "worst", "out=x.svg"]).figure
    assert drawn == FigureRequest("photos", ("b", "c"), 3, "worst")
    with pytest.raises(UserError, match="found '-x'"):
        parse(["a", "-x"])


def test_a_long_reason_is_cut():
    assert one_line("a\n  b") == "a b"
    assert len(one_line("x" * 999)) == 200


def test_names_and_errors_give_the_terminal_no_orders(capsys):
    key = Key("name", "cae", "folder", "part", "0")
    failed = Run(Path("runs"), "a\x1b[31mb", key, "failed", "ValueError: \x1b]0;title\x07 \x9b2J \x08")
    damaged = Run(Path("runs"), "c\rd", key, "done", "scores.csv: \x1b[2J")
    metrics = {"image_auroc": 0.5}
    loud = Run(Path("runs"), "e", key._replace(method="m\x1b[31m", category="p\x1b[1m"), "done", metrics=metrics)
    groups = group([loud])
    show([failed, damaged], groups._replace(repeated=[damaged]), [sheet(matrices(groups)["image_auroc"], groups)])
    said = capsys.readouterr().out
    assert said.count("\\x1b") >= 4
    assert "m\\x1b[31m" in said.replace("\n", "")
    assert not set("\x1b\x07\x9b\x08\r") & set(said)
