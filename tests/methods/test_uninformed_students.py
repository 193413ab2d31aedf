"""Uninformed Students: error and variance by hand, what is normalised, which teachers there are."""

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.uninformed_students import Ensemble, UninformedStudents
from anomaly_lab.networks.patch_network import PatchTeacher, normalise


def method(*, given=("patch65",), students=3, stride=4):
    teachers = {name: PatchTeacher(name, "file" if name in given else None, 0.05) for name in
                ("patch17", "patch33", "patch65")}  # fmt: skip
    return UninformedStudents(WholeImage(), **teachers, students=students, stride=stride, optimizer=torch.optim.Adam)


def answering(ensemble, teacher, students):
    """The ensemble whose networks give these numbers at every place."""
    ensemble.mean, ensemble.std = ensemble.mean[:, :1], ensemble.std[:, :1]
    for network, value in zip((ensemble.teacher.network, *ensemble.students), (teacher, *students), strict=True):
        network.dense = lambda images, stride, value=value: torch.as_tensor(value).view(1, -1, 1, 1).expand(
            len(images), -1, 2, 2
        )  # fmt: skip
    return ensemble


def test_three_students_of_one_number():
    ensemble = answering(Ensemble(PatchTeacher("patch65", None, 0.05), 3, 4), [1.0], [[0.0], [0.0], [3.0]])
    answer = ensemble(torch.rand(1, 3, 8, 8))
    assert answer.error.flatten().tolist() == [0] * 4  # their mean is right
    torch.testing.assert_close(answer.variance, torch.full((1, 1, 2, 2), 2.0))
    assert ensemble.loss(torch.rand(1, 3, 8, 8)).item() == pytest.approx((1 + 1 + 4) / 3)


def test_errors_and_variances_are_summed_over_the_components():
    ensemble = answering(Ensemble(PatchTeacher("patch65", None, 0.05), 2, 4), [1.0, 5], [[0.0, 1], [4.0, 3]])
    answer = ensemble(torch.rand(1, 3, 8, 8))
    torch.testing.assert_close(answer.error, torch.full((1, 1, 2, 2), (2.0 - 1) ** 2 + (2 - 5) ** 2))
    torch.testing.assert_close(answer.variance, torch.full((1, 1, 2, 2), 4.0 + 1))


def test_students_who_agree_have_no_variance_and_those_who_repeat_the_teacher_no_error():
    built, images = method().eval(), torch.rand(2, 3, 32, 32)
    ensemble = built.ensembles["patch65"]
    for student in ensemble.students:
        student.load_state_dict(ensemble.teacher.network.state_dict())
    answer = ensemble(images)
    assert max(answer.error.max(), answer.variance.max()) < 1e-12  # the mean of three equal numbers is rounded
    assert built.losses(Batch.of(images))["loss"] == 0


def test_the_error_does_not_depend_on_the_scale_of_the_teacher():
    """Shift and scale of its components are gone once mean and deviation are known."""
    torch.manual_seed(0)
    images, errors = torch.rand(3, 3, 32, 32), []
    for scale, shift in ((1, 0), (7, 3)):
        torch.manual_seed(1)
        built = method().eval()
        output = built.ensembles["patch65"].teacher.network[-1]
        output.weight.mul_(scale)
        output.bias.mul_(scale).add_(shift)
        built.prepare([Batch.of(images[:1]), Batch.of(images[1:])])
        teacher, _ = built.ensembles["patch65"].taught(images)
        torch.testing.assert_close(teacher.mean(dim=(0, 2, 3)), torch.zeros(128), atol=1e-4, rtol=0)
        torch.testing.assert_close(teacher.std(dim=(0, 2, 3), correction=0), torch.ones(128), atol=1e-3, rtol=0)
        errors.append(built.ensembles["patch65"](images).error)
    torch.testing.assert_close(*errors, rtol=1e-3, atol=1e-3)


def test_the_map_adds_error_and_variance_on_the_scale_of_good_images_and_averages_the_fields():
    torch.manual_seed(0)
    built, normals = method(given=("patch33", "patch65")).eval(), torch.rand(4, 3, 32, 32)
    before = built.predict(normals).anomaly_map
    parts = [built.ensembles[name](normals) for name in ("patch33", "patch65")]
    torch.testing.assert_close(before, sum(part.error + part.variance for part in parts) / 2)
    built.calibrate([Batch.of(normals[:3]), Batch.of(normals[3:])])
    answer = built.predict(normals)
    expected = [
        (plane - plane.mean()) / plane.std(correction=0) for part in parts for plane in (part.error, part.variance)
    ]
    torch.testing.assert_close(answer.anomaly_map, sum(expected) / 2, rtol=1e-3, atol=1e-4)
    assert answer.score.equal(answer.anomaly_map.amax(dim=(1, 2, 3)))


