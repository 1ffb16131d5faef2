"""Statistics of a training set: reference energies, energy shift, force scale, mean number of neighbours."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from equinet.graph.atomic_graph import AtomicGraph

from .composition import FAR_FROM_FIT, SPREADS, composition, deviations, fit_to_composition, spanning_compositions
from .frames import CheckedLabels, find_labels, require_elements, source, weight_of, with_labels
from .plausible import ABSURD_E0S, FORCE_OUTLIER, absurd_references, force_outlier, without_tail

LEAST_SQUARES = "least squares over the training energies"
SMALLEST_SCALE = 1e-3  # eV


@dataclass(frozen=True)
class Statistics:
    """Numbers that put a fresh potential at the right energy, all in float64.

    Attributes:
        elements: Atomic numbers, ascending.
        reference: E0 of each element in eV.
        reference_origin: Source of the reference energies, in words.
        shift: Mean interaction energy of an atom of each element, in eV.
        scale: Root mean square of a force component on atoms of each element, in eV/Å, used as the unit of energy. A few components far
            beyond all others (ten times the 99th percentile) count as that much. Without forces, or if all are zero by symmetry, the
            spread of the interaction energies per atom in eV.
        avg_num_neighbors: Edges per atom.
        scale_origin: What the scale was taken from: "forces", or why not: "no forces", "forces all zero".
        compositions: Compositions that determine sums of the reference energies but not each, see
            :func:`equinet.datasets.composition.spanning_compositions`; empty if every reference energy is determined.
    """

    elements: tuple[int, ...]
    reference: tuple[float, ...]
    reference_origin: str
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    avg_num_neighbors: float
    scale_origin: str = "forces"
    compositions: tuple[Mapping[str, int], ...] = ()


@dataclass(frozen=True)
class _Energies:
    """Energies of the frames that have one and a weight.

    Attributes:
        counts: Atoms of each element, ``(frames, elements)``.
        energies: Total or interaction energies in eV, ``(frames,)``.
        weights: Weights of the energies, ``(frames,)``.
    """

    counts: NDArray[np.float64]
    energies: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, frames: Sequence[Atoms], elements: Sequence[int]) -> _Energies:
        taken = [atoms for atoms in frames if "energy" in atoms.calc.results and weight_of(atoms, "energy") > 0]
        return cls(
            composition(taken, elements),
            np.array([atoms.calc.results["energy"] for atoms in taken], dtype=np.float64),
            np.array([weight_of(atoms, "energy") for atoms in taken], dtype=np.float64),
        )

    def less(self, reference: Sequence[float]) -> _Energies:
        """Interaction energies."""
        return _Energies(self.counts, self.energies - self.counts @ np.array(reference), self.weights)

    @property
    def per_atom(self) -> NDArray[np.float64]:
        return self.energies / self.counts.sum(axis=1)

    def ordinary(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energies per atom of all but outliers, their tail moved in, and the weights."""
        away, spread = deviations(self.counts, self.energies, self.weights)
        kept = np.abs(away) <= max(SPREADS * spread, FAR_FROM_FIT)
        values = self.per_atom[kept]
        return without_tail(values, float(np.median(values))), self.weights[kept]


