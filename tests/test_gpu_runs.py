"""The program of `experiments/gpu`: what is skipped, left out, written and brought back, and toy rows on a CPU."""

import argparse
import csv
import importlib
import subprocess
import sys
import tarfile
import time
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from anomaly_lab.runs.folder import FORMAT
from anomaly_lab.runs.naming import Place
from tests.conftest import ROOT, make_parts, variables

FOLDER = ROOT / "experiments" / "gpu"
ABOUT = {"card": "a card", "commit": "abc"}


@pytest.fixture
def module(monkeypatch):
    """The modules of the program by name; none stays imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in {path.stem for path in FOLDER.glob("*.py")} - before:
        sys.modules.pop(name, None)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_skipped_left_out_and_written_at_once(module, tmp_path):
    rows, clock, tried, sizes = module("rows"), Clock(), [], []
    guard = rows.TimeGuard(2, clock)
    table = rows.Table("budgets", tmp_path, [tmp_path])

    def row(method, seconds, found=None, estimate=10.0):
        def work():
            tried.append(method)
            clock.now += seconds
            sizes.append(len(read(table.path)) if table.path.is_file() else 0)
            return found or {"image_auroc": 0.5}

        return rows.Row("budgets", {"method": method, "data": "x"}, work, lambda: estimate)

    def broken():
        raise RuntimeError("a line\nand another")

    rows.measure(
        [
            row("first", 30), row("too long", 1, estimate=91.0), row("part", 20, {"state": "unfinished", "note": "n"}),
            rows.Row("budgets", {"method": "broken", "data": "x"}, broken, lambda: 0.0),
            rows.Row("budgets", {"method": "of the table", "data": "x"}, broken), row("last", 60),
        ],
        guard, {"budgets": table}, ABOUT,
    )  # fmt: skip
    assert tried == ["first", "part", "last"]
    assert sizes == [0, 1, 4]
    written = read(table.path)
    assert [(each["method"], each["state"], each["seconds"], each["note"]) for each in written] == [
        ("first", "done", "30", ""), ("part", "unfinished", "20", "n"),
        ("broken", "failed", "0", "RuntimeError: a line and another"),
        ("of the table", "failed", "0", "RuntimeError: a line and another"), ("last", "done", "60", ""),
    ]  # fmt: skip
    assert {(each["card"], each["commit"]) for each in written} == {("a card", "abc")}
    assert (guard.left, guard.estimate("budgets"), guard.estimate("steps")) == (10.0, 60.0, 25.0)

    # What is done is known, of whatever commit, on this card alone; what is unfinished or failed is tried again.
    tried.clear()
    again = rows.TimeGuard(10, clock)
    table = rows.Table("budgets", tmp_path, [tmp_path])
    every = [row("first", 1), row("part", 1), row("last", 1)]
    table.append = lambda row: None
    rows.measure(every, again, {"budgets": table}, {"card": "a card", "commit": "other"})
    assert tried == ["part"]
    rows.measure(every, again, {"budgets": table}, {"card": "another", "commit": "abc"})
    assert tried == ["part", "first", "part", "last"]
    assert not rows.Table("budgets", tmp_path, ()).known


def test_no_row_is_estimated_when_the_time_for_any_is_over(module, tmp_path, capsys):
    rows, clock, estimated = module("rows"), Clock(), []
    guard = rows.TimeGuard(8, clock)

    def row(number):
        def estimate():
            estimated.append(number)
            clock.now += 12  # a few steps of a run
            return 90.0

        def work():
            clock.now += guard.left - 25
            return {"state": "unfinished"}

        return rows.Row("budgets", {"method": f"{number}", "data": "x"}, work, estimate)

    rows.measure(map(row, range(33)), guard, {"budgets": rows.Table("budgets", tmp_path, ())}, ABOUT)
    assert (estimated, guard.left) == ([0], 25)
    assert capsys.readouterr().out.count("left out: budgets ") == 32


def test_a_row_without_its_columns_is_refused(module, tmp_path):
    table = module("rows").Table("steps", tmp_path, ())
    with pytest.raises(ValueError, match="fields not in fieldnames: 'unknown'"):
        table.append({"method": "cae", "state": "done", "unknown": 1})


def test_data_sets_are_found_in_any_of_the_folders(module, tmp_path):
    for path in ("b/mvtec_ad_small/transistor", "a/wood_boards_256", "b/wood_boards_256"):
        (tmp_path / path).mkdir(parents=True)
    found = module("run").sets_in([tmp_path / "a", tmp_path / "b", tmp_path / "none"])
    assert list(found) == ["transistor", "wood"]
    assert found["transistor"][-1] == f"data.root={tmp_path / 'b/mvtec_ad_small'}"
    assert found["wood"][-1] == f"data.root={tmp_path / 'a/wood_boards_256'}"


def test_waits_for_the_device_are_counted_by_line(module, monkeypatch):
    waits = module("steps").Synchronisations()
    assert waits.columns(50) == {}  # without a GPU
    with warnings.catch_warnings(record=True) as waits.caught:
        warnings.simplefilter("always")
        for number in range(100):
            warnings.warn_explicit("called a synchronizing CUDA operation", UserWarning, "/x/data/a.py", 7)
            if number % 50 == 0:
                warnings.warn_explicit("called a synchronizing CUDA operation", UserWarning, "/x/training/b.py", 9)
        warnings.warn_explicit("something else", UserWarning, "/x/data/a.py", 7)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert waits.columns(50) == {"synchronisations": 2.04, "where": "data/a.py:7 x 2; training/b.py:9 x 0.04"}
    assert waits.columns(0) == {}


STUB = """#!{python}
import json, pathlib, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[3:])
if "broken" in words:
    sys.exit("error: data.root: expected a folder")
