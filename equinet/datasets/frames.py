"""Labels of frames: found, checked once, each complaint naming file and frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import complete_cell, minkowski_reduce
from numpy.typing import NDArray

from equinet.graph.elements import no_element
from equinet.quotes import quoted

from .plausible import beyond_bounds, outlier
from .properties import BUILT_IN, PROPERTIES, property_named

SOURCE = "equinet_source"  # where a frame came from, kept in atoms.info for error messages
ISOLATED = "IsolatedAtom"
LARGEST_WEIGHT = 1e6  # of a frame among others of weight 1
NOISE_OF_STRESS = 1e-5  # eV/Å³, 1.6 MPa
EMPTY_SPACE = 10.0  # Å to the nearest image; no bond is a third as long


class LabelKeys:
    """Names under which a file holds its labels; a property that is not named has its own name.

    Args:
        weight: Weight of the frame in the loss; 1 where a frame does not have it.
        keys: Names by property, see :mod:`equinet.datasets.properties`: ``energy`` (eV), ``forces`` (eV/Å), ``stress`` (eV/Å³, tension
            positive; six numbers in Voigt order xx yy zz yz xz xy, or 3 x 3) and every registered one. "" for labels to ignore.

    Raises:
        ValueError: If there is no such property.
    """

    def __init__(self, *, weight: str = "weight", **keys: str) -> None:
        for name in keys:
            property_named(name)
        self.weight = weight
        self._keys = keys
        self._none = False

    @classmethod
    def none(cls) -> LabelKeys:
        """Keys of a reader that ignores all labels."""
        keys = cls(weight="")
        keys._none = True
        return keys

    def of(self, name: str) -> str:
        """Name in the file of a property."""
        return "" if self._none else self._keys.get(name, name)


OWN_NAMES = LabelKeys()


class Labels(dict[str, NDArray[np.float64]]):
    """Labels of one frame by property, in the units of the table; properties without a label are absent.

    Forces are raw: constraints of the frame have not zeroed anything. A stress is 3 x 3, tension positive.

    Attributes:
        weight: Weight of the frame in the loss.
    """

    def __init__(self, values: Mapping[str, Any] = MappingProxyType({}), *, weight: float = 1.0) -> None:
        super().__init__(
            {name: np.asarray(value, dtype=np.float64) for name, value in values.items() if value is not None}
        )
        self.weight = weight


class CheckedLabels(SinglePointCalculator):
    """Raw results of a frame whose labels have been checked, under ASE's names."""


def source(atoms: Atoms) -> str:
    """File and number of a frame, for messages."""
    return str(atoms.info.get(SOURCE, "a frame"))


def require_elements(atoms: Atoms) -> None:
    """Refuse a frame with atoms of no element: placeholders (atomic number 0) and numbers beyond the table.

    Raises:
        ValueError: Names the frame, the atom and its atomic number.
    """
    if reason := no_element(atoms.numbers.tolist()):
        raise ValueError(f"{source(atoms)}: {reason}; correct or remove the frame")


def require_finite(atoms: Atoms) -> None:
    """Refuse a frame whose positions or cell are not finite.

    Raises:
        ValueError: Names the frame and the atom.
    """
    if reason := not_finite(atoms):
        raise ValueError(f"{source(atoms)}: {reason}; correct or remove the frame")


def not_finite(atoms: Atoms) -> str | None:
    """Complaint of positions or a cell that are not finite; None if they are."""
    for atom in np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1)):
        return f"the position of atom {atom} is not finite: {atoms.positions[atom]}"
    return None if np.isfinite(atoms.cell[:]).all() else f"the cell is not finite: {atoms.cell[:].tolist()}"


