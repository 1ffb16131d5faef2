"""Labels under other names than those asked for: recognised, and offered with the setting that takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms

from .frames import NO_TYPE, SOURCE, source
from .keys import LabelKeys
from .properties import BUILT_IN, PROPERTIES
from .tensors import SHAPES, voigt

WORDS = {
    "energy": {"energy", "energies", "etot", "toten"},
    "forces": {"force", "forces"},
    "stress": {"stress", "stresses"},
    "virial": {"virial", "virials"},
}
# Other things that are called after a label.
QUALIFIERS = {"weight", "weights", "key", "unit", "units", "kinetic", "std", "var", "error", "uncertainty", "sigma"}
SAME = 1e-5  # eV, eV/Å, eV/Å³; what differs by less was written with fewer digits
# In `info` of every frame; no label.
OURS = {SOURCE, "weight", "config_type", "numbers", "positions"}


@lru_cache(maxsize=4096)
def label_named(key: str) -> str | None:
    """The label that a key usually stands for, "energy", "forces", "stress" or "virial"; None if for none.

    >>> [label_named(key) for key in ("REF_energy", "dft_force", "TotEnergy", "virials", "config_energy_weight", "mass")]
    ['energy', 'forces', 'energy', 'virial', None, None]
    """
    words = set(re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", key).lower()))
    if words & QUALIFIERS:
        return None
    return next((name for name in ("stress", "virial", "forces", "energy") if words & WORDS[name]), None)


def held(atoms: Atoms) -> dict[str, Any]:
    """Everything a frame holds besides structure and labels that were taken, by the names of its file."""
    everything = {**atoms.arrays, **atoms.info, **getattr(atoms.calc, "unused", {})}
    return {name: value for name, value in everything.items() if name not in OURS}


def offered(atoms: Atoms, name: str, keys: LabelKeys) -> list[str]:
    """Settings that would take a label which a frame holds under another name, ``data.energy_key = "REF_energy"``."""
    found = {key: value for key, value in held(atoms).items() if key != keys.of(name) and _fits(atoms, key, value)}
    settings = [f'data.{name}_key = "{key}"' for key in sorted(found) if label_named(key) == name and name in BUILT_IN]
    if name == "stress":
        settings += [
            f'data.virial_key = "{key}"' for key in sorted(found) if label_named(key) == "virial" and key != keys.virial
        ]
    return settings


def _fits(atoms: Atoms, key: str, value: Any) -> bool:
    """True if a value has the type and shape of the label that its name stands for."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    by_name: dict[str | None, list[tuple[int, ...]]] = {"energy": [()], "forces": [(len(atoms), 3)]}
    shapes = by_name.get(label_named(key), SHAPES)
    return not isinstance(value, (str, bool)) and array.shape in shapes


def second_labels(frames: Iterable[Atoms], keys: LabelKeys) -> list[str]:
    """Sentences about labels that frames hold twice with different values, and which of the two is taken.

    Args:
        frames: Frames of :func:`equinet.datasets.read_frames`.
        keys: Keys that they were read with.
    """
    differing: dict[tuple[str, str], list[tuple[float, Atoms]]] = {}
    count = 0
    for atoms in frames:
        count += 1
        for key, value in held(atoms).items():
            name = label_named(key)
            if name not in BUILT_IN or name not in atoms.calc.results or key == keys.of(name):
                continue
            if (gap := _difference(atoms, name, key, value, keys)) > SAME:
                differing.setdefault((name, key), []).append((gap, atoms))
    return [
        f"frames hold `{keys.of(name)}` and `{key}`, which differ in {len(found)} of {count} frames, by up to {max(gap for gap, _ in found):.3g} "
        f'{PROPERTIES[name].unit}, first in {source(found[0][1])}. `{keys.of(name)}` is taken; data.{name}_key = "{key}" takes the other'
        for (name, key), found in differing.items()
    ]


def _difference(atoms: Atoms, name: str, key: str, value: Any, keys: LabelKeys) -> float:
    if not _fits(atoms, key, value):
        return 0.0
    taken = np.asarray(atoms.calc.results[name])
    other = np.asarray(value, dtype=np.float64) * keys.factor(name)
    if other.shape != taken.shape:
        other = voigt(other)
    gap = float(np.abs(other - taken).max()) if taken.size else 0.0
    return gap if np.isfinite(gap) else 0.0


def other_weights(frames: Sequence[Atoms], keys: LabelKeys) -> str | None:
    """Complaint of weights which frames carry under the name ``config_weight``, when it is not asked for; None if there are none.

    Raising them is left to the caller. Weights that are all 1 change nothing.
    """
    if keys.weight not in ("weight", ""):
        asked = {keys.weight, *map(keys.weight_of, PROPERTIES)}
        if frames and not any(asked & atoms.info.keys() for atoms in frames):
            return (
                f"`data.weight_key` is {keys.weight!r}, and no frame carries it; leave the key out, or correct the name"
            )
    if keys.weight != "weight":
        return None
    for key in ("config_weight", *(f"config_{name}_weight" for name in PROPERTIES)):
        with_key = [atoms for atoms in frames if key in atoms.info]
        values = {quoted_number(atoms.info[key]): atoms for atoms in reversed(with_key)}
        if not set(values) <= {"1"}:
            first = next(atoms for number, atoms in reversed(values.items()) if number != "1")
            return (
                f"{source(first)}: frames carry `{key}` ({', '.join(sorted(values)[:5])}), and nothing says whether it counts; set "
                '`data.weight_key = "config_weight"` to weigh them so, or `data.weight_key = ""` to count all frames alike'
            )
    return None


def left_out(frames: Sequence[Atoms], keys: LabelKeys) -> list[str]:
    """Sentences about labels that were left out because they cannot be right and nothing is trained on them (``keys.optional``)."""
    sentences = []
    for name in keys.optional:
        found = [atoms for atoms in frames if keys.of(name) in held(atoms) and name not in atoms.calc.results]
        if found:
            sentences.append(
                f"`{keys.of(name)}` of {len(found)} of {len(frames)} frames cannot be right, first {source(found[0])}: more than "
                f"{PROPERTIES[name].largest:g} {PROPERTIES[name].plot_unit}. The loss gives it no weight, so it is left out; if it is in another "
                f"unit, set data.units.{name}"
            )
    return sentences


def quoted_number(value: Any) -> str:
    """A number as short as it can be written, or the text as it is."""
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)[:20]


def unknown_types(frames: Sequence[Atoms], weights: Mapping[str, float]) -> str | None:
    """Complaint of kinds of frames that have a weight and do not occur; None if all do."""
    known = {str(atoms.info["config_type"]) for atoms in frames if "config_type" in atoms.info}
    if all(name in known or name == NO_TYPE for name in weights):
        return None
    unknown = ", ".join(sorted(name for name in weights if name not in known and name != NO_TYPE))
    there = ", ".join(sorted(known)) or "none at all; `data.config_type_key` names what tells them apart"
    return f"`data.config_type_weights` names {unknown}, and no frame is of that kind; the kinds are: {there}"
