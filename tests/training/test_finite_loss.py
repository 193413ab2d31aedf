"""The first loss that is no number, or out of proportion, stops the run at the next look; its step is named exactly."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.methods.base.method import Method
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.pixel_flow import PixelFlow
from anomaly_lab.networks.flow import Coupling, Flow, dense
from anomaly_lab.networks.glow import Block, Glow, layers
from anomaly_lab.training.finite_loss import FiniteLoss, stopped
from tests.adversarial import Patches, fit
from tests.conftest import stand_in


def the_trainer(**attributes):
    """A trainer that clips no gradients."""
    return stand_in(pl.Trainer, **{"gradient_clip_val": None, **attributes})


def feed(callback, losses, device, automatic=True, folder="nowhere"):
    """Return how many batches passed before the stop."""
    module = stand_in(Method, rates=(), device=torch.device(device), automatic_optimization=automatic)
    for i, loss in enumerate(losses):
        trainer = the_trainer(
            callback_metrics={"train/loss": torch.tensor(loss), "train/loss_epoch": torch.tensor(float("nan"))},
            is_last_batch=i == len(losses) - 1, current_epoch=3, default_root_dir=str(folder),
        )  # fmt: skip
        try:
            callback.on_train_batch_end(trainer, module, None, None, i)
        except UserError as error:
            return i, str(error)
    return len(losses), ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_on_a_cpu_at_once(bad):
    seen, message = feed(FiniteLoss(), [1.0] * 7 + [bad] + [1.0] * 50, "cpu")
    assert seen == 7
    assert f"the loss is {bad} at batch 7 of epoch 4" in message


def test_on_an_accelerator_every_few_batches_but_with_the_right_step():
    seen, message = feed(FiniteLoss(every_batches=10), [1.0] * 7 + [float("nan")] + [1.0] * 50, "cuda")
    assert seen == 9
    assert "at batch 7 of epoch 4" in message


def test_of_what_a_step_returns():
    callback, module = FiniteLoss(), stand_in(Method, rates=(), device=torch.device("cpu"))
    trainer = the_trainer(
        callback_metrics={"train/loss": torch.tensor(1.0)}, is_last_batch=False, current_epoch=0,
        default_root_dir="nowhere",
    )  # fmt: skip
    callback.on_train_batch_end(trainer, module, {"discriminator": torch.tensor(2.0)}, None, 0)
    with pytest.raises(UserError, match="the loss is nan at batch 1 of epoch 1"):
        callback.on_train_batch_end(trainer, module, {"discriminator": torch.tensor(float("nan"))}, None, 1)


@pytest.mark.parametrize("outputs", [None, {}])
def test_a_step_that_returns_nothing(outputs):
    callback, module = FiniteLoss(), stand_in(Method, rates=(), device=torch.device("cpu"))
    trainer = the_trainer(
        callback_metrics={"train/loss": torch.tensor(float("nan"))}, is_last_batch=False, current_epoch=0,
        default_root_dir="nowhere",
    )  # fmt: skip
    with pytest.raises(UserError, match="the loss is nan at batch 0 of epoch 1"):
        callback.on_train_batch_end(trainer, module, outputs, None, 0)


def test_at_the_last_batch_before_the_checkpoint():
    seen, message = feed(FiniteLoss(every_batches=100), [1.0, float("nan"), 1.0], "cuda")
    assert seen == 2
    assert "at batch 1" in message


def test_weights_that_the_last_step_spoilt_are_not_saved():
    trainer = the_trainer(
        callback_metrics={"validation/loss": torch.tensor(float("nan"))}, current_epoch=2,
        default_root_dir="nowhere",
    )  # fmt: skip
    with pytest.raises(UserError, match="the loss is nan after the last batch of epoch 3"):
        FiniteLoss().on_train_epoch_end(trainer, stand_in(Method, rates=()))


def test_finite_losses_pass():
    assert feed(FiniteLoss(), [1e30, -1e30, 0.0], "cpu") == (3, "")


STEADY = [2.0, 1.0, 1.0, 3.0] * 25  # median 1.5


@pytest.mark.parametrize(("device", "seen"), [("cpu", 101), ("cuda", 103)])
def test_two_networks_whose_loss_leaves_all_proportion(tmp_path, device, seen):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    losses = [*STEADY, 1.4e4, 1.6e4, 1.0, 1.0]
    batches, message = feed(FiniteLoss(every_batches=52), losses, device, automatic=False, folder=tmp_path)
    assert batches == seen
    assert "the loss is 1.1e+04 times its median over the last 100 steps at batch 101 of epoch 4" in message
    assert f"the last good checkpoint is {tmp_path / 'checkpoints/last.ckpt'}" in message


def test_large_losses_that_are_no_sign_of_it():
    for losses, automatic in (
        ([*STEADY, 1e9], True),  # one network and its loss
        ([*STEADY[:9], 1e9], False),  # too early to say
        ([*[0.0] * 100, 1.0], False),  # no proportion to nothing
        ([*[-1.0] * 100, -9e3, 9e3], False),  # of a critic, whatever its sign
    ):
        assert feed(FiniteLoss(), losses, "cpu", automatic) == (len(losses), "")
    assert "no checkpoint was written before" in feed(FiniteLoss(), [*[-1.0] * 100, -2e4], "cpu", False)[1]
    assert "median over the last 11 steps at batch 11" in feed(FiniteLoss(), [*[-1.0] * 11, -2e4], "cpu", False)[1]


def test_what_is_usual_in_one_stage_says_nothing_about_the_next():
    callback, trainer = FiniteLoss(), the_trainer()
    feed(callback, STEADY, "cpu", False)
    for stage, refused in ((1, False), (1, True)):  # the second time it goes on in the same stage
        callback.on_train_epoch_start(trainer, stand_in(Method, rates=(), stage=stage))
        losses = [2e4] if not refused else [*STEADY, 2e4]
        assert bool(feed(callback, losses, "cpu", False)[1]) == refused


def test_nothing_that_was_not_looked_at_is_saved():
    callback = FiniteLoss(every_batches=100)
    module = stand_in(Method, rates=(), device=torch.device("cuda"), automatic_optimization=False)
    trainer = the_trainer(
        callback_metrics={"train/loss": torch.tensor(float("nan"))}, is_last_batch=False, current_epoch=0,
        default_root_dir="nowhere",
    )  # fmt: skip
    callback.on_train_batch_end(trainer, module, None, None, 4)
    with pytest.raises(UserError, match="the loss is nan at batch 4 of epoch 1"):
        callback.on_save_checkpoint(trainer, module, {})


def test_held_out_images_tell_of_a_game_that_is_lost_before_its_checkpoint_is_written():
    callback = FiniteLoss()
    feed(callback, STEADY, "cpu", False)
    module = stand_in(Method, rates=(), device=torch.device("cpu"), automatic_optimization=False)
    trainer = the_trainer(current_epoch=2, default_root_dir="nowhere")
    trainer.callback_metrics = {"validation/loss": torch.tensor(1e4)}
    callback.on_train_epoch_end(trainer, module)
    trainer.callback_metrics = {"validation/loss": torch.tensor(2e4)}
    with pytest.raises(UserError, match=r"times its median over the last 100 steps after the last batch of epoch 3"):
        callback.on_train_epoch_end(trainer, module)
    callback = FiniteLoss()
    feed(callback, [1e-6] * 100, "cpu", False)  # of a generator that has won
    trainer.callback_metrics = {"validation/loss": torch.tensor(9.0)}
    callback.on_train_epoch_end(trainer, module)


class Learner(Method):
    """A flow whose rate is 1, says the class."""

    rates = ("optimizer",)
    training_step = predict = None

    def __init__(self, manual, *parts):
        super().__init__(WholeImage())
        self.automatic_optimization = not manual
        self.parts = torch.nn.ModuleList(parts)


def explode(losses, *parts, manual=False):
    """Return how many batches passed before a network of these parts was stopped."""
    callback, module = FiniteLoss(), Learner(manual, *parts)
    optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.25)]
    trainer = the_trainer(
        is_last_batch=False, current_epoch=0, default_root_dir="nowhere", precision="32-true", optimizers=optimizers,
    )  # fmt: skip
    callback.on_train_start(trainer, module)
    for i, loss in enumerate(losses):
        trainer.callback_metrics = {"train/loss": torch.tensor(loss)}
        try:
            callback.on_train_batch_end(trainer, module, None, None, i)
        except UserError as error:
            return i, str(error)
    return len(losses), ""


@pytest.mark.parametrize("manual", [True, False])
@pytest.mark.parametrize("flow", [Flow(Coupling(2, dense(), 1.0, "rotation")), Glow(Block(2, layers(), 1.0))])
@pytest.mark.parametrize("first", [3.0, -3.0])
def test_a_flow_whose_loss_goes_up_and_stays_there(flow, first, manual):
    seen, message = explode([first, 5.0, *[1e6] * 9, 1.0, *[4e4] * 12], flow, manual=manual)
    assert seen == 21
    assert "the loss is 4.0e+04, for 10 steps above 1e+04 times that of the first step" in message
    assert f"first step ({first:.2g}), at batch 21 of epoch 1: training stopped" in message
    assert "try a lower learning rate (method.optimizer.lr=0.025)" in message


@pytest.mark.parametrize("manual", [True, False])
def test_a_healthy_flow_is_not_stopped(manual):
    flow = Flow(Coupling(2, dense(), 1.0, "rotation"))
    for losses in (
        [2e5 - 500 * i for i in range(1000)],  # through zero
        [1e-9, *[-1e-9] * 200, *[9e3] * 20],  # no proportion to nothing
        [1.0] * 50 + ([1e12] + [1.0] * 9) * 10,  # one photo unlike all others, ten times
        [-(1.1**i) for i in range(400)],  # of ever more likely images
    ):
        assert explode(losses, flow, manual=manual) == (len(losses), "")
    assert explode([1.0] * 20 + [1e9] * 80, torch.nn.Linear(2, 2)) == (100, "")  # no flow


def test_a_rate_far_too_large_for_a_flow_stops_its_training_and_a_tenth_is_named(tmp_path):
    torch.manual_seed(0)
    method = PixelFlow(WholeImage(), partial(torch.optim.Adam, lr=1.0), 8, 3, 1, 4, 2.0, 4.0)
    said = (
        r"the loss is .*e\+1., for 10 steps above 1e\+04 times that of the first step \(7.9\), at batch 10 of epoch 1"
    )
    with pytest.raises(UserError, match=rf"{said}: .*\(method.optimizer.lr=0.1\) or trainer.gradient_clip_val=1"):
        fit(method, tmp_path, 1, Patches(14, 2, 8), Patches(1, 2, 8))


class Epochs:
    """A training of a flow, epoch by epoch, each with the losses of its steps and that of the held-out images."""

    def __init__(self, callback, folder="nowhere"):
        self.callback, self.module = callback, Learner(True, Glow(Block(2, layers(), 1.0)))
        optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.25)]
        self.trainer = the_trainer(
            is_last_batch=False, current_epoch=0, default_root_dir=str(folder), precision="32-true",
            optimizers=optimizers, callback_metrics={}, sanity_checking=False,
        )  # fmt: skip
        self.callback.setup(self.trainer, self.module, "fit")

    def run(self, *epochs):
        self.callback.on_train_start(self.trainer, self.module)
        for steps, held_out in epochs:
            self.callback.on_train_epoch_start(self.trainer, self.module)
            for i, loss in enumerate(steps):
                self.trainer.callback_metrics = {"train/loss": torch.tensor(loss)}
                self.callback.on_train_batch_end(self.trainer, self.module, None, None, i)
            if held_out is not None:
                self.trainer.callback_metrics["validation/loss"] = torch.tensor(held_out)
                self.callback.on_validation_end(self.trainer, self.module)
            self.callback.on_train_epoch_end(self.trainer, self.module)
            self.callback.on_save_checkpoint(self.trainer, self.module, {})
            self.trainer.current_epoch += 1
        self.callback.on_train_end(self.trainer, self.module)


def test_held_out_images_may_cost_a_flow_any_amount_and_at_the_end_that_is_told(capsys):
    Epochs(FiniteLoss()).run(([1.0] * 20, 1e10), ([1.0] * 19 + [1e9], 1e10), ([1.0] * 20, 3.0))
    assert not capsys.readouterr().out
    Epochs(FiniteLoss()).run(([2.0], 1e10))
    assert capsys.readouterr().out == (
        "the loss of the held-out images is 1.0e+10, above 1e+04 times that of the first step (2): a photo among them "
        "is unlike all others, or the last steps spoilt the flow; look at its curve, try a lower learning rate\n"
    )


def test_epochs_of_few_steps_do_not_hide_an_explosion(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    said = (
        r"the loss is 1.0e\+36 on held-out images, and above 1e\+04 times that of the first step \(3\) in training "
        "too, after the last batch of epoch {}: training stopped, the last{} checkpoint is"
    )
    with pytest.raises(UserError, match=said.format(2, " good")):
        Epochs(FiniteLoss(), tmp_path).run(([3.0, 2.0], 2.0), ([1e9, 1e9], 1e36))
    with pytest.raises(UserError, match=said.format(2, "")):  # the first checkpoint was no longer good
        Epochs(FiniteLoss(), tmp_path).run(([3.0, 2.0], 1e36), ([1e9, 1e9], 1e36))
    with pytest.raises(UserError, match=r"the loss is nan at .*: training stopped, the last checkpoint is"):
        Epochs(FiniteLoss(), tmp_path).run(([3.0, 2.0], 1e36), ([float("nan")], 1e36))


def test_held_out_images_of_another_epoch_say_nothing():
    Epochs(FiniteLoss()).run(([3.0, 2.0], 1e36), ([1e9, 1e9], None), ([2.0, 2.0], 2.0))


def test_a_checkpoint_knows_of_the_steps_that_were_not_looked_at_before():
    training = Epochs(FiniteLoss(every_batches=100))
    training.module.to("meta")  # as on an accelerator: nothing is read before it is time
    training.callback.on_train_start(training.trainer, training.module)
    for i, loss in enumerate([3.0, 1e9, 1e9]):
        training.trainer.callback_metrics = {"train/loss": torch.tensor(loss)}
        training.callback.on_train_batch_end(training.trainer, training.module, None, None, i)
    assert training.callback.state_dict()["first"] is None
    checkpoint = {"callbacks": {training.callback.state_key: training.callback.state_dict()}}
    training.callback.on_save_checkpoint(training.trainer, Learner(True), checkpoint)
    assert checkpoint["callbacks"][training.callback.state_key] == {"first": 3.0, "high": 2, "held_out": 0.0}


def test_a_run_that_goes_on_is_judged_by_its_own_first_step(tmp_path):
    first = FiniteLoss()
    Epochs(first).run(([2.0] * 4, 2.0), ([1e9] * 4, 2.0))
    later = Epochs(FiniteLoss(), tmp_path)
    later.callback.load_state_dict(first.state_dict())  # behind setup, as Lightning does
    with pytest.raises(UserError, match=r"the loss is 1.0e\+09, for 10 steps above .* \(2\), at batch 5"):
        later.run(([1e9] * 8, 2.0))


class Keeps(pl.Callback):
    """Writes a checkpoint after every epoch."""

    def __init__(self, file):
        self.file = file

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.file)


def test_an_exploded_flow_stops_again_when_the_command_is_repeated(tmp_path):
    (file := tmp_path / "checkpoints/last.ckpt").parent.mkdir()
    for resume in (None, file):
        torch.manual_seed(0)
        method = PixelFlow(WholeImage(), partial(torch.optim.Adam, lr=1.0), 8, 3, 1, 4, 2.0, 4.0)
        with pytest.raises(UserError, match=r"above 1e\+04 times that of the first step \(7.9\)"):
            fit(method, tmp_path, 30, Patches(1, 2, 8), Patches(1, 2, 8), resume, callbacks=(Keeps(file),))
        assert file.is_file()


class TwoRates(Method):
    """Has two optimizers, says the class."""

    rates = ("optimizer", "encoder_optimizer")
    training_step = predict = None


def test_weights_that_are_no_numbers_are_not_saved():
    module = TwoRates(WholeImage())
    module.layer = torch.nn.Linear(2, 2)
    module.register_buffer("unknown", torch.tensor(torch.inf))
    trainer = the_trainer(current_epoch=0, default_root_dir="nowhere", precision="bf16-mixed")
    FiniteLoss().on_save_checkpoint(trainer, module, {})
    torch.nn.init.constant_(module.layer.bias, torch.inf)
    rates = "method.optimizer.lr, method.encoder_optimizer.lr"
    advice = f"a lower learning rate .{rates}. or trainer.gradient_clip_val=1 or trainer.precision=32-true"
    with pytest.raises(UserError, match=f"layer.bias is NaN or infinite in epoch 1: .*{advice}"):
        FiniteLoss().on_save_checkpoint(trainer, module, {})


@pytest.mark.parametrize(
    ("clip", "automatic", "offered"), [(None, True, True), (1.0, True, False), (None, False, False)]
)
def test_clipping_is_offered_where_it_is_possible_and_not_done_yet(clip, automatic, offered):
    trainer = the_trainer(default_root_dir="nowhere", precision="32-true", gradient_clip_val=clip)
    said = str(stopped(trainer, stand_in(Method, rates=(), automatic_optimization=automatic), "the loss is inf"))
    rest = " or trainer.gradient_clip_val=1" if offered else ""
    assert said.endswith(f"no checkpoint was written before; try a lower learning rate{rest}")
