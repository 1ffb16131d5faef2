"""Forms of MACE's interaction by name, as configurations and ``MACEConfig`` use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from equinet.nn import GatedInteraction, Interaction
from equinet.nn.interaction import Convolving


@dataclass(frozen=True)
class InteractionForm:
    """One form of the interaction.

    Attributes:
        build: Makes the module of an :class:`equinet.nn.InteractionSpec` and the keyword ``normalization``.
        averaged: True if densities are divided by the mean number of neighbours at first, False if by 1.
        pseudotensors: True if features may hold pseudotensors.
    """

    build: Callable[..., Convolving]
    averaged: bool
    pseudotensors: bool = True


INTERACTIONS = {
    "plain": InteractionForm(partial(Interaction, residual=False, density_normalization=False), averaged=True),
    "residual": InteractionForm(partial(Interaction, residual=True, density_normalization=False), averaged=True),
    "density": InteractionForm(partial(Interaction, residual=False, density_normalization=True), averaged=False),
    "density_residual": InteractionForm(
        partial(Interaction, residual=True, density_normalization=True), averaged=False
    ),
    "gated": InteractionForm(GatedInteraction, averaged=False, pseudotensors=False),
}
