"""What a network with weights of others has in common, whichever library builds it. Imports none of these libraries."""

from abc import abstractmethod

from torch import nn


class PretrainedNetwork(nn.Module):
    """A network whose weights come from a file or a hub: `load` reads them, once."""

    name: str
    layers: tuple[str, ...]  # whose maps it gives, the deepest last
    trainable: bool  # False: it stays as it is

    @abstractmethod
    def load(self) -> list[str]:
        """Read the weights, unless they are there already, and name the tensors of the file that are not used."""
