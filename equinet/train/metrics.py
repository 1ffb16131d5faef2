"""Errors, defined once: what the progress line, the final table, `equinet evaluate` and the papers' tables call by one name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equinet.datasets.properties import BUILT_IN, PROPERTIES
from equinet.graph.atomic_graph import AtomicGraph
from equinet.potential import Potential

from .loss import label_weight


@dataclass
class Errors:
    """Mean absolute and root-mean-square errors over a set of frames, in the units that the table of properties shows.

    Energies are per atom; a force or stress error is that of one component. Properties without labels are NaN.

    Attributes:
        mae: Mean absolute errors by property: ``energy`` (meV/atom), ``forces`` (meV/Å), ``stress`` (meV/Å³), and registered ones.
        rmse: Root-mean-square errors, likewise.
        spread: Root-mean-square deviation of the labels from their mean or, of forces, from zero, same units: the score of a
            model that knows only the mean.
        norm: Mean norms of the errors of vectors and tensors, likewise; of a number its mean absolute error.
        largest: Largest absolute errors, likewise.
        frames: Number of frames.
        atoms: Number of atoms.
    """

    mae: dict[str, float] = field(default_factory=dict)
    rmse: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    norm: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    frames: int = 0
    atoms: int = 0

    def as_json(self) -> dict[str, float | None]:
        """``{"energy_mae_mev_per_atom": ..., "energy_rmse_mev_per_atom": ..., "forces_mae_mev_per_ang": ..., ...}``.

        None where there are no labels (JSON knows no NaN).
        """
        return {
            f"{name}_{kind}_{PROPERTIES[name].suffix}": value
            if math.isfinite(value := getattr(self, kind)[name])
            else None
            for name in self.mae
            for kind in ("mae", "rmse")
        }


@dataclass
class Predictions:
    """Labels and predictions side by side, NaN without label; what a parity plot shows.

    Attributes:
        pairs: (label, prediction) by property: energies per atom relative to the references, flat, in the units of the table.
        weights: Weight of each value in the loss, by property, flat.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    weights: dict[str, Tensor] = field(default_factory=dict)


def predict(
    potential: Potential, batches: Iterable[AtomicGraph], *, stress: bool, advance: Callable[[], None] = lambda: None
) -> Predictions:
    """Labels and predictions of all frames.

    Energies are interaction energies per atom (total minus references), so that compositions can be compared.

    Args:
        potential: Used in ``eval`` mode; its mode is put back.
        batches: Labelled graphs.
        stress: True to compute stress.
        advance: Called after every batch.
    """
    was_training = potential.training
    potential.eval()
    shown = (*BUILT_IN, *potential.model.predicts)
    found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in shown}
    try:
        for graph in batches:
            graph = graph.to(potential.device)
            output = potential(graph, stress=stress)
            for name in shown:
                if name in output and name in graph:
                    label, prediction = (
                        _comparable(value, name, graph, potential) for value in (graph[name], output[name])
                    )
                    found[name].append((label, prediction, _weights(name, graph)))
            advance()
    finally:
        potential.train(was_training)
    empty = torch.zeros(0, dtype=torch.float64)
    joined = {
        name: [torch.cat([part[n] for part in parts] or [empty]).cpu() for n in range(3)]
        for name, parts in found.items()
    }
    return Predictions(
        {name: (label, prediction) for name, (label, prediction, _) in joined.items()},
        {name: weight for name, (_, _, weight) in joined.items()},
    )


def _comparable(value: Tensor, name: str, graph: AtomicGraph, potential: Potential) -> Tensor:
    """Flat values in float64, those of an extensive property per atom and without references."""
    row, value = PROPERTIES[name], value.double()
    if row.from_references:
        of_atom = potential.scale.reference[potential.species(graph.atomic_numbers)]
        value = value - torch.zeros_like(graph.energy).index_add(0, graph.graph_of_node, of_atom)
    if row.extensive:
        value = value / graph.atoms_per_graph
    return value.flatten()


def _weights(name: str, graph: AtomicGraph) -> Tensor:
    """Weight in the loss of each of the values that :func:`_comparable` gives."""
    label, weight = graph[name], label_weight(graph, name)
    if PROPERTIES[name].per == "atom":
        weight = weight[graph.graph_of_node]
    return weight.reshape(-1, *[1] * (label.dim() - 1)).expand_as(label).flatten()


def mean_squares(predictions: Predictions) -> dict[str, float]:
    """Weighted mean squares of the errors by property, in units of the table, as the loss has them; NaN without labels."""
    result = {}
    for name, (label, prediction) in predictions.pairs.items():
        there = ~label.isnan()
        result[name] = float((predictions.weights[name] * (prediction - label).square())[there].mean())
    return result


def errors(predictions: Predictions) -> Errors:
    """Errors of a set of predictions.

    Raises:
        FloatingPointError: If a prediction that has a label is not finite.
    """
    forces = predictions.pairs.get("forces")
    result = Errors(
        frames=len(predictions.pairs["energy"][0]), atoms=0 if forces is None else len(forces[0].view(-1, 3))
    )
    for name, (label, prediction) in predictions.pairs.items():
        there = ~label.isnan()
        label, difference = label[there], (prediction - label)[there]
        if not difference.isfinite().all():
            count = int((~difference.isfinite()).sum())
            raise FloatingPointError(
                f"{count} of {len(label)} predictions of {name} are not finite; the model is broken. If it is still training, lower "
                "`train.learning_rate`"
            )
        if len(label) == 0:
            for values in (result.mae, result.rmse, result.spread, result.norm, result.largest):
                values[name] = math.nan
            continue
        row = PROPERTIES[name]
        result.mae[name] = row.factor * float(difference.abs().mean())
        result.rmse[name] = row.factor * float(difference.square().mean().sqrt())
        result.norm[name] = row.factor * float(difference.view(-1, math.prod(row.shape)).norm(dim=1).mean())
        result.largest[name] = row.factor * float(difference.abs().max())
        centre = label.mean() if row.centred else 0.0
        result.spread[name] = row.factor * float((label - centre).square().mean().sqrt())
    return result
