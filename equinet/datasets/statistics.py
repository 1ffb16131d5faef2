"""Statistics of a training set: reference energies, energy shift, force scale, mean number of neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from equinet.graph.atomic_graph import AtomicGraph

from .frames import (
    CheckedLabels,
    is_isolated_atom,
    labels_of,
    require_elements,
    require_no_outliers,
    source,
    with_labels,
)
from .plausible import without_tail


@dataclass(frozen=True)
class Statistics:
    """Numbers that put a fresh potential at the right energy, all in float64.

    Attributes:
        elements: Atomic numbers, ascending.
        reference: E0 of each element in eV.
        reference_origin: Source of the reference energies, in words.
        shift: Mean interaction energy of an atom of each element, in eV.
        scale: Root mean square of a force component on atoms of each element, in eV/Å, used as the unit of energy. A few components far
            beyond all others (ten times the 99th percentile) count as that much.
        avg_num_neighbors: Edges per atom.
    """

    elements: tuple[int, ...]
    reference: tuple[float, ...]
    reference_origin: str
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    avg_num_neighbors: float


def composition(frames: Sequence[Atoms], elements: Sequence[int]) -> NDArray[np.float64]:
    """Number of atoms of each element in each frame, ``(frames, elements)``."""
    return np.array([[np.count_nonzero(atoms.numbers == z) for z in elements] for atoms in frames], dtype=np.float64)


def reference_energies(
    frames: Sequence[Atoms],
    isolated: Sequence[Atoms],
    elements: Sequence[int],
    choice: str | Mapping[str, float] = "auto",
) -> tuple[list[float], str]:
    """E0 of every element, in eV, and where they come from in words.

    Args:
        frames: Training frames without isolated atoms.
        isolated: Isolated-atom frames.
        elements: Atomic numbers wanted.
        choice: ``"isolated"`` takes the isolated-atom frames, ``"least_squares"`` the composition's best fit to the total
            energies, ``"auto"`` the first if there is any such frame and else the second; or a table ``{"H": -13.6, ...}``.

    Raises:
        ValueError: If an element has no reference energy, or two frames of one element disagree.
    """
    if isinstance(choice, Mapping):
        strange = [symbol for symbol in choice if symbol not in atomic_numbers]
        if strange:
            raise ValueError(f"`data.e0s` names {', '.join(strange)}, which is no chemical element")
        table = {atomic_numbers[symbol]: float(value) for symbol, value in choice.items()}
        return _from_table(table, elements, "a table", frames)
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
    labelled = [atoms for atoms in frames if "energy" in atoms.calc.results]
    energies = np.array([atoms.calc.results["energy"] for atoms in labelled])
    # lstsq gives the smallest solution where the compositions do not determine all elements (one molecule, say)
    solution = (
        np.linalg.lstsq(composition(labelled, elements), energies, rcond=None)[0]
        if labelled
        else np.zeros(len(elements))
    )
    return solution.tolist(), "least squares over the training energies"


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
) -> Statistics:
    """Statistics of a training set.

    Args:
        frames: Training frames without isolated atoms.
        isolated: Isolated-atom frames.
        graphs: The graphs of ``frames``.
        e0s: See :func:`reference_energies`.
        per_element: Shift and scale of each element by itself instead of one for all.

    Raises:
        ValueError: If there are no edges, an element has no reference energy, an atom is of no element, or a force is out of all
            proportion to the others.
    """
    for atoms in (*frames, *isolated):
        require_elements(atoms)
    frames, isolated = (
        [a if isinstance(a.calc, CheckedLabels) else with_labels(a, labels_of(a)) for a in part]
        for part in (frames, isolated)
    )
    require_no_outliers(frames)
    elements = tuple(sorted({int(z) for atoms in frames for z in atoms.numbers}))
    edges = sum(graph.edge_index.shape[1] for graph in graphs)
    nodes = sum(graph.num_nodes for graph in graphs)
    if edges == 0:
        raise ValueError(
            f"no two atoms of the {len(frames)} training frames are within the cutoff, so there is nothing to learn from; "
            "raise `model.cutoff` or check that positions are in Å"
        )
    reference, origin = reference_energies(frames, isolated, elements, e0s)
    labelled = [atoms for atoms in frames if "energy" in atoms.calc.results]
    counts = composition(labelled, elements) if labelled else np.ones((1, len(elements)))
    energies = np.array([atoms.calc.results["energy"] for atoms in labelled]) if labelled else np.zeros(1)
    # Without a single energy the interaction is not known, and zero is the only guess that is not wrong by the references.
    interaction = energies - counts @ np.array(reference) if labelled else np.zeros(1)
    if per_element:
        shift = np.linalg.lstsq(counts, interaction, rcond=None)[0]
    else:
        per_atom = interaction / counts.sum(axis=1)
        shift = np.full(len(elements), float(np.mean(without_tail(per_atom, float(np.median(per_atom))))))
    return Statistics(
        elements,
        tuple(reference),
        origin,
        tuple(shift.tolist()),
        _force_scale(frames, elements, interaction, counts, per_element),
        edges / nodes,
    )


def _force_scale(
    frames: Sequence[Atoms],
    elements: Sequence[int],
    interaction: NDArray[np.float64],
    counts: NDArray[np.float64],
    per_element: bool,
) -> tuple[float, ...]:
    with_forces = [atoms for atoms in frames if "forces" in atoms.calc.results]
    if not with_forces:  # energy-only data: the spread of the energies per atom is the best unit there is
        per_atom = interaction / counts.sum(axis=1)
        spread = float(np.std(without_tail(per_atom, float(np.median(per_atom)))))
        return (max(spread, 1e-3),) * len(elements)
    forces = np.concatenate([atoms.calc.results["forces"] for atoms in with_forces])
    numbers = np.concatenate([atoms.numbers for atoms in with_forces])
    overall = _size(forces)
    if overall == 0:
        raise ValueError("all training forces are zero; a model cannot learn from them, check `data.forces_key`")
    if not per_element:
        return (overall,) * len(elements)
    scales = []
    for z in elements:
        own = forces[numbers == z]
        scales.append((_size(own) if len(own) else 0.0) or overall)
    return tuple(scales)


def _size(forces: NDArray[np.float64]) -> float:
    """Root mean square of the components, on which a few far beyond all others have little influence."""
    return float(np.sqrt(np.mean(without_tail(forces.ravel()) ** 2)))


def split_isolated(frames: Sequence[Atoms]) -> tuple[list[Atoms], list[Atoms]]:
    """(ordinary frames, isolated-atom frames)."""
    ordinary: list[Atoms] = []
    isolated: list[Atoms] = []
    for atoms in frames:
        (isolated if is_isolated_atom(atoms) else ordinary).append(atoms)
    return ordinary, isolated
