"""Labels of frames: found, checked once, each complaint naming file and frame."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from equinet.graph.elements import no_element
from equinet.quotes import quoted

from .bounds import beyond_bounds
from .keys import OWN_NAMES, LabelKeys
from .properties import PROPERTIES
from .tensors import NOISE_OF_STRESS, SHAPES, full_tensor, voigt

SOURCE = "equinet_source"  # where a frame came from, kept in atoms.info for error messages
LARGEST_WEIGHT = 1e6  # of a frame among others of weight 1
NO_TYPE = "Default"  # kind of a frame that has none, in tables of weights; as in MACE


class Labels(dict[str, NDArray[np.float64]]):
    """Labels of one frame by property, in the units of the table; properties without a label are absent.

    Forces are raw: constraints of the frame have not zeroed anything. A stress is 3 x 3, tension positive.

    Attributes:
        weight: Weight of the frame in the loss.
        weights: Further weights of single terms by property; 1 for those that are absent.
    """

    def __init__(
        self,
        values: Mapping[str, Any] = MappingProxyType({}),
        *,
        weight: float = 1.0,
        weights: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__(
            {name: np.asarray(value, dtype=np.float64) for name, value in values.items() if value is not None}
        )
        self.weight = weight
        self.weights = dict(weights)

    def weight_of(self, name: str) -> float:
        """Weight of one label: that of the frame times that of the term."""
        return self.weight * self.weights.get(name, 1.0)


class CheckedLabels(SinglePointCalculator):
    """Raw results of a frame whose labels have been checked, under ASE's names.

    Attributes:
        unused: Results of the file's reader that were not asked for.
    """

    unused: Mapping[str, Any] = MappingProxyType({})


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

    Forces are taken raw: ``atoms.get_forces()`` would set those of constrained atoms to zero. Labels of frames that have been read and
    checked (:func:`labelled`) are given back as they are, whatever ``keys`` are.

    Args:
        atoms: Frame as a file says, positions and cell in its units.
        keys: Names, units and signs of the labels.

    Returns:
        Labels in eV and Å.

    Raises:
        ValueError: If a label has the wrong shape, is not finite, or is larger than any can be (``largest`` of its property), or a
            stress and a virial contradict each other.
    """
    if isinstance(atoms.calc, CheckedLabels):
        return _of_checked(atoms)
    found = {**atoms.arrays, **atoms.info, **getattr(atoms.calc, "results", {})}
    labels = Labels(weight=_weight(atoms, keys, found))
    for row in PROPERTIES.values():
        key = keys.of(row.name)
        if key in found:
            shape = (len(atoms), *row.shape) if row.per == "atom" else row.shape
            value = _checked(atoms, key, found[key], SHAPES if row.symmetric else [shape])
            value = np.asarray(keys.factor(row.name) * value)
            labels[row.name] = _full(atoms, key, value) if row.symmetric else value
    if keys.virial in found:
        _add_virial(atoms, keys, found, labels)
    for name, value in list(labels.items()):
        if reason := beyond_bounds(PROPERTIES[name], value, len(atoms)):
            if name in keys.optional:
                del labels[name]
                continue
            key = keys.virial if name == "stress" and keys.of(name) not in found else keys.of(name)
            raise ValueError(f"{source(atoms)}: `{key}` {reason}")
        if (key := keys.weight_of(name)) in found and (weight := _one_weight(atoms, key, found)) != 1.0:
            labels.weights[name] = weight
    return labels


def _of_checked(atoms: Atoms) -> Labels:
    values = {
        name: full_tensor(value) if PROPERTIES[name].symmetric else value
        for name, value in atoms.calc.results.items()
        if name in PROPERTIES
    }
    weights = {name: float(atoms.info[key]) for name in values if (key := f"{name}_weight") in atoms.info}
    return Labels(values, weight=atoms.info["weight"], weights=weights)


def weight_of(atoms: Atoms, name: str) -> float:
    """Weight of one label of a frame whose labels have been checked."""
    return float(atoms.info["weight"] * atoms.info.get(f"{name}_weight", 1.0))


