"""What every method promises, asked of every YAML of conf/method on a toy set of parts with a known defect."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.evaluation.curves import embedded
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.training.seed import SeedEveryStep
from tests.golden import golden_losses

METHODS = sorted(path.relative_to(CONF / "method").with_suffix("").as_posix() for path in CONF.glob("method/**/*.yaml"))
SETTINGS = (
    "data=folder", "data.image_size=128", "data.patches=160", "data.batch_size=8", "data.workers=0", "logger=none",
    "data.settings.rotation=0", "data.settings.shift=0",
)  # fmt: skip
PRETRAINED = {"cnn_dictionary": ["method.backbone.layers=[layer2]", "method.evaluation=dense"]}
SMALL = {  # seconds instead of minutes; 60 steps are too few for latent scores and for the features of a critic
    "ganomaly": ["method.width=8", "method.score=map"],
    "skip_ganomaly": ["method.width=8"],
    "anogan": ["method.generator.width=4", "method.discriminator.width=4", "method.search_steps=20"],
    "f_anogan": [
        "method.generator.width=4", "method.critic.width=4", "method.encoder.width=4", "method.feature_weight=0"
    ],
}  # fmt: skip
# Two networks against each other magnify rounding, which differs between processors, within a few steps.
STEADY_STEPS = {"anogan": 3, "f_anogan": 3}
UNTRAINED = {"brightness"}  # the same number whatever the training images


class Losses(pl.Callback):
    """Keeps the loss of every step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, *_):
        if "train/loss" in trainer.callback_metrics:  # methods without a gradient have none
            self.values.append(trainer.callback_metrics["train/loss"].item())


def test_there_are_methods():
    assert len(METHODS) >= 2


@pytest.fixture(params=METHODS)
def trained(request, parts, tmp_path, weights):
    """Method before and after a short training, its configuration, data, losses and checkpoint."""
    torch.set_num_threads(1)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        needed = list(SMALL.get(request.param, ()))
        if request.param in PRETRAINED:
            needed += [*PRETRAINED[request.param], f"method.backbone.weights={weights}"]
        config = compose("train", [*SETTINGS, f"method={request.param}", f"data.root={parts}", *needed])
        if "optimizer" in config.method:
            config.method.optimizer.lr = 1e-3
    OmegaConf.update(config, "hydra", None, force_add=True)
    resolved = check(config)
    pl.seed_everything(0, verbose=False)
    data, method, losses = instantiate(resolved["data"]["datamodule"]), build_method(resolved), Losses()
    untrained = copy.deepcopy(method).eval()
    trainer = pl.Trainer(
        max_epochs=min(3, resolved["trainer"]["max_epochs"]),
        limit_val_batches=resolved["trainer"]["limit_val_batches"], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[SeedEveryStep(0), losses], default_root_dir=tmp_path,
        reload_dataloaders_every_n_epochs=1, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(method, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    batch = data.moved(next(iter(_loader(data))), torch.device("cpu"))
    return request.param, resolved, untrained, method.eval(), batch, losses.values, tmp_path / "last.ckpt"


def _loader(data):
    data.test_batch_size = 10
    return data.test_dataloader()


def test_contract(trained):
    name, resolved, untrained, method, batch, losses, checkpoint = trained
    with torch.inference_mode():
        before, prediction = untrained(batch.image), method(batch.image, batch.placement)
        again, alone = method(batch.image, batch.placement), method(batch.image[3:4], batch.placement[3:4])

    # training changes what the method says (but for controls that need none), and the defects end up above the rest
    if resolved["method"].get("kind") not in UNTRAINED:
        assert not torch.equal(before.anomaly_map, prediction.anomaly_map)
    assert prediction.score[batch.label == 1].mean() > prediction.score[batch.label == 0].mean()

    # the map is finite, of the size of the image, in float32
    assert prediction.anomaly_map.shape == (10, 1, *batch.image.shape[-2:])
    assert prediction.anomaly_map.dtype == prediction.score.dtype == torch.float32
    assert prediction.anomaly_map.isfinite().all()
    assert prediction.score.shape == (10,)
    if prediction.reconstruction is not None:
        assert prediction.reconstruction.shape == batch.image.shape
        assert prediction.reconstruction.min() >= 0
        assert prediction.reconstruction.max() <= 1

    # the answer is the same again, and alone or in a batch
    assert torch.equal(prediction.anomaly_map, again.anomaly_map)
    torch.testing.assert_close(prediction.anomaly_map[3:4], alone.anomaly_map, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(prediction.score[3:4], alone.score, rtol=0, atol=1e-6)

    # a vector an image, where the method offers one, whatever else is in the batch
    with torch.inference_mode():
        vectors, vector = embedded(method, batch.image), embedded(method, batch.image[3:4])
    assert (vectors is None) == isinstance(method, FittedMethod)
    if vectors is not None:
        assert len(vectors) == 10
        assert vectors.ndim == 2
        assert vectors.isfinite().all()
        torch.testing.assert_close(vectors[3:4], vector, rtol=1e-3, atol=1e-4)
        assert vectors.std(dim=0).max() > 0

    # rebuilt from the configuration and the checkpoint it says the same, bit by bit
    rebuilt = build_method(resolved).eval()
    rebuilt.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    with torch.inference_mode():
        assert torch.equal(rebuilt(batch.image, batch.placement).anomaly_map, prediction.anomaly_map)

    # the first losses are those of yesterday
    if not losses:
        assert isinstance(method, FittedMethod)
        return
    count = STEADY_STEPS.get(name, 5)
    assert losses[:count] == pytest.approx(golden_losses(name, losses[:5])[:count], rel=1e-4)
