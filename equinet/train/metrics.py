"""Errors, defined once: what the progress line, the final table, `equinet evaluate` and the papers' tables call by one name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equinet.graph.atomic_graph import AtomicGraph
from equinet.potential import Potential

# quantity -> (attribute of the graph, name in JSON, unit, factor from eV and Å)
QUANTITIES = {
    "energy": ("energy", "mev_per_atom", "meV/atom"),
    "forces": ("forces", "mev_per_ang", "meV/Å"),
    "stress": ("stress", "mev_per_ang3", "meV/Å³"),
}


@dataclass
class Errors:
    """Mean absolute and root-mean-square errors over a set of frames, in meV units.

    Energies are per atom; a force or stress error is that of one component. Quantities without labels are NaN.

    Attributes:
        mae: By quantity: ``energy`` (meV/atom), ``forces`` (meV/Å), ``stress`` (meV/Å³).
        rmse: Likewise.
        spread: Root-mean-square deviation of the labels from their mean (energy) or from zero (forces) or from their mean
            (stress), same units: what a model that knows only the mean would score.
        frames: Number of frames.
    """

    mae: dict[str, float] = field(default_factory=dict)
    rmse: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    frames: int = 0

    def as_json(self) -> dict[str, float | None]:
        """``{"energy_mae_mev_per_atom": ..., "energy_rmse_mev_per_atom": ..., "forces_mae_mev_per_ang": ..., ...}``.

        None where there are no labels (JSON knows no NaN).
        """
        return {
            f"{name}_{kind}_{QUANTITIES[name][1]}": value if math.isfinite(value := getattr(self, kind)[name]) else None
            for name in QUANTITIES
            for kind in ("mae", "rmse")
        }


@dataclass
class Predictions:
    """Labels and predictions side by side, NaN without label; what a parity plot shows.

    Attributes:
        pairs: By quantity (label, prediction): energies per atom relative to the references, flat, in eV units.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]


def predict(
    potential: Potential, batches: Iterable[AtomicGraph], *, stress: bool, advance: Callable[[], None] = lambda: None
) -> Predictions:
    """Labels and predictions of all frames.

    Energies are interaction energies per atom (total minus references), so that compositions can be compared.

    Args:
        potential: Used in ``eval`` mode; its mode is put back.
        batches: Labelled graphs.
        stress: Whether to compute stress.
        advance: Called after every batch.
    """
    was_training = potential.training
    potential.eval()
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in QUANTITIES}
    try:
        for graph in batches:
            graph = graph.to(potential.device)
            output = potential(graph, stress=stress)
            atoms = graph.atoms_per_graph
            reference = torch.zeros_like(graph.energy).index_add(
                0, graph.graph_of_node, potential.scale.reference[potential.species(graph.atomic_numbers)]
            )
            found["energy"].append(((graph.energy - reference) / atoms, (output["energy"] - reference) / atoms))
            found["forces"].append((graph.forces.flatten(), output["forces"].double().flatten()))
            if stress:
                found["stress"].append((graph.stress.flatten(), output["stress"].double().flatten()))
            advance()
    finally:
        potential.train(was_training)
    empty = torch.zeros(0, dtype=torch.float64)
    return Predictions(
        {
            name: (torch.cat([a for a, _ in parts] or [empty]).cpu(), torch.cat([b for _, b in parts] or [empty]).cpu())
            for name, parts in found.items()
        }
    )


def errors(predictions: Predictions) -> Errors:
    """Errors of a set of predictions.

    Raises:
        FloatingPointError: If a prediction that has a label is not finite.
    """
    result = Errors(frames=len(predictions.pairs["energy"][0]))
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
            result.mae[name] = result.rmse[name] = result.spread[name] = math.nan
            continue
        result.mae[name] = 1e3 * float(difference.abs().mean())
        result.rmse[name] = 1e3 * float(difference.square().mean().sqrt())
        centre = 0.0 if name == "forces" else label.mean()
        result.spread[name] = 1e3 * float((label - centre).square().mean().sqrt())
    return result
