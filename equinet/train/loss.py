"""Losses of a training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from equinet.datasets.properties import BUILT_IN, PROPERTIES, property_named
from equinet.graph.atomic_graph import AtomicGraph
from equinet.potential import Potential


class Loss:
    r"""Weighted squared errors of every property: energy per atom, force components, stress components, and registered ones.

    .. math:: \mathcal L = \lambda_E \Big\langle w_g \Big(\tfrac{\Delta E_g}{N_g}\Big)^2 \Big\rangle_g
              + \lambda_F \langle w_g \, \Delta F_{i\alpha}^2 \rangle_{i\alpha}
              + \lambda_\sigma \langle w_g \, \Delta \sigma_{g,\alpha\beta}^2 \rangle_{g\alpha\beta} + \ldots

    Each mean runs over the values with a label; frames without it do not count. The weight of a frame multiplies all terms, and a frame may
    have a weight for each term besides.

    Args:
        weights: Weight of each term by property (:mod:`equinet.datasets.properties`), in its unit to the power -2: ``energy``
            (eV/atom)⁻², by default 1; ``forces`` (eV/Å)⁻², by default 100; ``stress`` (eV/Å³)⁻², by default 0.

    Raises:
        ValueError: If there is no such property, a weight is negative, or all are zero.

    Source:
        MACE's ``WeightedEnergyForcesStressLoss``; there the per-frame weight is left out of some variants.
    """

    def __init__(self, **weights: float) -> None:
        defaults = {name: row.loss_weight for name, row in PROPERTIES.items()}
        self.weights = {property_named(name).name: weight for name, weight in {**defaults, **weights}.items()}
        if min(self.weights.values()) < 0 or max(self.weights.values()) == 0:
            raise ValueError(f"loss weights must not be negative nor all zero, got {self}")

    @property
    def terms(self) -> tuple[str, ...]:
        """Properties that have a weight above zero."""
        return tuple(name for name, weight in self.weights.items() if weight > 0)

    @property
    def needs_stress(self) -> bool:
        """True if the potential must compute the stress."""
        return self.weights.get("stress", 0.0) > 0

    def require_predicted(self, potential: Potential) -> None:
        """Refuse a term that the potential has no prediction for.

        Raises:
            ValueError: Naming the property.
        """
        for name in self.terms:
            if name not in (*BUILT_IN, *potential.model.predicts):
                raise ValueError(
                    f"the loss gives {name} a weight, but {type(potential.model).__name__} does not predict it; set its weight to 0 or "
                    "choose a model whose `predicts` names it"
                )

    def __call__(self, prediction: Mapping[str, Tensor], graph: AtomicGraph) -> Float[Tensor, ""]:
        """The loss of a batch.

        Args:
            prediction: Output of the potential; must hold every property named by :attr:`terms`.
            graph: Batch with labels; NaN where a frame has none.
        """
        total = torch.zeros((), dtype=torch.float64, device=graph.energy.device)
        for term in self.terms:
            row, label, weight = PROPERTIES[term], graph[term], label_weight(graph, term)
            error = prediction[term].double() - label
            if row.extensive:
                error = error / graph.atoms_per_graph
            if row.per == "atom":
                weight = weight[graph.graph_of_node]
            total = total + self.weights[term] * _weighted_mean_square(error, weight, ~label.isnan())
        return total

    def __repr__(self) -> str:
        return f"Loss({', '.join(f'{name}={weight:g}' for name, weight in self.weights.items())})"


def label_weight(graph: AtomicGraph, name: str) -> Float[Tensor, " graphs"]:
    """Weight of one label of each structure: that of the frame times that of the term; 1 for each that a graph made by hand lacks."""
    weight = torch.ones(graph.graph_count, dtype=torch.float64, device=graph.positions.device)
    for factor in ("weight", f"{name}_weight"):
        if factor in graph:
            weight = weight * graph[factor]
    return weight


def _weighted_mean_square(
    error: Float[Tensor, "n ..."], weight: Float[Tensor, " n"], labelled: Bool[Tensor, "n ..."]
) -> Float[Tensor, ""]:
    weight = weight.reshape(-1, *[1] * (error.dim() - 1)).expand_as(error)
    count = labelled.sum().clamp(min=1)
    # where, not multiplication: NaN times zero would be NaN, in the gradient too
    return torch.where(labelled, weight * torch.where(labelled, error, 0.0) ** 2, 0.0).sum() / count
