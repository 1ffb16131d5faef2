"""Fingerprint of frames: what training sees of them, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms

from .properties import BUILT_IN, PROPERTIES


def content_of(atoms: Atoms) -> Iterator[bytes]:
    """Bytes of everything that training sees of a frame of :func:`equinet.datasets.read_frames`."""
    yield atoms.numbers.tobytes() + atoms.positions.tobytes() + atoms.cell[:].tobytes()
    yield atoms.pbc.tobytes() + repr(atoms.info["weight"]).encode()
    if terms := {name: atoms.info[f"{name}_weight"] for name in PROPERTIES if f"{name}_weight" in atoms.info}:
        yield repr(terms).encode()
    for name in PROPERTIES:
        value = atoms.calc.results.get(name)
        if value is not None:
            yield np.asarray(value, dtype=np.float64).tobytes()
        elif name in BUILT_IN:
            yield name.encode()
