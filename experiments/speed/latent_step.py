"""A training step of the latent methods beside the bare step, and one Grad-CAM of a batch beside one an image.

`python experiments/speed/latent_step.py [STEPS] > experiments/speed/latent_step.csv`: networks of random weights, 128
px (CAVGA: ResNet-18 to layer3), batches of 8 on resident tensors, one thread, CPU seconds in turns in one process,
medians of five. STEPS: of CAVGA in a turn, five times as many of VAE, MemAE and AVID, twice as many of the others; of
few the trainer's start is a part.

- `bare`: networks, the loss written out, backward, a step of each optimizer, and nothing else.
- `ours`: the same batches through Lightning's trainer, with the callbacks of a run that work in a step.
- `cavga_map`: `ours` is the map of a batch, `bare` the passes of the same networks without any gradient; `alone` asks
  for the map of each image in turn.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1"}  # read when the libraries are loaded

import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from resident import ours, seconds
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from anomaly_lab.methods.adae import ADAE
from anomaly_lab.methods.avid import AVID
from anomaly_lab.methods.base.tiling import WholeImage
from anomaly_lab.methods.cavga import CAVGA
from anomaly_lab.methods.egbad import EGBAD
from anomaly_lab.methods.lsa import LSA
from anomaly_lab.methods.memae import MemAE
from anomaly_lab.methods.vae import VAE
from anomaly_lab.networks.autoencoder import GaussianAutoencoder
from anomaly_lab.networks.autoregression import negative_log_likelihood
from anomaly_lab.networks.backbone import Backbone
from anomaly_lab.training.messages import quiet

SIDE, BATCH, TURNS = 128, 8, 5
ADAM = partial(torch.optim.Adam, lr=1e-4)
Images = list[torch.Tensor]


def vae(method: VAE, images: Images) -> None:
    """Steps written out."""
    optimizer = ADAM(method.parameters())
    for batch in images:
        optimizer.zero_grad()
        mean, log_variance = method.network.encoder(batch.contiguous(memory_format=torch.channels_last))
        made = method.network.decoder(mean + (log_variance / 2).exp() * torch.randn_like(mean))
        gamma = (10 * method.exponent).exp()
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2 / batch.numel()
        ((batch - made).square().mean() / (2 * gamma) + 5 * method.exponent + kl).backward()
        optimizer.step()


def memae(method: MemAE, images: Images) -> None:
    """Steps written out."""
    optimizer = ADAM(method.parameters())
    (encoder,), (decoder,), (memory,) = method.encoder, method.decoder, method.memories
    for batch in images:
        optimizer.zero_grad()
        x = (2 * batch - 1).contiguous(memory_format=torch.channels_last)
        queries = encoder(x)
        weights = (queries.movedim(1, -1) @ memory.slots.T).softmax(dim=-1)
        kept = weights * (weights > memory.shrinkage)
        kept = kept / kept.sum(dim=-1, keepdim=True).clamp(min=1e-12)
        made = decoder((kept @ memory.slots).movedim(-1, 1))
        spread = -(kept * (kept + 1e-12).log()).sum(dim=-1).mean()
        ((x - made).square().mean() + 2e-4 * spread).backward()
        optimizer.step()


def cavga(method: CAVGA, images: Images) -> None:
    """Steps written out; the gradient of the code's sum is that of its linear layer."""
    network, discriminator = method.autoencoder, method.discriminator
    optimizers = ADAM(network.parameters()), ADAM(discriminator.parameters())
    for batch in images:
        features = network.encoder(batch)[-1]
        mean, log_variance = network.head.layer(features).chunk(2, dim=1)
        logits = network.decoder(mean + (log_variance / 2).exp() * torch.randn_like(mean))
        made = 2 * logits.sigmoid() - 1
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2 / batch.numel()
        looked = (features * network.head.layer.weight[: mean.shape[1]].sum(dim=0)).sum(dim=1).sigmoid()
        fooled = torch.nn.functional.softplus(-discriminator(made)[0]).mean()
        loss = cross_entropy(logits, batch) + kl + fooled + 0.01 * (1 - looked).mean()
        optimizers[0].zero_grad()
        loss.backward(inputs=list(network.parameters()))
        optimizers[0].step()
        optimizers[1].zero_grad()
        real, fake = discriminator(2 * batch - 1)[0], discriminator(made.detach())[0]
        (torch.nn.functional.softplus(-real).mean() + torch.nn.functional.softplus(fake).mean()).backward()
        optimizers[1].step()


def lsa(method: LSA, images: Images) -> None:
    """Steps written out; the estimator and its likelihood are the method's."""
    optimizer = ADAM(method.parameters())
    for batch in images:
        optimizer.zero_grad()
        codes = method.encoder(batch.contiguous(memory_format=torch.channels_last)).sigmoid()
        squared = (batch - method.decoder(codes)).square().flatten(1).sum(dim=1)
        (squared + negative_log_likelihood(codes, method.estimator(codes))).mean().backward()
        optimizer.step()


class Players:
    """Networks that step in turn, each for its own loss."""

    def __init__(self, *networks: torch.nn.Module) -> None:
        self.weights = [list(network.parameters()) for network in networks]
        self.optimizers = [ADAM(weights) for weights in self.weights]

    def step(self, number: int, loss: torch.Tensor) -> None:
        """One of them."""
        self.optimizers[number].zero_grad()
        loss.backward(inputs=self.weights[number])
        self.optimizers[number].step()