def _weight(atoms: Atoms, keys: LabelKeys, found: Mapping[str, Any]) -> float:
    """Weight of the frame: its own times that of its kind."""
    factor = keys.type_weights.get(str(found.get(keys.config_type, NO_TYPE)), 1.0) if keys.type_weights else 1.0
    return factor * (_one_weight(atoms, keys.weight, found) if keys.weight in found else 1.0)


def _one_weight(atoms: Atoms, key: str, found: Mapping[str, Any]) -> float:
    weight = float(_checked(atoms, key, found[key], [()]))
    if weight < 0:
        raise ValueError(f"{source(atoms)}: `{key}` must not be negative, got {weight}")
    if weight > LARGEST_WEIGHT:
        raise ValueError(f"{source(atoms)}: `{key}` must not be above {LARGEST_WEIGHT:g}, got {weight}")
    return weight


def _full(atoms: Atoms, key: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        return full_tensor(value)
    except ValueError as error:
        raise ValueError(f"{source(atoms)}: `{key}` {error}; correct the frame") from None


def _add_virial(atoms: Atoms, keys: LabelKeys, found: Mapping[str, Any], labels: Labels) -> None:
    """Add the stress -W / volume of a virial W to the labels."""
    virial = _checked(atoms, keys.virial, found[keys.virial], SHAPES)
    if not has_volume(atoms):
        if virial.any():
            raise ValueError(
                f"{source(atoms)}: `{keys.virial}` is not zero, but the frame has no periodic direction or no volume, so it gives no stress; "
                "set `pbc` and cell of the frame or remove it"
            )
        return
    volume = atoms.get_volume() * keys.units.factor("length") ** 3
    stress = _full(atoms, keys.virial, -keys.units.factor("energy") / volume * virial)
    given = labels.setdefault("stress", stress)
    if np.abs(given - stress).max() > max(1e-3 * np.abs(given).max(), NOISE_OF_STRESS):
        raise ValueError(
            f"{source(atoms)}: `{keys.of('stress')}` and `{keys.virial}` contradict each other: xx {given[0, 0]:.6g} and {stress[0, 0]:.6g} "
            f'eV/Å³, which is -virial/volume; correct the frame, or set one of `data.stress_key` and `data.virial_key` to ""'
        )


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
    """The same frame, checked, in Å, with its labels in eV and Å as raw results of a calculator; what every reader ends in.

    Args:
        atoms: Frame as a file says. All nine numbers of a stress may stand in ``info`` or in the results of its calculator.
        keys: Names, units and signs of the labels.

    Raises:
        ValueError: If an atom is of no element, a position or cell is not finite, or a label is wrong; names the frame and the remedy.
    """
    require_elements(atoms)
    require_finite(atoms)
    result = with_labels(atoms, find_labels(atoms, keys))
    if (factor := keys.units.factor("length")) != 1.0:
        result.positions *= factor
        result.cell *= factor
    if keys.config_type in atoms.info:
        result.info["config_type"] = atoms.info[keys.config_type]
    # What is no label, such as magnetic moments, stays as it is: a conversion must not lose it.
    others = {name: value for name, value in getattr(atoms.calc, "results", {}).items() if name not in PROPERTIES}
    result.calc.results = {**others, **result.calc.results}
    return result


def with_labels(atoms: Atoms, found: Labels) -> Atoms:
    """The same frame with its labels as raw results of a calculator, under ASE's names, and its weights in ``info``."""
    result = atoms.copy()
    calculator = CheckedLabels(result)
    # Set directly: the constructor would refuse or reshape what ASE does not expect, and constraints stay out of it.
    for name, value in found.items():
        row = PROPERTIES[name]
        calculator.results[name] = voigt(value) if row.symmetric else value
        if row.shape == () and row.per == "structure":
            calculator.results[name] = float(value)
    before = getattr(atoms.calc, "unused", None) or getattr(atoms.calc, "results", {})
    calculator.unused = {name: value for name, value in before.items() if name not in found}
    result.info["weight"] = found.weight
    for name in PROPERTIES:
        result.info.pop(f"{name}_weight", None)
    result.info |= {f"{name}_weight": weight for name, weight in found.weights.items()}
    result.calc = calculator
    return result


def has_volume(atoms: Atoms) -> bool:
    """True if a stress is defined: some direction is periodic and the cell has a volume."""
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3
