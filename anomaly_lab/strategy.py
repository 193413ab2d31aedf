"""How the processes of a run share a method: Lightning's DDP, for methods without a gradient too."""

from pytorch_lightning.strategies import DDPStrategy


class DDP(DDPStrategy):
    """Data parallel training that leaves a method without trainable parameters as it is.

    PyTorch refuses to wrap such a module; its processes meet when they bring their statistics together.
    """

    def configure_ddp(self) -> None:
        """Wrap the method where there are gradients to be averaged."""
        assert self.model is not None
        if any(parameter.requires_grad for parameter in self.model.parameters()):
            super().configure_ddp()