def test_one_student_alone_has_an_error_and_no_variance():
    built, normals = method(students=1).eval(), torch.rand(2, 3, 32, 32)
    built.calibrate([Batch.of(normals)])
    assert built.ensembles["patch65"].scale[1].tolist() == [0, 1]
    assert built.predict(normals).anomaly_map.isfinite().all()


def test_the_teacher_stays_and_the_students_learn():
    torch.manual_seed(0)
    built = method()
    teacher = [weight.clone() for weight in built.ensembles["patch65"].teacher.parameters()]
    built.losses(Batch.of(torch.rand(2, 3, 32, 32)))["loss"].backward()
    assert all(weight.grad is not None for weight in built.ensembles["patch65"].students.parameters())
    assert all(weight.grad is None for weight in built.ensembles["patch65"].teacher.parameters())
    assert all(map(torch.equal, built.ensembles["patch65"].teacher.parameters(), teacher))
    starts = [student[0].weight for student in built.ensembles["patch65"].students]
    assert not starts[0].equal(starts[1])


@pytest.mark.parametrize("stride", [1, 4])
def test_the_students_are_asked_at_the_stride(stride):
    built = method(given=("patch17", "patch33"), stride=stride)
    assert set(built.ensembles) == {"patch17", "patch33"}
    assert built.ensembles["patch33"].teacher.key == "method.patch33"
    assert built.predict(torch.rand(1, 1, 32, 24)).anomaly_map.shape == (1, 1, 32 // stride, 24 // stride)
    ensemble, images = built.ensembles["patch33"], torch.rand(1, 3, 32, 32)
    expected = ensemble.students[1].dense(normalise(images), stride)
    assert ensemble.taught(images)[1][1].equal(expected)


@pytest.mark.parametrize(
    ("given", "stride", "lines"),
    [
        (("patch17", "patch33", "patch65"), 1, []),
        (("patch17", "patch33", "patch65"), 2, ["stride: 2 px; published: 1 px"]),
        (("patch17", "patch33"), 1, ["receptive fields: 17, 33 px; published: 17, 33 and 65 px together"]),
        (
            ("patch65",),
            4,
            ["receptive fields: 65 px; published: 17, 33 and 65 px together", "stride: 4 px; published: 1 px"],
        ),
    ],
)
def test_what_differs_from_the_published_method_is_said_and_nothing_else(given, stride, lines):
    assert list(method(given=given, stride=stride).substitutes) == lines


def test_no_teacher_and_one_of_another_receptive_field_are_refused():
    with pytest.raises(
        UserError, match="method.patch65.weights: expected the file of a teacher, .* found none; python"
    ):
        method(given=())
    teachers = {name: PatchTeacher("patch65", "file", 0.05) for name in ("patch17", "patch33", "patch65")}
    with pytest.raises(UserError, match="method.patch17.name: expected patch17, found patch65"):
        UninformedStudents(WholeImage(), **teachers, students=3, stride=4, optimizer=torch.optim.Adam)


def test_losses_are_summed_over_components_and_fields_and_settings_reach_the_base():
    ensemble = answering(Ensemble(PatchTeacher("patch65", None, 0.05), 2, 4), [1.0, 5], [[0.0, 1], [4.0, 3]])
    assert ensemble.loss(torch.rand(1, 3, 8, 8)).item() == pytest.approx(((1 + 16) + (9 + 4)) / 2)
    built, images = method(given=("patch33", "patch65")), torch.rand(1, 3, 32, 32)
    losses = built.losses(Batch.of(images))
    assert losses["loss"].item() == pytest.approx((losses["patch33"] + losses["patch65"]).item())
    assert {name.rpartition(".")[2] for name in built.state_dict()} >= {"mean", "std", "scale"}
    assert not built.ensembles["patch33"].said(images.requires_grad_()).requires_grad
    assert not built.augmented
    before = built.ensembles["patch65"].scale.clone()
    built.calibrate([])
    assert built.ensembles["patch65"].scale.equal(before)
    teachers = {name: PatchTeacher(name, "file", 0.05) for name in ("patch17", "patch33", "patch65")}
    made = UninformedStudents(
        WholeImage(), **teachers, students=3, stride=4, optimizer=torch.optim.Adam, schedule="drop"
    )  # fmt: skip
    assert made.schedule == "drop"
