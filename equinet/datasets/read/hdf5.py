"""HDF5 files: those of mace_prepare_data, and groups with arrays over frames as of ANI, COMP6 and SPICE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from equinet.datasets.keys import LabelKeys
from equinet.lazy import how_to_install
from equinet.quotes import shortened

from .frame import RESULTS, attach
from .paths import natural_order
from .required import require_units, said_units, with_units
from .streams import unpacked
from .tabular import GRADIENTS, NAMES, NUMBERS, POSITIONS, first_of, frames_of

AT_ONCE = 1000  # frames of a group in memory
Read = Iterator[tuple[Atoms, LabelKeys]]


def read_hdf5(path: Path, keys: LabelKeys) -> Read:
    """Frames of an HDF5 file, some at a time.

    Units are those that the data sets say (attribute ``units``), those that are asked for, or, of MACE's own files, eV and Å as MACE has it.

    Raises:
        ValueError: If h5py is not installed, the file cannot be read, has no units or no structures; names the file.
    """
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f"{path} needs h5py, which cannot be imported ({error}): {how_to_install('data')}") from error
    try:
        with unpacked(path) as plain, h5py.File(plain, "r") as file:
            yield from _group(file, path, keys)
    except (OSError, KeyError, RuntimeError, TypeError) as error:  # what h5py raises of damaged files
        raise ValueError(
            f"{path} cannot be read as HDF5: {type(error).__name__}: {shortened(str(error), 200)}"
        ) from error


def _group(group: Any, path: Path, keys: LabelKeys) -> Read:
    """Frames of a group and of those in it, in natural order."""
    held = set(group)
    if "node_attrs" in held and "edge_index" in held:
        raise ValueError(
            f"{path}, {group.name}: graphs of MACE do not say their elements; write the configurations with mace_prepare_data"
        )
    if "properties" in held and "atomic_numbers" in held:
        yield _of_mace(group, path), keys
        return
    if first_of(POSITIONS, held) and first_of(NUMBERS, held):
        yield from _of_arrays(group, path, keys)
        return
    for name in sorted(held, key=lambda each: natural_order(Path(each))):
        if hasattr(group[name], "keys"):
            yield from _group(group[name], path, keys)


def _of_mace(group: Any, path: Path) -> Atoms:
    """One configuration of mace_prepare_data: ``None`` is written as a text."""
    values = {name: _value(group[name]) for name in group if not hasattr(group[name], "keys")}
    properties = {name: _value(item) for name, item in group["properties"].items()}
    weights = {name: _value(item) for name, item in group.get("property_weights", {}).items()}
    try:
        made = Atoms(numbers=values.pop("atomic_numbers"), positions=values.pop("positions"))
        if (cell := values.pop("cell", None)) is not None:
            made.cell[:] = cell
        made.pbc = False if (pbc := values.pop("pbc", None)) is None else pbc
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path}, {group.name}: {type(error).__name__}: {error}; the configuration is damaged"
        ) from error
    made.info |= {name: value for name, value in values.items() if value is not None}
    made.info |= {
        f"{name}_weight": value
        for name, value in weights.items()
        if value not in (None, 1.0) and properties.get(name) is not None
    }
    results = {name: value for name, value in properties.items() if value is not None and name in RESULTS}
    made.info |= {name: value for name, value in properties.items() if value is not None and name not in RESULTS}
    attach(made, results)
    return made


def _value(item: Any) -> Any:
    value = item[()]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
        return None if value == "None" else value
    return value.item() if isinstance(value, np.generic) else value


def _of_arrays(group: Any, path: Path, keys: LabelKeys) -> Read:
    keys = _with_units(group, path, keys)
    where = first_of(POSITIONS, group) or ""
    count = group[where].shape[0] if group[where].ndim == 3 else 1
    for begin in range(0, count, AT_ONCE):
        arrays = {}
        for name, item in group.items():
            if hasattr(item, "keys"):
                continue
            over_frames = item.ndim and item.shape[0] == count and count > 1
            value = item[begin : begin + AT_ONCE] if over_frames and not _is_for_all(name, item) else item[()]
            arrays[name] = np.asarray(value)
        try:
            for atoms in frames_of(arrays, keys):
                atoms.info.setdefault("group", group.name)
                yield atoms, keys
        except ValueError as error:
            raise ValueError(f"{path}, {group.name}: {error}") from error


def _is_for_all(name: str, item: Any) -> bool:
    """True for the atomic numbers of all frames, of which there may be as many as frames."""
    return name in NUMBERS and item.ndim == 1


def _with_units(group: Any, path: Path, keys: LabelKeys) -> LabelKeys:
    def said(*names: str) -> str | None:
        name = first_of(names, group)
        unit = None if name is None else group[name].attrs.get("units", group[name].attrs.get("unit"))
        return unit.decode() if isinstance(unit, bytes) else None if unit is None else str(unit)

    length = said(*POSITIONS)
    energy = said(keys.of("energy"), *NAMES["energy"])
    if length is None or energy is None:
        require_units(path, "this HDF5 file", keys, hint="Hartree and Ang in ANI")
        return keys
    forces = said(keys.of("forces"), *NAMES["forces"], *GRADIENTS)
    return with_units(keys, said_units(path, energy=energy, length=length, forces=forces))
