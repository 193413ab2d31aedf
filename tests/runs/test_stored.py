"""A run folder from anyone: nothing in it runs, every broken value is one line that names its file and key."""

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from anomaly_lab.config.build import build
from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.files import write_json
from anomaly_lab.inference.detector import Detector
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.metrics.thresholds import Threshold, ThresholdRule
from anomaly_lab.runs.folder import RESULT_VERSION, write_job, write_threshold
from anomaly_lab.runs.naming import versions_of
from anomaly_lab.runs.stored import RESOLVERS, open_run

EVIL = "tests.runs.test_stored.touch"
READ = ("data.decoding", "data.image_size", "data.patch_size", "data.channels", "data.test_batch_size", "data.workers",
        "method", "tiling", "seed", "budget.schedule", "threshold")  # fmt: skip
BROKEN = (None, -1, "x", [], {}, True, 1.5, float("nan"), 10**30, "${nowhere}", "${oc.env:HOME}", "${seed")


def touch(path: str) -> None:
    """What no run folder may reach."""
    Path(path).touch()


def make_run(folder: Path) -> Path:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["data=folder", "data.root=parts", "data.image_size=128", "logger=none"])
    resolved = check(config)
    torch.manual_seed(0)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": build_method(resolved).state_dict()}, folder / "checkpoints/last.ckpt")
    (folder / ".hydra").mkdir()
    (folder / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(config))
    write_threshold(folder, Threshold("area", "component", 0.5, 0.5, 0.001, 3)._asdict())
    write_json(folder / "metrics.json", {"image_auroc": 1.0, "result_version": RESULT_VERSION, "precision": "32-true"})
    write_job(folder, "done", versions=versions_of(resolved))
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("stored") / "run")


@pytest.fixture
def run(original, tmp_path) -> Path:
    """A copy whose files can be damaged; the checkpoint is shared."""
    for path in original.rglob("*"):
        if path.is_file():
            target = tmp_path / "run" / path.relative_to(original)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target) if path.suffix == ".ckpt" else target.write_bytes(path.read_bytes())
    return tmp_path / "run"


def keys(node: Any, above: tuple = ()) -> Iterator[tuple]:
    """The places of all values, groups included."""
    if above:
        yield above
    for name, child in node.items() if isinstance(node, dict) else ():
        yield from keys(child, (*above, name))


def is_read(place: tuple) -> bool:
    return any(f"{'.'.join(place)}.".startswith(f"{key}.") for key in READ)


def planted(run: Path, config: dict[str, Any], place: tuple, value: Any) -> None:
    """The run with one value of its configuration replaced."""
    changed = copy.deepcopy(config)
    node = changed
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = value
    (run / ".hydra/config.yaml").write_text(yaml.safe_dump(changed))


def answer(run: Path) -> str:
    """The line with which a run is refused, "" if it is not."""
    try:
        Detector.load(run, "cpu")
        build(open_run(str(run)).rule, ThresholdRule, "threshold")
    except UserError as error:
        line = str(error)
    else:
        return ""
    assert "\n" not in line
    return line


def test_a_whole_run_is_read(run):
    stored = open_run(str(run))
    assert stored.threshold == Threshold("area", "component", 0.5, 0.5, 0.001, 3)
    assert (stored.batch_size, stored.decoding["image_size"]) == (8, 128)
    assert answer(run) == ""


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_foreign_class_at_any_key_is_never_called(run, tmp_path, every):
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    places = list(keys(config))
    assert len(places) > 100
    for place in places[::every]:
        evil = {"_target_": EVIL, "path": str(tmp_path / "reached")}
        planted(run, config, place, evil)
        line = answer(run)
        assert not (tmp_path / "reached").exists(), place
        if is_read(place) and place[-1] not in {"name", "wants"}:
            assert line, place


