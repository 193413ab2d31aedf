"""Every configuration composes, fits the constructors it names, and lies where its code and its test lie."""

import importlib
import inspect
import re

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from anomaly_lab.cli.train import run_directory
from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.config.schema import signature
from anomaly_lab.config.wiring import wired
from anomaly_lab.core.types import Batch
from anomaly_lab.data.layouts import POOLS
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.fitted import FittedMethod
from tests.conftest import every
from tests.contract import given, table_of

OmegaConf.register_new_resolver("run_dir", run_directory, replace=True)
ROOT = CONF.parent
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml") if path.name != "train.yaml")
CHOICES = [(path.parent.as_posix(), path.stem) for path in FILES if not path.stem.startswith("_")]
CHOICES = [choice for choice in CHOICES if choice[0] != "select"]  # no group of a run: tests/launch/test_portfolio.py
NEEDED = {
    ("data", "folder"): ["data.root=x"],
    ("data", "csv"): ["data.root=x"],
    ("data", "one_class"): ["data.root=x", "data.category=a", "method=memae"],
    ("threshold", "own"): ["method=texture_inspection"],
    ("data", "table"): ["method=table_autoencoder"],
    ("experiment", "credit_card"): ["data.label=label"],
}
OF_TABLES = {("data", "table"), ("experiment", "goad_table"), ("experiment", "credit_card")}
OF_TABLES |= {("method", "table_autoencoder"), ("method", "table_control")}


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


def test_there_are_files_to_check():
    assert len(CHOICES) > 15


@pytest.mark.parametrize(("group", "option"), every(4, CHOICES))
def test_every_option_composes_and_fits_its_constructors(group, option, tmp_path):
    words = [f"{group}={option}", *NEEDED.get((group, option), [])]
    if (group, option) in OF_TABLES:
        words += ["data=table"] * (group in {"method", "experiment"}) + [f"data.root={table_of(tmp_path)}"]
    resolved = check(composed(*words))
    resolved["method"] = {"tiling": resolved["tiling"], **wired(resolved)}
    targets = list(_targets(resolved))
    assert len(targets) > 5
    for node in targets:
        module, _, name = node["_target_"].rpartition(".")
        target = getattr(importlib.import_module(module), name)
        arguments = {key: None for key in node if not key.startswith("_")}
        arguments.pop("_target_", None), arguments.pop("_partial_", None)
        bind = inspect.signature(target).bind_partial if node.get("_partial_") else inspect.signature(target).bind
        bind(**arguments)


def _targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from _targets(value)


def test_the_signature_read_from_the_source_is_the_real_one():
    from anomaly_lab.data.datamodule import DataModule
    from anomaly_lab.methods.ssim_ae import SSIMAE

    for target in (DataModule, SSIMAE):
        read = signature(f"{target.__module__}.{target.__name__}")
        assert list(read) == list(inspect.signature(target).parameters)


def test_stems_of_code_configuration_and_tests_agree():
    code = {path.stem for path in (ROOT / "anomaly_lab/methods").glob("*.py")} - {"method", "__init__"}
    modules = {OmegaConf.load(path)._target_.split(".")[-2]: path for path in (CONF / "method").glob("*.yaml")}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests/methods").glob("test_*.py")}
    assert code
    assert code == set(modules)
    assert code <= tests
    for stem in code:
        assert (CONF / "method" / f"{stem}.yaml").is_file()


