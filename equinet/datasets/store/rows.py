"""Rows of ASE's databases: a frame as compressed JSON, exact to the last bit, and back."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.constraints import dict2constraint
from ase.db.core import now
from ase.io.jsonio import encode, object_hook

from equinet.datasets.frames import SOURCE, source
from equinet.quotes import quoted

# Arrays of ASE that a row has fields of its own for.
OWN_ARRAYS = ("numbers", "positions", "initial_magmoms", "initial_charges", "masses", "tags", "momenta")
NAMES_OF_RESULTS = frozenset(all_properties)
# Names in `data`, beside what is in `info`, of those entries that are arrays of the atoms, and results that ASE does not know.
ARRAYS, RESULTS = "equinet_arrays", "equinet_results"
# The values of JSON are numbers with 17 digits, which only the fastest level compresses as fast as they are made; the others save 3 %.
LEVEL = 1


def encoded(value: Any) -> bytes:
    """Compressed JSON of anything that ASE can write so."""
    return zlib.compress(encode(value).encode(), LEVEL)


def decoded(content: bytes) -> Any:
    """The value of compressed JSON; lists stay lists, arrays of numpy are arrays.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        return json.loads(zlib.decompress(content), object_hook=object_hook)
    except Exception as error:  # damaged bytes may decompress into anything
        raise ValueError(f"is damaged: {type(error).__name__}: {error}") from error


def row_of(atoms: Atoms) -> dict[str, Any]:
    """A frame as a row of ASE's databases.

    Results of the calculator, raw, are in the row under ASE's names; ``info`` and further arrays are in its ``data`` under their own.

    Raises:
        ValueError: If something in ``info`` cannot be written; names the frame and the entry.
    """
    arrays = {name: value for name, value in atoms.arrays.items() if name not in OWN_ARRAYS}
    info = {name: value for name, value in atoms.info.items() if name != SOURCE}
    for name, value in info.items():
        if reason := _not_storable(value):
            raise ValueError(f"{source(atoms)}: `{name}` {reason}, which a store cannot hold; remove it from the frame")
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    other = {name: results.pop(name) for name in list(results) if name not in NAMES_OF_RESULTS}
    if both := sorted((arrays.keys() & info.keys()) | ((arrays.keys() | info.keys()) & other.keys())):
        raise ValueError(f"{source(atoms)}: has `{both[0]}` twice, of the atoms and of the frame; rename one of them")
    data = {**info, **arrays, **other}
    if arrays:
        data[ARRAYS] = sorted(arrays)
    if other:
        data[RESULTS] = sorted(other)
    time = now()
    row: dict[str, Any] = {name: atoms.arrays[name] for name in OWN_ARRAYS if name in atoms.arrays}
    row |= {
        "cell": atoms.cell[:],
        "pbc": atoms.pbc,
        "unique_id": uuid.uuid4().hex,
        "ctime": time,
        "mtime": time,
        "user": "",
    }
    if atoms.constraints:
        row["constraints"] = [constraint.todict() for constraint in atoms.constraints]
    if results:
        row |= {"calculator": "unknown", "calculator_parameters": {}, **results}
    return row | {"key_value_pairs": {}, "data": data}


class RawResults:
    """Results of a calculator as a row has them, which are still to be checked.

    Attributes:
        results: Values by ASE's names.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results


def atoms_of(row: Mapping[str, Any]) -> Atoms:
    """The frame of a row, also of one that another package wrote, with :class:`RawResults`; its key-value pairs and data are in ``info``.

    ASE's own ``AtomsRow`` does the same in twice the time.
    """
    atoms = Atoms(row["numbers"], row["positions"], cell=row.get("cell"), pbc=row.get("pbc"))
    atoms.arrays |= {name: np.asarray(row[name]) for name in OWN_ARRAYS if name in row and name not in atoms.arrays}
    if constraints := row.get("constraints"):
        atoms.set_constraint([dict2constraint(each) for each in constraints])
    data = dict(row.get("data") or {})
    atoms.arrays |= {name: np.asarray(data.pop(name)) for name in data.pop(ARRAYS, ())}
    results = {name: _array(row[name]) for name in row if name in NAMES_OF_RESULTS}
    results |= {name: data.pop(name) for name in data.pop(RESULTS, ())}
    atoms.info = {**(row.get("key_value_pairs") or {}), **data}
    atoms.calc = RawResults(results) if results else None
    return atoms


def _array(value: Any) -> Any:
    return np.array(value) if isinstance(value, list) else value


def _not_storable(value: object) -> str | None:
    """Reason why JSON does not give a value back; None if it does. Tuples come back as lists, numbers of numpy as Python's."""
    if value is None or isinstance(value, (bool, int, float, complex, str, np.bool_, np.number)):
        return None
    if isinstance(value, np.ndarray):
        return None if value.dtype.kind in "biufcU" else f"is an array of {value.dtype}"
    if isinstance(value, (list, tuple)):
        return next(filter(None, map(_not_storable, value)), None)
    if isinstance(value, Mapping):
        if strange := next((key for key in value if not isinstance(key, str)), None):
            return f"is a table with the key {quoted(strange)}"
        return next(filter(None, map(_not_storable, value.values())), None)
    return f"is a {type(value).__name__}"