@pytest.mark.parametrize(
    "annotation",
    [
        "__import__('pathlib').Path({path!r}).touch()",
        "Annotated[int, open({path!r}, 'w')]",
        "list[[open({path!r}, 'w') for _ in (1,)]]",
        "Field(default_factory=open({path!r}, 'w'))",
        "Literal[(lambda: open({path!r}, 'w'))()]",
        "int if open({path!r}, 'w') else str",
        "f'{{open(NAME, chr(119))}}'",
        "\"open({path!r}, 'w')\"",
        "list[\"open({path!r}, 'w')\"]",
        "Optional[\"open({path!r}, 'w')\"]",
        "Annotated[int, \"open({path!r}, 'w')\"]",
        "Literal[9**9**9]",
        "eval",
        "callable",
        "no Python (",
    ],
)
@pytest.mark.parametrize("place", [("method",), ("method", "network"), ("threshold",), ("data", "decoding")])
def test_a_source_in_a_run_folder_is_read_and_never_run(run, tmp_path, monkeypatch, place, annotation):
    """The folder that holds it is on the path where a program is started in it: annotations were evaluated."""
    reached = str(tmp_path / "reached")
    annotated = annotation.format(path=reached)
    source = f"NAME = {reached!r}\nclass Planted:\n    def __init__(self, a: {annotated} = 1): pass\n"
    (package := tmp_path / f"planted_{abs(hash((place, annotation)))}").mkdir()
    (package / "inside.py").write_text(f"version = 1\n{source}")
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    planted(run, config, (*place, "_target_"), f"{package.name}.inside.Planted")
    assert answer(run)
    assert not (tmp_path / "reached").exists()


@pytest.mark.parametrize("value", [None, 3, ["a.b.C"], {}])
def test_a_method_without_a_class_is_one_line(run, value):
    planted(run, yaml.safe_load((run / ".hydra/config.yaml").read_text()), ("method", "_target_"), value)
    assert "expected package.module.Class, found" in answer(run)


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_a_broken_value_at_any_key_that_is_read_is_one_line(run, every):
    """Every forty-first pair of key and value, and all of them in the slow tier."""
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    pairs = [(place, value) for place in keys(config) if is_read(place) for value in BROKEN]
    for place, value in pairs[::every]:
        planted(run, config, place, value)
        line = answer(run)  # none for a value that fits by chance: 1.5 as a rate
        assert not line or str(run) in line or place[0] == "threshold", (place, line)
        if value in ("${oc.env:HOME}", "${nowhere}") and place != ("method", "name"):
            assert line, place


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (".hydra/config.yaml", "", "expected a mapping"),
        (".hydra/config.yaml", "[1, 2]", "expected a mapping, found list"),
        (".hydra/config.yaml", "a: [", "cannot be read"),
        (".hydra/config.yaml", "a: &a [1]\nb: *a", "found an alias"),
        (".hydra/config.yaml", "[" * 100_000, "nested too deeply"),
        (".hydra/config.yaml", "x: " + "y" * 2**21, "at most"),
        (".hydra/config.yaml", "!!python/object/apply:os.system [exit]", "cannot be read"),
        (".hydra/config.yaml", None, "config.yaml"),
        ("threshold.json", None, "expected a list of thresholds, found []"),
        ("threshold.json", "[]", "found []"),
        ("threshold.json", "{}", "found {}"),
        ("threshold.json", "[{}]", "found no name"),
        ("threshold.json", "[" * 100_000, "cannot be read"),
        ("threshold.json", "half", "cannot be read"),
        ("checkpoints/last.ckpt", "junk", "expected a whole checkpoint"),
        ("checkpoints/last.ckpt", None, "expected a whole checkpoint"),
        ("metrics.json", "[" * 100_000, "expected the folder of a finished run"),
        ("metrics.json", "[]", "expected the folder of a finished run"),
        ("job.json", "{", "expected the folder of a finished run"),
        ("job.json", None, "expected the folder of a finished run"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(run, file, content, message):
    (run / file).unlink()
    if content is not None:
        (run / file).write_text(content)
    assert message in answer(run)


@pytest.mark.parametrize(
    "file", [".hydra/config.yaml", "threshold.json", "metrics.json", "job.json", "checkpoints/last.ckpt"]
)
def test_a_pipe_is_never_waited_for(run, file):
    (run / file).unlink()
    os.mkfifo(run / file)
    assert answer(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "x"}, "image: expected"), ({"image": None}, "image: expected"),
        ({"pixel": "NaN"}, "pixel: expected"),
        ({"name": "unknown"}, "name: expected"), ({"decided_by": 1}, "decided_by: expected"),
        ({"minimum_area": -1.0}, "minimum_area: expected"), ({"normals": 1.5}, "normals: expected"),
    ],
)  # fmt: skip
def test_a_threshold_with_a_broken_field(run, change, message):
    entries = json.loads((run / "threshold.json").read_text())
    (run / "threshold.json").write_text(json.dumps([entries[0] | change]))
    assert message in answer(run)
    assert "threshold.json" in answer(run)


