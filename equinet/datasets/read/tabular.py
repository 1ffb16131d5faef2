"""Frames of arrays with one entry a frame, as npz and HDF5 files hold them, by the usual names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from equinet.datasets.keys import LabelKeys
from equinet.quotes import shortened

from .frame import RESULTS, attach
from .symbols import atomic_number

NUMBERS = ("nuclear_charges", "atomic_numbers", "numbers", "species", "z", "Z")
POSITIONS = ("coords", "coordinates", "positions", "conformations", "R", "pos")
CELLS = ("cell", "cells", "lattice")
# Names of the properties in such files: rMD17, MD17 and sGDML, ANI, COMP6, SPICE.
NAMES = {"energy": ("energies", "energy", "E", "dft_total_energy"), "forces": ("forces", "force", "F")}
GRADIENTS = ("dft_total_gradient",)  # of the energy: forces with the other sign


def first_of(names: tuple[str, ...], held: Any) -> str | None:
    """The first of several names that is there."""
    return next((name for name in names if name in held), None)


def atomic_numbers(array: NDArray[Any]) -> NDArray[np.int64]:
    """Atomic numbers of an array of numbers or symbols; 0 for padding.

    Raises:
        ValueError: If a symbol is none of an element.
    """
    if array.dtype.kind in "iuf":
        return array.astype(np.int64)
    words = [each.decode() if isinstance(each, bytes) else str(each) for each in array.ravel().tolist()]
    return np.array([atomic_number(word.strip()) for word in words], np.int64).reshape(array.shape)


def frames_of(arrays: Mapping[str, NDArray[Any]], keys: LabelKeys) -> Iterator[Atoms]:
    """Frames of arrays whose first axis is the frame; numbers and cell may be one for all.

    Everything stays under its own name, but for energies and forces under their usual names, which are results, unless others are asked for.

    Args:
        arrays: Arrays by name.
        keys: Names of the labels.

    Raises:
        ValueError: If there are no positions or atomic numbers, or the shapes do not fit; names the array.
    """
    arrays = dict(arrays)
    where, which = first_of(POSITIONS, arrays), first_of(NUMBERS, arrays)
    if where is None or which is None:
        wanted = f"positions ({', '.join(POSITIONS)})" if where is None else f"atomic numbers ({', '.join(NUMBERS)})"
        raise ValueError(
            f"there are no {wanted}; it holds {shortened(', '.join(arrays), 200) or 'nothing'}. Rename the array"
        )
    positions, numbers = np.asarray(arrays.pop(where), np.float64), atomic_numbers(arrays.pop(which))
    positions = positions[None] if positions.ndim == 2 else positions
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise ValueError(f"`{where}` must have the shape (frames, atoms, 3), got {positions.shape}")
    count, atoms = positions.shape[:2]
    if numbers.shape not in ((atoms,), (count, atoms)):
        raise ValueError(
            f"`{which}` must have the shape ({atoms},) or ({count}, {atoms}) as `{where}`, got {numbers.shape}"
        )
    cell_name = first_of(CELLS, arrays)
    cells = None if cell_name is None else np.asarray(arrays.pop(cell_name), np.float64)
    if cells is not None and cells.shape not in ((3, 3), (count, 3, 3)):
        raise ValueError(f"`{cell_name}` must have the shape (3, 3) or ({count}, 3, 3), got {cells.shape}")
    labels = _labels(arrays, keys, count)
    for n in range(count):
        z = numbers if numbers.ndim == 1 else numbers[n]
        there = z > 0  # shorter frames are padded
        made = Atoms(numbers=z[there], positions=positions[n][there])
        if cells is not None:
            made.cell[:] = cells if cells.ndim == 2 else cells[n]
            made.pbc = bool(made.cell[:].any())
        results = {name: _cut(value[n], there) for name, value in labels.items()}
        for name, array in arrays.items():
            if array.ndim == 0 or len(array) != count:
                if array.ndim == 0:
                    made.info[name] = _plain(array)
                continue
            value = _cut(array[n], there)
            if name in RESULTS:
                results[name] = _plain(value)
            elif value.ndim and len(value) == len(made):
                made.arrays[name] = value
            else:
                made.info[name] = _plain(value)
        attach(made, results)
        yield made


def _labels(arrays: dict[str, NDArray[Any]], keys: LabelKeys, count: int) -> dict[str, NDArray[Any]]:
    """Energies and forces under their usual names, taken out of the arrays, unless other names are asked for."""
    found = {}
    for name, usual in NAMES.items():
        if keys.of(name) != name or (key := first_of(usual, arrays)) is None:
            continue
        value = np.asarray(arrays.pop(key), np.float64)
        found[name] = value.reshape(count) if name == "energy" and value.size == count else value
        if not found[name].ndim or len(found[name]) != count:
            if name != "forces" or value.ndim != 2 or count != 1:
                raise ValueError(f"`{key}` must have one entry for each of {count} frames, got the shape {value.shape}")
            found[name] = value[None]
    if "forces" not in found and keys.of("forces") == "forces" and (key := first_of(GRADIENTS, arrays)) is not None:
        found["forces"] = -np.asarray(arrays.pop(key), np.float64)
    return found


def _cut(value: NDArray[Any], there: NDArray[np.bool_]) -> NDArray[Any]:
    value = np.asarray(value)
    return value[there] if value.ndim and len(value) == len(there) and not there.all() else value


def _plain(value: NDArray[Any]) -> Any:
    if value.ndim:
        return value
    return value.item().decode(errors="replace") if isinstance(value.item(), bytes) else value.item()
