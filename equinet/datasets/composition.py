"""Energies as sums over the elements of a composition: robust least squares, and what a set of compositions determines."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from .frames import source

FEWEST = 5  # frames among which one can be told from the others
STEPS = 30  # of the iteration for the smallest sum of absolute residuals; it needs about ten
CONVERGED = 1e-6  # eV/atom
SPREADS = 25.0  # robust standard deviations; a normal distribution ends at 6, sets of compressed frames at 20
FAR_FROM_FIT = 5.0  # eV/atom beyond which an outlier does not take part in a fit


class UndeterminedReferences(UserWarning):
    """Warning about energies of compositions on which the training set of a model says nothing."""


def composition(frames: Sequence[Atoms], elements: Sequence[int]) -> NDArray[np.float64]:
    """Number of atoms of each element in each frame, ``(frames, elements)``."""
    return np.array([[np.count_nonzero(atoms.numbers == z) for z in elements] for atoms in frames], dtype=np.float64)


def fit_to_composition(
    counts: NDArray[np.float64], energies: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    r"""Energy of each element by weighted least squares over total energies, without outliers.

    .. math:: \min_e \sum_g w_g \Big(E_g - \sum_z N_{gz} e_z\Big)^2

    Frames that :func:`deviations` finds more than 25 spreads and 5 eV/atom from the others are left out. Where the compositions do not
    determine all elements, the solution nearest to one that gives every atom the same energy is taken, so that an element has no energy
    that no atom has.

    Args:
        counts: Atoms of each element, ``(frames, elements)``.
        energies: Energies in eV, ``(frames,)``.
        weights: Weights of the frames, ``(frames,)``; those of weight 0 do not count.

    Returns:
        Energies of the elements in eV; zero for all if there are no frames.
    """
    if not weights.any():
        return np.zeros(counts.shape[1])
    away, spread = deviations(counts, energies, weights)
    used = (weights > 0) & (np.abs(away) <= max(SPREADS * spread, FAR_FROM_FIT))
    counts, energies, root = counts[used], energies[used], np.sqrt(weights[used])
    solution, _, rank, _ = np.linalg.lstsq(root[:, None] * counts, root * energies, rcond=None)
    if rank == counts.shape[1]:
        return np.asarray(solution)
    sizes = counts.sum(axis=1)
    same = float((root**2 * sizes) @ energies / ((root**2 * sizes) @ sizes))
    rest = np.linalg.lstsq(root[:, None] * counts, root * (energies - same * sizes), rcond=None)[0]
    return np.asarray(same + rest)


def deviations(
    counts: NDArray[np.float64], energies: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Energy per atom of each frame less that of a robust fit to the composition, and the robust spread of these numbers.

    The fit has the smallest sum of absolute residuals per atom (iteratively reweighted least squares), on which a few frames have no
    influence, however far out they are.

    Args:
        counts: Atoms of each element, ``(frames, elements)``.
        energies: Energies in eV, ``(frames,)``.
        weights: Weights of the frames, ``(frames,)``.

    Returns:
        Deviations in eV/atom ``(frames,)`` about a median of zero, and 1.4826 times the median of their sizes, which is the standard
        deviation of a normal distribution. Zeros where so few frames have a weight that none can be told from the others.

    Source:
        P. J. Huber, Robust Statistics, Wiley 1981, chapters 5 (median absolute deviation) and 7 (regression).
    """
    if np.count_nonzero(weights) < FEWEST:
        return np.zeros(len(energies)), 0.0
    sizes = counts.sum(axis=1)
    rows, values = counts / sizes[:, None], energies / sizes
    values = values - rows @ np.linalg.lstsq(np.sqrt(weights)[:, None] * rows, np.sqrt(weights) * values, rcond=None)[0]
    residual = values
    for _ in range(STEPS):
        # Residuals far below the typical one count alike, or the iteration would stay where one frame fits exactly.
        floor = max(1e-3 * _weighted_median(np.abs(residual), weights), 1e-9)
        pull = (weights / np.maximum(np.abs(residual), floor))[:, None] * rows
        before, residual = residual, values - rows @ np.linalg.lstsq(pull.T @ rows, pull.T @ values, rcond=1e-12)[0]
        if np.abs(residual - before).max() < CONVERGED:
            break
    away = residual - _weighted_median(residual, weights)
    return away, 1.4826 * _weighted_median(np.abs(away), weights)


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Number below which half of the weight lies; of an even number of equal weights the mean of the two in the middle."""
    values, weights = values[weights > 0], weights[weights > 0]
    if (weights == weights[0]).all():
        return float(np.median(values))  # without sorting
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights[order].sum()
    low, high = (int(np.searchsorted(reached, 0.5 + side * 1e-12)) for side in (-1, 1))
    return float(values[order[low]] + values[order[min(high, len(order) - 1)]]) / 2


def spanning_compositions(counts: NDArray[np.float64], elements: Sequence[int]) -> list[dict[str, int]]:
    """Compositions of a set from which all others of it can be put together, the smallest first; as few as there can be.

    Args:
        counts: Atoms of each element, ``(frames, elements)``.
        elements: Atomic numbers.

    Returns:
        Numbers of atoms by symbol, without common factors. As many as there are elements if the set determines the energy of each.

    >>> spanning_compositions(np.array([[4.0, 2.0], [2.0, 1.0]]), (1, 8))
    [{'H': 2, 'O': 1}]
    """
    unique = np.unique(counts.astype(np.int64), axis=0)
    reduced = np.unique(unique // np.gcd.reduce(unique, axis=1, keepdims=True), axis=0)
    taken: list[NDArray[np.int64]] = []
    for row in reduced[np.argsort(reduced.sum(axis=1), kind="stable")]:
        if len(taken) < counts.shape[1] and np.linalg.matrix_rank(np.array([*taken, row])) > len(taken):
            taken.append(row)
    return [{chemical_symbols[z]: int(n) for z, n in zip(elements, row) if n} for row in taken]


def undetermined(compositions: Sequence[Mapping[str, int]]) -> str:
    """Sentence about the reference energies that a set of spanning compositions does determine.

    >>> undetermined([{"H": 2, "O": 1}])
    'all training frames have H:O = 2:1, which determines 2 E0(H) + E0(O) and neither E0 alone'
    """
    if len(compositions) == 1:
        (one,) = compositions
        total = " + ".join(f"{n if n > 1 else ''} E0({symbol})".strip() for symbol, n in one.items())
        ratio = f"{':'.join(one)} = {':'.join(map(str, one.values()))}"
        return f"all training frames have {ratio}, which determines {total} and {'neither' if len(one) == 2 else 'no'} E0 alone"
    formulas = ", ".join("".join(f"{s}{n if n > 1 else ''}" for s, n in one.items()) for one in compositions[:6])
    more = ", ..." if len(compositions) > 6 else ""
    return f"the training frames determine the energies of {formulas}{more} and of what is put together from these, and not each E0"


def warn_if_undetermined(frames: Iterable[Atoms], references: Mapping[str, Any]) -> bool:
    """Warn of the first frame whose composition the reference energies of a model are not determined for.

    Args:
        frames: Structures.
        references: ``references`` of what a model file says of its training; ``compositions`` is empty or absent if all are determined.

    Returns:
        True if a warning was given.
    """
    compositions = references.get("compositions") or []
    if not compositions:
        return False
    symbols = sorted({symbol for one in compositions for symbol in one})
    span = np.array([[one.get(symbol, 0) for symbol in symbols] for one in compositions], dtype=np.float64)
    numbers = [atomic_numbers[symbol] for symbol in symbols]
    for atoms in frames:
        counts = composition([atoms], numbers)[0]
        rest = counts - span.T @ np.linalg.lstsq(span.T, counts, rcond=None)[0]
        if np.abs(rest).max() > 1e-6 * max(len(atoms), 1) or counts.sum() < len(atoms):
            warnings.warn(
                f"{source(atoms)}: {atoms.get_chemical_formula()} is of another composition than what the model was trained on: {undetermined(compositions)}. "
                "Its energy may be off by any amount; only differences between structures of the same composition mean something. "
                "Train with isolated atoms, or with frames of other compositions",
                UndeterminedReferences,
                stacklevel=3,
            )
            return True
    return False


def weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Median of numbers with weights; NaN if all weights are zero."""
    return _weighted_median(values, weights) if weights.any() else math.nan
