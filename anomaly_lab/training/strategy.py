"""How the processes of a run share a method: Lightning's DDP, for methods that it does not fit too."""

from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer


class DDP(DDPStrategy):
    """Data parallel training of any method.

    PyTorch's wrapper takes one loss and one gradient for every weight, and refuses or waits for ever otherwise. So it
    is for methods that Lightning optimises. Methods that step their optimizers themselves stay as they are: after each
    backward pass the gradients of the weights that it was for are averaged. Those without trainable weights meet when
    they bring their statistics together.
    """

    def configure_ddp(self) -> None:
        """Wrap the method where one loss gives every weight its gradient; else only start from the same weights."""
        assert self.lightning_module is not None
        trainable = any(parameter.requires_grad for parameter in self.lightning_module.parameters())
        if trainable and self.lightning_module.automatic_optimization:
            super().configure_ddp()
        elif trainable:
            broadcast([*self.lightning_module.parameters(), *self.lightning_module.buffers()])

    def on_validation_start(self) -> None:
        """Judge by the buffers of the first process, as the checkpoint will: batch norm has seen its own share only."""
        self._share_buffers()

    def on_train_end(self) -> None:
        """The same for the test."""
        self._share_buffers()

    def _share_buffers(self) -> None:
        assert self.lightning_module is not None
        if not self.lightning_module.automatic_optimization:
            broadcast(list(self.lightning_module.buffers()))

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Go back, and average the gradients over the processes where nobody else does."""
        closure_loss = super().backward(closure_loss, optimizer, *args, **kwargs)
        assert self.lightning_module is not None
        if not self.lightning_module.automatic_optimization:
            weights = kwargs.get("inputs") or [
                weight for weight in self.lightning_module.parameters() if weight.requires_grad
            ]
            average([weight.grad for weight in weights if weight.grad is not None])
        return closure_loss


def broadcast(tensors: list[Tensor]) -> None:
    """Take over what the first process has, in place. Collective."""
    for tensor in tensors:
        torch.distributed.broadcast(tensor.detach(), 0)


def average(gradients: list[Tensor]) -> None:
    """Average gradients over all processes, in place. Collective."""
    sent = [torch.distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
    for work in sent:
        work.wait()
    if gradients:
        torch._foreach_div_(gradients, torch.distributed.get_world_size())