folder = pathlib.Path(words["runs_dir"], "gpu", words["method"])
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
job, metrics = folder / "job.json", folder / "metrics.json"
def stop(*_):
    job.write_text(json.dumps({{"state": "interrupted"}}))
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
earlier = job.read_text() if job.exists() else ""
job.write_text(json.dumps({{"state": "running"}}))
(folder / "checkpoints" / "last.ckpt").write_bytes(bytes(1000))
if "hasty" in words:  # a rerun that is stopped at once: the earlier result stays
    job.write_text(earlier)
elif "quick" in words:
    figures = {{"image_auroc": float(words["quick"]), "threshold": 1.0, "precision": "32-true", "result_key": "key"}}
    metrics.write_text(json.dumps(figures))
    job.write_text(json.dumps({{"state": "done", "format": {format}, "finished": time.time()}}))
    print("rerun" if "rerun" in words else "first")
else:
    time.sleep(60)
"""


def test_a_budget_ends_in_time_and_its_folder_comes_back(module, monkeypatch, tmp_path, write):
    budgets, work, out = module("budgets"), tmp_path / "work", tmp_path / "out"
    work.mkdir(), out.mkdir()
    stub = tmp_path / "python"
    stub.write_text(STUB.format(python=sys.executable, format=FORMAT))
    stub.chmod(0o755)
    monkeypatch.setattr(budgets.sys, "executable", str(stub))
    monkeypatch.setattr(budgets, "load_checkpoint", lambda path: {"epoch": 3 + 0 * path.stat().st_size})
    monkeypatch.setattr(budgets, "configured", lambda *words: dict(word.split("=", 1) for word in words))
    place = work / "runs" / "gpu"
    monkeypatch.setattr(budgets, "place_of", lambda found: Place(place / found.get("method", "none"), "key"))
    found = budgets.budget(["method=a", "quick=0.75"], work, out, 30)
    assert found == {"image_auroc": 0.75, "precision": "32-true"}
    words = ["method=a", "quick=0.5"]
    assert budgets.budget(words, work, out, 30) == {**found, "note": "finished by an earlier command"}
    assert budgets.budget(words, work, out, 30, again=True) == {**found, "image_auroc": 0.5}
    assert (work / "said").read_text() == "rerun\n"
    hasty = budgets.budget([*words, "hasty=1"], work, out, 30, again=True)
    assert hasty == {"state": "failed", "note": "stopped before its first checkpoint"}
    assert budgets.run_of(words, work) == ([*words, f"runs_dir={work / 'runs'}", "name=gpu"], place / "a", True)
    failed = budgets.budget(["broken=1"], work, out, 30)
    assert failed == {"state": "failed", "note": "error: data.root: expected a folder"}
    assert not list(out.iterdir())

    class Impatient(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout != 7.0:
                return super().wait(timeout)
            while not list(work.glob("runs/gpu/b/checkpoints/last.ckpt")):
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(budgets.subprocess, "Popen", Impatient)
    found = budgets.budget(["method=b"], work, out, 7.0)
    assert found == {"state": "unfinished", "note": "epoch 4; unfinished.tar"}
    with tarfile.open(out / "unfinished.tar") as archive:
        archive.extractall(tmp_path / "elsewhere", filter="data")
    folder = tmp_path / "elsewhere" / "runs" / "gpu" / "b"
    assert (folder / "checkpoints" / "last.ckpt").stat().st_size == 1000
    assert (folder / "job.json").read_text() == '{"state": "interrupted"}'
    monkeypatch.setattr(budgets, "LARGEST", 500)
    assert budgets.packed(work / "runs/gpu/b", work, out / "unfinished.tar").endswith(
        "MiB do not come back; it starts anew"
    )
    assert not list(out.iterdir())


PROGRAM = """
import runpy, sys
assert "wandb" not in sys.modules
sys.modules["wandb"] = None  # importing it is an ImportError
sys.path.insert(0, {folder!r})
runpy.run_path({folder!r} + "/run.py", run_name="__main__")
"""


@pytest.mark.slow
def test_toy_rows_on_a_cpu_without_wandb(warm_program, tmp_path):
    """A method of each base class; the test of an autoencoder; a budget; a second command finds all of them."""
    make_parts(tmp_path / "data" / "mvtec_ad_small" / "transistor")
    out, work = tmp_path / "out", tmp_path / "work"
    words = (
        "--data", f"{tmp_path / 'data'}", "--out", f"{out}", "--work", f"{work}", "--device", "cpu", "--toy",
    )  # fmt: skip

    stub = tmp_path / "none" / "wandb.py"  # for the process of a budget
    stub.parent.mkdir()
    stub.write_text("raise ImportError('there is none')")
    environment = variables(tmp_path, PYTHONPATH=f"{stub.parent}")

    def run(*more):
        done = warm_program.run([*more, *words], tmp_path, environment, code=PROGRAM.format(folder=str(FOLDER)))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    methods = ("--methods", "slides_cae", "ganomaly", "variation_model", "efficient_ad", "stfpm")
    said = run("steps", "evaluation", *methods)
    assert "failed" not in said, said
    (fitted,), steps, evaluation = (read(out / f"{name}.csv") for name in ("fitted", "steps", "evaluation"))
    assert [(row["method"], row["batch"], row["side"]) for row in steps] == [
        ("efficient_ad", "9", "64"), ("ganomaly", "8", "64"), ("slides_cae", "8", "64"), ("stfpm", "9", "64"),
    ]  # fmt: skip
    for row in steps:
        fit, resident, bare = (float(row[f"{way}_ms"]) for way in ("fit", "resident", "bare"))
        assert min(fit, resident, bare) > 0
        assert float(row["speed_of_bare"]) == pytest.approx(bare / fit, rel=1e-3)
        assert float(row["data_wait"]) == pytest.approx(max(0, 1 - resident / fit), abs=1e-3)
        assert float(row["peak_mib"]) > 100
        assert (row["state"], row["synchronisations"], row["card"][-5:]) == ("done", "", ", toy")
    assert (fitted["method"], fitted["trained_on"], fitted["tested"]) == ("variation_model", "9", "10")
    assert all(float(fitted[name]) > 0 for name in ("update_ms", "predict_ms", "fit_s", "test_s"))
    maps, test = evaluation
    assert (maps["what"], maps["images"]) == ("maps 4 x 32", "4")
    assert all(float(maps[f"{way}_ms"]) > 0 for way in ("copy", "smooth", "count", "sort"))
    parts = dict(part.rsplit(" ", 1) for part in test["parts_ms"].split("; "))
    assert 0 < float(parts["method"]) < float(test["test_ms"])
    assert {"Evaluation", "Pictures", "AnomalyMaps"} <= set(parts)

    assert run("steps", "evaluation", *methods).count("known: ") == 7
    run("budgets", "--methods", "ganomaly")
    run("budgets", "--methods", "ganomaly", "--again")
    budget, again = read(out / "budgets.csv")
    figures = ("method", "state", "precision", "image_auroc")
    assert [again[name] for name in (*figures, "note")] == [*(budget[name] for name in figures), ""]
    (out / "budgets.csv").unlink()
    run("budgets", "--methods", "ganomaly")
    (known,) = read(out / "budgets.csv")
    assert (known["note"], known["fit_seconds"]) == ("finished by an earlier command", again["fit_seconds"])
    assert (budget["method"], budget["state"]) == ("ganomaly", "done")
    assert budget["precision"] in {"32-true", "bf16-mixed"}  # as the processor has it
    assert 0 <= float(budget["image_auroc"]) <= 1


def test_the_words_of_every_training_compose_and_want_weights_only_where_they_are_needed(module, tmp_path, capsys):
    """Published and sized, as the command starts them on a GPU."""
    run, configured = module("run"), module("steps").configured
    make_parts(tmp_path / "mvtec_ad_small" / "transistor")
    for path in ("wood_boards_256", "concrete_crack_700"):
        make_parts(tmp_path / path)
    weights = tmp_path / "resnet18.safetensors"
    options = argparse.Namespace(
        data=[tmp_path], work=tmp_path / "work", toy=False, device="cuda", methods=None, resnet18=weights
    )

    def words_of(rows):
        return {(row.key["method"], row.key["data"]): row.work.args[0] for row in rows}

    parts = run.Parts(options, module("rows").TimeGuard(8))
    published, sized = words_of(parts.budgets()), words_of(parts.sized())
    assert published.keys() == {(name, data) for name in run.BUDGETS for data in run.SETS}
    assert [data for method, data in sized if method == "fastflow, 100 epochs"] == ["transistor", "wood", "cracks"]
    first = [name for name, data in sized if data == "transistor"]
    assert first == [f"{method}, {size}" for size, (method, *_) in run.SIZED.items()]
    epochs = {}
    for (name, data), words in (published | sized).items():
        if data != "transistor":
            continue
        resolved = configured(*words)
        epochs[name] = resolved["trainer"]["max_epochs"]
        assert resolved["method"]["name"] == name.partition(",")[0]
        if "half width" in name:
            assert (resolved["method"]["width"], resolved["method"]["segmentation_width"]) == (64, 32)
        backbone = resolved["method"].get("backbone", {})
        if backbone and not backbone.get("trainable"):
            assert (backbone["name"], backbone["weights"]) == ("resnet18.tv_in1k", str(weights))
    assert epochs["draem, half width, 60 000 images"] * 192 == pytest.approx(60_000, abs=192)
    assert epochs["cflow, 20 000 images"] * 192 == pytest.approx(20_000, abs=192)
    assert epochs["cutpaste, 25 000 steps"] * 8192 // 32 == pytest.approx(25_000, abs=256)
    assert (epochs["fastflow, 100 epochs"], epochs["fastflow"], epochs["draem, half width"]) == (100, 500, 700)

    options.resnet18 = None
    without = {name for name, _ in words_of(parts.budgets())}
    assert without == {"cae", "ssim_ae", "ganomaly", "f_anogan", "cutpaste", "draem, half width"}
    assert "left out: cflow wood wants --resnet18" in capsys.readouterr().out
    options.methods = ["draem"]
    assert {name for name, _ in words_of(parts.sized())} == {"draem, half width, 60 000 images"}
