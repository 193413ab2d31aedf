"""What a sweep will cost: computed from measured rates, which belong to jobs that are alike."""

import json
import platform
from copy import deepcopy

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.core.files import write_json
from anomaly_lab.launch import cost
from anomaly_lab.launch.cost import START, Rate, counts, estimate, likeness, rate_of, seconds_of, step
from anomaly_lab.launch.jobs import Job
from anomaly_lab.runs.folder import RESULT_VERSION, write_job


@pytest.fixture
def configured(parts, tmp_path):
    """A configuration of the little data set: 9 training images, 10 test images."""

    def make(*words):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            base = ("data=folder", f"data.root={parts}", f"runs_dir={tmp_path / 'runs'}", "trainer=cpu")
            return compose("train", [*base, "data.image_size=128", "data.patches=100", "budget.epochs=3", *words])

    return make


def job(config, number=0):
    return Job((), f"job {number}", None, config, number)


def finished(config, tmp_path, number, train, test, device=None):
    """A run that was finished with these images a second."""
    folder = tmp_path / "runs" / "earlier" / config.method.name / "folder" / "bar" / f"seed={number}" / "hash"
    folder.joinpath(".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    rates = {"train_images_per_second": train, "test_seconds": 10 / test}
    (folder / "scores.csv").write_text("path\n" + "x\n" * 10)
    write_json(folder / "metrics.json", {**rates, "result_version": RESULT_VERSION})
    write_json(folder / "environment.json", {"device": device or platform.processor() or platform.machine()})
    write_job(folder, "done")
    return folder


def test_a_job_takes_its_patches_and_its_test_images_at_the_measured_rates(configured):
    config = check(configured())
    assert counts(json.dumps(config["data"]["layout"]), 0.1) == (9, 10)
    assert seconds_of(check(configured("method=variation_model", "data.good_photos=5")), Rate(0.5, 2.0, "")) == (
        START + 4 * 0.5 + 10 * 2
    )
    assert seconds_of(config, Rate(0.5, 2.0, "")) == START + 100 * 3 * 0.5 + 10 * 2
    assert seconds_of(config, Rate(0.5, None, "")) == START + 100 * 3 * 0.5
    statistics = check(configured("method=variation_model"))
    assert seconds_of(statistics, Rate(0.5, 2.0, "")) == START + 9 * 0.5 + 10 * 2


def test_rates_come_from_finished_runs_that_are_alike(configured, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "step", lambda config, gpu: 7.0)
    config = check(configured())
    assert rate_of(config) == Rate(7.0, None, "one step just now on the CPU")
    finished(configured("data.image_size=256"), tmp_path, 0, 1, 1)
    finished(configured(), tmp_path, 1, 1, 1, device="a GPU")
    write_job(finished(configured(), tmp_path, 2, 1, 1), "failed")
    (finished(configured(), tmp_path, 3, 1, 1) / "metrics.json").write_text("{")
    finished(configured("method=ssim_ae"), tmp_path, 4, 1, 1)
    assert rate_of(config) == Rate(7.0, None, "one step just now on the CPU")
    finished(configured("seed=5", "budget.learning_rate=0.1", "data.patches=7"), tmp_path, 5, 50, 4)
    assert rate_of(config) == Rate(1 / 50, 1 / 4, "an earlier run")
    finished(configured("seed=6"), tmp_path, 6, 100, 5)
    finished(configured("seed=7"), tmp_path, 7, 200, 10)
    assert rate_of(config) == Rate(1 / 100, 1 / 5, "3 earlier runs")


def test_without_a_gradient_the_rate_is_that_of_images_that_the_method_sees(configured, tmp_path):
    config = configured("method=variation_model")
    rate = rate_of(check(config))
    assert 0 < rate.training < 1
    assert rate[1:] == (None, "2 images just now on the CPU, without the fit after them")
    finished(config, tmp_path, 0, 20, 5)
    assert rate_of(check(config)) == Rate(1 / 20, 1 / 5, "an earlier run")


def test_what_costs_time_makes_jobs_unlike(configured):
    base = likeness(check(configured()))
    assert base == likeness(
        check(configured("seed=3", "budget.learning_rate=1", "data.batch_size=7", "budget.epochs=9"))
    )
    for word in ("data.image_size=256", "input.channels=1", "method=ssim_ae", "controls=false", "trainer.devices=2"):
        assert base != likeness(check(configured(word)))


def test_the_estimate_of_a_sweep_is_the_sum_and_says_what_is_missing(configured, monkeypatch):
    rates = {
        "cae": Rate(1.0, None, "one step"),
        "ssim_ae": Rate(2.0, 3.0, "2 earlier runs"),
        "variation_model": Rate(9.0, None, "2 images"),
    }
    monkeypatch.setattr(cost, "rate_of", lambda config: rates[config["method"]["name"]])
    jobs = [job(check(configured(f"method={name}"))) for name in ("cae", "ssim_ae", "cae", "variation_model")]
    lines = estimate(jobs, 2)
    total = 2 * (START + 300) + START + 600 + 30 + START + 9 * 9
    assert lines[0] == (
        f"estimate (computed): {total / 60:.0f} min one after another, 2 at a time {total / 120:.0f} min"
    )
    assert lines[1] == (
        "  cae, 128 px, 3 channels, 2 jobs: about 10 min; 1000.0 ms a patch measured on one step, without the test"
    )
    assert lines[2].endswith(
        "ssim_ae, 128 px, 1 channels, 1 jobs: about 11 min; 2000.0 ms a patch measured on 2 earlier runs"
    )
    assert lines[3].endswith(
        "variation_model, 128 px, 1 channels, 1 jobs: about 87 s; 9000.0 ms an image measured on 2 images, "
        "without the test"
    )
    assert estimate([], 2) == []


def test_a_step_is_one_of_patches_of_the_size_of_the_job(configured, monkeypatch):
    seen = []

    def step_cost(method, draw, count, share):
        seen.append((type(method).__name__, tuple(draw().image.shape), torch.get_num_threads()))
        return 2.0 * share, 0.0

    monkeypatch.setattr("anomaly_lab.training.cost.step_cost", step_cost)
    config, threads = check(configured("method=ssim_ae", "data.image_size=256")), torch.get_num_threads()
    before = deepcopy(config)
    assert step(config, gpu=False) == 2.0
    assert seen == [("SSIMAE", (8, 1, 256, 256), 1)]
    assert (config, torch.get_num_threads()) == (before, threads)


def test_a_step_of_a_real_method_takes_time(configured):
    assert step(check(configured()), gpu=False) > 0
