"""Teachers: what is learnt by hand, which images are seen, a distillation that breaks off."""

from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.lock import lock
from anomaly_lab.functional.moments import Moments
from anomaly_lab.networks.patch_network import PatchNetwork, PatchTeacher, normalise
from anomaly_lab.training import distillation
from anomaly_lab.training.distillation import (
    Batches,
    DenseDistillation,
    PatchDistillation,
    Plan,
    correlation,
    cut,
    distil,
    triplet,
)
from tests.features import Given, Pixels


@pytest.fixture
def photos(tmp_path, write):
    """Five photos whose gray says which they are."""
    for number in range(5):
        write(tmp_path / f"photos/{number}.png", np.full((40, 60, 3), 50 * number, np.uint8))
    return sorted((tmp_path / "photos").iterdir())


class Loaded(Pixels):
    """Pretrained, as it stands."""

    def __init__(self, digest=0):
        super().__init__()
        self.sha256 = torch.full((32,), digest, dtype=torch.uint8)

    def load(self):
        return []


@pytest.fixture
def small(monkeypatch):
    """Images of a few pixels: nothing here depends on their number."""
    monkeypatch.setattr(distillation, "WHOLE", 64)
    monkeypatch.setattr(distillation, "ENLARGED", 16)


def plan(paths=(), steps=4, batch_size=2, rate=1e-3):
    return Plan(list(paths), "5 photos of photos", steps, batch_size, rate, seed=0)


def test_a_square_of_each_image_from_its_corner():
    images = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    squares = cut(images, torch.tensor([[0, 1], [2, 3]]), 2)
    assert squares[0].equal(images[0, :, 0:2, 1:3])
    assert squares[1].equal(images[1, :, 2:4, 3:5])


# Losses.


def test_triplets_by_hand():
    anchor, near = torch.tensor([[0.0, 0], [0, 0]]), torch.tensor([[1.0, 0], [0, 0]])
    far = torch.tensor([[1.0, 1], [3, 0]])  # the first is nearer to the copy (1) than to the anchor (2)
    assert triplet(anchor, near, far).item() == pytest.approx(((1 + 1 - 1) + 0) / 2)


def test_correlations_by_hand():
    one = torch.tensor([1.0, -1, 1, -1])
    assert correlation(torch.stack([one, 3 * one + 5], dim=1)).item() == pytest.approx(1)
    assert correlation(torch.stack([one, -one], dim=1)).item() == pytest.approx(1)
    assert correlation(torch.stack([one, torch.tensor([1.0, 1, -1, -1])], dim=1)).item() == pytest.approx(0)
    three = torch.stack([one, -2 * one, torch.tensor([1.0, 1, -1, -1])], dim=1)
    assert correlation(three).item() == pytest.approx(2 / 6)


