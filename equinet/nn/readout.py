"""From features to the energy of an atom."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .radial import RadialMLP

# A fresh potential begins close to the mean energy; what it adds of its own is noise that training must first undo.
START = 0.3


class Readout(nn.Module):
    """Energy of each node from the scalars of its features, in units of the energy scale.

    Args:
        channels: Channels of the features.
        hidden: Width of the hidden layer; 0 for a linear readout.
        biases: Two hidden layers of that width, and biases.
    """

    def __init__(self, channels: int, hidden: int = 0, *, biases: bool = False) -> None:
        super().__init__()
        widths = [hidden] * (1 + biases) if hidden else []
        self.network = RadialMLP([channels, *widths, 1], biases=biases and hidden > 0)
        with torch.no_grad():
            self.network.weights[0].mul_(START)

    def forward(self, node_feats: Float[Tensor, "nodes dim channels"]) -> Float[Tensor, " nodes"]:
        return self.network(node_feats[:, 0]).squeeze(1)