def find_labels(atoms: Atoms, keys: LabelKeys = OWN_NAMES) -> Labels:
    """The labels a frame carries, whether ASE has moved them into a calculator or left them in ``info`` and ``arrays``.

    Forces are taken raw: ``atoms.get_forces()`` would set those of constrained atoms to zero.

    Raises:
        ValueError: If a label has the wrong shape, is not finite, or is larger than any can be (``largest`` of its property).
    """
    found = {**atoms.arrays, **atoms.info, **getattr(atoms.calc, "results", {})}
    weight = _checked(atoms, keys.weight, found.get(keys.weight, 1.0), [()])
    if weight < 0:
        raise ValueError(f"{source(atoms)}: `{keys.weight}` must not be negative, got {float(weight)}")
    if weight > LARGEST_WEIGHT:
        raise ValueError(f"{source(atoms)}: `{keys.weight}` must not be above {LARGEST_WEIGHT:g}, got {float(weight)}")
    labels = Labels(weight=float(weight))
    for row in PROPERTIES.values():
        key = keys.of(row.name)
        if key not in found:
            continue
        shape = (len(atoms), *row.shape) if row.per == "atom" else row.shape
        value = _checked(atoms, key, found[key], [(6,), (9,), (3, 3)] if row.symmetric else [shape])
        try:
            labels[row.name] = _full(value) if row.symmetric else value
        except ValueError as error:
            raise ValueError(f"{source(atoms)}: `{key}` {error}; correct the frame") from None
        if reason := beyond_bounds(row, labels[row.name], len(atoms)):
            raise ValueError(f"{source(atoms)}: `{key}` {reason}")
    return labels


def labels_of(atoms: Atoms) -> Labels:
    """Labels of a frame: those of :func:`read_frames` as they are, those of any other ASE structure after a check."""
    if not isinstance(atoms.calc, CheckedLabels):
        return find_labels(atoms)
    values = {
        name: _full(value) if PROPERTIES[name].symmetric else value
        for name, value in atoms.calc.results.items()
        if name in PROPERTIES
    }
    return Labels(values, weight=atoms.info["weight"])


def _full(stress: NDArray[np.float64]) -> NDArray[np.float64]:
    if stress.shape == (6,):
        xx, yy, zz, yz, xz, xy = stress
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    full = stress.reshape(3, 3)
    if np.abs(full - full.T).max() > max(1e-3 * np.abs(full).max(), NOISE_OF_STRESS):
        raise ValueError(f"is not symmetric: {full.tolist()}")
    return (full + full.T) / 2


def _checked(atoms: Atoms, name: str, value: object, shapes: list[tuple[int, ...]]) -> NDArray[np.float64]:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source(atoms)}: `{name}` is not a number: {quoted(value)}; correct the frame") from error
    if array.shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{source(atoms)}: `{name}` has shape {array.shape}, must be {wanted}; correct the frame")
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"{source(atoms)}: `{name}` has {count} value(s) that are not finite; remove the frame or compute it again"
        )
    return array


def labelled(atoms: Atoms, keys: LabelKeys = OWN_NAMES) -> Atoms:
    """The same frame, checked, with its labels as raw results of a calculator; what every reader ends in.

    Raises:
        ValueError: If an atom is of no element, a position or cell is not finite, or a label is wrong; names the frame and the remedy.
    """
    require_elements(atoms)
    require_finite(atoms)
    result = with_labels(atoms, find_labels(atoms, keys))
    # What is no label, such as magnetic moments, stays as it is: a conversion must not lose it.
    others = {name: value for name, value in getattr(atoms.calc, "results", {}).items() if name not in PROPERTIES}
    result.calc.results = {**others, **result.calc.results}
    return result


def with_labels(atoms: Atoms, found: Labels) -> Atoms:
    """The same frame with its labels as raw results of a calculator, under ASE's names."""
    result = atoms.copy()
    calculator = CheckedLabels(result)
    # Set directly: the constructor would refuse or reshape what ASE does not expect, and constraints stay out of it.
    for name, value in found.items():
        row = PROPERTIES[name]
        calculator.results[name] = value.ravel()[[0, 4, 8, 5, 2, 1]] if row.symmetric else value
        if row.shape == () and row.per == "structure":
            calculator.results[name] = float(value)
    result.info["weight"] = found.weight
    result.calc = calculator
    return result


