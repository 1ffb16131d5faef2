"""ASE's databases, ``*.db`` and ``*.aselmdb``, row by row; also those that keep labels in ``data`` with units beside (SchNetPack)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
from ase import Atoms
from ase.db.row import AtomsRow

from equinet.datasets.keys import LabelKeys
from equinet.datasets.properties import is_label
from equinet.lazy import how_to_install
from equinet.quotes import shortened

from .frame import RESULTS, attach
from .required import require_units, said_units, with_units
from .streams import name_inside, unpacked

AT_ONCE = 1000  # rows in memory
MAGIC = (0xBEEFC0DE).to_bytes(4, "little")  # behind the head of the first page of an LMDB file
# Names in `data` of the arrays, and of the results that ASE does not know, in rows that equinet wrote.
ARRAYS, OTHER_RESULTS = "equinet_arrays", "equinet_results"
UNIT_OF, UNIT_OF_LENGTH = "_property_unit_dict", "_distance_unit"  # in the metadata of SchNetPack


def read_database(path: Path, keys: LabelKeys) -> Iterator[tuple[Atoms, LabelKeys]]:
    """Frames of a database: results of calculators in eV and Å, further labels in ``data`` in the units of the metadata.

    Raises:
        ValueError: If a library is missing, the file cannot be read, or labels in ``data`` have no units; names the file, the row, and the remedy.
    """
    is_lmdb = not name_inside(path).lower().endswith(".db")
    if is_lmdb and find_spec("lmdb") is None:
        raise ValueError(f"{path} needs lmdb, which is not installed: {how_to_install('data')}")
    try:
        with unpacked(path) as plain:
            if is_lmdb:
                _require_lmdb(plain, path)
                rows, metadata = _rows_of_store(plain)
            else:
                database = ase.db.connect(str(plain), type="db", use_lock_file=False)
                rows, metadata = _in_parts(database), dict(database.metadata)
            yield from _frames(rows, path, metadata, keys)
    except (ValueError, GeneratorExit):
        raise
    except Exception as error:  # SQLite, LMDB and ASE raise errors of their own
        raise ValueError(
            f"{path} cannot be read as a database of ASE: {type(error).__name__}: {shortened(str(error), 200)}"
        ) from error


def _require_lmdb(plain: Path, path: Path) -> None:
    with plain.open("rb") as file:
        if file.read(20)[16:] != MAGIC:
            raise ValueError(f"{path} is no LMDB file; was it cut short or renamed? Fetch it again")


def _rows_of_store(path: Path) -> tuple[Iterator[Any], dict[str, Any]]:
    """Rows of an LMDB database, and its metadata."""
    from equinet.datasets.store.database import METADATA, Database  # whose neighbours, graphs, take long to import
    from equinet.datasets.store.frames import ids_of
    from equinet.datasets.store.rows import decoded

    database = Database(path)
    contents = ((int(n), database.get(str(n).encode())) for n in ids_of(database))
    rows = (AtomsRow(decoded(content) | {"id": n}) for n, content in contents if content is not None)
    stored = database.get(METADATA)
    return rows, decoded(stored) if stored else {}


def _in_parts(database: Any) -> Iterator[Any]:
    """Rows by number; ASE would fetch all at once."""
    last = 0
    while rows := list(database.select([("id", ">", last)], sort="id", limit=AT_ONCE)):
        yield from rows
        last = rows[-1].id


def _frames(
    rows: Iterator[Any], path: Path, metadata: Mapping[str, Any], keys: LabelKeys
) -> Iterator[tuple[Atoms, LabelKeys]]:
    own = with_units(keys)
    in_data = _units_of_data(path, metadata, keys)
    for row in rows:
        atoms = row.toatoms()
        atoms.info |= row.key_value_pairs
        data = dict(row.data)
        of_atoms, of_calculators = data.pop(ARRAYS, ()), data.pop(OTHER_RESULTS, ())
        results = dict(atoms.calc.results) if atoms.calc is not None else {}
        labels = {
            name for name in data if is_label(name) or name in (keys.of("energy"), keys.of("forces"), keys.of("stress"))
        }
        if labels and not results:
            if in_data is None:
                names = ", ".join(sorted(labels))
                require_units(
                    path, f"row {row.id} has its labels ({names}) in `data`, and the metadata of the database", keys
                )
            own = keys if in_data is None else in_data
        for name, value in data.items():
            array = _squeezed(value, len(atoms))
            if name in results:
                if not np.array_equal(array, results[name]):
                    raise ValueError(
                        f"{path}, row {row.id}: `{name}` differs between the calculator and `data` of the row; remove one of them"
                    )
            elif name in RESULTS or name in of_calculators:
                results[name] = array
            elif name in of_atoms or (isinstance(array, np.ndarray) and array.ndim and len(array) == len(atoms)):
                atoms.arrays[name] = np.asarray(array)
            else:
                atoms.info[name] = array
        attach(atoms, results)
        yield atoms, own


def _units_of_data(path: Path, metadata: Mapping[str, Any], keys: LabelKeys) -> LabelKeys | None:
    units = metadata.get(UNIT_OF)
    if not isinstance(units, Mapping) or UNIT_OF_LENGTH not in metadata:
        return None
    said = {name: units.get(keys.of(name)) for name in ("energy", "forces", "stress")}
    return with_units(keys, said_units(path, length=str(metadata[UNIT_OF_LENGTH]), **said))


def _squeezed(value: Any, atoms: int) -> Any:
    """A number of an array of one, a matrix of an array of one matrix; SchNetPack has an axis of frames."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return value
    array = np.array(value)
    if array.dtype.kind not in "ifb":
        return value
    if array.shape == (1,):
        return array.item()
    return array[0] if array.ndim == 3 and len(array) == 1 != atoms else array
