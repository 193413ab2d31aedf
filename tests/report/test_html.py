"""The page as a file: whole, self-contained, and with nothing in it that names or files could smuggle in."""

import html
import json
import math
import re
from html.parser import HTMLParser

import pytest

from anomaly_lab.report.groups import group
from anomaly_lab.report.html import PAGE, SCRIPTS, in_script, page, published, title_of, write_report
from anomaly_lab.report.matrix import matrices
from anomaly_lab.runs.collect import collect
from anomaly_lab.runs.measures import BY_KEY
from tests.adversarial import configured
from tests.conftest import METHODS
from tests.report.synthetic import read_metrics, write_run, write_sweep


def page_of(folder):
    runs = collect([folder])
    groups = group([run for run in runs if run.done])
    return page(runs, groups, matrices(groups))


class Scripts(HTMLParser):
    """The script elements of a page, by their id, and every address in it."""

    def __init__(self, text):
        super().__init__()
        self.found, self.addresses, self._open = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "script":
            self._open = dict(attributes).get("id", "code")
            self.found[self._open] = ""
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        self._open = None if tag == "script" else self._open

    def handle_data(self, data):
        if self._open:
            self.found[self._open] += data


def data_of(text):
    return json.loads(Scripts(text).found["data"])


def test_the_page_asks_nothing_of_any_network(tmp_path):
    write_run(tmp_path, pictures=1)
    scripts = Scripts(page_of(tmp_path))
    assert sorted(scripts.addresses) == ["#matrix", "data:,"]
    assert list(scripts.found) == ["data", "thumbnails-0", "code"]
    code = scripts.found["code"]
    assert len(code) > 10_000
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|fetch\(|XMLHttpRequest|innerHTML|import\(|eval\(", code)
    assert "url(" not in (PAGE / "style.css").read_text()


OTHER_PAGES = {"predictions.html", "predictions.js", "select.html", "select.js"}


def test_every_file_of_the_page_is_in_it():
    assert {path.name for path in PAGE.iterdir()} == {"head.html", "index.html", "style.css", *SCRIPTS} | OTHER_PAGES


def test_numbers_on_the_page_are_those_of_the_run(tmp_path):
    folder = write_run(tmp_path, aupro=0.8)
    data, metrics = data_of(page_of(tmp_path)), read_metrics(folder)
    (run,) = data["runs"]
    assert run["metrics"]["image_auroc"] == metrics["image_auroc"]
    assert data["matrices"]["pixel_aupro"]["cells"]["0,0"]["mean"] == 0.8
    assert run["threshold"] == metrics["threshold"]
    assert len(run["decisions"]) == len(data["columns"][0]["images"]) == 40
    assert len(run["curves"]["pixel_pro"]) == 50
    assert [series["name"] for series in run["losses"]] == ["train/loss", "validation/loss"]
    assert run["losses"][0]["points"][1] == [2, 0.5]


HOSTILE = [
    "</script><script>alert(1)</script>",
    "a'b\"c.png",
    "ünï-\u2028-\U0001f600.png",
    "x" * 300,
    "<!--",
    "]]>&amp;",
]


def test_hostile_names_end_no_script_and_come_back_as_they_are(tmp_path):
    names = [f"{i}{HOSTILE[i % len(HOSTILE)].replace('/', '-')}" for i in range(40)]
    folder = write_run(tmp_path, names=names, pictures=2)
    (folder / "defects.csv").write_text((folder / "defects.csv").read_text().replace("scratch", "</script><b>scratch"))
    text = page_of(tmp_path)
    scripts = Scripts(text)
    assert list(scripts.found) == ["data", "thumbnails-0", "code"]
    data = json.loads(scripts.found["data"])
    shown = {name.partition("/")[2] for name, *_ in data["columns"][0]["images"]}
    assert shown == set(names)
    assert "</script><b>scratch" in {line["defect"] for line in data["runs"][0]["defects"]}
    assert "alert(1)</script>" not in text


def test_a_title_is_escaped(tmp_path):
    write_run(tmp_path, category="<img src=x onerror=alert(1)>")
    text = page_of(tmp_path)
    assert f"<title>{html.escape('cae on mvtec_ad <img src=x onerror=alert(1)>, seed 0')}</title>" in text
    assert "<img src=x" not in text


def test_braces_in_the_data_are_no_places_to_fill(tmp_path):
    write_run(tmp_path, category="{{script}}")
    assert data_of(page_of(tmp_path))["columns"][0]["category"] == "{{script}}"


def test_what_is_no_number_in_json():
    assert json.loads(in_script([math.nan, math.inf, -math.inf, 1.5])) == [None, 1.7e308, -1.7e308, 1.5]
    assert json.loads(in_script({"a": "\udcff"})) == {"a": "?"}


def test_no_place_of_this_machine_and_no_secret_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("WANDB_API_KEY", "0123secret")
    write_run(tmp_path / "somewhere", pictures=1)
    write_run(tmp_path / "somewhere", seed=1, state="failed", error="OSError: /home/somebody/photos/a.png")
    (write_run(tmp_path / "somewhere", seed=2) / "metrics.json").write_text("{")
    text = page_of(tmp_path / "somewhere")
    assert "weights.safetensors" in text
    for word in ("somebody", "0123secret", str(tmp_path), "api_key"):
        assert word not in text


def test_runs_without_a_result_appear_with_their_state(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, state="running")
    write_run(tmp_path, seed=2, state="failed", error="ValueError: no")
    runs = data_of(page_of(tmp_path))["runs"]
    assert [(run["state"], run["row"], run["trouble"]) for run in runs] == [
        ("done", 0, ""), ("running", None, ""), ("failed", None, "ValueError: no")
    ]  # fmt: skip


def test_a_folder_without_a_result_still_makes_a_page(tmp_path):
    write_run(tmp_path, state="running")
    data = data_of(page_of(tmp_path))
    assert (data["measures"], data["rows"], len(data["runs"])) == ([], [], 1)


def test_the_report_of_a_run_lies_in_its_folder_and_is_named_after_it(tmp_path):
    folder = write_run(tmp_path, seed=3, pictures=1)
    assert write_report(folder) == folder / "report.html"
    text = (folder / "report.html").read_text()
    data = data_of(text)
    assert data["title"] == "cae on mvtec_ad screw, seed 3"
    sentences = data["runs"][0]["verdict"]
    assert len(sentences) == 3
    assert text.partition("</header>")[2].startswith(
        "\n" + "\n".join(f"<p>{html.escape(line)}</p>" for line in sentences)
    )
    assert data["runs"][0]["shown"] == "sweep/cae/mvtec_ad/screw/3/0123456789"


def test_many_images_leave_out_single_scores(tmp_path, monkeypatch):
    monkeypatch.setattr("anomaly_lab.report.html.MOST_SCORES", 39)
    write_run(tmp_path)
    data = data_of(page_of(tmp_path))
    assert data["runs"][0]["scores"] == data["columns"][0]["images"] == []
    assert data["runs"][0]["metrics"]["image_auroc"] > 0.5


def title(folder):
    runs = collect([folder])
    return title_of(runs, group([run for run in runs if run.done]))


def test_titles(tmp_path):
    write_run(tmp_path, method="cae")
    write_run(tmp_path, method="ganomaly")
    assert title(tmp_path) == "2 methods on 1 category"
    write_run(tmp_path, method="cae", digest="1", method__latent=50)
    assert title(tmp_path) == "3 variants of 2 methods on 1 category"
    write_run(tmp_path / "b", category="x")
    write_run(tmp_path / "b", category="y", state="running")
    assert title(tmp_path / "b") == "1 method on 2 categories"


def test_pictures_of_many_runs_stay_within_the_page(tmp_path, monkeypatch):
    count = write_sweep(tmp_path, methods=2, categories=2, seeds=2, pictures=2, images=12)
    whole = len(page_of(tmp_path))
    monkeypatch.setattr("anomaly_lab.report.html.PICTURE_BYTES", 200_000)
    small = page_of(tmp_path)
    assert whole - len(small) > 100_000
    pictures = [text for name, text in Scripts(small).found.items() if name.startswith("thumbnails")]
    assert len(pictures) == count
    assert sum(map(len, pictures)) <= 200_000 + 100 * count


CATEGORIES = {
    "mvtec_ad": {
        "carpet", "grid", "leather", "tile", "wood", "bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill",
        "screw", "toothbrush", "transistor", "zipper",
    },
    "mnist-one_vs_rest": set("0123456789"),
    "cifar10-one_vs_rest": {
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    },
}  # fmt: skip


def test_published_figures_are_of_methods_and_measures_that_are_here():
    lines = published()
    assert len(lines) > 300
    for line in lines:
        assert line["method"] in METHODS
        assert line["measure"] in BY_KEY
        assert line["category"] in ({"all"} if line["method"] == "supervised" else CATEGORIES[line["dataset"]])
        assert 0 <= line["value"] <= 1
        assert line["source"]


def test_a_classifier_of_all_categories_has_the_figures_of_the_slides(tmp_path):
    write_run(tmp_path, "supervised", "mvtec_ad", "all")
    lines = data_of(page_of(tmp_path))["published"]
    assert {line["measure"] for line in lines} == {"image_accuracy"}
    assert sorted(line["value"] for line in lines) == [0.7703, 0.8206, 0.8414, 0.9085, 0.9475]
    assert all("76.5 %" in line["note"] for line in lines)


def test_a_class_has_the_published_figures_of_its_data_set_and_of_no_other(tmp_path):
    names = {}
    for folder, protocol in (("cifar10", "one_vs_rest"), ("mnist", "leave_one_out")):
        words = f"data.root={tmp_path}/{folder}", "data.category='3'", f"data.protocol={protocol}"
        names[protocol] = configured("method=deep_svdd", "data=one_class", *words)["data"]["name"]
    write_run(tmp_path, "deep_svdd", names["one_vs_rest"], "ship")
    write_run(tmp_path, "deep_svdd", names["leave_one_out"], "3")
    write_run(tmp_path, "cae", "folder", "screw")
    lines = data_of(page_of(tmp_path))["published"]
    assert {(line["dataset"], line["category"]) for line in lines} == {(names["one_vs_rest"], "ship")}
    assert {line["method"]: line["value"] for line in lines if "Ruff" in line["source"]} == {"deep_svdd": 0.759}


@pytest.mark.parametrize(
    ("measure", "method", "mean", "source"),
    [("pixel_aupro", "cae", 0.790, ""), ("pixel_aupro", "ssim_ae", 0.694, ""),
     ("pixel_aupro", "cnn_dictionary", 0.515, ""), ("pixel_auroc", "cae", 0.817, ""),
     ("pixel_auroc", "ssim_ae", 0.869, ""), ("pixel_auroc", "anogan", 0.743, ""),
     ("pixel_auroc", "padim", 0.967, "ResNet-18, 100"), ("pixel_aupro", "padim", 0.901, "ResNet-18, 100"),
     ("pixel_auroc", "padim", 0.975, "Wide"), ("pixel_aupro", "padim", 0.921, "Wide"),
     ("image_auroc", "padim", 0.891, "ResNet-18"), ("image_auroc", "patchcore", 0.973, "ResNet-18"),
     ("image_auroc", "patchcore", 0.991, "25 %"), ("pixel_auroc", "patchcore", 0.981, "25 %"),
     ("pixel_aupro", "patchcore", 0.934, "25 %"), ("pixel_auroc", "spade", 0.960, ""),
     ("pixel_aupro", "spade", 0.917, ""), ("image_auroc", "mahalanobis", 0.947, ""),
     ("image_auroc", "stfpm", 0.955, ""), ("pixel_auroc", "stfpm", 0.970, ""), ("pixel_aupro", "stfpm", 0.928, ""),
     ("image_auroc", "reverse_distillation", 0.985, ""), ("pixel_auroc", "reverse_distillation", 0.978, ""),
     ("image_auroc", "mkd", 0.877, ""), ("pixel_aupro", "uninformed_students", 0.857, ""),
     ("image_auroc", "efficient_ad", 0.990, "AD-S"), ("pixel_aupro", "efficient_ad", 0.933, "AD-S"),
     ("image_auroc", "cflow", 0.9826, ""), ("pixel_auroc", "cflow", 0.9862, ""), ("pixel_aupro", "cflow", 0.946, ""),
     ("image_auroc", "fastflow", 0.994, "CaiT"), ("pixel_auroc", "fastflow", 0.985, "CaiT"),
     ("pixel_auroc", "fastflow", 0.956, "ResNet-18"), ("image_auroc", "cs_flow", 0.972, "256 px"),
     ("pixel_auroc", "cs_flow", 0.845, "256 px"), ("pixel_auroc", "cs_flow", 0.921, "768 px"),
     ("image_auroc", "draem", 0.980, ""), ("pixel_auroc", "draem", 0.973, ""), ("pixel_aupr", "draem", 0.684, ""),
     ("image_auroc", "patch_svdd", 0.921, ""), ("pixel_auroc", "patch_svdd", 0.957, ""),
     ("image_auroc", "cutpaste", 0.952, ""), ("pixel_auroc", "cutpaste", 0.960, ""),
     ("pixel_auroc", "fcdd", 0.916, "unsupervised"),  # printed 0.92, as all of its figures in two digits
     ("pixel_auroc", "fcdd", 0.958, "semi-supervised"), ("pixel_auroc", "vae", 0.861, "attention"),  # .96, .86
     ("image_auroc", "efficient_ad", 0.991, "AD-M"), ("pixel_aupro", "efficient_ad", 0.937, "AD-M")],
)  # fmt: skip
def test_means_over_the_published_categories_are_the_printed_ones(measure, method, mean, source):
    assert mean_of("mvtec_ad", measure, method, source) == pytest.approx(mean, abs=0.001)  # some are cut, not rounded


def mean_of(dataset, measure, method, source):
    """The mean over all categories, each of which has one figure."""
    key = dataset, measure, method
    lines = [line for line in published() if (line["dataset"], line["measure"], line["method"]) == key]
    values = {line["category"]: line["value"] for line in lines if source in line["source"]}
    assert values.keys() == CATEGORIES[dataset]
    assert len(values) == sum(source in line["source"] for line in lines)
    return sum(values.values()) / len(values)


@pytest.mark.parametrize(
    ("dataset", "method", "mean", "source"),
    [("mnist", "deep_svdd", 0.948, ""), ("cifar10", "deep_svdd", 0.648, ""), ("mnist", "lsa", 0.975, ""),
     ("cifar10", "lsa", 0.641, ""), ("cifar10", "transformation_classifier", 0.860, "Golan"),
     ("cifar10", "transformation_classifier", 0.882, "Bergman"), ("cifar10", "contrastive", 0.943, "")],
)  # fmt: skip
def test_means_over_the_published_classes_are_the_printed_ones(dataset, method, mean, source):
    assert mean_of(f"{dataset}-one_vs_rest", "image_auroc", method, source) == pytest.approx(mean, abs=0.0006)
