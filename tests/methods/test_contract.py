"""What every method promises, asked of every YAML of conf/method; `tests/contract.py` has its toy settings."""

from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from anomaly_lab.config.files import CONF
from anomaly_lab.config.schema import class_fact
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.evaluation.curves import embedded
from anomaly_lab.inference.graph import answer_of, ask_onnx, ask_pt2, to_onnx, to_pt2, traced, valid_pixels
from anomaly_lab.methods import ganomaly
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.tiling import SlidingWindow, enlarge
from anomaly_lab.training.seed import SeedEveryStep
from tests.adversarial import OUTSIDE, Losses, configured, in_two_processes
from tests.conftest import make_parts
from tests.contract import (
    DESCENDING,
    FILES,
    FITTED,
    GENTLE,
    GRAY_ONLY,
    METHODS,
    NO_GRAPH,
    OBJECTS_ONLY,
    OF_TABLES,
    SIDE,
    TRUST,
    UNTAUGHT,
    Toy,
    Waits,
    bars,
    descend,
    differing,
    divided,
    given,
    painted,
    scaled,
    state_of,
    table_of,
)
from tests.golden import RECORDED, golden_losses

OPTIMISED = pytest.mark.parametrize("toy", DESCENDING, indirect=True)
MAGNIFIED = {  # rounding: by the root of a covariance, by a norm, by a distribution of guesses that hardly differ
    "cutpaste": (1e-5, 1e-5),
    "contrastive": (1e-4, 1e-6),
    "lsa": (1e-3, 5e-5),  # of losses of hundreds, by corners of its activations
    "patch_svdd": (1e-5, 1e-6),  # of codes up to 1
    "transformation_classifier": (1e-3, 1e-7),
}


def some(quick, names=DESCENDING):
    """All methods with losses, or other ones, of which the fast tests ask these."""
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in names]


SLOWEST = {"draem", "efficient_ad", "lsa", "nsa"}  # seconds each
FEWER = {name for name in METHODS if SIDE.get(name, 32) <= 64} - SLOWEST
# Those that step themselves, and one of those for which Lightning does.
OWN_STEPS = {name for name in DESCENDING if class_fact(FILES[name]["_target_"], "clips_gradients")} | {"cflow", "memae"}


@pytest.fixture(scope="module", params=METHODS)
def toy(request, small_weights, tmp_path_factory):
    """A method, whose short training the tests share."""
    return Toy(request.param, tmp_path_factory.mktemp(request.param), small_weights)


