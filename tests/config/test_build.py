"""Only classes of the kind that belongs at a place are built, whoever wrote the configuration."""

import re

import pytest
import torch

from anomaly_lab.config.build import build
from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.tiling import SlidingWindow, Tiling
from anomaly_lab.metrics.thresholds import Area, ThresholdRule

TILING = "anomaly_lab.methods.base.tiling"
CAE = {
    "_target_": "anomaly_lab.methods.cae.CAE",
    "tiling": {"_target_": f"{TILING}.WholeImage"},
    "network": {"_target_": "anomaly_lab.networks.autoencoder.Autoencoder", "image_size": 128, "channels": 3,
                "latent_size": 4},
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1},
}  # fmt: skip


def test_objects_and_those_below_them():
    window = {"_target_": f"{TILING}.SlidingWindow", "size": 32, "stride": 8}
    tiling = build(window, Tiling, "tiling")
    assert isinstance(tiling, SlidingWindow)
    assert (tiling.size, tiling.stride) == (32, 8)
    assert isinstance(
        build({"_target_": "anomaly_lab.metrics.thresholds.Area", "minimum_area": 0.1}, ThresholdRule, "t"), Area
    )
    method = build(CAE, Method, "method")
    optimizer = method.optimizer(method.parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["lr"] == 0.1


@pytest.mark.parametrize(
    "target",
    [
        "torch.load", "os.system", "builtins.exec", "torch.hub.load", "numpy.load", "site.addsitedir",
        "shutil.copyfile", "pathlib.Path", "anomaly_lab", "anomaly_lab.", "", "anomaly_lab..os",
        "anomaly_lab.nowhere.X", "anomaly_lab_evil.X",
        "anomaly_lab.core.files.write_json",        # a function of ours
        "anomaly_lab.runs.folder.Path",             # a foreign class that a module of ours has imported
        "anomaly_lab.methods.base.method.Method",   # abstract
        "anomaly_lab.runs.checkpoint.AtomicCheckpointIO", "anomaly_lab.methods.cae.CAE.__init__", 3, None,
        ["torch.load"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["method", "tiling", "network", "optimizer"])
def test_nothing_foreign_is_built_at_any_place(target, place):
    node = {**CAE, place: {**CAE[place], "_target_": target}} if place in CAE else {**CAE, "_target_": target}
    with pytest.raises(UserError, match="expected a (kind|class)") as error:
        build(node, Method, "method")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {**CAE["tiling"]}}, "method.network._target_: expected a kind of Autoencoder"),
        ({"tiling": CAE["network"]}, "method.tiling._target_: expected a kind of Tiling"),
        ({"tiling": {"_target_": f"{TILING}.Tiling"}}, "method.tiling._target_: expected a kind of Tiling"),
        ({"optimizer": {**CAE["optimizer"], "_partial_": False}}, "method.optimizer._partial_: expected true"),
        ({"optimizer": {**CAE["optimizer"], "_target_": "torch.optim.Optimizer.step"}}, "expected a kind of Optimizer"),
        (
            {"optimizer": {**CAE["optimizer"], "_target_": "torch.optim.swa_utils.AveragedModel"}},
            "expected a kind of Optimizer",
        ),
        ({"schedule": {"_target_": "torch.load", "f": "x"}}, "method.schedule: expected a plain value"),
        ({"_args_": [1]}, "method._args_: expected arguments of CAE"),
        ({"_partial_": True}, "method._partial_: expected none"),
    ],
)
def test_classes_of_another_kind_are_refused(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(CAE | change, Method, "method")


def test_packages_that_the_user_trusts(tmp_path, monkeypatch):
    (tmp_path / "own_nets").mkdir()
    (tmp_path / "own_nets/__init__.py").write_text("")
    (tmp_path / "own_nets/small.py").write_text(
        "from anomaly_lab.networks.autoencoder import Autoencoder\nclass Small(Autoencoder): pass\nclass Other: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    node = CAE | {"network": {**CAE["network"], "_target_": "own_nets.small.Small"}}
    for trusted in ((), ["own"], ["own_net"], ["own_nets.small.S"]):  # a package of that name, not what begins so
        with pytest.raises(UserError, match="trust=PACKAGE|from anomaly_lab"):
            build(node, Method, "method", trusted)
    for trusted in (["own_nets"], "own_nets", "other, own_nets", "[own_nets]"):  # as it is typed, and from Python
        assert type(build(node, Method, "method", trusted).network).__name__ == "Small"
    with pytest.raises(UserError, match="expected a kind of Autoencoder from anomaly_lab, own_nets"):
        build(CAE | {"network": {"_target_": "own_nets.small.Other"}}, Method, "method", ["own_nets"])
