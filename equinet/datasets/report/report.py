"""Report of what a data set holds: labels, unused keys, reference energies, distances, spreads, duplicates, outliers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from ase.io.formats import filetype
from ase.units import GPa

from ..frames import SOURCE, find_labels
from ..keys import OWN_NAMES, LabelKeys
from ..properties import PROPERTIES
from .spreads import composition_residuals, spread
from .survey import KINDS, Floats, Survey, survey

MOST_VALUES = 20  # of an unused key that are told apart
WORST = 5  # outliers that are named
SPREADS = 10.0  # robust standard deviations from which on a frame is worth a look
UNSEEN = {SOURCE, "weight", "config_type", "numbers", "positions", "initial_magmoms", "initial_charges"}


@dataclass(frozen=True)
class PartReport:
    """Contents of one file or part.

    Attributes:
        name: File or part.
        format: Format of the file; empty for parts that are no file.
        frames: Number of frames, isolated atoms among them.
        isolated: Number of isolated atoms.
        smallest, largest: Numbers of atoms of the smallest and largest frame.
        elements: Symbols in order of the atomic number.
        periodic: Number of frames by number of periodic directions, 0 to 3.
        labels: Number of frames with each label.
    """

    name: str
    format: str
    frames: int
    isolated: int
    smallest: int
    largest: int
    elements: tuple[str, ...]
    periodic: tuple[int, ...]
    labels: Mapping[str, int]


@dataclass(frozen=True)
class UnusedKey:
    """Values of frames or atoms that no label and no setting takes.

    Attributes:
        name: Key in the file.
        per: ``"structure"`` or ``"atom"``.
        frames: Number of frames that have it.
        distinct: Number of different values, at most 20; 0 for arrays.
        examples: The first of them.
    """

    name: str
    per: str
    frames: int
    distinct: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """Minimum, median, robust standard deviation and maximum."""

    smallest: float
    median: float
    spread: float
    largest: float


@dataclass(frozen=True)
class KindReport:
    """Labels of frames of one configuration type.

    Attributes:
        name: The type; empty for frames without one.
        frames: Number of frames without isolated atoms.
        energy: Energy per atom beside a robust fit of one energy for each element, in eV; None without energies.
        force: Root mean square of the force components of a frame, in eV/Å; None without forces.
        pressure: Pressure in GPa; None without stresses.
    """

    name: str
    frames: int
    energy: Range | None
    force: Range | None
    pressure: Range | None


@dataclass(frozen=True)
class Contact:
    """Shortest distance of two elements: symbols, Å, the sum of covalent radii in Å, and the frame."""

    first: str
    second: str
    distance: float
    covalent: float
    frame: str


@dataclass(frozen=True)
class Outlier:
    """A frame far from the others: where, which quantity, its value, and how many robust standard deviations it is away."""

    frame: str
    quantity: str
    value: str
    spreads: float


@dataclass(frozen=True)
class DataReport:
    """Everything a report says.

    Attributes:
        parts: Files or parts.
        unused: Keys that nothing uses.
        e0s: Energies of isolated atoms in eV by symbol.
        kinds: Ranges by configuration type, the most frequent first.
        contacts: Shortest distances, the shortest by covalent radii first.
        cutoff: Radius in Å within which neighbours are counted.
        neighbours: Mean number of neighbours of an atom.
        duplicates: Number of frames that repeat an earlier one of their part, by part.
        shared: Number of frames of the second part that are in the first, too, by ``"first, second"``.
        outliers: Frames furthest from the others.
    """

    parts: tuple[PartReport, ...]
    unused: tuple[UnusedKey, ...]
    e0s: Mapping[str, float]
    kinds: tuple[KindReport, ...]
    contacts: tuple[Contact, ...]
    cutoff: float
    neighbours: float | None
    duplicates: Mapping[str, int]
    shared: Mapping[str, int]
    outliers: tuple[Outlier, ...]

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


def report(
    parts: Mapping[str, Iterable[Atoms]] | Survey, *, keys: LabelKeys = OWN_NAMES, cutoff: float = 5.0
) -> DataReport:
    """Report labels, unused keys, distances, spreads, duplicates and outliers of a data set.

    Args:
        parts: Labelled frames, as :func:`equinet.datasets.read_frames` gives them, by file or part; or the survey of them.
        keys: Names of the labels in the files; what has another name is reported as unused.
        cutoff: Radius within which neighbours are counted, in Å.

    Raises:
        ValueError: If there are no frames.
    """
    found = parts if isinstance(parts, Survey) else survey(parts, cutoff=cutoff)
    inside, shared = _repeated(found)
    residual = composition_residuals(found, found.energy)
    neighbours = found.neighbours[np.isfinite(found.neighbours) & ~found.isolated]
    return DataReport(
        parts=tuple(_part(found, n) for n in range(len(found.parts))),
        unused=_unused(found, keys),
        e0s=_isolated_energies(found),
        kinds=_kinds(found, residual),
        contacts=_contacts(found),
        cutoff=found.cutoff,
        neighbours=float(neighbours.mean()) if len(neighbours) else None,
        duplicates=inside,
        shared=shared,
        outliers=_outliers(found, residual),
    )


def _part(survey: Survey, number: int) -> PartReport:
    own = np.flatnonzero(survey.part == number)
    atoms = np.isin(survey.frame_of, own)
    labels = Counter(name for n in own for name in find_labels(survey.frames[n]))
    directions = survey.pbc[own].sum(axis=1)
    return PartReport(
        name=survey.parts[number],
        format=_format(survey.parts[number]),
        frames=len(own),
        isolated=int(survey.isolated[own].sum()),
        smallest=int(survey.sizes[own].min(initial=0 if not len(own) else 10**9)),
        largest=int(survey.sizes[own].max(initial=0)),
        elements=tuple(chemical_symbols[z] for z in np.unique(survey.numbers[atoms])),
        periodic=tuple(int((directions == k).sum()) for k in range(4)),
        labels={name: labels[name] for name in PROPERTIES if labels[name]},
    )


def _format(name: str) -> str:
    """ASE's name of the format of a file, compressed or not; empty if it is no file."""
    path = Path(name)
    if not path.is_file():
        return ""
    packed = path.suffix.lower().lstrip(".") if path.suffix.lower() in (".gz", ".bz2", ".xz") else ""
    inner = path.with_suffix("") if packed else path
    known = {".xyz": "extxyz", ".extxyz": "extxyz"}.get(inner.suffix.lower())
    form = known or filetype(str(inner), read=not packed, guess=False) or inner.suffix.lstrip(".")
    return f"{form}.{packed}" if packed else form


