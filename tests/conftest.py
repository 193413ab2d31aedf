"""What the tests share: a tiny data set and a run of it, the real data, and skips that CI turns into failures."""

import atexit
import gc
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# The wings that compute are checked at every call; to check all would cost every test process seconds.
WINGS = ("data", "metrics", "networks", "functional", "methods", "evaluation", "inference", "training")
install_import_hook(
    [f"anomaly_lab.{wing}" for wing in WINGS], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the hub, whatever the machine reaches

from anomaly_lab.core.console import print_messages
from anomaly_lab.core.lock import lock
from tests import warm
from tests.warm import WarmProgram

gc.disable()  # until everything is imported
warm.compose_quickly()
warm.look_for_plugins_once()

ROOT = Path(__file__).parent.parent
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
# Property tests: the same few examples everywhere, no clock, nothing kept between runs; a fixture serves all examples.
settings.register_profile(
    "few", max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("few")
REQUIRED = {name for name in os.environ.get("ANOMALY_LAB_REQUIRE", "").split(",") if name}


def need(what: str, there: bool, reason: str) -> None:
    """Skip with a reason, or fail where ANOMALY_LAB_REQUIRE says that it must be there."""
    if there:
        return
    if what in REQUIRED:
        pytest.fail(f"ANOMALY_LAB_REQUIRE={what}, but {reason}")
    pytest.skip(f"{what}: {reason}")


@pytest.fixture(autouse=True, scope="session")
def messages() -> None:
    """Messages are printed, as on the command line."""
    print_messages()


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets that lies beside the checkout."""
    path = Path(os.environ.get("ANOMALY_LAB_TEST_DATA", ROOT.parent / "shared" / "data"))
    need("data", path.is_dir(), "no real data beside the checkout (ANOMALY_LAB_TEST_DATA)")
    return path


def pytest_configure(config: pytest.Config) -> None:
    """Processes of the tests share one warm program, which is imported while they collect."""
    if config.getoption("numprocesses", None):
        warm.start_program()


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage need look at it again."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Libraries count what they lose at the end of the process."""
    atexit.register(gc.unfreeze)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skips by reason."""
    reasons = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line(f"skips: {sum(reasons.values())}")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"  {count} x {reason}")


def every(step: int, cases: Sequence[tuple]) -> list:
    """All cases, of which the fast tests ask every `step`-th: each composes a configuration, and there are many."""
    return [pytest.param(*case, marks=[pytest.mark.slow] if i % step else []) for i, case in enumerate(cases)]


def stand_in(kind: type, **attributes: object) -> Mock:
    """An object that passes for a `kind` and has only these attributes."""
    double = Mock(spec=kind)
    for name, value in attributes.items():
        setattr(double, name, value)
    return double


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def write() -> Callable[[Path, np.ndarray], Path]:
    return write_image


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A tiny data set in the layout of MVTec AD."""
    return make_parts(tmp_path / "parts" / "bar")


def make_parts(root: Path) -> Path:
    """Gray bars, of which the defective ones have a white square."""
    random = np.random.default_rng(0)

    def image(defective: bool) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.full((140, 140, 3), 90, np.uint8)
        pixels[:, 50:90] = 150
        pixels += random.integers(0, 12, pixels.shape, dtype=np.uint8)
        mask = np.zeros((140, 140), np.uint8)
        if defective:
            y, x = random.integers(20, 90, 2)
            mask[y : y + 24, x : x + 24] = 255
            pixels[mask > 0] = 250
        return pixels, mask

    for i in range(10):
        write_image(root / f"train/good/{i:03d}.png", image(False)[0])
    for i in range(5):
        write_image(root / f"test/good/{i:03d}.png", image(False)[0])
        pixels, mask = image(True)
        write_image(root / f"test/hole/{i:03d}.png", pixels)
        write_image(root / f"ground_truth/hole/{i:03d}_mask.png", mask)
    return root


@pytest.fixture(scope="session")
def warm_program() -> WarmProgram:
    """The program, imported once for all tests of this process."""
    return warm.warm_program()


def variables(folder: Path, **more: str) -> dict[str, str]:
    """The environment of the program in a test: one thread, a cache of its own, nothing about W&B but what is added."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache"), **more}


@pytest.fixture
def lab(tmp_path: Path, warm_program: WarmProgram) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the program in a process of its own, with runs under the test's folder."""

    def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = warm_program.run(arguments, tmp_path, variables(tmp_path, **environment))
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a ResNet-18 up to layer3 that were drawn, not trained: the real ones cannot be fetched everywhere."""
    return drawn("resnet18", tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of timm's test_resnet, which has four stages as well and a 25th of the weights."""
    return drawn("test_resnet", tmp_path_factory.mktemp("weights"))


def drawn(name: str, folder: Path) -> Path:
    import timm  # here, because the process that only hands out the tests reads this file, too
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(name, features_only=True, pretrained=False, out_indices=(3,))
    save_file(network.state_dict(), path := folder / f"{name}.safetensors")
    return path


QUIET = (
    "controls=false", "callbacks.samples=null", "callbacks.anomaly_maps=null", "callbacks.pictures=null",
    "callbacks.curves=null", "callbacks.gallery=null",
)  # fmt: skip
TINY = (
    "data.patches=64", "data.batch_size=16", "data.image_size=128", "trainer.max_epochs=2", "data.workers=0",
    "trainer.accelerator=cpu", "logger=none", "data.settings.rotation=0", "data.settings.shift=0", *QUIET,
)  # fmt: skip


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Overrides for a training of seconds, without controls and pictures."""
    return TINY


@pytest.fixture
def toy(parts: Path) -> tuple[str, ...]:
    """Such a training at 64 px on the tiny data set; words behind these win."""
    return ("data=folder", f"data.root={parts}", "data.category=bar", "method=slides_cae", *TINY, "data.image_size=64")


class ToyRun(NamedTuple):
    """A finished run: GANomaly at 64 px, with everything that a run leaves behind. Tests read it and never write."""

    root: Path  # the folder in which it was started
    words: tuple[str, ...]  # with QUIET, which changes how it is tested, and nothing about its weights
    folder: Path  # of the run
    said: str
    photos: Path  # the category, with train, test and ground_truth
    home: Path

    def copy(self, to: Path) -> Path:
        """The folder of a copy, in which `words` find the same run."""
        shutil.copytree(self.root / "runs", to / "runs", symlinks=True)
        return to / self.folder.relative_to(self.root)


SECRET = "0123secret"


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, warm_program: WarmProgram) -> ToyRun:
    """Made once for all processes of the tests, by the first that asks."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "toy_run"
    home, said = root / "home of somebody", root / "said"
    photos = home / "photos" / "bar"
    words = (
        "data=folder", f"data.root={photos}", "data.category=bar", "method=ganomaly", "method.width=8", *TINY,
        "data.image_size=64", "name=sweep7",
    )  # fmt: skip
    with lock(root.with_suffix(".lock"), lambda _: None):
        if not said.is_file():
            make_parts(photos)
            write_image(photos / "test/good/wide.png", np.full((90, 150, 3), 90, np.uint8))
            about = {"WANDB_MODE": "offline", "HOME": str(home), "PHOTOS": str(photos), "MINE": SECRET}
            loud = [word for word in words if word not in (*QUIET, "logger=none")]
            loud[1] = "data.root=${oc.env:PHOTOS}"
            done = warm_program.run(loud, root, variables(root, **about))
            assert done.returncode == 0, done.stdout + done.stderr
            said.write_text(done.stdout + done.stderr)
    (metrics,) = (root / "runs").rglob("metrics.json")
    return ToyRun(root, words, metrics.parent, said.read_text(), photos, home)
