"""`from anomaly_lab import Detector` loads what judging needs and changes nothing of the program around it."""

import subprocess
import sys

import pytest

from tests.conftest import variables

BEFORE_AND_AFTER = """
import gc, logging, os, sys
import cv2, omegaconf, yaml  # OpenCV changes LD_LIBRARY_PATH
from PIL import Image
import pytorch_lightning  # brings what it brings, matplotlib through torchmetrics for one

def state():
    return {
        "pixels": Image.MAX_IMAGE_PIXELS, "parse": omegaconf.base.parse, "loader": yaml.SafeLoader,
        "resolvers": sorted(omegaconf.basecontainer.BaseContainer._resolvers), "environment": dict(os.environ),
        "collecting": gc.isenabled(),
        "logging": {
            name: (logger.level, list(logger.handlers), list(logger.filters), logger.disabled)
            for name, logger in [("root", logging.root), *sorted(logging.Logger.manager.loggerDict.items())]
            if isinstance(logger, logging.Logger) and name.split(".")[0] in {"root", "anomaly_lab", "tifffile", "PIL"}
        },
    }

import logging.config, tifffile
logging.getLogger("anomaly_lab")
before, modules = state(), set(sys.modules)
from anomaly_lab import Detector
assert Detector.__name__ == "Detector"
after = state()
assert after == before, {key: (before[key], after[key]) for key in before if before[key] != after[key]}
new = {name for name in sys.modules if name not in modules}
print(*sorted(new), sep="\\n")
"""


def loaded(program: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.slow
def test_the_detector_alone_is_loaded_and_nothing_global_changes():
    modules = loaded(BEFORE_AND_AFTER)
    assert "anomaly_lab.inference.detector" in modules
    assert not {name.partition(".")[0] for name in modules} & {"wandb", "matplotlib", "hydra", "optuna", "submitit"}
    wings = {name.split(".")[1] for name in modules if name.startswith("anomaly_lab.")}
    assert not wings & {"tracking", "report", "training", "launch", "cli"}


WITHOUT_WANDB = """
import sys
assert "wandb" not in sys.modules
sys.modules["wandb"] = None  # importing it is an ImportError
from anomaly_lab.__main__ import main
main()
"""


def test_a_machine_without_wandb_trains(warm_program, toy, tmp_path):
    words = (*(word for word in toy if "epochs" not in word), "method=variation_model", "logger=csv")
    done = warm_program.run(words, tmp_path, variables(tmp_path), code=WITHOUT_WANDB)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").rglob("metrics.json"))) == 1