def _unused(survey: Survey, keys: LabelKeys) -> tuple[UnusedKey, ...]:
    used = UNSEEN | {keys.weight, keys.virial, keys.config_type}
    used |= {key for name in PROPERTIES for key in (keys.of(name), keys.weight_of(name), f"{name}_weight")}
    counts: Counter[tuple[str, str]] = Counter()
    values: dict[str, dict[str, None]] = {}
    for atoms in survey.frames:
        for name, value in atoms.info.items():
            if name in used or name.startswith("equinet_"):
                continue
            counts[name, "structure"] += 1
            seen = values.setdefault(name, {})
            if len(seen) < MOST_VALUES:
                seen[str(value)[:30]] = None
        for name in atoms.arrays:
            if name not in used:
                counts[name, "atom"] += 1
    return tuple(
        UnusedKey(name, per, count, len(values.get(name, ())), tuple(list(values.get(name, ()))[:3]))
        for (name, per), count in counts.most_common()
    )


def _isolated_energies(survey: Survey) -> dict[str, float]:
    found: dict[str, float] = {}
    for n in np.flatnonzero(survey.isolated & np.isfinite(survey.energy)):
        found.setdefault(chemical_symbols[int(survey.numbers[survey.first[n]])], float(survey.energy[n]))
    return found


def _range(values: Floats) -> Range | None:
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    return Range(float(values.min()), float(np.median(values)), spread(values), float(values.max()))


def _kinds(survey: Survey, residual: Floats) -> tuple[KindReport, ...]:
    counted = ~survey.isolated
    kinds = np.array(survey.kind, dtype=object)
    pressure = -np.trace(survey.stress, axis1=1, axis2=2) / 3 / GPa
    return tuple(
        KindReport(name, count, _range(residual[own]), _range(survey.rms_force[own]), _range(pressure[own]))
        for name, count in Counter(kinds[counted].tolist()).most_common()
        for own in [counted & (kinds == name)]
    )


def _contacts(survey: Survey) -> tuple[Contact, ...]:
    rows = [
        Contact(
            chemical_symbols[a],
            chemical_symbols[b],
            distance,
            float(covalent_radii[a] + covalent_radii[b]),
            survey.where(frame),
        )
        for (a, b), (distance, frame) in survey.shortest.items()
    ]
    return tuple(sorted(rows, key=lambda row: row.distance / row.covalent))


def _repeated(survey: Survey) -> tuple[dict[str, int], dict[str, int]]:
    inside: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for group in survey.same_structure:
        own = Counter(survey.part[group[~survey.isolated[group]]].tolist())
        for part, count in own.items():
            inside[survey.parts[part]] += count - 1
        for a in own:
            for b in own:
                if a < b:
                    shared[f"{survey.parts[a]}, {survey.parts[b]}"] += own[b]
    return {name: n for name, n in inside.items() if n}, dict(shared)


def _outliers(survey: Survey, residual: Floats) -> tuple[Outlier, ...]:
    rows = []
    largest = np.full(len(survey.sizes), -np.inf)
    np.maximum.at(largest, survey.frame_of, np.linalg.norm(np.nan_to_num(survey.forces, nan=-0.0), axis=1))
    columns = (
        ("energy", residual, "{:+.4g} eV/atom"),
        ("force", np.where(survey.counted, largest, np.nan), "{:.4g} eV/Å"),
    )
    for quantity, values, form in columns:
        known = np.flatnonzero(np.isfinite(values))
        if len(known) < WORST or not spread(values[known]) > 0:
            continue
        away = np.abs(values - np.median(values[known])) / spread(values[known])
        for n in known[np.argsort(-away[known])][:WORST]:
            if away[n] > SPREADS:
                rows.append(Outlier(survey.where(int(n)), quantity, form.format(values[n]), float(away[n])))
    return tuple(sorted(rows, key=lambda row: -row.spreads)[:WORST])


__all__ = ["KINDS", "DataReport", "report"]
