"""LSA: the published layers, its loss in closed form, where its gradients go, a score on the scale of normal images."""

from functools import partial

import pytest
import torch

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.tiling import SlidingWindow, WholeImage
from anomaly_lab.methods.lsa import LSA, down, same, up
from anomaly_lab.networks.autoregression import negative_log_likelihood
from tests.contract import bars

ADAM = partial(torch.optim.Adam, lr=1e-3)


def lsa(image_size=28, channels=1, tiling=None, **changes):
    torch.manual_seed(0)
    sizes = {"latent_size": 8, "bins": 10, "hidden": 4} | changes
    return LSA(tiling or WholeImage(), ADAM, image_size, channels, **sizes)


def images(count=4, side=28, channels=1, seed=1):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def weights(network):
    return sum(weight.numel() for weight in network.parameters())


def published(image_size, channels):
    with torch.device("meta"):
        return LSA(WholeImage(), ADAM, image_size, channels)


def test_at_28_px_the_layers_are_those_for_mnist():
    method = published(28, 1)
    assert weights(method.encoder) == 272_512
    assert weights(method.decoder) == 292_784
    assert weights(method.estimator) == 25_835_776


def test_at_32_px_the_layers_are_those_for_cifar_10():
    """Convolutions and twice the channels of batch norm, block by block."""
    method = published(32, 3)
    blocks = {width: 9 * width * (width // 2 + width) + width * width // 2 + 6 * width for width in (64, 128, 256)}
    plain = 2 * 9 * 32 * 32 + 4 * 32
    dense = (4096 * 256 + 256) + 2 * 256 + (256 * 64 + 64)
    assert weights(method.encoder) == 9 * 3 * 32 + plain + sum(blocks.values()) + dense
    back = {width: (25 + 1) * 2 * width * width + 9 * width * width + 6 * width for width in (128, 64, 32)}
    dense = (64 * 256 + 256) + 2 * 256 + (256 * 4096 + 4096) + 2 * 4096
    assert weights(method.decoder) == dense + sum(back.values()) + plain + 32 * 3


@pytest.mark.parametrize("image_size", [28, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_codes_are_of_one_size_and_reconstructions_of_that_of_the_image(image_size, channels):
    method, given = lsa(image_size, channels).eval(), images(2, image_size, channels)
    with torch.no_grad():
        codes, prediction = method.encode(given), method.predict(given)
    assert codes.shape == (2, 8)
    assert (codes > 0).all()
    assert (codes < 1).all()
    assert prediction.reconstruction.shape == given.shape
    assert prediction.anomaly_map.shape == (2, 1, image_size, image_size)


def test_blocks_add_a_branch_and_a_shortcut():
    maps = images(2, 8, 4)
    halves, doubles, keeps = down(4, 6), up(4, 6), same(4)
    assert halves(maps).shape == (2, 6, 4, 4)
    assert doubles(maps).shape == (2, 6, 16, 16)
    for block in (halves, doubles, keeps):
        torch.nn.init.zeros_(block.branch[-1].weight)
    torch.testing.assert_close(keeps(maps), maps)  # which are not negative: the activation passes them
    raw = halves.shortcut[:2](maps)
    stride = torch.nn.functional.conv2d(maps, halves.shortcut[1].weight, stride=2)
    torch.testing.assert_close(raw, stride)  # the authors' shortcut
    assert not doubles.shortcut[0](maps)[..., 1::2].any()


def test_the_loss_is_the_squared_difference_of_an_image_and_the_likelihood_of_its_code():
    method, given = lsa(likelihood_weight=0.5), images()
    losses = method.losses(Batch.of(given))
    codes = method.encode(given)
    squared = sum((image - made).square().sum() for image, made in zip(given, method.decoder(codes), strict=True)) / 4
    surprise = negative_log_likelihood(codes, method.estimator(codes)).mean()
    torch.testing.assert_close(losses["squared"], squared)
    torch.testing.assert_close(losses["likelihood"], surprise)
    torch.testing.assert_close(losses["loss"], squared + 0.5 * surprise)


def test_the_likelihood_moves_the_encoder_only_through_the_estimator():
    method = lsa()
    method.losses(Batch.of(images()))["likelihood"].backward()
    assert not any(weight.grad.any() for weight in method.decoder.parameters())
    assert method.encoder[0].branch[0].weight.grad.any()

    method = lsa()
    torch.nn.init.zeros_(method.estimator.layers[0].weight)  # it sees nothing any more
    method.losses(Batch.of(images()))["likelihood"].backward()
    assert not any(weight.grad.any() for weight in method.encoder.parameters())


def test_divided_by_the_number_of_values_gradients_would_be_below_the_epsilon_of_adam():
    method, given = lsa(latent_size=64, bins=100, hidden=32), images(8)
    method.losses(Batch.of(given))["loss"].backward()
    gradients = torch.cat([weight.grad.abs().flatten() for weight in method.estimator.parameters()])
    typical = gradients[gradients > 0].median()
    assert typical / given[0].numel() < 1e-8 < typical


def test_limits_come_from_the_held_out_images():
    method = lsa().eval()
    normals = [Batch.of(images(3, seed=2)), Batch.of(images(2, seed=3))]
    with torch.no_grad():
        method.calibrate(normals)
        parts = torch.cat([method.parts(batch.image)[1] for batch in normals], dim=1)
        scores = [method.predict(batch.image).score for batch in normals]
    low, high = parts.min(dim=1).values, parts.max(dim=1).values
    expected = (parts[0] - low[0]) / (high[0] - low[0]) + (parts[1] - low[1]) / (high[1] - low[1])
    torch.testing.assert_close(torch.cat(scores), expected, rtol=1e-4, atol=1e-4)
    assert torch.cat(scores).amin() >= 0
    assert torch.cat(scores).amax() <= 2
    assert "low" in method.state_dict()
    assert "spread" in method.state_dict()


def calibrated(parts):
    """A method whose held-out images have such parts."""
    method = lsa()
    method.parts = lambda given: (given, parts)
    method.calibrate([Batch.of(images(1))])
    return method


def test_the_score_does_not_depend_on_the_scales_of_its_parts():
    normal, asked = torch.rand(2, 9), torch.rand(2, 5) * 3
    scale, shift = torch.tensor([[100.0], [0.5]]), torch.tensor([[7.0], [2.0]])
    plain = calibrated(normal).novelty(asked)
    torch.testing.assert_close(calibrated(normal * scale + shift).novelty(asked * scale + shift), plain)
    low, high = (-normal).aminmax(dim=1, keepdim=True)  # the authors': log-likelihood and negative residual
    torch.testing.assert_close(plain, 2 - ((-asked - low) / (high - low)).sum(dim=0))


@pytest.mark.parametrize("count", [1, 3])
def test_where_the_limits_coincide_a_part_counts_by_its_share(count):
    method = calibrated(torch.tensor([[40.0], [200.0]]).repeat(1, count))
    found = method.novelty(torch.tensor([[40.0, 60.0, 40.0], [200.0, 200.0, 300.0]]))
    assert found.tolist() == pytest.approx([0, 0.5, 0.5])
    rounded = torch.tensor([[40.0, 40.00001], [200.0, 200.0]])
    torch.testing.assert_close(calibrated(rounded).novelty(torch.tensor([[60.0], [200.0]])), torch.tensor([0.5]))


def test_perfect_or_no_held_out_images_leave_a_finite_score():
    method = calibrated(torch.zeros(2, 3))
    assert method.novelty(torch.tensor([[0.0, 1.0], [0.0, 1.0]])).isfinite().all()
    method = lsa()
    method.calibrate([])
    torch.testing.assert_close(method.novelty(torch.tensor([[1.0], [2.0]])), torch.tensor([3.0]))


def test_limits_of_a_texture_are_those_of_its_windows():
    method, given = lsa(tiling=SlidingWindow(28, 28)).eval(), images(2, 56)
    with torch.no_grad():
        method.calibrate([Batch.of(given)])
        parts = method.parts(torch.cat([given[..., y : y + 28, x : x + 28] for y in (0, 28) for x in (0, 28)]))[1]
    torch.testing.assert_close(method.low, parts.amin(dim=1), rtol=1e-4, atol=1e-5)


def test_scores():
    given = images()
    with torch.no_grad():
        assert lsa(score="map").eval().predict(given).score is None
        method = lsa(score="likelihood").eval()
        prediction = method.predict(given)
        reconstructions, parts = method.parts(given)
    torch.testing.assert_close(prediction.score, parts[1])
    torch.testing.assert_close(prediction.anomaly_map, (given - reconstructions).square())
    torch.testing.assert_close(prediction.anomaly_map.sum(dim=(1, 2, 3)), parts[0])


def test_defects_come_out_of_a_training():
    """Longer than that of the contract: its batch norm first has to know the maps that the trained weights make."""
    method, normal, defective = (lsa(), *(bars(8, 100, 28, 1, defective=has) for has in (False, True)))
    defect = normal != defective
    optimizer = ADAM(method.parameters())

    def contrast():
        with torch.no_grad():
            found = method.eval().predict(defective).anomaly_map
        return found[defect].mean() / found[~defect].mean()

    before = contrast()
    for step in range(40):
        optimizer.zero_grad()
        method.train().losses(Batch.of(bars(8, step, 28, 1)))["loss"].backward()
        optimizer.step()
    assert contrast() > 2 * before


def test_a_batch_of_one_image_cannot_be_learnt_from():
    method = lsa()
    with pytest.raises(UserError, match=r"data.batch_size: expected at least 2 images for each process, .* found 1"):
        method.losses(Batch.of(images(1)))
    assert method.eval().losses(Batch.of(images(1)))["loss"].isfinite()