def real(logits: torch.Tensor) -> torch.Tensor:
    """Cross entropy of calling them real."""
    return torch.nn.functional.softplus(-logits).mean()


def fake(logits: torch.Tensor) -> torch.Tensor:
    """Cross entropy of calling them generated."""
    return torch.nn.functional.softplus(logits).mean()


def egbad(method: EGBAD, images: Images) -> None:
    """Steps written out, the moving average of all weights among them."""
    networks = discriminator, generator, encoder = method.discriminator, method.generator, method.encoder
    players = Players(*networks)
    for batch in images:
        x, codes = 2 * batch - 1, torch.randn(BATCH, method.latent_size)
        with torch.no_grad():
            found, made = encoder(x), generator(codes)
        players.step(0, real(discriminator(x, found)) + fake(discriminator(made, codes)))
        codes, found = torch.randn(BATCH, method.latent_size), encoder(x)
        with torch.no_grad():
            generator(found)  # for its batch norm
        players.step(1, real(discriminator(generator(codes), codes)))
        players.step(2, fake(discriminator(x, found)))
        with torch.no_grad():
            for network, name in zip(networks, ("discriminator", "generator", "encoder"), strict=True):
                torch._foreach_lerp_(list(method.averages[name].parameters()), list(network.parameters()), 0.1)


def adae(method: ADAE, images: Images) -> None:
    """Steps written out: one network in even, the other in odd ones."""
    generator, discriminator = method.generator, method.discriminator
    players = Players(generator, discriminator)
    for number, batch in enumerate(images):
        x = (2 * batch - 1).contiguous(memory_format=torch.channels_last)
        if number % 2 == 0:
            made = generator(x)
            players.step(0, (x - made).abs().mean() + (made - discriminator(made)).abs().mean())
        else:
            with torch.no_grad():
                made = generator(x)
            errors = (made - discriminator(made)).abs().mean(dim=(1, 2, 3))
            players.step(1, (x - discriminator(x)).abs().mean() - errors.clamp(max=0.1).mean())


def avid(method: AVID, images: Images) -> None:
    """Steps written out."""
    inpainter, detector = method.inpainter, method.detector
    players = Players(detector, inpainter)
    for batch in images:
        x = (2 * batch - 1).contiguous(memory_format=torch.channels_last)
        made = inpainter(x + 0.8 * torch.randn_like(x))
        players.step(0, real(detector(x)) + fake(detector(made.detach())))
        players.step(1, real(detector(made)) + 100 * (x - made).abs().mean())


def maps(method: CAVGA, images: Images) -> None:
    """Of whole batches."""
    for batch in images:
        method.predict(batch)


def maps_alone(method: CAVGA, images: Images) -> None:
    """Of one image after the other."""
    for batch in images:
        for image in batch:
            method.predict(image[None])


@torch.no_grad()
def passes(method: CAVGA, images: Images) -> None:
    """Encoder, head and decoder without a map."""
    for batch in images:
        method.autoencoder.decode(method.autoencoder.codes(method.autoencoder.features(batch))[0])


def report(name: str, images: Images, *works: tuple[Callable[..., None], object]) -> None:
    """Print a row: seconds of each work, and the share of the first in the second."""
    for work, method in works:
        work(method, images[:1])  # warm
    turns = [[seconds(work, method, images) / len(images) for work, method in works] for _ in range(TURNS)]
    columns = [f"{statistics.median(column):.3f}" for column in zip(*turns, strict=True)]
    share = statistics.median(turn[1] / turn[0] for turn in turns)
    print(",".join([name, *columns, *[""] * (3 - len(columns)), f"{share:.3f}"]), flush=True)


def main(steps: str = "6") -> None:
    """Print a row a method."""
    torch.set_num_threads(1)
    quiet()
    torch.manual_seed(0)
    images = [torch.rand(BATCH, 3, SIDE, SIDE) for _ in range(int(steps))]
    print("method,ours_s_a_step,bare_s_a_step,alone_s_a_step,bare_of_ours")
    network = GaussianAutoencoder(SIDE, 3)
    variational = VAE(network, ADAM, WholeImage())
    report("vae", 5 * images, (ours, variational), (vae, variational))
    memory = MemAE(WholeImage(), ADAM, SIDE, 3, slots=500, shrinkage=1.0)
    report("memae", 5 * images, (ours, memory), (memae, memory))
    density = LSA(WholeImage(), ADAM, SIDE, 3)
    report("lsa", 2 * images, (ours, density), (lsa, density))
    settings: dict[str, Any] = {"image_size": SIDE, "channels": 3, "tiling": WholeImage(), "optimizer": ADAM}
    bidirectional, dual, irregular = EGBAD(**settings), ADAE(**settings), AVID(**settings)
    report("egbad", 2 * images, (ours, bidirectional), (egbad, bidirectional))
    report("adae", 2 * images, (ours, dual), (adae, dual))
    report("avid", 5 * images, (ours, irregular), (avid, irregular))
    backbone = Backbone("resnet18", ["layer3"], fine_tuned=True)
    backbone.sha256.fill_(1)  # as if its weights had been read
    guided = CAVGA(SIDE, 3, backbone, tiling=WholeImage(), optimizer=ADAM)
    report("cavga", images, (ours, guided), (cavga, guided))
    guided.eval()
    report("cavga_map", images, (maps, guided), (passes, guided), (maps_alone, guided))


main(*sys.argv[1:])
