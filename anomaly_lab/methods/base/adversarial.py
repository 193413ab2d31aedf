"""What every method needs that steps several optimizers itself: gradients, learning rates, input it can learn from."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from anomaly_lab.core.errors import UserError
from anomaly_lab.networks.dcgan import learns_from_batches


def descend(method: Any, optimizer: Any, loss: Float[Tensor, ""]) -> None:
    """One step of an optimizer of Lightning's, whatever precision and processes ask for."""
    optimizer.zero_grad()
    method.manual_backward(loss)
    optimizer.step()


def look_at_gradients(method: Any, optimizer: torch.optim.Optimizer, name: str) -> None:
    """Clip the gradients of an optimizer to the norm `gradient_clip`, and log the norm before where it is asked for.

    For `on_before_optimizer_step`, where they are averaged over processes and free of a loss scale.
    """
    if method.gradient_clip is None and not method.log_gradient_norms:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if method.gradient_clip is None:
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    else:
        norm = clip_grad_norm_(parameters, method.gradient_clip)
    if method.log_gradient_norms:
        method.log(f"{name}/gradient_norm", norm, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)


def lower_learning_rates(optimizers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Half a cosine down to zero: set the learning rates for when this share of the training is done, 0 to 1.

    From the place in the run, so that nothing is to be kept. (A scheduler of PyTorch wants the number of steps before
    there is a loader. Lightning then makes one early, and a run resumed in its first epoch starts that epoch's data
    from the beginning.)
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * (1 + math.cos(math.pi * share)) / 2


def refuse_one_image(images: Float[Tensor, "batch channel height width"], method: nn.Module) -> None:
    """Raise UserError for a batch of one, from which a batch norm in training mode learns nothing."""
    if len(images) == 1 and learns_from_batches(method):
        raise UserError(
            "data.batch_size: expected at least 2 images for each process, because batch norm has nothing to learn "
            "from one, found 1; raise data.batch_size (and data.patches)"
        )


def refuse_unlike(**networks: nn.Module) -> None:
    """Raise UserError where networks of a method are for other images or codes than the first of them."""
    (first, one), *others = networks.items()
    for name, other in others:
        for key in ("image_size", "channels", "latent_size"):
            expected, found = getattr(one, key), getattr(other, key, None)
            if found is not None and found != expected:
                raise UserError(f"method.{name}.{key}: expected {expected}, that of method.{first}, found {found}")


def refuse_other_images(images: Float[Tensor, "batch channel height width"], channels: int, side: int) -> None:
    """Raise UserError where a network was built for other images."""
    found, *sides = images.shape[1:]
    if found != channels:
        raise UserError(f"data.channels: expected {channels}, for which the network was built, found images of {found}")
    if sides != [side, side]:
        raise UserError(
            f"data.patch_size: expected {side} px, for which the network was built, found {sides[0]} x {sides[1]}"
        )
