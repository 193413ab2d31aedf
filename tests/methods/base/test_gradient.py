"""What `GradientMethod` writes once: the step, the held-out losses, which parameters learn."""

from functools import partial

import pytest
import torch

from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.gradient import GradientMethod
from anomaly_lab.methods.base.tiling import SlidingWindow
from tests.adversarial import fit


class Offset(GradientMethod):
    """Learns the mean of its images; a second number is frozen."""

    def __init__(self, **changes):
        super().__init__(SlidingWindow(4, 4), partial(torch.optim.SGD, lr=0.5), **changes)
        self.learnt = torch.nn.Parameter(torch.zeros(()))
        self.frozen = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def losses(self, batch):
        distance = (batch.image - self.learnt).square().mean()
        return {"loss": distance + 0 * self.frozen, "twice": 2 * distance}

    def predict(self, images):
        raise NotImplementedError


def batches(value, side):
    return [Batch.of(torch.full((2, 1, side, side), value))] * 3


def fitted(tmp_path, **changes):
    method = Offset(**changes)
    trainer = fit(method, tmp_path, 2, Lists(batches(0.5, 4)), Lists(batches(0.25, 8)), log_every_n_steps=1)
    return method, trainer


class Lists:
    """Batches as a loader, one after the other."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)


def test_it_descends_loss_and_logs_all_of_them_on_training_and_held_out_images(tmp_path):
    method, trainer = fitted(tmp_path)
    assert method.learnt.item() == 0.5  # after one step: the gradient is twice the distance, the rate a half
    assert method.frozen.item() == 1.0
    (group,) = trainer.optimizers[0].param_groups
    assert group["params"] == [method.learnt]
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert values["validation/loss"] == 0.0625  # windows of 4 px of images of 8 px
    assert values["validation/twice"] == 0.125
    assert values["train/loss"] == values["train/twice"] == 0.0


@pytest.mark.parametrize(("schedule", "last"), [("constant", 0.5), ("cosine", 0.0)])
def test_the_learning_rate_ends_where_its_schedule_says(tmp_path, schedule, last):
    _, trainer = fitted(tmp_path, schedule=schedule)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(last, abs=1e-9)


def test_the_rehearsal_costs_a_loss():
    assert Offset().rehearse(Batch.of(torch.full((3, 1, 4, 4), 2.0))).item() == 4.0


def test_held_out_images_are_cut_together_with_their_synthetic_defects():
    seen = []

    class Watching(Offset):
        """Keeps what it is given."""

        def losses(self, batch):
            seen.append(batch)
            return super().losses(batch)

    method = Watching()
    method.log_dict = lambda *_, **__: None
    image = torch.arange(64.0).view(1, 1, 8, 8)
    method.validation_step(Batch.of(image)._replace(clean=-image, defect=image > 40), 0)
    (batch,) = seen
    assert batch.image.shape == batch.clean.shape == batch.defect.shape == (4, 1, 4, 4)
    assert torch.equal(batch.clean, -batch.image)
    assert torch.equal(batch.defect, batch.image > 40)


def test_every_window_of_a_held_out_image_has_a_number_of_its_own():
    images = torch.arange(3 * 64.0).view(3, 1, 8, 8)
    batch = Batch.of(images)._replace(label=torch.tensor([0, 1, 0]), row=None)
    windows = Offset().windows(batch)
    assert len(windows.index.unique()) == len(windows.image) == 12
    assert windows.label.tolist() == [int(64 <= image.min() < 128) for image in windows.image]
    alone = Offset().windows(batch._replace(image=images[1:2], index=batch.index[1:2], label=batch.label[1:2]))
    number = {float(image.min()): int(index) for image, index in zip(windows.image, windows.index, strict=True)}
    assert {number[float(image.min())] for image in alone.image} == set(alone.index.tolist())
    assert all(number[float(x.min())] == i for x, i in zip(alone.image, alone.index.tolist(), strict=True))
