"""The strategy for several processes: Lightning's DDP, extended to manual optimisation."""

from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer


class DDP(DDPStrategy):
    """Data-parallel training of any method.

    PyTorch's wrapper expects one loss with a gradient for every weight, and fails or hangs otherwise; it wraps methods
    with automatic optimisation. Methods that step their optimizers themselves are not wrapped: after each backward
    pass the gradients of its weights are averaged. Methods without trainable weights only merge their statistics.
    """

    def configure_ddp(self) -> None:
        """Wrap a method with automatic optimisation; otherwise only broadcast the initial weights."""
        assert self.lightning_module is not None
        trainable = any(parameter.requires_grad for parameter in self.lightning_module.parameters())
        if trainable and self.lightning_module.automatic_optimization:
            super().configure_ddp()
        elif trainable:
            broadcast([*self.lightning_module.parameters(), *self.lightning_module.buffers()])

    def on_validation_start(self) -> None:
        """Use the buffers of the first process, as in the checkpoint: each batch norm has seen only its own share."""
        self._share_buffers()

    def on_train_end(self) -> None:
        """Use the buffers of the first process in the test too."""
        self._share_buffers()

    def _share_buffers(self) -> None:
        assert self.lightning_module is not None
        if not self.lightning_module.automatic_optimization:
            broadcast(list(self.lightning_module.buffers()))

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """The backward pass; averages the gradients over the processes if the method is not wrapped."""
        closure_loss = super().backward(closure_loss, optimizer, *args, **kwargs)
        assert self.lightning_module is not None
        if not self.lightning_module.automatic_optimization:
            weights = kwargs.get("inputs") or [
                weight for weight in self.lightning_module.parameters() if weight.requires_grad
            ]
            average([weight.grad for weight in weights if weight.grad is not None])
        return closure_loss


def broadcast(tensors: list[Tensor]) -> None:
    """Copy the tensors of the first process to all, in place. Collective."""
    for tensor in tensors:
        torch.distributed.broadcast(tensor.detach(), 0)


def average(gradients: list[Tensor]) -> None:
    """Average gradients over all processes, in place. Collective."""
    sent = [torch.distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
    for work in sent:
        work.wait()
    if gradients:
        torch._foreach_div_(gradients, torch.distributed.get_world_size())
