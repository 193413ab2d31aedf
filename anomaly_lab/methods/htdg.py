"""HTDG: networks that tell how the patches of a few photos were transformed, at several scales, beside drawn patches.

Sheynin, Benaim, Wolf: A Hierarchical Transformation-Discriminating Generative Model for Few Shot Anomaly Detection,
ICCV 2021, for one to ten photos. At each scale of an image pyramid a generator draws patches like those of the photos,
and a discriminator guesses how a patch was transformed, or that it was drawn. An image is abnormal where its patches
do not show how they were transformed.

From the abstract and the authors' code (shellysheynin/A-Hierarchical-Transformation-Discriminating-Generative-Model-
for-Few-Shot-Anomaly-Detection), whose gradient penalty is commented out. Where we differ from the code:

- A batch is drawn from the photos, so that one can be in it twice; the code stacks all photos in every step.
- The generators know a photo by its own fixed noise. The code gives all photos the same noise, and the number of the
  photo as one more channel, also for images drawn at random.
- All noise is drawn anew for each step of a discriminator; the code keeps that of the scale itself for an iteration.
- The running statistics of a network's batch norm move in its own steps alone; the code's move in all steps, so that
  those of a discriminator are mostly of drawn images.
- The strength of the noise of a scale is one number, not one for each photo.
- The code raises the local contrast of the training photos, not of the test images; here neither is touched.
- Scores are scaled by those of the training images, if at all; the code takes the range of the test images.
- The map (the code has none) is the probability of wrong guesses, moved back and averaged over all copies and scales.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Batch, Images, Prediction
from anomaly_lab.data.noise import derive, normal, row_keys
from anomaly_lab.functional.colour import luminance
from anomaly_lab.functional.transformations import Kinds, combinations, refuse_repeated, transformed, undone
from anomaly_lab.methods.base.adversarial import AdversarialMethod, Turn, unsigned
from anomaly_lab.methods.base.method import Scalar, evaluating
from anomaly_lab.methods.base.tiling import SlidingWindow
from anomaly_lab.networks.dcgan import batch_statistics, initialise
from anomaly_lab.networks.singan import BORDER, Generator, patch_layers, resized, sides_of

PART = 0.15  # of the side, by which an image is shifted
WIDEST = 128  # channels, after any doubling
Noise = Callable[[int], Float[Tensor, "batch _ side side"]]  # of a scale
Logits = Float[Tensor, "copy guess row column"]
Right = Float[Tensor, "transformation batch row column"]


class HTDG(AdversarialMethod):
    """Votes of patches for the right transformation, at each of `scales` sides from `coarsest` px to the image's.

    - `kinds`, and `gray`: the transformations, less those that the authors leave out (`chosen`).
    - `width`: channels; doubled after every four scales.
    - `noise`: its strength, as a part of the mean difference from the photos that a generator finds.
    - `steps` of the discriminator, then of the generator, on each batch.
    - `worst`: the share of the patches that count in a score, those with the least probable right guess.
    - `normalise`: whether the score of each scale is scaled by the range of those of the training images.

    One run trains scale after scale, with as many epochs for each. A network starts from that of the scale below, if
    that is as wide.

    Raises UserError for textures, seen window by window, for images smaller than the coarsest scale, for more scales
    than there are sides, for a kind that is there twice, and for gray copies of gray images.
    """

    augmented = False
    photos: Int[Tensor, " batch"]
    states: Tensor
    grays: Tensor
    strengths: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        image_size: PositiveInt,
        channels: Literal[1, 3],
        kinds: Kinds,
        gray: bool = False,
        coarsest: Annotated[int, Field(ge=11)] = 25,
        scales: PositiveInt = 5,
        width: PositiveInt = 32,
        noise: NonNegativeFloat = 0.1,
        steps: PositiveInt = 3,
        reconstruction_weight: NonNegativeFloat = 100.0,
        worst: Annotated[float, Field(gt=0, le=1)] = 1.0,
        normalise: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        if isinstance(self.tiling, SlidingWindow):
            raise UserError(
                "data.kind: expected object with method=htdg, whose generators know whole photos by their noise, found "
                "texture"
            )
        refuse_repeated(kinds)
        if gray and channels == 1:
            raise UserError("method.gray: expected false for gray images, whose gray copies are the same, found true")
        self.image_size, self.channels, self.kinds, self.gray = image_size, channels, kinds, gray
        self.sides = sides_of(image_size, coarsest, scales)
        self.stages = tuple(f"scale of {side} px" for side in self.sides)
        self.leaders = ("discriminator",) * scales
        self.noise, self.steps, self.reconstruction_weight = noise, steps, reconstruction_weight
        self.worst, self.normalise = worst, normalise
        states, grays = chosen(kinds, gray)
        self.copies = len(states)
        self.register_buffer("states", states, persistent=False)
        self.register_buffer("grays", grays, persistent=False)
        self.register_buffer("strengths", torch.tensor([1.0] + [noise] * (scales - 1)))
        self.register_buffer("low", torch.zeros(scales, 1))
        self.register_buffer("high", torch.ones(scales, 1))
        self.widths = [min(width * 2 ** (scale // 4), max(width, WIDEST)) for scale in range(scales)]
        self.generators = nn.ModuleList(Generator(channels, width) for width in self.widths)
        self.discriminators = nn.ModuleList(patch_layers(channels, len(states) + 1, width) for width in self.widths)
        initialise(self)

    def networks(self) -> dict[str, nn.Module]:
        """Those of all scales; only those of the present one take steps."""
        return {"discriminator": self.discriminators, "generator": self.generators}

    # What generators make of noise, scale after scale, as in SinGAN.

    def inputs(self, scale: int, noise: Noise) -> tuple[Images, Images]:
        """What the generators below have made, at the side of this scale, without and with noise."""
        side, added = self.sides[scale], self.strengths[scale] * noise(scale)
        if scale == 0:
            before = added.new_zeros(len(added), self.channels, side, side)
        else:
            before = resized(self.generated(scale - 1, noise), side)
        return before, before + added

    def generated(self, scale: int, noise: Noise) -> Images:
        """What the generators up to a scale make of noise, about [-1, 1]."""
        before, noisy = self.inputs(scale, noise)
        return self.generators[scale](before, noisy)

    def drawn(self, count: int, random: torch.Generator, alone: bool = False) -> Noise:
        """Normal noise; at the coarsest scale the same in all channels."""

        def noise(scale: int) -> Float[Tensor, "batch _ side side"]:
            shape = (self.channels if scale else 1, self.sides[scale], self.sides[scale])
            return self.random_rows(torch.randn, count, *shape, random=random, alone=alone)

        return noise

    def fixed(self, photos: Int[Tensor, " batch"]) -> Noise:
        """The noise from which the generators have to make these photos."""
        keys = row_keys(self.seed, 0, photos)
        return lambda scale: normal(derive(keys, scale), self.sides[scale] ** 2).view(-1, 1, *2 * (self.sides[scale],))

    def start(self, scale: int) -> None:
        """Begin with the weights of the scale below, and with noise as strong as a part of what is still to be made."""
        if self.widths[scale] == self.widths[scale - 1]:
            for networks in (self.generators, self.discriminators):
                networks[scale].load_state_dict(networks[scale - 1].state_dict())
        differences = []
        with evaluating(self), torch.no_grad():
            for batch in self.training_images():
                images = self.signed(batch.image)
                before, _ = self.inputs(scale, self.fixed(batch.index))
                differences.append((resized(images, self.sides[scale]) - before).abs().mean(dim=(1, 2, 3)))
        self.strengths[scale] = self.noise * torch.cat(differences).mean()

    # Training: the discriminators guess transformations, the generators what they would guess of photos.

    def transformed(self, images: Images) -> Float[Tensor, "copy channel side side"]:
        """All copies of all images, transformation after transformation."""
        copies = transformed(images.repeat(self.copies, 1, 1, 1), self.kinds, of_each(self.states, images), PART)
        if not self.gray:
            return copies
        return torch.where(of_each(self.grays, images)[:, None, None, None], luminance(copies), copies)

    def entropy(self, logits: Logits, fake: bool = False) -> Scalar:
        """Cross entropy of the right transformation, or of the guess that the image was made; mean over all patches."""
        right = of_each(torch.arange(self.copies, device=logits.device), logits[:: self.copies])
        target = torch.full_like(right, self.copies) if fake else right
        places = logits.float().movedim(1, -1)  # flat, for which there is a deterministic kernel on a GPU
        return functional.cross_entropy(places.flatten(0, 2), target[:, None, None].expand(places.shape[:3]).flatten())

    def turns(self, images: Images, stage: int, step: int, random: torch.Generator) -> Iterator[Turn]:
        """Steps of the discriminator, each on new noise, then as many of the generator on the last of it."""
        self.generators[:stage].eval()
        generator, discriminator = self.generators[stage], self.discriminators[stage]
        real = resized(images, self.sides[stage])
        copies = self.transformed(real)
        with torch.no_grad():
            inputs = fixed = self.inputs(stage, self.fixed(self.photos))
        for _ in range(self.steps):
            with torch.no_grad(), batch_statistics(generator):
                inputs = self.inputs(stage, self.drawn(len(images), random))
                made = generator(*inputs).float()
            on_real = self.entropy(discriminator(copies))
            on_made = self.entropy(discriminator(self.transformed(made)), fake=True)
            yield Turn("discriminator", on_real + on_made, {"real": on_real, "fake": on_made})
        for _ in range(self.steps):
            made = generator(*inputs).float()
            with batch_statistics(discriminator):
                passes = self.entropy(discriminator(self.transformed(made)))
            rebuilt = (generator(*fixed).float() - real).square().mean()
            loss = passes + self.reconstruction_weight * rebuilt
            yield Turn("generator", loss, {"adversarial": passes, "reconstruction": rebuilt})

    def validation_losses(self, images: Images, stage: int, random: torch.Generator) -> dict[str, Scalar]:
        """How hard it is to guess how a held-out image was transformed."""
        real = resized(images, self.sides[stage])
        return {"loss": self.entropy(self.discriminators[stage](self.transformed(real)))}

    # Votes: how probable the right guesses are.

    def guesses(self, images: Images, scale: int) -> Right:
        """The probability of the right transformation at each patch of each copy, among all transformations."""
        logits = self.discriminators[scale](self.transformed(resized(images, self.sides[scale]))).float()
        probabilities = logits[:, : self.copies].softmax(dim=1).unflatten(0, (self.copies, -1))
        return probabilities.diagonal(dim1=0, dim2=2).permute(3, 0, 1, 2)

    def all_guesses(self, images: Images) -> list[Right]:
        """Those at all scales, of images in [0, 1]."""
        signed = self.signed(images)
        return [self.guesses(signed, scale) for scale in range(len(self.sides))]

    def votes(self, right: Right) -> Float[Tensor, " batch"]:
        """The mean over the patches, or the worst of them, added over the transformations: 1 if all are alike."""
        patches = right.flatten(2)
        count = max(int(patches.shape[2] * self.worst), 1)
        return patches.topk(count, dim=2, largest=False).values.mean(dim=2).sum(dim=0)

    def placed_back(self, right: Right) -> Float[Tensor, "batch 1 side side"]:
        """The mean over the copies, each turned, shifted and flipped back; patches at the border reach to the edge."""
        whole = functional.pad(right, [BORDER] * 4, mode="replicate")
        moved = undone(whole.flatten(0, 1)[:, None], self.kinds, of_each(self.states, right[0]), PART)
        return moved.unflatten(0, (self.copies, -1)).mean(dim=0)

    def predict(self, images: Images) -> Prediction:
        """Score: minus the mean of the votes over the scales. Map: the mean probability of wrong guesses."""
        right = self.all_guesses(images)
        votes = (torch.stack([self.votes(each) for each in right]) - self.low) / (self.high - self.low)
        maps = [resized(self.placed_back(each), self.image_size) for each in right]
        return Prediction(1 - torch.stack(maps).mean(dim=0), -votes.mean(dim=0), None)

    def conclude(self, images: Iterable[Batch]) -> None:
        """The range of the votes of the training images at each scale."""
        if not self.normalise:
            return
        votes = [torch.stack([self.votes(right) for right in self.all_guesses(batch.image)]) for batch in images]
        every = torch.cat(votes, dim=1)
        self.low.copy_(every.amin(dim=1, keepdim=True))
        span = every.amax(dim=1, keepdim=True) - self.low
        self.high.copy_(self.low + torch.where(span > 0, span, 1))  # one photo has no range

    def samples(self, images: Images) -> Images:
        """As many images in [0, 1], from noise that stays the same."""
        noise = self.drawn(len(images), self.random_at("samples"), alone=True)
        return unsigned(self.generated(len(self.sides) - 1, noise)).clamp(0, 1)

    # Stages.

    def stage_ends(self) -> tuple[int, ...]:
        """As many epochs for each scale, up to one."""
        epochs, scales = self.trainer.max_epochs or 1, len(self.sides)
        return tuple(epochs * (scale + 1) // scales for scale in range(scales))

    def check_training(self, epochs: int, painted: bool) -> None:
        """Refuse a training that has no room for all scales."""
        if epochs < len(self.sides):
            raise UserError(
                f"budget.epochs: expected at least {len(self.sides)}, one for each of method.scales, found {epochs}"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Before its first step a scale starts from the one below."""
        if self.stage and batch_idx == 0 and self.current_epoch == self.stage_ends()[self.stage - 1]:
            self.start(self.stage)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Scalar]:
        """A step that knows the photos."""
        self.photos = batch.index
        return super().training_step(batch, batch_idx)

    def rehearse(self, batch: Batch) -> Scalar:
        """A step of a scale in the middle, which costs what they do in the mean."""
        self.photos = batch.index
        return super().rehearse(batch, len(self.sides) // 2)


def of_each(values: Tensor, images: Tensor) -> Tensor:
    """What belongs to the transformations, for all copies of the images."""
    count = images.shape[0]  # len() would fix the batch of a graph
    return values[:, None].expand(-1, count, *values.shape[1:]).flatten(0, 1)


def chosen(
    kinds: Sequence[str], gray: bool
) -> tuple[Int[Tensor, "transformation kind"], Bool[Tensor, " transformation"]]:
    """The states of all transformations, and which of them are gray: of all kinds 54, and 42 without gray.

    As in the authors' code, what is shifted to the left or upwards is not turned, and what is gray is either not
    shifted, or shifted along one axis and nothing else.
    """
    coloured, grays = [], []
    for row in combinations(kinds):
        state = dict(zip(kinds, row.tolist(), strict=True))
        shifts = state.get("shift_x", 0), state.get("shift_y", 0)
        if 1 not in shifts or not state.get("turn"):
            coloured.append(row)
        if gray and (not any(shifts) or (0 in shifts and not state.get("flip") and not state.get("turn"))):
            grays.append(row)
    return torch.stack(coloured + grays), torch.arange(len(coloured) + len(grays)) >= len(coloured)
