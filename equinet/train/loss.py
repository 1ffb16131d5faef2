"""What training makes small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from equinet.graph.atomic_graph import AtomicGraph


@dataclass(frozen=True, kw_only=True)
class Loss:
    r"""Weighted squared errors of energy per atom, force components and stress components.

    .. math:: \mathcal L = \lambda_E \Big\langle w_g \Big(\tfrac{\Delta E_g}{N_g}\Big)^2 \Big\rangle_g
              + \lambda_F \langle w_g \, \Delta F_{i\alpha}^2 \rangle_{i\alpha}
              + \lambda_\sigma \langle w_g \, \Delta \sigma_{g,\alpha\beta}^2 \rangle_{g\alpha\beta}

    Each mean runs over what carries the label; frames without it do not count. The weight of a frame multiplies all terms.

    Args:
        energy: Weight of the first term, (eV/atom)⁻².
        forces: Weight of the second term, (eV/Å)⁻².
        stress: Weight of the third term, (eV/Å³)⁻².

    Raises:
        ValueError: If a weight is negative, or all are zero.

    Source:
        MACE's ``WeightedEnergyForcesStressLoss``; there the per-frame weight is left out of some variants.
    """

    energy: float = 1.0
    forces: float = 100.0
    stress: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.energy, self.forces, self.stress)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(f"loss weights must not be negative nor all zero, got {self}")

    @property
    def terms(self) -> tuple[str, ...]:
        """Labels that have a weight above zero."""
        return tuple(name for name in ("energy", "forces", "stress") if getattr(self, name) > 0)

    def __call__(self, prediction: Mapping[str, Tensor], graph: AtomicGraph) -> Float[Tensor, ""]:
        """The loss of a batch.

        Args:
            prediction: Output of the potential; must hold every label named by :attr:`terms`.
            graph: Batch with labels; NaN where a frame has none.
        """
        total = torch.zeros((), dtype=torch.float64, device=graph.energy.device)
        for term in self.terms:
            label, weight = getattr(graph, term), graph.weight
            error = prediction[term].double() - label
            if term == "energy":
                error = error / graph.atoms_per_graph
            elif term == "forces":
                weight = weight[graph.graph_of_node]
            total = total + getattr(self, term) * _weighted_mean_square(error, weight, ~label.isnan())
        return total


def _weighted_mean_square(
    error: Float[Tensor, "n ..."], weight: Float[Tensor, " n"], labelled: Bool[Tensor, "n ..."]
) -> Float[Tensor, ""]:
    weight = weight.reshape(-1, *[1] * (error.dim() - 1)).expand_as(error)
    count = labelled.sum().clamp(min=1)
    # where, not multiplication: NaN times zero would be NaN, in the gradient too
    return torch.where(labelled, weight * torch.where(labelled, error, 0.0) ** 2, 0.0).sum() / count