def test_a_pdn_learns_the_normalised_maps_of_all_layers_pooled_to_its_channels(photos, small):
    module = DenseDistillation(Pixels(), PatchNetwork("pdn_small", 0.05, channels=3), plan(photos, steps=40))
    images = torch.rand(2, 3, 64, 64)
    fine, coarse = (torch.nn.functional.avg_pool2d(layer, 3, 1, 1) for layer in Pixels()(images))
    joined = torch.cat([fine, torch.nn.functional.interpolate(coarse, fine.shape[2:], mode="bilinear")], dim=1)
    pooled = module.pooled(images)
    torch.testing.assert_close(pooled, torch.stack([joined[:, 2 * i : 2 * i + 2].mean(dim=1) for i in range(3)], dim=1))

    module.measure()
    moments = Moments()
    for batch in Batches(module.source, 0, 4, 2):  # a tenth of the images
        moments.add(module.pooled(module.source.batch(batch[0], batch[1:])))
    torch.testing.assert_close(module.mean.flatten().double(), moments.mean, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(module.std.flatten().double(), moments.deviation, rtol=1e-5, atol=1e-7)

    target = torch.nn.functional.interpolate((pooled - module.mean) / module.std, (8, 8), mode="bilinear")
    module.network.padded = lambda shown: torch.full((2, 3, 8, 8), 0.5) if shown.shape[2:] == (32, 32) else None
    assert module.losses(images)["distance"].item() == pytest.approx((0.5 - target).square().mean().item(), rel=1e-5)


def test_a_patch_network_learns_the_mean_of_the_deepest_layer_of_its_patch_enlarged(small):
    network = PatchNetwork("patch17", 0.02)
    deepest = torch.tensor([1.0, 2, 3, 6]).view(1, 1, 2, 2).expand(3, 3, 2, 2)
    backbone = Given([torch.zeros(3, 3, 4, 4), deepest])
    backbone.forward = lambda images: (deepest,) if images.shape[2:] == (16, 16) else None
    module = PatchDistillation(backbone, network, plan())
    assert module.source.side == 17 + 2 * 2
    torch.nn.init.zeros_(module.decoder.weight)
    torch.nn.init.ones_(module.decoder.bias)
    losses = module.losses(torch.rand(3, 3, 21, 21))
    assert losses["distance"].item() == pytest.approx(3 * (1 - 3) ** 2)
    assert set(losses) == {"distance", "triplet", "correlation"}


@pytest.mark.parametrize("name", ["pdn_small", "patch17"])
def test_a_distillation_that_broke_off_ends_as_one_that_did_not(name, photos, small, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    distil(name, 0.02, Loaded(), plan(photos), whole)
    assert not whole.with_suffix(".ckpt").exists()
    untrained = [weight.clone() for weight in start(name).values()]

    with monkeypatch.context() as patch:
        patch.setattr(
            distillation.Progress, "on_train_epoch_end", stopping(distillation.Progress.on_train_epoch_end, 2)
        )
        with pytest.raises(UserError, match="the power went out"):
            distil(name, 0.02, Loaded(), plan(photos), broken)
    assert broken.with_suffix(".ckpt").is_file()
    assert not broken.exists()
    capsys.readouterr()
    distil(name, 0.02, Loaded(), plan(photos), broken)
    said = capsys.readouterr().out
    assert "going on at step 2 of 4" in said
    assert "step 4/4: loss " in said
    state, again = load_file(whole), load_file(broken)
    assert all(value.equal(again[key]) for key, value in state.items())
    assert not any(one.equal(other) for one, other in zip(state.values(), untrained, strict=True))

    teacher = PatchTeacher(name, str(whole), 0.02)
    teacher.load()
    assert teacher.origin == (
        "distilled from pixels (fine, coarse) on 5 photos of photos, 4 steps of 2 images; published: on ImageNet"
    )


def start(name):
    torch.manual_seed(0)
    return PatchNetwork(name, 0.02).state_dict()


def stopping(work, after):
    """The end of a part, until the power goes out behind the last one."""

    def end(self, trainer, module):
        work(self, trainer, module)
        if trainer.global_step == after:
            raise UserError("the power went out")

    return end


def test_a_file_that_is_done_stays_and_one_of_another_command_is_not_replaced(photos, small, tmp_path, capsys):
    file = tmp_path / "teacher.safetensors"
    distil("patch17", 0.02, Loaded(), plan(photos, steps=1), file)
    content = file.read_bytes()
    distil("patch17", 0.02, Loaded(), plan(photos, steps=1), file)
    assert "done already, distilled from pixels" in capsys.readouterr().out
    one, others = plan(photos, steps=1), plan(photos, steps=1)._replace(paths=photos[1:])
    for digest, changed in ((0, plan(photos, steps=2)), (0, one._replace(rate=1e-2)), (0, others), (1, one)):
        with pytest.raises(UserError, match="out: expected a new file, found .* of another command"):
            distil("patch17", 0.02, Loaded(digest), changed, file)
    assert file.read_bytes() == content
    file.unlink()
    file.with_suffix(".ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="out: expected a checkpoint of this command, found .*: damaged; remove it"):
        distil("patch17", 0.02, Loaded(), one, file)
    for other in ({"teacher": {"network": "patch33"}}, [1, 2]):
        torch.save(other, file.with_suffix(".ckpt"))
        with pytest.raises(UserError, match="out: expected a checkpoint of this command, found .* of another one"):
            distil("patch17", 0.02, Loaded(), one, file)
    assert not list(tmp_path.glob("*.lock"))


def test_a_process_that_was_killed_before_it_wrote_the_file_writes_it_next_time(photos, small, tmp_path, monkeypatch):
    file = tmp_path / "teacher.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(distillation, "write_whole", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            distil("patch17", 0.02, Loaded(), plan(photos), file)
    assert file.with_suffix(".ckpt").is_file()
    distil("patch17", 0.02, Loaded(), plan(photos), file)
    assert load_file(file)
    assert not file.with_suffix(".ckpt").exists()


@pytest.mark.parametrize(("ended", "code"), [(SystemExit(), 143), (KeyboardInterrupt(), None), (SystemExit(1), 1)])
def test_how_it_was_stopped_is_its_exit_code(photos, small, tmp_path, monkeypatch, ended, code):
    def fit(*_, **__):
        raise ended

    monkeypatch.setattr(pl.Trainer, "fit", fit)
    with pytest.raises(type(ended)) as stopped:
        distil("patch17", 0.02, Loaded(), plan(photos), tmp_path / "teacher.safetensors")
    assert getattr(stopped.value, "code", None) == code


def test_a_second_process_waits_for_the_first_and_finds_it_done(photos, small, tmp_path, capsys):
    file = tmp_path / "teacher.safetensors"
    with lock(file.with_suffix(".lock"), None):
        thread = Thread(target=distil, args=("patch17", 0.02, Loaded(), plan(photos), file))
        thread.start()
        thread.join(0.7)
        assert thread.is_alive()
        assert "another process makes it; waiting" in capsys.readouterr().out
        assert not file.exists()
    thread.join(60)
    assert load_file(file)


def test_a_place_that_cannot_be_written_is_found_before_any_work(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="out: expected a file that can be written, found .* \\(File exists\\)"):
        distil("patch17", 0.02, Loaded(), plan(photos), tmp_path / "file/teacher.safetensors")


def test_a_loss_that_is_no_number_stops_it_before_anything_is_written(photos, small, tmp_path):
    with pytest.raises(UserError, match="the loss is .* lower learning_rate"):
        distil("patch17", 0.02, Loaded(), plan(photos, steps=60, rate=1e30), tmp_path / "teacher.safetensors")
    assert not list(Path(tmp_path).glob("teacher*"))


def test_settings_are_the_published_ones():
    assert (distillation.WHOLE, distillation.ENLARGED, distillation.MEASURED, distillation.GRAY) == (
        512,
        224,
        10_000,
        0.1,
    )
    module = PatchDistillation(Pixels(), PatchNetwork("patch17", 0.02), plan())
    (optimizer,) = [module.configure_optimizers()]
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-3, 1e-5)
    assert [plan(steps=steps).part for steps in (1, 40, 2000, 60_000)] == [1, 2, 100, 100]


def test_the_network_and_its_decoder_learn_and_the_pretrained_network_does_not():
    backbone = Pixels()
    backbone.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    module = PatchDistillation(backbone, PatchNetwork("patch17", 0.02), plan())
    trained = [weight for group in module.configure_optimizers().param_groups for weight in group["params"]]
    assert {*map(id, trained)} == {*map(id, (*module.network.parameters(), *module.decoder.parameters()))}


def test_the_last_part_is_as_long_as_what_is_left(photos, monkeypatch):
    module = PatchDistillation(Pixels(), PatchNetwork("patch17", 0.02), plan(photos, steps=45))
    lengths = []
    for epoch in (0, 1, 22):
        monkeypatch.setattr(type(module), "current_epoch", epoch)
        loader = module.train_dataloader()
        lengths.append((loader.start, len(loader)))
    assert lengths == [(0, 2), (2, 2), (44, 1)]


def test_a_distillation_ends_after_its_steps(photos, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Plan, "part", 2)
    distil("patch17", 0.02, Loaded(), plan(photos, steps=3), tmp_path / "teacher.safetensors")
    said = capsys.readouterr().out
    assert "step 2/3: loss " in said
    assert "step 3/3: loss " in said
    assert "step 4" not in said


def test_one_image_in_ten_is_gray_and_all_losses_are_added(photos, monkeypatch):
    module, seen = PatchDistillation(Pixels(), PatchNetwork("patch17", 0.02), plan()), []
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    losses = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
    monkeypatch.setattr(module, "losses", lambda images: seen.append(images) or losses)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (300, 3, 2, 2), dtype=torch.uint8)
    assert module.training_step([torch.arange(300), images], 0) == 3
    is_gray = (seen[0] - seen[0][:, :1]).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert 12 <= is_gray.sum() <= 50
    torch.testing.assert_close(seen[0][~is_gray], (images.float() / 255)[~is_gray])


def test_what_networks_see_of_whole_images(small, monkeypatch):
    module, seen = DenseDistillation(Pixels(), PatchNetwork("pdn_small", 0.05, channels=3), plan()), {}
    images = torch.rand(2, 3, 64, 64)
    monkeypatch.setattr(module, "pooled", lambda shown: seen.update(teacher=shown) or torch.zeros(2, 3, 8, 8))
    monkeypatch.setattr(module.network, "padded", lambda shown: seen.update(network=shown) or torch.ones(2, 3, 8, 8))
    assert module.losses(images)["distance"] == 1
    assert seen["teacher"].equal(images)
    smaller = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    torch.testing.assert_close(seen["network"], normalise(smaller))


def test_what_networks_see_of_patches(small, monkeypatch):
    """The middle, and a copy that is shifted by at most two pixels, in another light and with noise."""
    module, seen = PatchDistillation(Pixels(), PatchNetwork("patch17", 0.02), plan()), {}
    place = torch.arange(21.0) / 21
    images = torch.stack([place[:, None].expand(21, 21), place.expand(21, 21), torch.full((21, 21), 0.5)])
    images = images.expand(200, 3, 21, 21)

    def network(shown):
        seen["network"] = shown
        return torch.randn(len(shown), 128, 1, 1, requires_grad=True)

    def backbone(shown):
        seen["backbone"] = shown
        return torch.zeros(200, 3, 2, 2), torch.ones(200, 3, 2, 2)

    monkeypatch.setattr(module.network, "forward", network)
    monkeypatch.setattr(module.backbone, "forward", backbone)
    monkeypatch.setattr(distillation, "normalise", lambda shown: shown)
    monkeypatch.setattr(distillation, "triplet", lambda *given: seen.update(triplet=given) or torch.zeros(()))
    torch.manual_seed(0)
    torch.nn.init.zeros_(module.decoder.weight)
    torch.nn.init.zeros_(module.decoder.bias)
    assert module.losses(images)["distance"] == 3  # of the deepest map
    anchor, near = seen["network"].chunk(2)
    assert anchor.equal(images[..., 2:19, 2:19])
    torch.testing.assert_close(
        seen["backbone"], torch.nn.functional.interpolate(anchor, (16, 16), mode="bilinear")
    )  # fmt: skip
    light = near[:, 2].mean(dim=(1, 2)) / 0.5
    assert 0.89 < light.min() < 0.93
    assert 1.07 < light.max() < 1.11
    assert near[:, 2].std(dim=(1, 2)).mean().item() == pytest.approx(0.05, abs=0.01)
    for axis in (0, 1):
        shift = (near[:, axis].mean(dim=(1, 2)) / light - anchor[:, axis].mean(dim=(1, 2))) * 21
        assert set(shift.round().int().tolist()) == {-2, -1, 0, 1, 2}
    vectors, shifted, others = seen["triplet"]
    assert others.equal(vectors.roll(1, 0))
    assert not shifted.equal(vectors)


def test_patches_are_normalised_as_a_teacher_will_see_them(small, monkeypatch):
    module, seen = PatchDistillation(Pixels(), PatchNetwork("patch17", 0.02), plan()), []
    module.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.rand(2, 3, 21, 21)
    module.losses(images)
    torch.testing.assert_close(seen[0][:2], normalise(images[..., 2:19, 2:19]))


@pytest.mark.parametrize(("name", "width", "seed"), [("patch17", 0.02, 1), ("patch17", 0.03, 0), ("patch33", 0.02, 0)])
def test_seed_width_and_network_make_another_file(photos, small, tmp_path, name, width, seed):
    file = tmp_path / "teacher.safetensors"
    distil("patch17", 0.02, Loaded(), plan(photos, steps=1), file)
    changed = plan(photos, steps=1)._replace(seed=seed)
    with pytest.raises(UserError, match="out: expected a new file"):
        distil(name, width, Loaded(), changed, file)
    distil(name, width, Loaded(), changed, other := tmp_path / "other.safetensors")
    one, two = load_file(file), load_file(other)
    assert any(
        key not in two or value.shape != two[key].shape or not value.equal(two[key]) for key, value in one.items()
    )


def test_the_pretrained_network_is_loaded(photos, small, tmp_path):
    class Waiting(Loaded):
        def load(self):
            raise UserError("its weights are elsewhere")

    with pytest.raises(UserError, match="its weights are elsewhere"):
        distil("patch17", 0.02, Waiting(), plan(photos, steps=1), tmp_path / "teacher.safetensors")