def has_volume(atoms: Atoms) -> bool:
    """True if a stress is defined: some direction is periodic and the cell has a volume."""
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def is_isolated_atom(atoms: Atoms) -> bool:
    """True if a frame is a single atom in empty space.

    It is if it is marked so (``config_type=IsolatedAtom``), or holds one atom that has no periodic images or none within
    10 Å, as plane-wave codes need.

    Raises:
        ValueError: If it is marked so but has several atoms, or has a cell that is not finite.
    """
    require_finite(atoms)
    marked = atoms.info.get("config_type") == ISOLATED
    if marked and len(atoms) != 1:
        raise ValueError(f"{source(atoms)}: marked as {ISOLATED}, but it has {len(atoms)} atoms; correct the frame")
    return marked or (len(atoms) == 1 and not _has_images_within(atoms, EMPTY_SPACE))


def _has_images_within(atoms: Atoms, distance: float) -> bool:
    if not atoms.pbc.any() or not atoms.cell[:][atoms.pbc].any(axis=1).all():
        return False
    # In a reduced cell the nearest image is one step away, however skewed the cell was.
    periodic = minkowski_reduce(complete_cell(atoms.cell), atoms.pbc)[0][atoms.pbc]
    steps = [step for step in itertools.product((-1, 0, 1), repeat=len(periodic)) if any(step)]
    return bool(np.linalg.norm(np.array(steps) @ periodic, axis=1).min() <= distance)


def require_no_outliers(frames: Sequence[Atoms]) -> None:
    """Refuse frames with a force out of all proportion to the others.

    Args:
        frames: Frames of :func:`read_frames` or :func:`with_labels`.

    Raises:
        ValueError: Names the frame, the atom, the force and the remedy.
    """
    if (found := outlier(frames)) is not None:
        raise ValueError(f"{source(found[0])}: `forces` {found[1]}")


def require_labels(frames: Sequence[Atoms], wanted: Iterable[str], *, allow_missing: bool) -> None:
    """Refuse frames that lack a label which the loss weighs, or have forces out of all proportion (:mod:`.plausible`).

    Args:
        frames: Frames without the isolated atoms.
        wanted: Names of the properties with a weight above zero.
        allow_missing: Accept frames without a label as long as some frame has it; they then count only in the other terms.

    Raises:
        ValueError: Names the label, the number of frames without it, the first of them, and what to do; or the outlier.
    """
    frames = [
        atoms if isinstance(atoms.calc, CheckedLabels) else with_labels(atoms, find_labels(atoms)) for atoms in frames
    ]
    require_no_outliers(frames)
    for name in wanted:
        if property_named(name).needs_volume:
            open_frames = [atoms for atoms in frames if name in atoms.calc.results and not has_volume(atoms)]
            if open_frames:
                raise ValueError(
                    f"{source(open_frames[0])}: has a {name} but no periodic direction or no volume, so a {name} means nothing there; "
                    f"set its `pbc` and cell or remove the label ({len(open_frames)} such frames)"
                )
        without = [atoms for atoms in frames if name not in atoms.calc.results]
        if not without or (allow_missing and len(without) < len(frames)):
            continue
        present = sorted(set(without[0].info) | set(without[0].arrays) - {"numbers", "positions"})
        offered = ", ".join(key for key in present if key not in (SOURCE, "weight", "config_type")) or "nothing else"
        own = name in BUILT_IN  # has keys of its own in a configuration
        weight = f"train.{name}_weight = 0" if own else f"train.weights.{name} = 0"
        remedy = f"set `{weight}`" if len(without) == len(frames) else "set `data.allow_missing = true`"
        raise ValueError(
            f"{len(without)} of {len(frames)} frames have no label `{name}`, first {source(without[0])}; the loss gives it a "
            f"weight. The frame holds: {offered}. If the label has another name there, set `{f'data.{name}_key' if own else f'data.keys.{name}'}`; otherwise {remedy}"
        )
