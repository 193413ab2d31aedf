"""STFPM: the distances of unit vectors, their product, and what learns."""

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.stfpm import STFPM
from anomaly_lab.networks.backbone import Backbone
from tests.features import Given, Pixels

LAYERS = ("layer1", "layer2", "layer3")


def stfpm(teacher, student):
    student.trainable = True
    return STFPM(WholeImage(), teacher, student, torch.optim.SGD)


def test_a_student_that_repeats_its_teacher_has_neither_loss_nor_map():
    images = torch.rand(2, 3, 8, 8)
    method = stfpm(Pixels(), Pixels())
    assert method.losses(Batch.of(images))["loss"] == 0
    assert not method.predict(images).anomaly_map.any()
    assert not method.predict(images).score.any()


def test_a_student_with_the_weights_of_its_teacher_repeats_it():
    """Both see images with the mean and deviation of ImageNet."""
    teacher, student = (Backbone("resnet18", LAYERS[:1], trainable=trainable) for trainable in (False, True))
    student.load_state_dict(teacher.state_dict())
    assert stfpm(teacher, student).eval().losses(Batch.of(torch.rand(1, 1, 32, 32)))["loss"] == 0


def test_unit_vectors_at_right_angles_are_two_apart_and_the_layers_are_multiplied():
    teacher, student = torch.tensor([1.0, 0]), torch.tensor([0.0, 1])
    maps = [vector.view(1, 2, 1, 1).expand(1, 2, 4, 4) for vector in (teacher, student)]
    for factor in (1, 7):
        method = stfpm(*(Given([scale * layer] * 3) for scale, layer in zip((factor, 1), maps, strict=True)))
        losses = method.losses(Batch.of(torch.rand(1, 3, 8, 8)))
        assert losses == {"loss": 6, "layer1": 2, "layer2": 2, "layer3": 2}
        answer = method.predict(torch.rand(1, 3, 8, 8))
        torch.testing.assert_close(answer.anomaly_map, torch.full((1, 1, 4, 4), 8.0))
        assert answer.score == 8


def test_one_layer_that_agrees_is_enough_for_a_product_of_zero():
    known, other = torch.tensor([1.0, 0]).view(1, 2, 1, 1), torch.tensor([0.0, 1]).view(1, 2, 1, 1)
    answer = stfpm(Given([known] * 3), Given([other, known, other])).predict(torch.rand(1, 3, 8, 8))
    assert answer.anomaly_map == 0


def test_coarse_maps_are_enlarged_to_the_first_before_they_are_multiplied():
    images = torch.rand(1, 3, 8, 8)
    torch.manual_seed(0)
    student = Given([torch.rand(1, 3, 4, 4), torch.rand(1, 3, 2, 2)])
    method = stfpm(Pixels(), student)
    fine, coarse = method.distances(images)
    enlarged = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear")
    answer = method.predict(images)
    torch.testing.assert_close(answer.anomaly_map, fine * enlarged)
    assert answer.score == answer.anomaly_map.max()


def test_the_teacher_stays_as_it_is_and_the_student_learns():
    torch.manual_seed(0)
    teacher, student = (Backbone("resnet18", LAYERS, trainable=trainable) for trainable in (False, True))
    method = stfpm(teacher, student).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimizer = torch.optim.SGD(method.trained(), lr=0.4)
    for _ in range(2):
        loss = method.losses(Batch.of(torch.rand(4, 3, 32, 32)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in method.state_dict().items():
        fixed = name.startswith("backbone") or (name.endswith(("mean", "std", "sha256")) and "running" not in name)
        assert value.equal(before[name]) == fixed, name


@pytest.mark.parametrize(
    ("layers", "found"), [(("layer2", "layer3"), r"\(128, 256\) at \(8, 16\)"), (("layer1", "layer2", "layer4"), "512")]
)
def test_a_student_whose_maps_do_not_fit_is_refused(layers, found):
    teacher = Backbone("resnet18", LAYERS)
    with pytest.raises(UserError, match=f"method.student: expected maps of .*64, 128, 256.*{found}"):
        stfpm(teacher, Backbone("resnet18", layers, trainable=True))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"trainable": False}, "trainable=false"),
        ({"trainable": True, "weights": "w.pt"}, "weights=w.pt"),
        ({"trainable": True, "fine_tuned": True}, "fine_tuned=true"),
    ],
)
def test_a_student_that_would_not_learn_from_the_beginning_is_refused(given, found):
    with pytest.raises(UserError, match=f"method.student: expected a network that is trained .*, found {found}"):
        STFPM(WholeImage(), Backbone("resnet18", LAYERS), Backbone("resnet18", LAYERS, **given), torch.optim.SGD)