def reference_energies(
    frames: Sequence[Atoms],
    isolated: Sequence[Atoms],
    elements: Sequence[int],
    choice: str | Mapping[str, float] = "auto",
) -> tuple[list[float], str]:
    """E0 of every element, in eV, and where they come from in words.

    Args:
        frames: Training frames without isolated atoms.
        isolated: Isolated-atom frames; those of weight 0 do not count.
        elements: Atomic numbers wanted.
        choice: ``"isolated"`` takes the isolated-atom frames, ``"least_squares"`` the composition's best fit to the total
            energies (:func:`equinet.datasets.composition.fit_to_composition`), ``"auto"`` the first if there is any such frame and else the second; or a table ``{"H": -13.6, ...}``.

    Raises:
        ValueError: If an element has no reference energy, or two frames of one element disagree.
    """
    if isinstance(choice, Mapping):
        strange = [symbol for symbol in choice if symbol not in atomic_numbers]
        if strange:
            raise ValueError(f"`data.e0s` names {', '.join(strange)}, which is no chemical element")
        table = {atomic_numbers[symbol]: float(value) for symbol, value in choice.items()}
        return _from_table(table, elements, "a table", frames)
    isolated = [atoms for atoms in isolated if atoms.info["weight"] > 0]
    if choice == "auto":
        choice = "isolated" if isolated else "least_squares"
    if choice == "isolated":
        table = {}
        for atoms in isolated:
            energy = atoms.calc.results.get("energy")
            if energy is None:
                raise ValueError(f"{source(atoms)}: an isolated atom without an energy; give it one or remove it")
            z = int(atoms.numbers[0])
            if abs(table.setdefault(z, energy) - energy) > 1e-4:
                raise ValueError(
                    f"{source(atoms)}: isolated {chemical_symbols[z]} has {energy} eV, an earlier frame {table[z]} eV; keep one"
                )
        return _from_table(table, elements, "isolated atoms", frames)
    if choice != "least_squares":
        raise ValueError(f'`data.e0s` must be "auto", "isolated", "least_squares" or a table, got {choice!r}')
    labelled = _Energies.of(frames, elements)
    return fit_to_composition(labelled.counts, labelled.energies, labelled.weights).tolist(), LEAST_SQUARES


def _from_table(
    table: Mapping[int, float], elements: Sequence[int], origin: str, frames: Sequence[Atoms]
) -> tuple[list[float], str]:
    missing = [z for z in elements if z not in table]
    if missing:
        first = next((source(atoms) for atoms in frames if missing[0] in atoms.numbers), "the data")
        raise ValueError(
            f"no reference energy for {', '.join(chemical_symbols[z] for z in missing)} (first seen in {first}); {origin} gave "
            f"{', '.join(chemical_symbols[z] for z in table) or 'none'}. Add isolated-atom frames for the missing elements, give "
            'a full table in `data.e0s`, or set `data.e0s = "least_squares"`'
        )
    return [table[z] for z in elements], origin


def measure(
    frames: Sequence[Atoms],
    isolated: Sequence[Atoms],
    graphs: Sequence[AtomicGraph],
    *,
    e0s: str | Mapping[str, float] = "auto",
    per_element: bool = False,
    accept: Collection[str] = (),
) -> Statistics:
    """Statistics of a training set, in which every frame counts as its weight says.

    Args:
        frames: Training frames without isolated atoms.
        isolated: Isolated-atom frames.
        graphs: The graphs of ``frames``.
        e0s: See :func:`reference_energies`.
        per_element: Shift and scale of each element by itself instead of one for all.
        accept: Faults to let pass, of ``"e0s"`` and ``"forces-outlier"``.

    Raises:
        ValueError: If there are no edges, an element has no reference energy, an atom is of no element, a force is out of all
            proportion to the others, or the reference energies are absurd against the labels.
    """
    for atoms in (*frames, *isolated):
        require_elements(atoms)
    frames, isolated = (
        [a if isinstance(a.calc, CheckedLabels) else with_labels(a, find_labels(a)) for a in part]
        for part in (frames, isolated)
    )
    if FORCE_OUTLIER not in accept and (fault := force_outlier(frames)):
        raise ValueError(f"{source(fault[0])}: {fault[1]}")
    elements = tuple(sorted({int(z) for atoms in frames for z in atoms.numbers}))
    neighbors = _neighbors(frames, graphs)
    reference, origin = reference_energies(frames, isolated, elements, e0s)
    total = _Energies.of(frames, elements)
    interaction = total.less(reference)
    values = ", ".join(f"{chemical_symbols[z]} {energy:.6g}" for z, energy in zip(elements, reference))
    reason = absurd_references(interaction.per_atom, interaction.weights, f"{values} eV, from {origin}")
    if reason and ABSURD_E0S not in accept:
        raise ValueError(reason)
    scale, scale_origin = _scale(frames, elements, interaction, per_element)
    spanning = spanning_compositions(total.counts, elements) if origin == LEAST_SQUARES and len(total.energies) else []
    return Statistics(
        elements=elements,
        reference=tuple(reference),
        reference_origin=origin,
        shift=_shift(interaction, per_element),
        scale=scale,
        avg_num_neighbors=neighbors,
        scale_origin=scale_origin,
        compositions=tuple(spanning) if len(spanning) < len(elements) else (),
    )


