"""One pass over labelled frames: flat arrays of labels, shortest distances and fingerprints, which reports and checks are made of."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import complete_cell
from numpy.typing import NDArray

from equinet.graph.search import cells_suffice, search_by_cells, search_by_tree

from ..frames import find_labels, has_volume, source
from ..isolated import is_isolated_atom

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Neighbours of an atom beyond which the search shrinks its radius: in nm or fractions, a whole crystal is within 5 Å.
MOST_NEIGHBOURS = 200.0
TOGETHER = 128  # frames whose pairs are worked on at once
# Frames of fewer atoms, and of cells that are not longer than so many radii, are divided into cells without asking first.
EASY, EASY_CELLS = 1000, 10.0
# The lowest reciprocal vectors: sizes of their structure factors change with no translation or order of atoms.
HARMONICS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1], [2, 1, 1]]).T
UPPER = [0, 1, 2, 4, 5, 8]  # of a flattened 3 x 3 matrix, its upper triangle
# Names under which programs and people write what kind of frame it is, in the order in which they are taken.
KINDS = ("config_type", "head", "group", "dimer", "tag")


@dataclass(frozen=True, eq=False)
class Survey:
    """Results of one pass over all frames, frames one after the other; labels that are missing are NaN.

    Attributes:
        frames: The frames.
        parts: Names of the parts, such as train and valid, or of files.
        part: ``(frames,)``, number of each frame's part.
        cutoff: Radius of the neighbour search in Å.
        sizes: ``(frames,)``, numbers of atoms.
        numbers: ``(atoms,)``, atomic numbers.
        positions: ``(atoms, 3)`` in Å.
        forces: ``(atoms, 3)`` in eV/Å.
        energy: ``(frames,)`` in eV.
        stress: ``(frames, 3, 3)`` in eV/Å³.
        cell: ``(frames, 3, 3)``, lattice vectors in rows, in Å.
        volume: ``(frames,)`` in Å³; NaN where no direction is periodic.
        pbc: ``(frames, 3)``.
        weight: ``(frames,)``.
        isolated: ``(frames,)``, True for isolated atoms.
        kind: Configuration type of each frame; empty where it has none.
        nearest: ``(atoms,)``, distance in Å to the neighbour that is nearest in terms of the sum of covalent radii; inf without one.
        ratio: ``(atoms,)``, that distance over the sum.
        partner: ``(atoms,)``, number of that neighbour among all atoms; -1 without one.
        direction: ``(atoms, 3)``, unit vector to it.
        neighbours: ``(frames,)``, mean number within ``cutoff``; NaN where the search was shortened.
        shortest: Shortest distance in Å by pair of atomic numbers, and the number of its frame.
        fingerprint: ``(frames, features)``, invariant under translation and order of the atoms.
    """

    frames: list[Atoms]
    parts: tuple[str, ...]
    part: Ints
    cutoff: float
    sizes: Ints
    numbers: Ints
    positions: Floats
    forces: Floats
    energy: Floats
    stress: Floats
    cell: Floats
    volume: Floats
    pbc: NDArray[np.bool_]
    weight: Floats
    isolated: NDArray[np.bool_]
    kind: list[str]
    nearest: Floats
    ratio: Floats
    partner: Ints
    direction: Floats
    neighbours: Floats
    shortest: dict[tuple[int, int], tuple[float, int]]
    fingerprint: Floats

    @cached_property
    def first(self) -> Ints:
        """``(frames + 1,)``: the atoms of frame n are ``first[n]`` to ``first[n + 1]``."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def frame_of(self) -> Ints:
        """``(atoms,)``: the frame of each atom."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @cached_property
    def elements(self) -> Ints:
        """Atomic numbers that occur, ascending."""
        return np.unique(self.numbers)

    @cached_property
    def composition(self) -> Floats:
        """``(frames, elements)``: numbers of atoms."""
        counts = np.zeros((len(self.sizes), len(self.elements)))
        np.add.at(counts, (self.frame_of, np.searchsorted(self.elements, self.numbers)), 1.0)
        return counts

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """``(frames,)``: frames that a loss counts, which are no isolated atoms."""
        return (self.weight > 0) & ~self.isolated

    @cached_property
    def rms_force(self) -> Floats:
        """``(frames,)``: root mean square of the force components, in eV/Å."""
        return np.sqrt(self.by_frame((self.forces**2).mean(axis=1)) / np.maximum(self.sizes, 1))

    @cached_property
    def ratio_of_frame(self) -> Floats:
        """``(frames,)``: smallest distance over the sum of covalent radii."""
        smallest = np.full(len(self.sizes), np.inf)
        np.minimum.at(smallest, self.frame_of, self.ratio)
        return smallest

    @cached_property
    def same_atoms(self) -> list[Ints]:
        """Frames by the elements of their atoms in order and their periodic directions: each group in the order of the files."""
        groups: dict[bytes, list[int]] = {}
        for n, (begin, end) in enumerate(zip(self.first, self.first[1:])):
            groups.setdefault(self.numbers[begin:end].tobytes() + self.pbc[n].tobytes(), []).append(n)
        return [np.array(group) for group in groups.values()]

    @cached_property
    def same_structure(self) -> list[Ints]:
        """Groups of two or more frames with the same structure; shifted and with atoms in another order, it is the same."""
        rounded = np.round(self.fingerprint, 5) + 0.0
        groups: dict[bytes, list[int]] = {}
        for n, (counts, features) in enumerate(zip(self.composition, rounded)):
            groups.setdefault(counts.tobytes() + self.pbc[n].tobytes() + features.tobytes(), []).append(n)
        return [np.array(group) for group in groups.values() if len(group) > 1]

    def by_frame(self, values: Floats) -> Floats:
        """Sum numbers of atoms over each frame: ``(atoms, ...)`` to ``(frames, ...)``."""
        total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(np.nan_to_num(values), axis=0)])
        summed = np.asarray(total[self.first[1:]] - total[self.first[:-1]])
        lacking = np.zeros(len(self.sizes), dtype=bool)
        lacking[self.frame_of[~np.isfinite(values).reshape(len(values), -1).all(axis=1)]] = True
        summed[lacking] = np.nan
        return summed

    def where(self, frame: int) -> str:
        """File and number of a frame."""
        return source(self.frames[frame])


def survey(parts: Mapping[str, Iterable[Atoms]], *, cutoff: float = 5.0) -> Survey:
    """Collect labels, distances and fingerprints of frames in one pass, linear in their number.

    Args:
        parts: Labelled frames, as :func:`equinet.datasets.read_frames` gives them, by part or file.
        cutoff: Radius within which neighbours are counted, in Å.

    Raises:
        ValueError: If there are no frames, or a label is wrong.
    """
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    shortest: dict[tuple[int, int], tuple[float, int]] = {}
    numbered = ((part, atoms) for part, frames in enumerate(parts.values()) for atoms in frames)
    first = 0
    while some := list(itertools.islice(numbered, TOGETHER)):
        found = _distances([atoms for _, atoms in some], cutoff, first, len(rows["frame"]), shortest)
        first += sum(len(atoms) for _, atoms in some)
        for part, atoms in some:
            row = {"part": part, **_labels(atoms)}
            for name, value in row.items():
                rows[name].append(value)
        for name, values in found.items():
            rows[name].append(values)
    if not rows["frame"]:
        raise ValueError("there are no frames to look at")
    joined = {name: np.concatenate(rows.pop(name)) for name in _JOINED}
    frames, kind = rows.pop("frame"), rows.pop("kind")
    arrays = {name: np.array(values) for name, values in rows.items()}
    return Survey(frames=frames, kind=kind, parts=tuple(parts), cutoff=cutoff, shortest=shortest, **joined, **arrays)


_JOINED = (
    *("numbers", "positions", "forces"),
    *("nearest", "ratio", "partner", "direction", "neighbours", "fingerprint"),
)
_COLUMNS = (
    *("frame", "kind", "part", "sizes", "energy", "stress", "cell", "volume", "pbc", "weight", "isolated"),
    *_JOINED,
)


def _labels(atoms: Atoms) -> dict[str, Any]:
    found = find_labels(atoms)
    labels = {name: value for name, value in found.items() if found.weights.get(name, 1.0) > 0}
    kind = next((atoms.info[name] for name in KINDS if name in atoms.info), "")
    volume = has_volume(atoms)
    return {
        "frame": atoms,
        "kind": str(kind),
        "sizes": len(atoms),
        "numbers": atoms.numbers.astype(np.int64),
        "positions": atoms.positions,
        "forces": labels.get("forces", np.full((len(atoms), 3), np.nan)),
        "energy": float(labels.get("energy", np.nan)),
        "stress": labels.get("stress", np.full((3, 3), np.nan)),
        "cell": np.array(atoms.cell),
        "volume": atoms.get_volume() if volume else np.nan,
        "pbc": np.array(atoms.pbc),
        "weight": found.weight,
        "isolated": is_isolated_atom(atoms),
    }


def _distances(
    frames: Sequence[Atoms], cutoff: float, first: int, frame: int, shortest: dict[tuple[int, int], tuple[float, int]]
) -> dict[str, Any]:
    """Nearest neighbours of the atoms of some frames, numbers of neighbours, and fingerprints; updates ``shortest``.

    Args:
        frames: Frames.
        cutoff: Radius within which neighbours are counted, in Å.
        first: Number of the first atom among those of all frames.
        frame: Number of the first frame among all.
        shortest: See :class:`Survey`.
    """
    sizes = np.array([len(atoms) for atoms in frames])
    begins = np.cumsum(sizes) - sizes
    radii = np.array([min(cutoff, radius_of(MOST_NEIGHBOURS, atoms)) for atoms in frames])
    found = [_nearby(atoms, float(radius)) for atoms, radius in zip(frames, radii)]
    of = np.repeat(np.arange(len(frames)), [len(each[0]) for each in found])
    i, j = (np.concatenate([each[k] for each in found]) + begins[of] for k in (0, 1))
    vectors = np.concatenate([each[2] for each in found])
    lengths = np.sqrt(np.einsum("pi,pi->p", vectors, vectors))
    numbers = np.concatenate([atoms.numbers for atoms in frames]).astype(np.int64)
    ratios = lengths / (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    _note_shortest(numbers[i], numbers[j], lengths, of + frame, shortest)
    count = np.bincount(of, weights=lengths < cutoff, minlength=len(frames))
    smooth = np.square(np.maximum(1 - (lengths / radii[of]) ** 2, 0))  # no pair at the cutoff counts once and once not
    charges = np.sqrt(numbers[i] * numbers[j])
    sums = [np.bincount(of, weights=each, minlength=len(frames)) for each in (smooth, smooth * charges)]
    return {
        **_nearest(len(numbers), first, i, j, vectors, lengths, ratios),
        "neighbours": np.where(radii == cutoff, 2 * count / np.maximum(sizes, 1), np.nan),
        "fingerprint": np.column_stack([*sums, np.array([_shape(atoms) for atoms in frames])]),
    }


def _nearby(atoms: Atoms, radius: float) -> tuple[Ints, Ints, Floats]:
    """Pairs within a radius, or, where there are none, within one that has some."""
    found = pairs_within(atoms, radius)
    return found if len(found[0]) else pairs_within(atoms, radius_of(MOST_NEIGHBOURS, atoms))


def _nearest(
    count: int, first: int, i: Ints, j: Ints, vectors: Floats, lengths: Floats, ratios: Floats
) -> dict[str, Any]:
    """Neighbour with the smallest ratio of each of ``count`` atoms; atoms are numbered from ``first`` on among all."""
    found: dict[str, Any] = {
        "nearest": np.full(count, np.inf),
        "ratio": np.full(count, np.inf),
        "partner": np.full(count, -1),
        "direction": np.zeros((count, 3)),
    }
    smallest = found["ratio"]
    np.minimum.at(smallest, i, ratios)
    np.minimum.at(smallest, j, ratios)
    for here, there, sign in ((i, j, 1.0), (j, i, -1.0)):
        best = np.flatnonzero(ratios == smallest[here])
        atoms = here[best]
        found["nearest"][atoms] = lengths[best]
        found["partner"][atoms] = first + there[best]
        found["direction"][atoms] = sign * vectors[best] / np.maximum(lengths[best], 1e-12)[:, None]
    return found


def _shape(atoms: Atoms) -> Floats:
    """Structure factors of a periodic frame, moments about the centre of any other, and lengths and angles of the cell."""
    weights, cell = np.sqrt(atoms.numbers), atoms.cell.array
    if atoms.pbc.all() and abs(_determinant(cell)) > 0:
        phases = np.exp(2j * np.pi * (atoms.positions @ (np.linalg.inv(cell) @ HARMONICS)))
        return np.concatenate([np.abs(weights @ phases), np.abs(cell @ cell.T).ravel()[UPPER]])
    away = atoms.positions - atoms.positions.mean(axis=0) if len(atoms) else np.zeros((0, 3))
    away = np.sqrt(np.einsum("ai,ai->a", away, away))
    moments = [away.sum(), away @ away, weights @ away, weights @ np.sin(away), np.cos(away).sum()]
    return np.array([*moments, *np.zeros(9)])


def _determinant(cell: Floats) -> float:
    a, b, c = cell.tolist()
    return float(
        a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])
    )


def radius_of(neighbours: float, atoms: Atoms) -> float:
    """Radius in Å within which an atom has about that many neighbours."""
    volume = abs(_determinant(atoms.cell.array)) if atoms.pbc.all() else 0.0
    if not volume:
        extent = atoms.positions.max(axis=0) - atoms.positions.min(axis=0) if len(atoms) else np.zeros(3)
        volume = float(np.prod(extent + 0.5))
    return float((3 * neighbours * max(volume, 1e-12) / (4 * np.pi * max(len(atoms), 1))) ** (1 / 3))


def pairs_within(atoms: Atoms, radius: float) -> tuple[Ints, Ints, Floats]:
    """Pairs of atoms and images within a radius in Å, each once: first and second atom, and the vectors between them."""
    if not len(atoms):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3))
    pbc = np.array(atoms.pbc) & (np.linalg.norm(atoms.cell[:], axis=1) > 0)
    cell = complete_cell(atoms.cell) if pbc.any() else np.zeros((3, 3))
    if not pbc.any() and len(atoms) <= 64:  # all pairs at once are faster than any search
        i, j = np.triu_indices(len(atoms), 1)
        vectors = atoms.positions[j] - atoms.positions[i]
        near = np.flatnonzero(np.einsum("pi,pi->p", vectors, vectors) < radius**2)
        return i[near], j[near], vectors[near]
    easy = len(atoms) < EASY and np.abs(cell).max() < EASY_CELLS * radius and pbc.all()
    cells = easy or cells_suffice(atoms.positions, cell, pbc, radius)
    search = search_by_cells if cells else search_by_tree
    i, j, shifts = search(atoms.positions, cell, pbc, radius)
    return i, j, atoms.positions[j] - atoms.positions[i] + shifts @ cell


def _note_shortest(
    first: Ints, second: Ints, lengths: Floats, frames: Ints, shortest: dict[tuple[int, int], tuple[float, int]]
) -> None:
    """Keep the shortest distance of each pair of elements and its frame."""
    code = np.minimum(first, second) * 1000 + np.maximum(first, second)
    order = np.argsort(lengths, kind="stable")
    kinds, places = np.unique(code[order], return_index=True)
    for kind, place in zip(kinds.tolist(), order[places].tolist()):
        key = divmod(kind, 1000)
        if lengths[place] < shortest.get(key, (np.inf, -1))[0]:
            shortest[key] = (float(lengths[place]), int(frames[place]))
