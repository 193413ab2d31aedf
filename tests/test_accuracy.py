"""What the main job must reach on the demo data, and the statistics methods on real data.

Longer runs are commands below experiments/, with their results.
"""

import json

import pytest

from anomaly_lab.data.demo import make

pytestmark = pytest.mark.slow
UNREAD = ("anomaly_maps", "pictures", "gallery", "curves")  # of the results only metrics.json is read
QUIET = ("logger=none", "trainer=cpu", *(f"callbacks.{name}=null" for name in UNREAD))


def metrics_of(runs):
    (path,) = runs.rglob("metrics.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The words for the demo data, which is made once for all tests."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    make(folder)
    return ("experiment=demo", f"data.root={folder}", *QUIET)


def test_cae_finds_the_defects_of_the_demo_data(lab, tmp_path, demo):
    lab(*demo, "controls=false")
    assert metrics_of(tmp_path / "runs")["image_auroc"] >= 0.90


TEXTURE = ("data.kind=texture", "data.stride=128")


@pytest.mark.parametrize(
    ("options", "images", "pixels"),
    [
        (("data=mvtec_ad", "data.root={}/mvtec_ad_small", "data.category=transistor"), 100, False),
        (("data=folder", "data.root={}/wood_boards_256", *TEXTURE, "data.image_size=256"), 141, True),
        (("data=folder", "data.root={}/covid19_xray"), 66, False),
        (("data=folder", "data.root={}/concrete_crack_700", *TEXTURE, "data.image_size=227"), 450, False),
    ],
    ids=["transistor", "wood_boards", "covid", "concrete"],
)
def test_other_real_data_goes_through(lab, tmp_path, real_data, options, images, pixels):
    """Files of mixed types and sizes, gray and colour, with and without masks; too short to learn much."""
    options = [option.format(real_data) for option in options]
    short = ("input.object.image_size=128", "data.patches=160", "data.batch_size=16", "trainer.max_epochs=1")
    lab(*options, *short, "controls=false", "logger=none")
    metrics = metrics_of(tmp_path / "runs")
    assert 0 <= metrics["image_auroc"] <= 1
    assert ("pixel_aupro" in metrics) == pixels
    (table,) = (tmp_path / "runs").rglob("scores.csv")
    assert len(table.read_text().splitlines()) == images + 1


STATISTICS = {  # experiments/statistics and experiments/variation_model have the figures
    "variation_model": (
        "data.root={}/mvtec_ad_small", "data.category=screw", "method.alignment=rigid", "method.region=foreground",
        "method.images=30",
    ),
    "texture_inspection": ("data=folder", "data.root={}/wood_boards_256", "data.kind=texture"),
    "cnn_dictionary": (
        "data=folder", "data.root={}/wood_boards_256", "data.kind=texture", "data.image_size=256",
        "method.evaluation=dense", "method.backbone.layers=[layer3]",
        "method.backbone.weights={}/weights/resnet18_imagenet_conv1_to_layer3.safetensors",
    ),
}  # fmt: skip
# One training, one test image of so many.
PART = {"variation_model": (4, 3), "texture_inspection": (1, 2), "cnn_dictionary": (2, 3)}
ABOVE_CONTROLS = {"variation_model": "pixel_auroc_smoothed", "texture_inspection": "pixel_auroc"}


@pytest.mark.parametrize(
    ("method", "pixel_auroc"), [("variation_model", 0.94), ("texture_inspection", 0.85), ("cnn_dictionary", 0.92)]
)
def test_methods_without_a_gradient_on_real_data(lab, tmp_path, real_data, method, pixel_auroc):
    """A part of the photos is enough to tell, but for the distance of texture inspection to its control."""
    train, test = PART.get(method, (1, 1))
    data = tmp_path / "data"
    for folder in ("mvtec_ad_small/screw", "wood_boards_256"):
        for defect in (real_data / folder).glob("*/*/"):
            there = data / defect.relative_to(real_data)
            there.mkdir(parents=True)
            for path in sorted(defect.iterdir())[:: train if defect.parent.name == "train" else test]:
                (there / path.name).symlink_to(path)
    (data / "weights").symlink_to(real_data / "weights")
    options = [*(option.format(data) for option in STATISTICS[method]), f"controls={method in ABOVE_CONTROLS}"]
    lab(f"method={method}", *options, *QUIET)
    metrics = metrics_of(tmp_path / "runs")
    assert metrics["pixel_auroc"] >= pixel_auroc
    if name := ABOVE_CONTROLS.get(method):
        assert metrics[name] > metrics[f"control_{name}"]


NARROW = {  # what a short training is, the widths of the networks, the optimizers
    "anogan": (
        ("budget.epochs=2", "method.search_steps=50"),
        ("generator.width", "discriminator.width"),
        ("optimizer",),
    ),
    "f_anogan": (
        ("budget.epochs=5", "method.critic_steps=2"),
        ("generator.width", "critic.width", "encoder.width"),
        ("optimizer", "encoder_optimizer"),
    ),
    "ganomaly": (("budget.epochs=1",), ("width",), ("optimizer",)),
    "skip_ganomaly": (("budget.epochs=2",), ("width",), ("optimizer",)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "rate", "width"),
    [("anogan", "2e-4", 16), ("f_anogan", "1e-3", 8), ("ganomaly", "1e-3", 16), ("skip_ganomaly", "1e-3", 16)],
)
def test_trained_it_beats_itself_untrained(lab, tmp_path, demo, method, rate, width):
    """Small networks, 32 px; untrained: a learning rate that changes no weight, batch norm sees 1000 patches."""
    budget, widths, optimizers = NARROW[method]
    untrained = ("budget.epochs=2", "data.patches=500")
    found = []
    for lr, short in ((rate, ()), ("1e-12", untrained)):
        lab(
            f"method={method}", *demo, "data.image_size=32", "data.batch_size=16", "controls=false",
            f"runs_dir={tmp_path}/runs/{lr}", "budget.schedule=constant", *budget,
            *(f"method.{key}={width}" for key in widths),
            *(f"method.{optimizer}.lr={lr}" for optimizer in optimizers), *short,
        )  # fmt: skip
        found.append(metrics_of(tmp_path / "runs" / lr)["pixel_auroc"])
    trained, untrained = found
    assert trained > 0.9
    assert trained > untrained + 0.1
