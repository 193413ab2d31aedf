"""EfficientAD: sizes, hard features, quantiles, what the student sees of anything else."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.data.noise import batch_keys, row_keys
from anomaly_lab.functional.colour import luminance
from anomaly_lab.methods import efficient_ad
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.efficient_ad import Autoencoder, EfficientAD, hardest, jittered
from anomaly_lab.networks.patch_network import PatchTeacher, normalise


def method(foreign_images=None, image_size=48):
    torch.manual_seed(0)
    teacher = PatchTeacher("pdn_small", None, 0.02)
    return EfficientAD(WholeImage(), teacher, foreign_images, torch.optim.Adam, image_size).eval()


def saying(built, *, teacher=0.0, imitation=0.0, second=0.0, autoencoder=0.0):
    """The method whose networks say these numbers, or these maps, everywhere."""

    def said(*values):
        planes = [torch.as_tensor(value).expand(384, 2, 2) for value in values]
        return lambda images, *_: torch.cat(planes)[None].expand(len(images), -1, -1, -1)

    built.teacher.network.forward = said(teacher)
    built.student.forward = said(imitation, second)
    built.autoencoder.forward = said(autoencoder)
    return built


def test_the_autoencoder_is_as_large_as_published_and_has_the_teachers_grid():
    autoencoder = Autoencoder(384)
    assert sum(weight.numel() for weight in autoencoder.parameters()) == 1_096_320
    sides = []
    for layers in autoencoder.decoder:
        layers.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[-1]))
    autoencoder.code.register_forward_hook(lambda *given: sides.append(given[2].shape[-1]))
    assert autoencoder(torch.rand(1, 3, 256, 256), torch.Size((56, 56))).shape == (1, 384, 56, 56)
    assert sides == [1, 3, 8, 15, 32, 63, 127]
    assert autoencoder(torch.rand(1, 3, 48, 96), torch.Size((4, 16))).shape == (1, 384, 4, 16)


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 2001, 12_345])
def test_the_hardest_values_are_those_that_reach_their_quantile(count):
    values = torch.rand(count, dtype=torch.float64)
    line = torch.quantile(values, 0.999)
    assert hardest(values.view(1, 1, 1, -1)).item() == pytest.approx(values[values >= line].mean().item())


def test_each_image_has_its_own_hardest_values():
    values = torch.cat([torch.arange(1000.0), 5000 + torch.arange(1000.0)]).view(2, 1, 20, 50)
    assert hardest(values) == (999 + 5999) / 2


def test_of_a_thousand_values_the_largest_is_hard():
    assert hardest(torch.arange(1000.0).view(1, 10, 10, 10)) == 999


def test_the_losses_by_hand(tmp_path):
    imitation = torch.zeros(384, 2, 2)
    imitation[0, 0, 0], imitation[1] = 3, 1  # of the 1536 values of an image two reach the quantile
    built = saying(method("procedural"), teacher=0.5, imitation=imitation, second=2.0, autoencoder=-1.0)
    losses = built.losses(Batch.of(torch.rand(2, 3, 48, 48)))
    assert losses["hard"].item() == pytest.approx((2.5**2 + 0.25) / 2)  # the next largest ones are all equal
    assert losses["autoencoder"].item() == pytest.approx(1.5**2)
    assert losses["student_of_autoencoder"].item() == pytest.approx(9)
    assert losses["penalty"].item() == pytest.approx((9 + 4) / 1536)
    assert losses["loss"].item() == pytest.approx(sum(value.item() for name, value in losses.items() if name != "loss"))
    assert set(method(None).losses(Batch.of(torch.rand(1, 3, 48, 48)))) == set(losses) - {"penalty"}


def test_student_and_autoencoder_learn_and_the_teacher_does_not():
    built = method("procedural").train()
    built.losses(Batch.of(torch.rand(2, 3, 48, 48)))["loss"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in built.student.parameters())
    assert all(weight.grad is not None for weight in built.autoencoder.parameters())
    assert all(weight.grad is None for weight in built.teacher.parameters())
    assert {id(weight) for weight in built.trained()}.isdisjoint(map(id, built.teacher.parameters()))


def test_the_autoencoder_is_moved_by_the_student_that_repeats_it():
    """Algorithm 1 descends the sum of the losses with the weights of both."""
    built = method().train()
    built.losses(Batch.of(torch.rand(1, 3, 48, 48)))["student_of_autoencoder"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in built.autoencoder.output.parameters())


def test_the_teachers_channels_are_normalised_over_the_training_images():
    built, images = method(), torch.rand(5, 3, 48, 48)
    built.prepare([Batch.of(images[:2]), Batch.of(images[2:])])
    said = built.taught(normalise(images))
    torch.testing.assert_close(said.mean(dim=(0, 2, 3)), torch.zeros(384), atol=1e-4, rtol=0)
    torch.testing.assert_close(said.std(dim=(0, 2, 3), correction=0), torch.ones(384), atol=1e-3, rtol=0)


def test_quantiles_of_good_images_become_0_and_a_tenth_on_either_map():
    built, normals = method(), [Batch.of(torch.rand(3, 3, 48, 48)), Batch.of(torch.rand(2, 3, 48, 48))]
    images = torch.cat([batch.image for batch in normals])
    with torch.no_grad():
        one, other = (layer.numpy().ravel() for layer in built.maps(images))
        built.calibrate(normals)
        answer = built.predict(images)
    assert answer.anomaly_map.shape == (5, 1, 12, 12)  # four places around 4 x 4: a place for each 4 px
    scaled = [
        0.1 * (layer - np.quantile(layer, 0.9)) / (np.quantile(layer, 0.995) - np.quantile(layer, 0.9))
        for layer in (one, other)
    ]
    expected = (sum(scaled) / 2).reshape(5, 1, 4, 4)
    assert answer.anomaly_map[..., 4:-4, 4:-4].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    outside = answer.anomaly_map.clone()
    outside[..., 4:-4, 4:-4] = 0
    assert not outside.any()
    assert answer.score.numpy() == pytest.approx(expected.max(axis=(1, 2, 3)), rel=1e-3, abs=1e-4)


def test_maps_of_one_value_are_shifted_only():
    built = saying(method(), teacher=1.0, second=2.0)  # maps of 1 and of 4
    assert built.predict(torch.rand(1, 3, 48, 48)).score == 2.5  # not calibrated: as they are
    built.calibrate([Batch.of(torch.rand(2, 3, 48, 48))])
    saying(built, teacher=2.0, second=2.0)
    assert built.predict(torch.rand(1, 3, 48, 48)).score == 1.5  # (4 - 1 + 4 - 4) / 2


def test_one_of_brightness_contrast_and_saturation_changes_by_up_to_a_fifth():
    torch.manual_seed(0)
    images = (0.3 + 0.3 * torch.rand(1, 3, 4, 4)).expand(300, -1, -1, -1)
    changed = jittered(images, row_keys(0, 0, torch.arange(300)))
    gray = luminance(images)
    counts = []
    for middle in (torch.zeros_like(gray), gray.mean(dim=(2, 3), keepdim=True).expand_as(gray), gray):
        away = (images - middle).flatten(1)
        factor = ((changed - middle).flatten(1) * away).sum(1) / away.square().sum(1)
        fits = ((changed - middle).flatten(1) - factor[:, None] * away).abs().amax(1) < 1e-5
        assert 0.8 <= factor[fits].min() < 0.85
        assert 1.15 < factor[fits].max() <= 1.2
        counts.append(int(fits.sum()))
    assert sum(counts) == pytest.approx(300, abs=5)  # a factor of 1 fits all three
    assert min(counts) > 70
    assert jittered(torch.full((50, 3, 2, 2), 0.9), row_keys(0, 0, torch.arange(50))).max() == 1


def test_foreign_images_change_from_step_to_step_and_three_in_ten_are_gray():
    built = method("procedural")
    images = torch.rand(1, 3, 48, 48).expand(200, -1, -1, -1)
    first, second = (built.drawn(row_keys(0, epoch, torch.arange(200)), images) for epoch in (0, 1))
    assert first.shape == images.shape
    assert not torch.isclose(first, second).flatten(1).all(dim=1).any()
    is_gray = (first - first[:, :1]).abs().flatten(1).amax(dim=1) < 1e-6
    assert 40 <= is_gray.sum() <= 80


def test_a_folder_is_shown_at_twice_the_size(tmp_path, write):
    random = np.random.default_rng(0)
    photo = random.integers(0, 255, (96, 96, 3), dtype=np.uint8)
    write(tmp_path / "a.png", photo)
    built = method(str(tmp_path))
    assert list(built.foreign_photos) == [tmp_path / "a.png"]
    shown = built.drawn(row_keys(0, 0, torch.arange(20)), torch.rand(20, 3, 48, 48))
    middle = torch.from_numpy(photo[24:72, 24:72, ::-1].copy()).movedim(2, 0) / 255
    same = [torch.allclose(image, middle, atol=1e-6) for image in shown]
    gray = [torch.allclose(image, luminance(middle[None])[0].expand(3, -1, -1), atol=1e-6) for image in shown]
    assert all(one or other for one, other in zip(same, gray, strict=True))
    assert 0 < sum(gray) < 15
    assert list(method("procedural").foreign_photos) == list(method(None).foreign_photos) == []


def test_a_teacher_without_weights_and_a_folder_without_photos_stop_before_training(tmp_path):
    with pytest.raises(UserError, match="method.teacher.weights: expected a file of pdn_small, found none; python"):
        method().prepare_data()
    for ask in (lambda built: built.foreign_photos, lambda built: built.substitutes):
        with pytest.raises(UserError, match="method.foreign_images: expected photos, found none in"):
            ask(method(str(tmp_path)))
    with pytest.raises(UserError, match="data.image_size: expected at least 33 px, .* found 32"):
        method(image_size=32)


@pytest.mark.parametrize("name", ["patch17", "patch33", "patch65"])
def test_a_teacher_of_the_uninformed_students_is_refused(name):
    with pytest.raises(UserError, match=f"method.teacher.name: expected pdn_small or pdn_medium, found {name}"):
        EfficientAD(WholeImage(), PatchTeacher(name, None, 0.02), None, torch.optim.Adam, 65)


def test_what_stands_in_for_imagenet_is_said(tmp_path, write):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    for foreign, words in ((None, "none"), ("procedural", "procedural textures"), (str(tmp_path), "2 of 2 photos in")):
        (line,) = method(foreign).substitutes
        assert line.startswith(f"foreign images: {words}")
        assert line.endswith("; published: those of ImageNet")


def test_an_image_of_another_size_has_a_map_in_proportion():
    built = method(image_size=64)
    answer = built.predict(torch.rand(1, 1, 64, 64))
    assert answer.anomaly_map.shape == (1, 1, 16, 16)
    enlarged = interpolate(answer.anomaly_map, (64, 64), mode="bilinear")
    assert enlarged.isfinite().all()
    assert built.embed(torch.rand(2, 3, 64, 64)).shape == (2, 384)


def test_each_loss_sees_its_own_images(monkeypatch):
    """Networks that answer with the mean of what they see: the photos, their altered copies, the foreign images."""
    built = method("procedural")
    photos = torch.tensor([0.2, 0.6]).view(2, 1, 1, 1).expand(2, 1, 48, 48)
    monkeypatch.setattr(efficient_ad, "normalise", lambda images: images)
    monkeypatch.setattr(efficient_ad, "jittered", lambda images, keys: images + 0.1)
    monkeypatch.setattr(built, "drawn", lambda keys, images: torch.full_like(images, 0.9))

    def mean(factor):
        return lambda images, *_: factor * images.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 384, 2, 2)

    built.teacher.network.forward = mean(2)
    built.student.forward = lambda images: torch.cat([mean(3)(images), mean(5)(images)], dim=1)
    built.autoencoder.forward = mean(7)
    losses = built.losses(Batch.of(photos))
    assert losses["hard"].item() == pytest.approx((0.2**2 + 0.6**2) / 2)
    assert losses["autoencoder"].item() == pytest.approx(25 * (0.3**2 + 0.7**2) / 2)
    assert losses["student_of_autoencoder"].item() == pytest.approx(4 * (0.3**2 + 0.7**2) / 2)
    assert losses["penalty"].item() == pytest.approx(9 * 0.9**2)


def test_random_numbers_follow_from_epoch_and_row_in_training_and_from_the_number_of_a_held_out_image(monkeypatch):
    built, asked = method("procedural"), []
    built.seed = 5
    monkeypatch.setattr(type(built), "current_epoch", 3)
    monkeypatch.setattr(efficient_ad, "batch_keys", lambda *given: asked.append(batch_keys(*given)) or asked[-1])
    batch = Batch.of(torch.rand(2, 3, 48, 48))
    built.losses(batch._replace(row=torch.tensor([7, 9])))
    built.losses(batch._replace(row=None, index=torch.tensor([4, 6])))
    assert torch.equal(asked[0], row_keys(5, 3, torch.tensor([7, 9])))
    assert torch.equal(asked[1], row_keys(5, 0, torch.tensor([4, 6])))


def test_a_score_may_be_below_zero_and_no_held_out_images_change_nothing():
    built = saying(method(), teacher=2.0, second=3.0)
    built.calibrate([])
    assert built.quantiles.flatten().tolist() == pytest.approx([0, 0.1, 0, 0.1])
    built.calibrate([Batch.of(torch.rand(1, 3, 48, 48))])
    saying(built, teacher=1.0, second=2.0)
    assert built.predict(torch.rand(1, 3, 48, 48)).score == (1 - 4 + 4 - 9) / 2


def test_settings_reach_where_they_belong():
    teacher = PatchTeacher("pdn_small", None, 0.05)
    built = EfficientAD(WholeImage(), teacher, None, torch.optim.Adam, 48, schedule="drop", seed=2)
    assert (built.schedule, built.seed, built.augmented) == ("drop", 2, False)
    assert [layer.out_channels for layer in built.student if hasattr(layer, "out_channels")] == [6, 13, 13, 768]
    assert {"mean", "std", "quantiles"} <= set(built.state_dict())
    images = torch.rand(2, 3, 48, 48)
    torch.testing.assert_close(built.embed(images), built.taught(normalise(images)).mean(dim=(2, 3)))
    assert not built.taught(images.requires_grad_()).requires_grad
    assert {layer.p for layer in built.autoencoder.modules() if isinstance(layer, torch.nn.Dropout)} == {0.2}


def test_the_autoencoder_of_a_wide_image():
    autoencoder, sides = Autoencoder(8), []
    for layers in autoencoder.decoder:
        layers.register_forward_pre_hook(lambda _, given: sides.append(tuple(given[0].shape[2:])))
    autoencoder(torch.rand(1, 3, 128, 256), torch.Size((24, 56)))
    assert sides == [(1, 3), (4, 8), (7, 15), (16, 32), (31, 63), (63, 127)]
    maps = torch.rand(1, 2, 3, 3)
    torch.testing.assert_close(efficient_ad.resized(maps, (5, 7)), interpolate(maps, (5, 7), mode="bilinear"))


def test_losses_of_held_out_images_are_the_same_in_every_epoch(monkeypatch):
    built, seen = method("procedural"), []
    batch = Batch.of(torch.rand(2, 3, 48, 48))._replace(index=torch.tensor([4, 6]))
    for epoch, row in ((0, None), (1, None), (0, batch.index), (1, batch.index)):
        monkeypatch.setattr(type(built), "current_epoch", epoch)
        seen.append({name: loss.item() for name, loss in built.losses(batch._replace(row=row)).items()})
    held_out, later, trained, trained_later = seen
    assert held_out == later == trained
    assert trained_later["penalty"] != trained["penalty"]
