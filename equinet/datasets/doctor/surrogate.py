"""A pair potential fitted to the forces of a data set, which tells whether its energies and stresses are those of its forces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..report.survey import Floats, Ints, Survey, pairs_within

REACH = 4.0  # Å; bonds and second neighbours
FUNCTIONS = 10  # of a pair of elements: a resolution of 0.4 Å
MOST_TYPES = 21  # pairs of elements with functions of their own, those of six elements; beyond, all pairs share theirs
MOST_FRAMES, MOST_ATOMS = 300, 6000  # enough to fit some hundred coefficients well
OVERDETERMINED = 4  # force components for each coefficient, or the fit follows noise


@dataclass(frozen=True, eq=False)
class PairPotential:
    r"""Energies and strain derivatives of a pair potential whose forces are fitted to the labels.

    .. math:: E = \sum_{i<j} \phi_{z_i z_j}(r_{ij}), \qquad \partial E/\partial\epsilon = \sum_{i<j} \phi'(r)\, \hat r \hat r^T r

    Forces decide it, so energies and stresses of the data agree with it in sign and size if they are those of the forces, whatever
    their absolute values are. It describes forces of metals, salts, liquids and molecules alike to 80 % and more.

    Attributes:
        frames: ``(samples,)``, numbers of the frames it was fitted to.
        energy: ``(samples,)`` in eV.
        strain: ``(samples, 3, 3)``, derivative of the energy with respect to strain in eV.
        explained: Share of the squares of the forces that it describes.
        own: True if each pair of elements has functions of its own, False if there are too many elements for it.
    """

    frames: Ints
    energy: Floats
    strain: Floats
    explained: float
    own: bool


def fit_pair_potential(survey: Survey) -> PairPotential | None:
    """Fit a pair potential to forces of at most some hundred frames; None if they do not determine one."""
    rms = survey.rms_force
    usable = survey.counted & (rms > 0) & (survey.sizes > 1) & np.isfinite(survey.ratio_of_frame)
    if not usable.any():
        return None
    usable &= (rms < 10 * np.median(rms[usable])) & (survey.ratio_of_frame > 0.4)  # wrong frames must not decide
    frames = np.flatnonzero(usable)
    atoms = int(survey.sizes[frames].sum())
    frames = frames[:: max(1, -(-len(frames) // MOST_FRAMES), -(-atoms // MOST_ATOMS))]
    kinds = len(survey.elements) * (len(survey.elements) + 1) // 2
    kinds = kinds if kinds <= MOST_TYPES else 1
    if 3 * survey.sizes[frames].sum() < OVERDETERMINED * kinds * FUNCTIONS:
        return None
    size = kinds * FUNCTIONS
    matrix, right, total = np.zeros((size, size)), np.zeros(size), 0.0
    energies, strains = np.zeros((len(frames), size)), np.zeros((len(frames), 3, 3, size))
    for n, frame in enumerate(frames):
        forces = survey.forces[survey.first[frame] : survey.first[frame + 1]].ravel()
        energies[n], design, strains[n] = _design(survey, int(frame), kinds)
        matrix += design.T @ design
        right += design.T @ forces
        total += float(forces @ forces)
    matrix += 1e-6 * np.trace(matrix) / size * np.eye(size)
    weights = np.linalg.solve(matrix, right) if np.trace(matrix) > 0 else np.zeros(size)
    explained = float(2 * right @ weights - weights @ matrix @ weights) / total
    return PairPotential(
        frames, energies @ weights, strains @ weights, explained, kinds > 1 or len(survey.elements) == 1
    )


def _design(survey: Survey, frame: int, kinds: int) -> tuple[Floats, Floats, Floats]:
    """Energies ``(size,)``, forces ``(3 atoms, size)`` and strain derivatives ``(3, 3, size)`` of a frame for each coefficient."""
    atoms, size = survey.frames[frame], kinds * FUNCTIONS
    i, j, vectors = pairs_within(atoms, REACH)
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-3)
    values, gradients = _basis(lengths)
    first, second = (np.searchsorted(survey.elements, atoms.numbers[each]) for each in (i, j))
    low, high = np.minimum(first, second), np.maximum(first, second)
    kind = high * (high + 1) // 2 + low if kinds > 1 else np.zeros(len(i), dtype=np.int64)
    energy, forces, strain = np.zeros(size), np.zeros((len(atoms), 3, size)), np.zeros((3, 3, size))
    units = vectors / lengths[:, None]
    for each in np.unique(kind):
        of = np.flatnonzero(kind == each)
        columns = slice(each * FUNCTIONS, (each + 1) * FUNCTIONS)
        pull = gradients[of][:, None, :] * units[of][:, :, None]
        acting = np.zeros((len(atoms), 3, FUNCTIONS))
        np.add.at(acting, i[of], pull)
        np.add.at(acting, j[of], -pull)
        energy[columns], forces[:, :, columns] = values[of].sum(axis=0), acting
        strain[:, :, columns] = np.einsum("pik,pj->ijk", pull, vectors[of])
    return energy, forces.reshape(-1, size), strain


def _basis(lengths: Floats) -> tuple[Floats, Floats]:
    """Bessel functions of distances, brought to zero at the reach, and their derivatives, ``(pairs, functions)`` each."""
    k = np.arange(1, FUNCTIONS + 1) * np.pi / REACH
    r = lengths[:, None]
    wave, change = np.sin(k * r) / r, (k * np.cos(k * r) - np.sin(k * r) / r) / r
    x = r / REACH
    return wave * (1 - x**2) ** 2, change * (1 - x**2) ** 2 - 4 * x / REACH * (1 - x**2) * wave
