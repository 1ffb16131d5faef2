"""Ways in which data sets are wrong: each takes right frames and gives wrong ones, with the findings that must come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units

from equinet.datasets import Labels, is_isolated_atom, with_labels
from equinet.datasets.frames import find_labels, has_volume

BOHR, HARTREE, KCAL = units.Bohr, units.Hartree, units.kcal / units.mol
Parts = dict[str, list[Atoms]]


@dataclass(frozen=True)
class Spoiling:
    """One way of spoiling a set.

    Attributes:
        name: Its name.
        expected: Findings of which one must be made.
        spoil: Function of the frames and a random generator that gives the parts of the spoilt set.
        applies: Function of the frames that is True where the fault can be made, and can be known.
    """

    name: str
    expected: tuple[str, ...]
    spoil: Callable[[list[Atoms], np.random.Generator], Parts]
    applies: Callable[[Sequence[Atoms]], bool]


def changed(atoms: Atoms, *, energy: float = 1, forces: float = 1, stress: float = 1, length: float = 1) -> Atoms:
    """A copy whose labels, positions and cell are multiplied by factors."""
    labels = find_labels(atoms)
    factors = {"energy": energy, "forces": forces, "stress": stress}
    copy = atoms.copy()
    copy.positions *= length
    copy.set_cell(copy.cell[:] * length)
    return with_labels(copy, Labels({k: v * factors.get(k, 1) for k, v in labels.items()}, weight=labels.weight))


def relabelled(atoms: Atoms, **labels: object) -> Atoms:
    """A copy with some labels replaced."""
    old = find_labels(atoms)
    return with_labels(atoms, Labels({**old, **labels}, weight=old.weight))


def has(*names: str) -> Callable[[Sequence[Atoms]], bool]:
    """True for sets in which half of the frames have these labels."""
    return lambda frames: sum(all(n in find_labels(a) for n in names) for a in frames) > 0.5 * len(frames)


def periodic(frames: Sequence[Atoms]) -> bool:
    """True for sets of periodic frames with several atoms."""
    return sum(a.pbc.all() and has_volume(a) and len(a) > 1 for a in frames) > 0.8 * len(frames)


def both(*conditions: Callable[[Sequence[Atoms]], bool]) -> Callable[[Sequence[Atoms]], bool]:
    """True where all conditions are."""
    return lambda frames: all(condition(frames) for condition in conditions)


def factors(**by: float) -> Callable[[list[Atoms], np.random.Generator], Parts]:
    """Multiply labels or lengths of all frames."""
    return lambda frames, rng: {"train": [changed(a, **by) for a in frames]}


def each(function: Callable[[Atoms], Atoms]) -> Callable[[list[Atoms], np.random.Generator], Parts]:
    """Change each frame by itself."""
    return lambda frames, rng: {"train": [function(a) for a in frames]}


def virial(sign: float) -> Callable[[Atoms], Atoms]:
    """Virial, of a given sign, in place of the stress."""

    def spoil(atoms: Atoms) -> Atoms:
        labels = find_labels(atoms)
        if "stress" not in labels or not has_volume(atoms):
            return atoms
        return relabelled(atoms, stress=sign * atoms.get_volume() * labels["stress"])

    return spoil


def one(function: Callable[[Atoms, np.random.Generator], Atoms]) -> Callable[[list[Atoms], np.random.Generator], Parts]:
    """Spoil one frame of several atoms."""

    def spoil(frames: list[Atoms], rng: np.random.Generator) -> Parts:
        usable = [n for n, a in enumerate(frames) if len(a) > 2 and {"energy", "forces"} <= set(find_labels(a))]
        n = int(rng.choice(usable))
        return {"train": [function(a, rng) if k == n else a for k, a in enumerate(frames)]}

    return spoil


def bad_force(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """One component of one force off by 60 eV/Å."""
    forces = find_labels(atoms)["forces"].copy()
    forces[rng.integers(len(atoms)), rng.integers(3)] += 60.0
    return relabelled(atoms, forces=forces)


def bad_position(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """One atom 0.3 Å from another."""
    moved = atoms.copy()
    a, b = rng.choice(len(atoms), 2, replace=False)
    direction = rng.normal(size=3)
    moved.positions[a] = moved.positions[b] + 0.3 * direction / np.linalg.norm(direction)
    return with_labels(moved, find_labels(atoms))


def fixed(atoms: Atoms) -> Atoms:
    """Forces of a third of the atoms exactly zero."""
    labels = find_labels(atoms)
    if "forces" not in labels or len(atoms) < 8:
        return atoms
    forces = labels["forces"].copy()
    forces[: len(atoms) // 3] = 0
    return relabelled(atoms, forces=forces)


def low_symmetry(frames: Sequence[Atoms]) -> bool:
    """True for sets without symmetry that makes forces equal."""
    sizes = [
        np.linalg.norm(find_labels(a)["forces"], axis=1) for a in frames if "forces" in find_labels(a) and len(a) > 8
    ]
    return sum(bool((np.diff(np.sort(s)) > 1e-5 * s.max()).mean() > 0.95) for s in sizes) > 0.2 * len(frames)


def with_cell(factor: float) -> Callable[[Atoms], Atoms]:
    """Scale cells and leave positions."""

    def spoil(atoms: Atoms) -> Atoms:
        copy = atoms.copy()
        copy.set_cell(copy.cell[:] * factor)
        return with_labels(copy, find_labels(atoms))

    return spoil


def fractional(atoms: Atoms) -> Atoms:
    """Fractional coordinates under positions."""
    copy = atoms.copy()
    copy.positions = copy.get_scaled_positions()
    return with_labels(copy, find_labels(atoms))


def without_pbc(atoms: Atoms) -> Atoms:
    """Keep the cell and lose the periodic directions."""
    copy = atoms.copy()
    copy.pbc = False
    return with_labels(copy, Labels({k: v for k, v in find_labels(atoms).items() if k != "stress"}))


def joined_with_other_labels(frames: list[Atoms], rng: np.random.Generator) -> Parts:
    """Add some frames again with other energies."""
    again = [
        relabelled(a, energy=find_labels(a)["energy"] + 0.2 * len(a)) for a in frames[:5] if "energy" in find_labels(a)
    ]
    return {"train": [*frames, *again]}


def overlapping(frames: list[Atoms], rng: np.random.Generator) -> Parts:
    """Validate on shifted copies of training frames."""
    half = len(frames) // 2
    shifted = [a.copy() for a in frames[: max(3, half // 10)]]
    for copy in shifted:
        copy.positions += rng.normal(size=3)
    moved = [with_labels(c, find_labels(a)) for c, a in zip(shifted, frames)]
    return {"train": frames[:half], "valid": [*frames[half:], *moved]}


def one_energy(frames: list[Atoms], rng: np.random.Generator) -> Parts:
    """Energy of the first frame in all."""
    first: dict[bytes, float] = {}
    spoilt = []
    for atoms in frames:
        labels = find_labels(atoms)
        if "energy" in labels:
            energy = first.setdefault(atoms.numbers.tobytes(), float(labels["energy"]))
            atoms = relabelled(atoms, energy=energy)
        spoilt.append(atoms)
    return {"train": spoilt}


def repeats(frames: Sequence[Atoms]) -> bool:
    """True for sets with several frames of the same atoms; where all differ, energies have nothing to be compared with."""
    return len({a.numbers.tobytes() for a in frames}) < 0.7 * len(frames)


def same_atoms(frames: Sequence[Atoms], enough: float = 0.5) -> bool:
    """True for sets with many frames of the same atoms."""
    kinds = {a.numbers.tobytes() for a in frames}
    return len(kinds) * 8 < len(frames)


def shifted_labels(frames: list[Atoms], rng: np.random.Generator) -> Parts:
    """Labels of the frame three places further on."""
    later = [*frames[3:], *frames[:3]]
    return {"train": [with_labels(a, find_labels(b)) for a, b in zip(frames, later) if len(a) == len(b)]}


def two_levels(frames: list[Atoms], rng: np.random.Generator) -> Parts:
    """Shift the energy of a third of the frames."""
    other = rng.random(len(frames)) < 0.3
    return {
        "train": [
            relabelled(a, energy=find_labels(a)["energy"] + 4.0 * len(a)) if o else a for a, o in zip(frames, other)
        ]
    }


def repeated_forces(frames: list[Atoms], rng: np.random.Generator) -> Parts:
    """Forces of the first frame in three others."""
    first = next(n for n, a in enumerate(frames) if "forces" in find_labels(a) and len(a) > 2)
    spoilt, done = list(frames), 0
    for n in range(first + 1, len(frames)):
        if np.array_equal(frames[n].numbers, frames[first].numbers) and done < 3:
            spoilt[n] = relabelled(frames[n], forces=find_labels(frames[first])["forces"])
            done += 1
    return {"train": spoilt}


def with_e0s(factor: float) -> Callable[[list[Atoms], np.random.Generator], Parts]:
    """Isolated atoms with energies far from those in the frames."""

    def spoil(frames: list[Atoms], rng: np.random.Generator) -> Parts:
        elements = sorted({int(z) for a in frames for z in a.numbers})
        isolated = []
        for z in elements:
            atom = Atoms(numbers=[z], info={"config_type": "IsolatedAtom"})
            energy = factor * float(
                np.median([find_labels(a)["energy"] / len(a) for a in frames if "energy" in find_labels(a)])
            )
            isolated.append(with_labels(atom, Labels({"energy": energy})))
        return {"train": [*isolated, *(a for a in frames if not is_isolated_atom(a))]}

    return spoil


def unconverged(frames: list[Atoms], rng: np.random.Generator) -> Parts:
    """Mark one frame as not converged."""
    copy = with_labels(frames[len(frames) // 2], find_labels(frames[len(frames) // 2]))
    copy.info["equinet_unconverged"] = True
    return {"train": [*frames[: len(frames) // 2], copy, *frames[len(frames) // 2 + 1 :]]}


def several(frames: Sequence[Atoms]) -> bool:
    """True for sets of more than ten frames."""
    return len(frames) > 10


EF, EFS = has("energy", "forces"), has("energy", "forces", "stress")
MOLECULES = lambda frames: not any(a.pbc.any() for a in frames)  # noqa: E731
FORCE_FAULTS = ("forces-unit", "energy-unit", "energy-per-atom")
STRESS = ("stress-unit", "stress-is-virial")
GPA = 1 / units.GPa
SPOILINGS = (
    Spoiling(
        "energy Hartree",
        ("energy-unit", "energy-per-atom", "forces-unit"),
        factors(energy=1 / HARTREE),
        both(EF, repeats),
    ),
    Spoiling("energy kcal/mol", ("energy-unit", "forces-unit"), factors(energy=1 / KCAL), both(EF, repeats)),
    Spoiling(
        "energy per atom",
        FORCE_FAULTS,
        each(lambda a: relabelled(a, energy=find_labels(a)["energy"] / len(a)) if "energy" in find_labels(a) else a),
        EF,
    ),
    Spoiling("forces sign", ("forces-sign",), factors(forces=-1), EF),
    Spoiling("forces Hartree/Bohr", FORCE_FAULTS, factors(forces=BOHR / HARTREE), EF),
    Spoiling("forces kcal/mol/Å", FORCE_FAULTS, factors(forces=1 / KCAL), EF),
    Spoiling("gradients kcal/mol/Å", ("forces-sign",), factors(forces=-1 / KCAL), EF),
    Spoiling("gradients Hartree/Bohr", ("forces-sign",), factors(forces=-BOHR / HARTREE), EF),
    Spoiling(
        "all kcal/mol", ("energy-unit", "forces-unit"), factors(energy=1 / KCAL, forces=1 / KCAL), both(EF, MOLECULES)
    ),
    Spoiling(
        "all Hartree, Å",
        ("energy-unit", "forces-unit"),
        factors(energy=1 / HARTREE, forces=1 / HARTREE),
        both(EF, MOLECULES),
    ),
    Spoiling("atomic units", ("length-unit",), factors(energy=1 / HARTREE, forces=BOHR / HARTREE, length=1 / BOHR), EF),
    Spoiling("lengths Bohr", ("length-unit",), factors(length=1 / BOHR), EF),
    Spoiling("lengths nm", ("length-unit",), factors(length=0.1), EF),
    Spoiling("lattice Bohr", ("cell-unit",), each(with_cell(1 / BOHR)), both(EF, periodic)),
    Spoiling("lattice nm", ("cell-unit", "close-atoms"), each(with_cell(0.1)), both(EF, periodic)),
    Spoiling("positions fractional", ("fractional-positions",), each(fractional), both(EF, periodic)),
    Spoiling("pbc lost", ("pbc-missing",), each(without_pbc), both(EF, periodic)),
    Spoiling("stress kbar, VASP's sign", STRESS, factors(stress=-10 * GPA), EFS),
    Spoiling("stress kbar", STRESS, factors(stress=10 * GPA), EFS),
    Spoiling("stress GPa", STRESS, factors(stress=GPA), EFS),
    Spoiling("stress -GPa", STRESS, factors(stress=-GPA), EFS),
    Spoiling("stress bar", STRESS, factors(stress=1e4 * GPA), EFS),
    Spoiling("stress sign", ("stress-sign",), factors(stress=-1), both(EFS, repeats)),
    Spoiling("virial as stress", STRESS, each(virial(-1)), EFS),
    Spoiling("volume times stress", STRESS, each(virial(1)), EFS),
    Spoiling(
        "one stress ×1602",
        ("stress-outlier", "stress-unit"),
        one(
            lambda a, rng: changed(
                a, stress=10 * GPA * (1 + 4 / max(1e-3, 1e3 * np.abs(find_labels(a)["stress"]).max()))
            )
        ),
        EFS,
    ),
    Spoiling(
        "one energy +300 eV/atom",
        ("energy-outlier",),
        one(lambda a, rng: relabelled(a, energy=find_labels(a)["energy"] - 300.0 * len(a))),
        EF,
    ),
    Spoiling(
        "one energy +15 eV/atom",
        ("energy-outlier",),
        one(lambda a, rng: relabelled(a, energy=find_labels(a)["energy"] + 15.0 * len(a))),
        both(EF, same_atoms),
    ),
    Spoiling("one force +60 eV/Å", ("forces-outlier", "net-force"), one(bad_force), EF),
    Spoiling("one atom on another", ("close-atoms",), one(bad_position), EF),
    Spoiling("fixed atoms zero", ("constrained-forces", "net-force"), each(fixed), both(EF, low_symmetry)),
    Spoiling("joined, other energies", ("contradiction",), joined_with_other_labels, EF),
    Spoiling("valid of train", ("overlap",), overlapping, several),
    Spoiling("one energy for all", ("energies-equal",), one_energy, both(EF, same_atoms)),
    Spoiling("labels of other frames", ("forces-unrelated", "repeated-labels"), shifted_labels, both(EF, same_atoms)),
    Spoiling("forces are positions", ("forces-copied",), each(lambda a: relabelled(a, forces=a.positions.copy())), EF),
    Spoiling("forces repeated", ("repeated-labels",), repeated_forces, both(EF, same_atoms)),
    Spoiling("two levels of theory", ("levels-of-theory",), two_levels, both(EF, same_atoms)),
    Spoiling("E0s of another code", ("e0s",), with_e0s(12.0), EF),
    Spoiling("unconverged", ("unconverged",), unconverged, several),
)