@pytest.mark.parametrize("path", sorted((CONF / "method").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_file_of_a_method_names_code_and_paper_and_holds_its_own_numbers(path):
    first, *lines = path.read_text().splitlines()
    assert first.startswith(f"# anomaly_lab/methods/{path.stem}.py: ")
    assert len(lines) <= 14
    assert max(map(len, lines)) <= 120
    assert "@package" not in first
    assert set(OmegaConf.load(path)) <= {
        "defaults",
        "name",
        "wants",
        "_target_",
        *signature(OmegaConf.load(path)._target_),
    }


def test_every_module_has_its_test():
    modules = [path.relative_to(ROOT / "anomaly_lab") for path in (ROOT / "anomaly_lab").rglob("*.py")]
    assert len(modules) > 20
    for module in modules:
        test = TESTED_ELSEWHERE.get(module.as_posix(), f"{module.parent}/test_{module.stem}.py")
        assert module.name == "__init__.py" or (ROOT / "tests" / test).is_file(), module


TESTED_ELSEWHERE = {
    "networks/hub.py": "networks/test_backbone.py",
    "networks/pretrained.py": "networks/test_backbone.py",
    "core/files.py": "runs/test_folder.py",
    "runs/lock.py": "launch/test_job.py",
    "__main__.py": "test_command_line.py",
    "cli/help.py": "test_command_line.py",
    "cli/train.py": "test_command_line.py",
    "cli/data.py": "data/test_cache.py",
    "config/files.py": "test_wheel.py",
    "config/labels.py": "config/test_check.py",
    "config/schema.py": "config/test_check.py",
    "core/errors.py": "config/test_check.py",
    "core/types.py": "methods/test_contract.py",
    "core/messages.py": "config/test_check.py",
    "core/parallel.py": "data/test_store.py",
    "core/randomness.py": "training/test_seed.py",
    "core/remarks.py": "evaluation/test_evaluation.py",
    "data/pixels.py": "data/test_formats.py",
    "data/placement.py": "data/test_images.py",
    "data/samples.py": "data/test_layouts.py",
    "data/tiff.py": "data/test_formats.py",
    "evaluation/drawing.py": "evaluation/test_pictures.py",
    "evaluation/maps.py": "evaluation/test_evaluation.py",
    "functional/scores.py": "methods/base/test_method.py",
    "launch/jobs.py": "launch/test_sweep.py",
    "launch/machine.py": "launch/test_local.py",
    "methods/base/build.py": "methods/test_contract.py",
    "runs/checkpoint.py": "training/test_checkpoint.py",
    "tracking/logged.py": "training/test_progress.py",
    "tracking/service.py": "cli/test_sync.py",
    "training/checks.py": "training/test_run.py",
    "training/cost.py": "training/test_progress.py",
    "training/environment.py": "training/test_run.py",
    "training/lifecycle.py": "training/test_run.py",
}

WINGS = (
    *("core", "data", "metrics", "networks", "functional", "config", "methods", "runs", "tracking", "evaluation"),
    *("inference", "report", "training", "launch", "cli"),
)


def test_a_wing_imports_only_wings_on_its_left():
    loose = {path.name for path in (ROOT / "anomaly_lab").iterdir() if path.is_file()}
    assert loose == {"__init__.py", "__main__.py"}
    for number, wing in enumerate(WINGS):
        sources = list((ROOT / "anomaly_lab" / wing).rglob("*.py"))
        assert sources, wing
        for path in sources:
            for right in WINGS[number + 1 :]:
                assert not re.search(rf"^\s*(from|import) anomaly_lab(\.| import ){right}\b", path.read_text(), re.M), (
                    path
                )


@pytest.mark.parametrize(
    ("category", "kind", "image_size", "patch_size", "tiling"),
    [("carpet", "texture", 512, 128, "SlidingWindow"), ("screw", "object", 256, 256, "WholeImage")],
)
def test_the_published_protocol_follows_from_the_kind(category, kind, image_size, patch_size, tiling):
    config = check(composed(f"data.category={category}"))
    data = config["data"]
    assert (data["kind"], data["image_size"], data["patch_size"]) == (kind, image_size, patch_size)
    assert config["tiling"]["_target_"].endswith(tiling)
    assert config["tiling"].get("stride") == (30 if kind == "texture" else None)
    assert wired(config)["network"]["image_size"] == patch_size


def test_one_key_changes_the_size_of_an_object_everywhere():
    config = check(composed("data.category=screw", "data.image_size=128"))
    assert config["data"]["patch_size"] == wired(config)["network"]["image_size"] == 128


def test_ssim_ae_is_gray_and_cae_is_not():
    assert check(composed("method=ssim_ae"))["data"]["channels"] == 1
    assert check(composed("method=cae"))["data"]["channels"] == 3


@pytest.mark.parametrize(("data", "count", "textures"), [("mvtec_ad", 15, 5), ("demo", 2, 1)])
def test_all_categories_have_settings_of_their_kind(data, count, textures):
    table = {name: settings.kind for name, settings in composed(f"data={data}").data.categories.items()}
    assert tuple(table)[-3:] == POOLS
    single = {name: kind for name, kind in table.items() if name not in POOLS}
    assert len(single) == count
    of_kind = [name for name, kind in single.items() if kind == "texture"]
    assert len(of_kind) == textures
    assert check(composed(f"data={data}"))["data"]["layout"]["textures"] == of_kind
    assert (table["textures"], table["objects"]) == ("texture", "object")


NAMED = dict.fromkeys(["geom", "ssl_ad", "goad"], "transformation_classifier")  # papers that share a method
NAMED |= dict.fromkeys(["csi", "ssl_occ", "ssd"], "contrastive")
NAMED |= dict.fromkeys(["slides_convnet", "slides_resnet18", "slides_vgg16"], "supervised")
NAMED |= {"goad_table": "transformation_classifier", "credit_card": "table_autoencoder"}
PAPERS = {path.stem.removesuffix("_paper"): path for path in CONF.glob("experiment/*_paper.yaml")}
PAPERS |= {name: CONF / f"experiment/{name}.yaml" for name in NAMED}
OBJECT = {  # image, patch, batch, patches of an epoch, epochs of a training on screw
    "cae": (256, 256, 128, 10_000, 200), "ssim_ae": (256, 256, 128, 10_000, 200), "vae": (256, 256, 128, 10_000, 200),
    "anogan": (128, 128, 64, 10_000, 50), "f_anogan": (256, 64, 64, 10_000, 420), "ganomaly": (32, 32, 64, 45_000, 15),
    "skip_ganomaly": (32, 32, 64, 45_000, 15), "cnn_dictionary": (256,), "variation_model": (1024,),
    "texture_inspection": (400,), "padim": (224,), "patchcore": (224,), "spade": (224,), "mahalanobis": (380,),
    "anomaly_dino": (672,), "stfpm": (256, 256, 32, 100_000, 100), "reverse_distillation": (256, 256, 16, 100_000, 200),
    "mkd": (128, 128, 64, 100_000, 600), "efficient_ad": (256, 256, 1, 100_000, 350),
    "uninformed_students": (256, 256, 1, 100_000, 100), "fastflow": (256, 256, 32, 100_000, 500),
    "cflow": (256, 256, 32, 100_000, 200), "pixel_flow": (32, 32, 32, 100_000, 101),
    "differnet": (448, 448, 24, 100_000, 192), "cs_flow": (768, 768, 16, 100_000, 240),
    "draem": (256, 256, 8, 100_000, 700),
    "cutpaste": (256, 256, 32, 8192, 256), "nsa": (256, 256, 64, 100_000, 320), "memae": (32, 32, 64, 5000, 200),
    "cavga": (256, 256, 16, 240, 150),
    "lsa": (28, 28, 256, 5400, 200), "deep_svdd": (28, 28, 200, None, 300),
    "fcdd": (224, 224, 128, 2400, 200),
    "egbad": (28, 28, 100, 50_200, 100), "htdg": (64, 64, 10, 10_000, 5),
    "patch_svdd": (256, 256, 16, 100_000, 7500),
    "adae": (32, 32, 64, 43_200, 100), "avid": (256, 256, 16, 5000, 40),
    "slides_convnet": (1024, 1024, 16, None, 20), "slides_resnet18": (224, 224, 32, None, 10),
    "slides_vgg16": (224, 224, 32, None, 10),
    "geom": (32, 32, 128, 5000, 216), "ssl_ad": (32, 32, 64, 5000, 45), "goad": (32, 32, 4, 5000, 16),
    "goad_table": (1, 1, 64, None, 25), "credit_card": (1, 1, 128, None, 100),
    "csi": (32, 32, 128, 5000, 1000), "ssl_occ": (32, 32, 32, 5000, 2048), "ssd": (32, 32, 512, 5000, 500),
}  # fmt: skip
TEXTURE = {  # image, patch, stride; the authors of the GANomalies show whole images
    "cae": (512, 128, 30), "ssim_ae": (512, 128, 30), "vae": (512, 128, 30), "anogan": (512, 128, 128),
    "f_anogan": (512, 64, 32), "ganomaly": (32, 32, 32), "skip_ganomaly": (32, 32, 32),
}  # fmt: skip
NO_THRESHOLD = "vae", "ganomaly", "skip_ganomaly", "padim", "patchcore", "spade", "mahalanobis", "anomaly_dino"
NO_THRESHOLD += "stfpm", "reverse_distillation", "mkd", "efficient_ad", "uninformed_students"
NO_THRESHOLD += "fastflow", "cflow", "pixel_flow", "differnet", "cs_flow", "draem", "cutpaste", "nsa", "htdg"
NO_THRESHOLD += "memae", "cavga", "lsa", "egbad", "adae", "avid", "deep_svdd", "fcdd", "patch_svdd"  # is published
NO_THRESHOLD += tuple(name for name in NAMED if not name.startswith("slides_"))
LINES = "texture_inspection", "slides_convnet", "slides_resnet18", "slides_vgg16"  # the method's own
NARROWER = {  # networks of hundreds of millions of weights
    "cs_flow": ["method.hidden=64"],
    "differnet": ["method.hidden=64"],
    "draem": ["method.width=16", "method.segmentation_width=16"],
}
SCHEDULE = {"cflow": "cosine", "cutpaste": "cosine", "nsa": "cosine", "draem": "two_drops", "efficient_ad": "drop"}
SCHEDULE |= dict.fromkeys(["ssl_ad", "csi", "ssl_occ", "ssd"], "cosine")
SCHEDULE |= {"deep_svdd": "early_drop", "htdg": "early_drop", "fcdd": "exponential"}


def test_every_method_has_its_published_setting_with_the_source_of_every_number():
    methods = {path.stem for path in CONF.glob("method/*.yaml")} - {"control", "slides_cae", "table_control"}
    assert {NAMED.get(name, name) for name in PAPERS} == methods
    for path in PAPERS.values():
        for line in path.read_text().splitlines():
            value, _, source = line.partition("#")
            assert source.strip() or not re.search(r"\d", value), line


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_a_published_setting_is_built_and_takes_a_step(name, weights, tmp_path):
    words = [] if name == "slides_convnet" else given(NAMED.get(name, name), weights, tmp_path)
    words += NARROWER.get(name, [])
    data = (
        ["data=table", f"data.root={table_of(tmp_path)}", "data.label=label"]
        if ("experiment", name) in OF_TABLES
        else []
    )
    config = check(composed(f"experiment={PAPERS[name].stem}", *(data or ["data.category=screw"]), *words))
    data, epochs = config["data"], config["trainer"]["max_epochs"]
    found = data["image_size"], data["patch_size"], data["batch_size"], data["patches"], epochs
    assert found[: len(OBJECT.get(name, ()))] == OBJECT.get(name, ())
    rule = dict.fromkeys(NO_THRESHOLD, "FalseAlarms") | dict.fromkeys(LINES, "Own")
    assert config["threshold"]["_target_"].endswith(rule.get(name, "Area"))
    assert config["budget"]["schedule"] == SCHEDULE.get(name, "constant")
    method = build_method(config)
    if isinstance(method, FittedMethod):
        return
    images = torch.rand(2, data["channels"], data["patch_size"], data["patch_size"])
    batch = Batch.of(images)._replace(clean=images, defect=torch.zeros_like(images[:, :1], dtype=torch.bool))
    assert method.rehearse(batch).isfinite()
    if ("experiment", name) in OF_TABLES:
        return
    texture = check(composed(f"experiment={PAPERS[name].stem}", "data.category=carpet"))["data"]
    found = texture["image_size"], texture["patch_size"], texture["stride"]
    assert found == TEXTURE.get(name, found)


def test_the_structural_similarity_is_that_of_the_paper():
    method = wired(check(composed("experiment=ssim_ae_paper")))
    assert (method["constants"], method["window"], method["network"]["output"]) == ("paper", "uniform", "linear")
    for name in ("cae", "ssim_ae"):
        adam = check(composed(f"experiment={name}_paper"))["method"]["optimizer"]
        assert adam == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 2e-4, "weight_decay": 1e-5}