@pytest.mark.parametrize("field", ["image", "pixel", "minimum_area"])
def test_a_threshold_that_is_no_number(run, field):
    entries = json.loads((run / "threshold.json").read_text())
    (run / "threshold.json").write_text(json.dumps([entries[0] | {field: float("nan")}]))
    assert f"{field}: expected a finite number" in answer(run)


@pytest.mark.parametrize("content", [[], {}, {"state_dict": 1}, {"state_dict": {"a": 1}}, "nan"])
def test_weights_that_are_none(run, content):
    path = run / "checkpoints/last.ckpt"
    if content == "nan":
        content = torch.load(path, weights_only=True)
        next(iter(content["state_dict"].values()))[0] = torch.nan
    path.unlink()
    torch.save(content, path)
    assert "last.ckpt: expected" in answer(run)


def test_whatever_a_method_is_configured_with_can_be_read_again():
    """A resolver that is not known here leaves a hole in the configuration of a finished run."""
    texts = [path.read_text() for path in (CONF / "method").glob("*.yaml")]
    used = {name for text in texts for name in re.findall(r"[$][{]([a-z_.]+):", text)}
    assert "given" in used
    assert used <= RESOLVERS


def changed(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The run with another checkpoint."""
    path = run / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = change(checkpoint["state_dict"])
    path.unlink()  # shared with other copies
    torch.save(checkpoint, path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: {1: torch.zeros(2)}, "expected a checkpoint with the tensors of a state_dict, found none"),
        (lambda state: {**state, 7: torch.zeros(2)}, "expected a checkpoint with the tensors of a state_dict"),
        (lambda state: {name: weight.to(torch.int8) for name, weight in state.items()}, "as float32, found int8"),
        (lambda state: {name: weight.to(torch.complex64) for name, weight in state.items()}, "found complex64"),
        (lambda state: {name: weight.half() for name, weight in state.items()}, "found float16; train it again"),
    ],
)
def test_weights_of_other_names_or_types_are_one_line(run, change, told):
    changed(run, change)
    line = answer(run)
    assert told in line
    assert str(run / "checkpoints/last.ckpt") in line


def test_a_checkpoint_that_is_more_than_numbers_is_refused_without_torchs_advice(run):
    path = run / "checkpoints/last.ckpt"
    path.unlink()
    torch.save({"state_dict": {}, "path": Path("x")}, path)
    line = answer(run)
    assert "more than tensors and numbers" in line
    assert "weights_only" not in line


@pytest.mark.parametrize("name", [r"\${oc.env:HOME}", "../../x", "a/b", "", 0.5, None])
def test_a_method_has_a_name(run, name):
    planted(run, yaml.safe_load((run / ".hydra/config.yaml").read_text()), ("method", "name"), name)
    line = answer(run)
    assert "method.name: expected letters, digits" in line
    assert str(Path.home()) not in line


def test_a_size_that_does_not_fit_the_weights_is_one_line(run, tmp_path):
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    planted(run, config, ("data", "decoding", "image_size"), 64)
    detector = Detector.load(run, "cpu")
    with pytest.raises(UserError, match="config.yaml: expected sizes that fit the weights, found others"):
        detector.predict(np.zeros((128, 128, 3), np.uint8))