@pytest.fixture(scope="module", autouse=True)
def restless():
    """The discriminator of a GANomaly is initialised again in every second step: it is part of what is promised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ganomaly, "WON", 100.0)
        yield


def contrast(method, normal, defective):
    """How many times higher the map is on defects than elsewhere; without maps, the score than of normal images."""
    with torch.no_grad():
        found, score = method.eval()(defective)[:2]
        if not method.localises:
            return score.mean() / method(normal).score.mean()
    if found.max() <= 0:  # a map may have any range
        found = found - found.amin()
    defect = (normal != defective).any(dim=1, keepdim=True)
    return found[defect].mean() / found[~defect].mean().clamp_min(1e-9)


@pytest.mark.parametrize(
    "toy", some(set(METHODS) - {"patch_svdd"}, [name for name in METHODS if name not in UNTAUGHT]), indirect=True
)
def test_training_brings_defects_out(toy):
    untrained, normal, defective = toy.built(), toy.images(8, defects=0), toy.images(8, defects=8)
    untrained.prepare([Batch.of(normal)])
    before, after = (contrast(method, normal, defective) for method in (untrained, toy.training.method))
    assert after > before


def test_a_prediction(toy):
    method, images, placement = toy.training.method, toy.images(), toy.placement()
    with torch.no_grad():
        before, prediction = toy.built().eval()(images, placement), method(images, placement)
    assert not torch.equal(before.anomaly_map, prediction.anomaly_map)

    # a finite map of the size of the image, a score, a picture
    assert prediction.anomaly_map.shape == (5, 1, toy.side, toy.side)
    assert prediction.score.shape == (5,)
    assert prediction.anomaly_map.dtype == prediction.score.dtype == torch.float32
    assert prediction.anomaly_map.isfinite().all()
    assert prediction.score.isfinite().all()
    samples, same = method.samples(images), method.samples(images)
    assert samples is same is None or torch.equal(samples, same)
    for made in (prediction.reconstruction, samples):
        if made is not None:
            assert made.shape == images.shape
            assert 0 <= made.min() <= made.max() <= 1

    # the same again, and alone or in a batch; the method does not change
    with torch.inference_mode():
        again, alone = method(images, placement), method(images[3:4], placement[3:4])
        vectors, vector = embedded(method, images), embedded(method, images[3:4])
    assert torch.equal(prediction.anomaly_map, again.anomaly_map)
    assert torch.equal(prediction.score, again.score)
    torch.testing.assert_close(prediction.anomaly_map[3:4], alone.anomaly_map, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.score[3:4], alone.score, rtol=1e-4, atol=1e-5)
    now = method.state_dict()
    assert all(torch.equal(toy.training.state[name], value) for name, value in now.items())
    assert not any(buffer.requires_grad for buffer in method.buffers())

    # a vector an image, where the method offers one, whatever else is in the batch
    if vectors is not None:
        assert len(vectors) == 5
        assert vectors.isfinite().all()
        assert vectors.std(dim=0).max() > 0
        torch.testing.assert_close(vectors[3:4], vector, rtol=1e-4, atol=1e-5)

    # rebuilt from the configuration and the checkpoint it says the same, bit by bit
    rebuilt = toy.built().eval()
    rebuilt.load_state_dict(now)
    with torch.no_grad():
        assert torch.equal(rebuilt(images, placement).anomaly_map, prediction.anomaly_map)
    assert all(weight.grad is None for weight in rebuilt.parameters())


@pytest.mark.parametrize("toy", some(FEWER, [name for name in METHODS if name not in OF_TABLES]), indirect=True)
def test_textures_are_asked_window_by_window_and_images_may_be_gray_or_colour(toy):
    side, channels = toy.side, 4 - toy.channels
    words = ["data.kind=texture", f"data.image_size={side + 16}", f"data.patch_size={side}", "data.stride=16"]
    if toy.name in OBJECTS_ONLY:
        with pytest.raises(UserError, match="data.kind: expected object"):
            toy.built(*words)
        return
    if toy.name in GRAY_ONLY:
        with pytest.raises(UserError, match="data.channels: expected 1, found 3"):
            toy.built(f"input.channels={channels}")
        channels = 1
    method, training = toy.built(*words, f"input.channels={channels}"), bars(8, 0, side + 16, channels)
    if isinstance(method, FittedMethod):
        method.setup("fit")
        method.update(training, torch.arange(8))
        method.fit()
    else:
        method.rehearse(painted(Batch.of(training[..., :side, :side]), toy.corruption))
        if isinstance(method, GradientMethod):
            several = bars(2, 0, 2 * side, channels)  # four windows each
            held_out = painted(Batch.of(several), toy.corruption)._replace(row=None)
            assert method.eval().losses(method.windows(held_out))["loss"].isfinite()
    images = torch.cat([training[:1], bars(2, 101, side + 16, channels, defective=True)])
    with torch.no_grad():
        prediction = method.eval()(images)
    assert prediction.anomaly_map.shape == (3, 1, side + 16, side + 16)
    assert prediction.anomaly_map.isfinite().all()
    assert prediction.anomaly_map.std() > 0
    assert isinstance(method.tiling, SlidingWindow) == (method.sees == "patches")
    if method.sees == "patches":
        with torch.no_grad():
            windows = [method.predict(images[..., y : y + side, x : x + side]) for y in (0, 16) for x in (0, 16)]
        first = enlarge(windows[0].anomaly_map, images[..., :side, :side])
        torch.testing.assert_close(prediction.anomaly_map[..., :16, :16], first[..., :16, :16])
        if windows[0].score is not None:
            torch.testing.assert_close(prediction.score, torch.stack([w.score for w in windows]).amax(dim=0))


FORMATS = {"pt2": (to_pt2, ask_pt2), "onnx": (to_onnx, ask_onnx)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_method_is_a_graph_or_says_why_not(toy, kind):
    """One file for batches of 3 and 1, one image padded; as large as its weights."""
    method, (write, ask) = toy.training.method, FORMATS[kind]
    obstacle = method.export_obstacle
    assert (obstacle is None) == (toy.name not in NO_GRAPH)
    if obstacle is not None:
        assert NO_GRAPH[toy.name] in obstacle
        return
    images, placement = toy.images(3), toy.placement(3)
    expected, valid = answer_of(method, images, placement), valid_pixels(images, placement)
    assert expected.anomaly_map.std() > 0
    file = write(traced(method, toy.channels, toy.side), "{}")
    assert len(file) < sum(weight.nbytes for weight in [*method.parameters(), *method.buffers()]) + 800_000
    for some in (slice(0, 3), slice(2, 3)):
        for right, found in zip(expected, ask(file, images[some], valid[some]), strict=True):
            assert found.dtype == np.float32
            assert found == pytest.approx(right[some], rel=0, abs=1e-5 * float(np.abs(right).max()))


@OPTIMISED
def test_a_training_logs_finite_losses(toy):
    losses = toy.training.losses
    assert len(losses.steps) == 4
    assert {"train/loss", "train/loss_epoch", "validation/loss"} <= set(losses.last)
    assert torch.tensor([*losses.steps, *losses.last.values()]).isfinite().all()


@pytest.mark.parametrize("toy", some(FEWER), indirect=True)
def test_a_run_that_broke_off_ends_like_one_that_did_not(toy):
    whole = toy.training.state
    assert whole.get("reinitialisations", 2) == 2
    assert len(toy.training.checkpoints) == 2 + (len(getattr(toy.training.method, "stages", ())) > 1)
    for path in toy.training.checkpoints:
        trainer = toy.fit(toy.built(), resume=path)
        assert not differing(whole, state_of(trainer)), path.name


@pytest.mark.parametrize("toy", some(FEWER & OWN_STEPS), indirect=True)
def test_a_loss_scale_changes_nothing(toy):
    """float16 on an accelerator: gradients are unscaled before they are clipped, each by the scale that made them."""
    scale = scaled()
    trained = state_of(toy.fit(toy.built(), plugins=[scale]))
    torch.testing.assert_close(trained, toy.training.state, rtol=1e-5, atol=1e-7)
    assert scale.scaler.get_scale() == 2.0 ** (10 + toy.training.steps)


@pytest.mark.parametrize("toy", some(FEWER), indirect=True)
def test_half_precision_has_finite_losses_and_no_step_waits_for_the_device(toy):
    """Only a GANomaly asks for a number: the loss of the step before, which is on the host by then."""
    method, losses = toy.built(), Losses()
    descend(method, min(GENTLE.get(toy.name, 1e-3), 1e-3))  # Adam asks the host for its number of steps
    waits = Waits(method)
    toy.fit(method, losses, precision="bf16-mixed", batches=1, batch_size=3)  # processors are slow at it
    assert torch.tensor([*losses.steps, *losses.last.values()]).isfinite().all()
    assert waits.count == (2 if "ganomaly" in toy.name else 0)


@pytest.mark.parametrize("toy", some(FEWER), indirect=True)
def test_a_rate_out_of_all_proportion_stops_the_run(toy):
    method = toy.built()
    descend(method, 1e30)
    keys = ", ".join(f"method.{key}.lr" for key in method.rates) + r"=1e\+29" * (len(method.rates) == 1)
    with pytest.raises(
        UserError, match=rf"the loss is .* (at batch .|after the last batch) of epoch 1: training stopped.*\({keys}\)"
    ):
        toy.fit(method)


@pytest.mark.parametrize("toy", FITTED, indirect=True)
def test_neither_order_nor_batches_show_in_what_is_fitted(toy):
    """So a run that broke off is begun again, and ends like one that did not."""
    assert not toy.training.method.resumable
    method, images = toy.built(), torch.cat([bars(4, i, toy.side, toy.channels) for i in range(2)])
    method.setup("fit")
    for index in map(torch.tensor, ([6, 2, 4], [0], [7, 5, 1, 3])):
        method.update(images[index], index)
    assert method.memory(1000) >= method.memory(1) > 0
    method.fit()
    assert not differing(toy.training.state, method.state_dict())


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path, small_weights):
    """All methods in one pair of processes. Gradients are averaged: the last digits differ. Statistics are the same."""
    toys = [Toy(name, tmp_path, small_weights) for name in METHODS]
    alone = divided(toys)
    first, second = in_two_processes(partial(divided, toys), tmp_path)
    assert not {name for name in METHODS if differing(first[name], second[name])}
    assert not {name for name in FITTED if differing(first[name], alone[name])}
    for toy in toys:
        if (name := toy.name) in DESCENDING:
            near = dict(zip(("rtol", "atol"), MAGNIFIED.get(name, (1e-5, 1e-7)), strict=True))
            torch.testing.assert_close(first[name], dict(alone[name]), **near, msg=f"{name}: {{}}".format)
            moved = [(first[name][key] - weight).abs().max() for key, weight in toy.divisible().named_parameters()]
            assert max(moved) > 1e-5


# As published: conf/experiment names the source of every number, conf/method has the same numbers.

OURS = {
    "adae": {"margin", "optimizer"}, "avid": {"contextual_weight", "optimizer"},
    "f_anogan": {"encoder_epochs"}, "ganomaly": {"test_batchnorm"}, "skip_ganomaly": {"test_batchnorm"},
    "cavga": {"adversarial_weight", "classification_weight"}, "cflow": {"backbone"}, "fastflow": {"backbone", "affine"},
    "cs_flow": {"backbone", "hidden"}, "differnet": {"hidden", "rotation", "views"},
    "mahalanobis": {"backbone"}, "padim": {"backbone", "features"}, "patchcore": {"backbone", "ratio"},
    "egbad": {"optimizer"}, "htdg": {"kinds", "gray", "scales", "steps"}, "memae": {"score"},
    "mkd": {"backbone", "pooled", "normalise"}, "pixel_flow": {"scales", "optimizer"},
    "reverse_distillation": {"backbone", "block", "blocks", "base_width"}, "stfpm": {"backbone"},  # layers by stride
    "fcdd": {"backbone"},
    "spade": {"backbone", "pyramid", "search"},  # the same
    "ssim_ae": {"constants", "window", "network"}, "uninformed_students": {"stride"},
    "variation_model": {"images", "alignment"},
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in METHODS if (CONF / f"experiment/{name}_paper.yaml").exists()])
def test_a_method_is_set_as_published_but_for_what_is_ours(name):
    published = OmegaConf.merge(FILES[name], OmegaConf.load(CONF / f"experiment/{name}_paper.yaml").get("method", {}))
    published, ours = (OmegaConf.to_container(node) for node in (published, FILES[name]))
    different = {key for key in published if published[key] != ours.get(key)}
    assert different - {"wants"} == OURS.get(name, set())


# Of old: the numbers of yesterday. Where rounding grows fast from step to step, rates are small.

GOLDEN = {
    "adae": ["method.width=8"],
    "avid": ["method.width=8"],
    "ganomaly": ["method.width=8"],
    "skip_ganomaly": ["method.width=8"],
    "anogan": ["method.generator.width=4", "method.discriminator.width=4"],
    "f_anogan": [
        "data.image_size=64",
        "method.generator.width=4",
        "method.critic.width=4",
        "method.encoder.width=4",
    ],
    "cavga": ["data.image_size=64", "method.backbone.layers=[layer2]", "method.latent_size=16", "method.width=8"],
    "egbad": ["method.width=8", "method.optimizer.lr=2e-5"],
    "contrastive": ["data.image_size=32", "method.network.width=4"],
    "transformation_classifier": ["data.image_size=32"],
    "fcdd": ["data.image_size=48"],
    "htdg": [
        "data.image_size=32",
        "method.scales=2",
        "method.width=8",
        "method.optimizer.lr=1e-4",
    ],
    "supervised": ["data.image_size=48", "method.backbone.layers=[layer2]", "data.fold=0", "data.folds=2"],
    "deep_svdd": ["data.image_size=32", "method.pretraining_optimizer.lr=1e-4"],
    "cflow": ["data.image_size=48", "method.backbone.layers=[layer1,layer2]", "method.steps=2"],
    "cs_flow": ["data.image_size=48", "method.backbone.layers=[layer1]", "method.kernels=[3,5]", "method.hidden=8"],
    "differnet": [
        "data.image_size=48",
        "method.backbone.layers=[layer2]",
        "method.blocks=2",
        "method.hidden=16",
        "method.rotation=20",
    ],
    "fastflow": ["data.image_size=48", "method.backbone.layers=[layer1,layer2]", "method.steps=2"],
    "pixel_flow": ["data.image_size=32"],
    "patch_svdd": ["data.batch_size=4", "method.pairs=1"],
    "lsa": ["data.image_size=64", "method.hidden=4", "method.optimizer.lr=1e-5"],
    "cutpaste": ["data.image_size=48", "data.patches=16", "method.backbone.layers=[layer1]"],
    "draem": ["data.image_size=48", "method.width=4", "method.segmentation_width=4", "method.optimizer.lr=1e-6"],
    "efficient_ad": ["data.image_size=48", "data.batch_size=4"],
    "uninformed_students": ["data.image_size=48"],
    "nsa": ["data.image_size=48", "data.batch_size=4", "method.backbone.layers=[layer2]"],
    "memae": ["method.optimizer.lr=1e-4"],
    "mkd": ["data.image_size=64", "method.backbone.layers=[layer1,layer2]", "method.scoring=2"],
    "reverse_distillation": [
        "data.image_size=64",
        "data.batch_size=4",
        "method.backbone.layers=[act1,layer1,layer2]",
        "method.blocks=[1,1,1]",
    ],
    "stfpm": ["data.image_size=64", "method.backbone.layers=[layer1,layer2]"],
}
STEADY_STEPS = 3  # rounding differs between processors and grows from step to step: after five by a hundredth


class EnoughError(Exception):
    """The steps are done."""


class FirstLosses(Losses):
    """Ends the training after those that are compared, or, to be recorded, after five."""

    def on_train_batch_end(self, trainer, *rest):
        super().on_train_batch_end(trainer, *rest)
        if len(self.steps) == (5 if RECORDED else STEADY_STEPS):
            raise EnoughError


@pytest.fixture(scope="module")
def gray_bars(tmp_path_factory):
    """The photos of `parts`, which no test here changes."""
    return make_parts(tmp_path_factory.mktemp("parts") / "bar")


@pytest.mark.parametrize("name", DESCENDING)
def test_the_first_losses_are_those_of_yesterday(name, gray_bars, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(ganomaly, "WON", 1e-5)
    torch.set_num_threads(1)
    outside = OUTSIDE if not (CONF / f"method/{name}.yaml").is_file() else None
    photos = [
        "data=folder", f"data.root={gray_bars}", "data.image_size=128", "data.patches=160", "data.workers=0",
        "data.settings.rotation=0", "data.settings.shift=0",
    ]  # fmt: skip
    data = ["data=table", f"data.root={table_of(tmp_path)}"] if name in OF_TABLES else photos
    resolved = configured(
        f"method={name}", *data, "data.batch_size=8",
        *["method.optimizer.lr=1e-3"] * ("optimizer" in FILES[name]), *GOLDEN.get(name, []),
        *given(name, weights, tmp_path),
    )  # fmt: skip
    pl.seed_everything(0, verbose=False)
    data = instantiate(resolved["data"]["datamodule"], _convert_="all")
    method, losses = build_method(resolved, TRUST), FirstLosses()
    if name in OF_TABLES:  # a column of thousands would hide the others
        data.setup("fit")
        method.prepare(data.whole_training_images())
    trainer = pl.Trainer(
        max_epochs=3 if method.sees == "patches" else 9,  # of at least one batch
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[SeedEveryStep(0), losses], default_root_dir=tmp_path,
        reload_dataloaders_every_n_epochs=1, num_sanity_val_steps=0,
    )  # fmt: skip
    with pytest.raises(EnoughError):
        trainer.fit(method, data)
    golden = golden_losses(name, losses.steps, outside)
    assert losses.steps[:STEADY_STEPS] == pytest.approx(golden[:STEADY_STEPS], rel=1e-4)