def _neighbors(frames: Sequence[Atoms], graphs: Sequence[AtomicGraph]) -> float:
    """Edges per atom."""
    weights = [float(atoms.info["weight"]) for atoms in frames]
    edges = sum(weight * graph.edge_index.shape[1] for weight, graph in zip(weights, graphs, strict=True))
    nodes = sum(weight * graph.num_nodes for weight, graph in zip(weights, graphs, strict=True))
    if edges == 0:
        raise ValueError(
            f"no two atoms of the {len(frames)} training frames are within the cutoff, so there is nothing to learn from; "
            "raise `model.cutoff` or check that positions are in Å"
        )
    return edges / nodes


def _shift(interaction: _Energies, per_element: bool) -> tuple[float, ...]:
    """Mean interaction energy of an atom of each element."""
    count = interaction.counts.shape[1]
    if not len(interaction.energies):
        # Without a single energy the interaction is not known, and zero is the only guess that is not wrong by the references.
        return (0.0,) * count
    if per_element:
        return tuple(fit_to_composition(interaction.counts, interaction.energies, interaction.weights).tolist())
    values, weights = interaction.ordinary()
    return (float(np.average(values, weights=weights)),) * count


def _scale(
    frames: Sequence[Atoms], elements: Sequence[int], interaction: _Energies, per_element: bool
) -> tuple[tuple[float, ...], str]:
    """Unit of energy of each element, and what it was taken from."""
    with_forces = [atoms for atoms in frames if "forces" in atoms.calc.results and weight_of(atoms, "forces") > 0]
    if not with_forces:  # the spread of the energies per atom is the best unit there is
        return (max(_spread(interaction), SMALLEST_SCALE),) * len(elements), "no forces"
    forces = np.concatenate([atoms.calc.results["forces"] for atoms in with_forces])
    weights = np.concatenate([np.full(len(atoms), weight_of(atoms, "forces")) for atoms in with_forces])
    numbers = np.concatenate([atoms.numbers for atoms in with_forces])
    overall = _size(forces, weights)
    if overall == 0:  # by symmetry, as in curves of energy against volume, or because they were never computed
        if (spread := _spread(interaction)) < SMALLEST_SCALE:
            raise ValueError(
                "all training forces are zero, and the energies per atom do not differ either; a model cannot learn from them, check "
                "`data.forces_key`"
            )
        return (spread,) * len(elements), "forces all zero"
    if not per_element:
        return (overall,) * len(elements), "forces"
    scales = []
    for z in elements:
        own = numbers == z
        scales.append((_size(forces[own], weights[own]) if own.any() else 0.0) or overall)
    return tuple(scales), "forces"


def _spread(interaction: _Energies) -> float:
    """Standard deviation of the interaction energies per atom; 0 if there are none."""
    if not len(interaction.energies):
        return 0.0
    values, weights = interaction.ordinary()
    mean = np.average(values, weights=weights)
    return float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))


def _size(forces: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Root mean square of the components, on which a few far beyond all others have little influence."""
    return float(np.sqrt(np.average(without_tail(forces.ravel()) ** 2, weights=np.repeat(weights, 3))))
