"""Pairs of frames with the same atoms in nearly the same places: the difference of their energies is the work of forces and stress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..report.survey import Floats, Ints, Survey

MOST_PAIRS = 4000  # more say nothing new: what is to be told apart differs by a factor of 1.8 and more
MOST_ATOMS = 400_000  # of all pairs, so that large structures cost no more than small ones
LARGEST_STRAIN = 0.12  # beyond it, the mean of two stresses is no longer the stress on the way
SMALL_GROUP = 24  # frames of which every pair is taken


@dataclass(frozen=True, eq=False)
class Pairs:
    r"""Differences along pairs of frames.

    By the trapezoidal rule, exact up to third order in the displacements,

    .. math:: E_2 - E_1 = -\tfrac12 (F_1 + F_2) \cdot u + \tfrac12 (V_1 \sigma_1 + V_2 \sigma_2) : \epsilon

    Attributes:
        frames: ``(pairs, 2)``, numbers of both frames.
        energy: ``(pairs,)``, E2 - E1 in eV.
        forces: ``(pairs,)``, work of the forces, the first term, in eV; NaN where a frame has no forces.
        stress: ``(pairs,)``, work of the stress, the second term, in eV; 0 where both have the same cell, NaN where a frame has none.
        strained: ``(pairs,)``, True where the cells differ.
        displacement: ``(pairs,)``, root mean square of u in Å.
        sizes: ``(pairs,)``, numbers of atoms.
        volume: ``(pairs,)``, mean volume in Å³; NaN without one.
    """

    frames: Ints
    energy: Floats
    forces: Floats
    stress: Floats
    strained: NDArray[np.bool_]
    displacement: Floats
    sizes: Ints
    volume: Floats


def near_pairs(survey: Survey) -> Pairs:
    """Work of forces and stress along pairs of frames with the same atoms, in the same order.

    Pairs are frames that follow each other in a file and frames whose fingerprints do, so their number grows as that of the frames.
    """
    usable = survey.counted & np.isfinite(survey.energy)
    groups = [group[usable[group]] for group in survey.same_atoms]
    chosen = [(group, _choose(survey, group)) for group in groups if len(group) > 1 and survey.sizes[group[0]] > 0]
    chosen = _limited(chosen, [int(survey.sizes[group[0]]) for group, _ in chosen])
    found = [_differences(survey, pairs) for _, pairs in chosen]
    if not found:
        none = np.zeros(0)
        return Pairs(np.zeros((0, 2), np.int64), none, none, none, none.astype(bool), none, none.astype(np.int64), none)
    return Pairs(*(np.concatenate([getattr(each, name) for each in found]) for name in Pairs.__dataclass_fields__))


def _choose(survey: Survey, group: Ints) -> Ints:
    """``(pairs, 2)`` of a group of frames with the same atoms."""
    if len(group) <= SMALL_GROUP:
        return group[np.stack(np.triu_indices(len(group), 1), axis=1)]
    pairs = [np.stack([group[:-1], group[1:]], axis=1)]
    features = survey.fingerprint[group]
    for column in (0, 2, 3):
        order = group[np.argsort(features[:, column], kind="stable")]
        pairs.append(np.sort(np.stack([order[:-1], order[1:]], axis=1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _limited(chosen: Sequence[tuple[Ints, Ints]], sizes: Sequence[int]) -> list[tuple[Ints, Ints]]:
    """The same pairs, or some of each group, spread evenly, where there are more than are needed."""
    pairs = sum(len(each) for _, each in chosen)
    atoms = sum(len(each) * size for (_, each), size in zip(chosen, sizes))
    every = max(1, -(-pairs // MOST_PAIRS), -(-atoms // MOST_ATOMS))
    return [(group, each[::every]) for group, each in chosen]


def _differences(survey: Survey, pairs: Ints) -> Pairs:
    """Work along pairs of one group; those that are strained too far are left out."""
    a, b = pairs.T
    count, pbc = int(survey.sizes[a[0]]), survey.pbc[a[0]]
    atoms = np.arange(count)
    index_a, index_b = survey.first[a][:, None] + atoms, survey.first[b][:, None] + atoms
    x, y = survey.positions[index_a], survey.positions[index_b]  # (pairs, atoms, 3)
    f, g = survey.forces[index_a], survey.forces[index_b]
    kept, strained = np.ones(len(a), dtype=bool), np.zeros(len(a), dtype=bool)
    stress = np.zeros(len(a))
    if not pbc.any():
        x, y, f, g = _superimposed(x, y, f, g)
        u = v = y - x
    elif np.isnan(survey.volume[pairs]).any():
        u, v, kept[:] = y - x, y - x, False
    else:
        c, d = survey.cell[a], survey.cell[b]
        steps = y @ np.linalg.inv(d) - x @ np.linalg.inv(c)
        steps -= np.where(pbc, np.round(steps), 0.0)
        steps -= steps.mean(axis=1, keepdims=True)
        u, v = steps @ c, steps @ d
        strains = np.stack([np.linalg.inv(each) @ (d - c) for each in (c, d)], axis=1)  # (pairs, 2, 3, 3)
        largest = np.abs(strains).max(axis=(1, 2, 3))
        kept, strained = largest < LARGEST_STRAIN, largest > 1e-7
        work = np.einsum("pnij,pnij->pn", survey.stress[pairs], strains)
        stress = np.where(strained, (survey.volume[pairs] * work).mean(axis=1), 0.0)
    found = Pairs(
        frames=pairs,
        energy=survey.energy[b] - survey.energy[a],
        forces=-0.5 * (np.einsum("pai,pai->p", f, u) + np.einsum("pai,pai->p", g, v)),
        stress=stress,
        strained=strained,
        displacement=np.sqrt(np.einsum("pai,pai->p", u, u) / count),
        sizes=np.full(len(a), count),
        volume=survey.volume[pairs].mean(axis=1),
    )
    return Pairs(*(getattr(found, name)[kept] for name in Pairs.__dataclass_fields__))


def _superimposed(x: Floats, y: Floats, f: Floats, g: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Both structures about their centres, the second turned onto the first with its forces (Kabsch, Acta Cryst. A 32, 922)."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    left, _, right = np.linalg.svd(np.einsum("pai,paj->pij", y, x))
    signs = np.ones((len(x), 3))
    signs[:, 2] = np.sign(np.linalg.det(left @ right))
    turn = (left * signs[:, None, :]) @ right
    return x, y @ turn, f, g @ turn
