"""The sweeps that users start from: their words compose and fit, whatever the hours they would take."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
import yaml
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from anomaly_lab.cli.train import run_directory
from anomaly_lab.config.files import CONF
from anomaly_lab.launch.hpo import check_values
from anomaly_lab.launch.portfolio import portfolio
from anomaly_lab.launch.space import SYNTHETIC, SearchRequest, Settings
from anomaly_lab.launch.sweep import Composer, plan
from anomaly_lab.report.html import known_as
from tests.adversarial import configured
from tests.conftest import METHODS, ROOT
from tests.contract import OF_TABLES

EXPERIMENTS = ROOT / "experiments"
SEARCHES = ("hydra/sweeper=", "hydra.sweeper.")


@pytest.fixture
def commands(tmp_path):
    """The command lines that a script would start."""
    stub = tmp_path / "python"
    stub.write_text(f"#!{sys.executable}\nimport json, sys\nprint('COMMAND', json.dumps(sys.argv[1:]))\n")
    stub.chmod(0o755)

    def run(script, *arguments, **environment):
        variables = {**os.environ, "PYTHON": str(stub), **environment}
        done = subprocess.run(
            [str(EXPERIMENTS / script), *arguments], capture_output=True, text=True, check=True, env=variables
        )
        found = [json.loads(line.partition(" ")[2]) for line in done.stdout.splitlines() if line.startswith("COMMAND")]
        assert found
        assert all(words[:3] == ["-m", "anomaly_lab", "-m"] for words in found)
        return [words[3:] for words in found], done.stdout

    return run


@pytest.fixture
def jobs():
    """The checked jobs of a command line."""
    OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):

        def make(words):
            hydra = GlobalHydra.instance().hydra
            config = hydra.compose_config("train", [], RunMode.MULTIRUN, with_log_configuration=False)
            overrides = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(words)
            (asked,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
            return plan(Composer(hydra.config_loader, config), asked)

        yield make


def make_set(root, *names):
    """Photos of each name, in the layout of MVTec AD."""
    for name in names:
        for part in ("train/good", "test/good"):
            folder = root / name / part
            folder.mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(folder / f"{i}.png"), np.full((8, 8, 3), 20 * i, np.uint8))
    return root


def count(jobs, *keys):
    """How many jobs there are for each value of some keys."""
    return Counter(tuple(str(OmegaConf.select(OmegaConf.create(job.config), key)) for key in keys) for job in jobs)


@pytest.mark.slow
def test_the_benchmark_is_every_method_on_every_category_with_three_seeds(commands, jobs, tmp_path):
    root = make_set(tmp_path / "data", "screw")
    found, _ = commands(
        "mvtec_benchmark/run.sh", f"data.root={root}", WEIGHTS="/some where/w.safetensors", TEACHERS="/some where"
    )
    assert all("data.category=all" in words and "seed=0,1,2" in words for words in found)
    made = [job for words in found for job in jobs([word for word in words if word != "seed=0,1,2"])]
    assert count(made, "method.name", "data.category", "seed") == Counter(
        (name, "screw", "0") for name in METHODS if name not in {"control", "supervised", *OF_TABLES}
    )
    assert {job.config["name"] for job in made} == {"mvtec_benchmark"}
    dictionary = next(job.config["method"] for job in made if job.config["method"]["name"] == "cnn_dictionary")
    assert dictionary["backbone"]["weights"] == "/some where/w.safetensors"


@pytest.mark.slow
def test_the_published_trainings_of_one_class_are_made_for_its_data(commands, jobs, tmp_path):
    for name in ("mnist", "cifar10"):
        for place in ("train/1", "train/2", "test/1", "test/2"):
            (folder := tmp_path / "one_class" / name / place).mkdir(parents=True)
            cv2.imwrite(str(folder / "0.png"), np.zeros((8, 8), np.uint8))
    found, _ = commands("one_class/published.sh", str(tmp_path))
    made = [job for words in found for job in jobs(words)]
    assert count(made, "data.category") == Counter({("1",): 10, ("2",): 10})
    sizes = [(known_as(job.config["data"]["name"]), job.config["data"]["image_size"]) for job in made]
    assert Counter(sizes) == Counter({("mnist-one_vs_rest", 28): 4, ("cifar10-one_vs_rest", 32): 16})
    assert count(made, "method.name", "data.channels") == Counter(
        {("deep_svdd", "1"): 2, ("lsa", "1"): 2, ("deep_svdd", "3"): 2, ("memae", "3"): 2,
         ("transformation_classifier", "3"): 6, ("contrastive", "3"): 6}
    )  # fmt: skip


@pytest.mark.slow
def test_the_grids_of_the_slides_are_complete_where_the_data_are(commands, jobs, tmp_path):
    root = make_set(tmp_path / "data", "covid19_xray", "concrete_crack_700")
    few = ("data.batch_size=16", "method.optimizer.lr=1e-3", "data.image_size=64")
    found, said = commands("slides/run.sh", str(root), *few)
    assert f"{root}/manufacturing: not there, left out" in said
    made = [job for words in found for job in jobs(words)]
    assert set(count(made, "method.name", "input.channels", "data.category").values()) == {1}
    assert len(made) == 4 * 2 * 2
    (one, _), _ = commands("slides/run.sh", str(root), METHODS="f_anogan")
    grid = {"data.image_size": "64,128", "input.channels": "1,3", "data.batch_size": "16,32,64"}
    asked = {f"{key}={values}" for key, values in grid.items()}
    assert asked < set(one)
    made = jobs([word for word in one if word not in asked])
    rates = [(job.config["method"]["optimizer"]["lr"], job.config["method"]["encoder_optimizer"]["lr"]) for job in made]
    assert rates == [(1e-3, 1e-3), (5e-4, 5e-4)]


@pytest.mark.slow
def test_all_rows_of_the_ablation_see_the_same_number_of_patches(commands, jobs, tmp_path):
    root = make_set(tmp_path / "data", "wood", "screw")
    found, _ = commands("ablation_patches/run.sh", f"data.root={root}")
    made = [job.config for words in found for job in jobs(words)]
    assert {config["data"]["category"] for config in made} == {"wood"}
    assert {config["data"]["patches"] * config["trainer"]["max_epochs"] for config in made} == {200_000}
    rows = {(config["data"]["patches"], config["data"]["redraw"]) for config in made}
    assert rows == {(1000, False), (10_000, False), (100_000, False), (100_000, True)}
    assert len(made) == len(rows) * 2 * 3


@pytest.mark.slow
def test_the_search_is_one_that_the_sweeper_can_do(commands, jobs, tmp_path):
    root = make_set(tmp_path / "data", "screw")
    ((*words,),), _ = commands("search/run.sh", f"data.root={root}")
    hydra = GlobalHydra.instance().hydra
    config = hydra.compose_config("train", [], RunMode.MULTIRUN, with_log_configuration=False)
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    asked = SearchRequest.of(
        parser.parse_overrides([word for word in words if not word.startswith(SEARCHES)]), Settings()
    )
    assert list(asked.space) == ["budget.learning_rate", "data.batch_size", "method.window"]
    check_values(hydra.config_loader, config, asked)


def test_the_sweep_of_wandb_composes_and_maximises_what_a_run_logs(jobs, tmp_path):
    sweep = yaml.safe_load((EXPERIMENTS / "search" / "sweep.yaml").read_text())
    assert sweep["command"] == ["${env}", "${interpreter}", "-m", "anomaly_lab", "${args_no_hyphens}"]
    assert sweep["metric"]["goal"] == "maximize"
    prefix, name = sweep["metric"]["name"].split("/")
    assert name in SYNTHETIC
    assert f'f"{prefix}/{{name}}"' in (ROOT / "anomaly_lab" / "training" / "run.py").read_text()
    root = make_set(tmp_path / "data", "screw")
    parameters = sweep["parameters"]
    for end in (0, -1):
        words = []
        for key, about in parameters.items():
            values = about.get("values") or ([about["value"]] if "value" in about else [about["min"], about["max"]])
            words.append(f"{key}={values[end]}")
        (job,) = jobs([*words, f"data.root={root}"])
        assert job.config["callbacks"]["synthetic"]
    drawn = {key for key, about in parameters.items() if "value" not in about}
    assert drawn == {"budget.learning_rate", "data.batch_size", "method.window"}


def test_the_matrix_has_means_and_spreads_and_the_best_control(tmp_path):
    for seed, value in enumerate((0.8, 0.9)):
        folder = tmp_path / "runs" / "x" / "cae" / "mvtec_ad" / "screw" / f"seed={seed}" / "hash"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"image_auroc": value, "control_image_auroc": 0.7 + seed / 10}))
    matrix = [sys.executable, str(EXPERIMENTS / "matrix.py"), "x"]
    done = subprocess.run(matrix, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "| screw | 0.850 ± 0.071 (2) | 0.800 |"
    done = subprocess.run([*matrix, "pixel_auroc"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "expected finished runs with pixel_auroc in runs/x, found none\n")


def loaded(name):
    """A script as a module."""
    about = importlib.util.spec_from_file_location("script", EXPERIMENTS / name)
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def arithmetic():
    """The page of arithmetic as a module."""
    return loaded("scale/arithmetic.py")


@pytest.mark.slow
def test_the_page_of_arithmetic_is_what_the_measured_constants_give(arithmetic):
    page = arithmetic.main()
    readme = (EXPERIMENTS / "scale" / "README.md").read_text()
    shown = readme.partition("<!-- computed -->\n")[2].partition("<!-- end -->")[0]
    assert shown == page + "\n"  # else: python experiments/scale/arithmetic.py --write
    assert "675 runs" in page


def test_jobs_are_shared_out_so_that_nobody_waits(arithmetic):
    assert arithmetic.makespan([3.0, 1.0, 2.0], 1) == 6.0
    assert arithmetic.makespan([3.0, 1.0, 2.0], 2) == 3.0
    assert arithmetic.makespan([3.0, 1.0, 2.0], 64) == 3.0


def test_the_measured_checkpoint_is_the_size_that_is_computed_from_the_parameters(arithmetic):
    computed = 3 * 4 * arithmetic.MEASURED["parameters", "cae", "texture"]  # of the same network, at 128 px
    assert arithmetic.OF_A_RUN["checkpoint_bytes"] == pytest.approx(computed, rel=0.01)
    rows = 120 / 10 + 2 * 3 + 6  # 3 epochs of 40 steps; losses, pictures, curves, gallery, metrics, tables
    assert arithmetic.OF_A_RUN["wandb_rows"] == rows


@pytest.mark.parametrize("kind", ["object", "texture"])
def test_the_portfolios_of_the_results_are_whole(kind):
    found = portfolio(kind, EXPERIMENTS / "results")
    methods = {word.partition("=")[2] for each in found.values() for word in each.words if word.startswith("method=")}
    assert methods <= set(METHODS)
    assert {"padim", "patchcore", "cae", "ganomaly", "control"} <= methods
    untrained = {name.removesuffix("_untrained") for name in found if name.endswith("_untrained")}
    assert untrained <= set(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["object", "texture"])
def test_the_words_of_the_results_compose(kind):
    for entry in portfolio(kind, EXPERIMENTS / "results").values():
        configured(*entry.words, "data=folder", "data.root=x", f"data.kind={kind}", "seed=0", "trainer=cpu")


def test_agreement_is_what_the_pick_without_labels_loses():
    script = loaded("results/results.py")
    values = {"control_pca": 0.99, "padim_untrained": 0.98, "padim": 0.95, "cae": 0.90}
    labelled = {"ranking": [
        {"name": name, "control": "control" in name, "figures": {"image_auroc": {"value": value}}}
        for name, value in values.items()
    ]}  # fmt: skip
    painted = {"ranking": [{"name": name} for name in ("control_pca", "padim_untrained", "cae", "padim")]}
    assert script.agreement("wood", "0", labelled, painted) == [{
        "data": "wood", "seed": "0", "methods": 2, "best": "padim", "best_image_auroc": 0.95,
        "pick": "cae", "pick_image_auroc": 0.9, "loss": 0.05, "agrees": False,
    }]  # fmt: skip
    values["cae"] = 0.92
    labelled["ranking"][3]["figures"]["image_auroc"]["value"] = 0.92
    assert script.agreement("wood", "0", labelled, painted)[0]["agrees"]
    assert script.agreement("wood", "0", {"ranking": labelled["ranking"][:2]}, painted) == []  # no candidate


def test_results_of_fewer_sets_and_methods_leave_the_other_rows_as_they_are(tmp_path, monkeypatch, capsys):
    script = loaded("results/results.py")
    monkeypatch.setattr(script, "HERE", tmp_path / "tables")
    script.HERE.mkdir()
    asked = tmp_path / "runs" / "seed0"

    def answered(data, **values):
        ranking = []
        for name, value in values.items():
            folder = asked / "runs" / data / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.json").write_text("{}")
            (folder / "environment.json").write_text('{"git": "abc"}')
            figure = {"image_auroc": {"value": value, "low": 0.1, "high": 1.0}}
            ranking.append({"name": name, "control": False, "figures": figure, "above_control": {}, "seconds": 0.1,
                            "minutes": 1.0, "folders": [str(folder)]})  # fmt: skip
        for labels in ("true", "false"):
            (asked / f"{data}_labels={labels}.json").write_text(json.dumps({"ranking": ranking}))
        script.main(tmp_path / "runs")
        return [[row[name] for name in ("data", "method", "image_auroc")] for row in found("results.csv")]

    def found(name):
        with (script.HERE / name).open(newline="") as file:
            return list(csv.DictReader(file))

    wood = [["wood", "padim", "0.9"], ["wood", "cae", "0.7"]]
    assert answered("wood", padim=0.9, cae=0.7) == wood
    (asked / "wood_labels=true.json").unlink()  # another folder
    assert answered("screw", cae=0.5) == [["screw", "cae", "0.5"], *wood]
    capsys.readouterr()
    assert answered("wood", cae=0.8) == [["screw", "cae", "0.5"], wood[0], ["wood", "cae", "0.8"]]
    assert [(row["data"], row["methods"], row["pick"]) for row in found("agreement.csv")] == [
        ("screw", "1", "cae"), ("wood", "2", "padim"),
    ]  # fmt: skip
    assert "agreement.csv keeps its row of wood, seed 0, of 2 methods; this one has 1: wood" in capsys.readouterr().out
    answered("wood", cae=0.8, padim=0.6, spade=0.5)
    assert [(row["methods"], row["pick"]) for row in found("agreement.csv")] == [("1", "cae"), ("3", "cae")]
    assert sorted(path.name for path in script.HERE.iterdir()) == ["agreement.csv", "results.csv"]
    with pytest.raises(SystemExit, match="expected answers of select in "):
        script.main(tmp_path / "none")
    assert len(found("results.csv")) == 4
