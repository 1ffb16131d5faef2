"""Model files (*.eqn) with damaged bytes, and what all kinds of cases share: a small potential and odd values."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.build import molecule
from child import Wrong
from torch import Tensor

import equinet
from equinet.checkpoint import save_tensors
from equinet.graph import from_atoms
from equinet.models import MACEConfig, build_model
from equinet.nn import EnergyScale
from equinet.potential import Potential

SMALL = {"channels": 4, "max_l": 1, "sh_degree": 2, "correlation": 2, "radial_hidden": (8,), "readout_hidden": 4}
ELEMENTS = (1, 6, 8)
# What takes the place of a number, a text, a list or a table in a header or a configuration.
NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    64,
    10**4,
    10**6,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.0,
    1e-308,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
)
OTHERS = (
    None,
    True,
    False,
    "",
    "x",
    "cg",
    "float64",
    "\x00",
    "é" * 3,
    "a" * 10_000,
    [],
    {},
    [[]],
    ["H"],
    {"a": 1},
    [1, 2, 3],
)


def small_potential(seed: int = 0) -> Potential:
    """A MACE with random weights for hydrogen, carbon and oxygen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(MACEConfig(**SMALL), ELEMENTS, 7.5)
    scale = EnergyScale([-13.6, -1029.0, -2042.0], [1.0] * 3, [0.1] * 3, exact_isolated_atoms=True)
    return Potential(model, scale).eval()


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a model file whose checksum fits its contents, whatever the header says."""
    save_tensors(path, tensors, header)


def ethanol() -> Atoms:
    """A structure that all elements of :func:`small_potential` are in."""
    return molecule("CH3CH2OH")


def prediction_of(potential: Potential) -> Tensor:
    """Energy and forces of ethanol in one vector."""
    atoms = ethanol()
    unknown = set(atoms.numbers.tolist()) - set(potential.elements)
    if unknown:
        atoms = Atoms(numbers=[potential.elements[0]] * 2, positions=[[0, 0, 0], [0, 0.3, 0.9]])
    found = potential(from_atoms(atoms, potential.cutoff))
    return torch.cat([found["energy"].double().ravel(), found["forces"].double().ravel()]).detach()


def same(one: Potential, other: Potential) -> bool:
    """True if two potentials are the same function: to the last bit, which predictions need not be between two runs."""
    facts = [(each.model.config, each.elements, each.model.avg_num_neighbors, each.dtype) for each in (one, other)]
    states = [each.state_dict() for each in (one, other)]
    return (
        facts[0] == facts[1]
        and one.scale.exact_isolated_atoms == other.scale.exact_isolated_atoms
        and states[0].keys() == states[1].keys()
        and all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    )


def written_potential(shared: Path) -> tuple[Path, Potential]:
    """A model file as it should be, and what is in it."""
    path = shared / "base.eqn"
    equinet.save(small_potential(), path, training={"note": "for damage", "epoch": 3})
    potential = equinet.load(path)
    prediction_of(potential)  # compiles what all cases need
    return path, potential


# --- damaged bytes --------------------------------------------------------------------------------------------------


def damaged_files(shared: Path) -> Callable[[random.Random, Path], Callable[[], object]]:
    """Files some bytes of which are not what was written: whatever loads must predict the same."""
    base, expected = written_potential(shared)
    whole = base.read_bytes()

    def make(source: random.Random, file: Path) -> Callable[[], object]:
        file.write_bytes(source.choice(DAMAGE)(source, bytearray(whole)))

        def case() -> None:
            if not same(equinet.load(file), expected):
                raise Wrong("a damaged file loads as another potential")

        return case

    return make


def _header_end(content: bytearray) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def _flip_in_header(source: random.Random, content: bytearray) -> bytes:
    for _ in range(source.choice((1, 1, 2, 8))):
        content[source.randrange(8, _header_end(content))] ^= 1 << source.randrange(8)
    return bytes(content)


def _flip_in_tensors(source: random.Random, content: bytearray) -> bytes:
    start = _header_end(content)
    for _ in range(source.choice((1, 1, 2, 8))):
        content[source.randrange(start, len(content))] ^= 1 << source.randrange(8)
    return bytes(content)


def _truncate(source: random.Random, content: bytearray) -> bytes:
    return bytes(
        content[
            : source.choice((0, 1, 7, 8, 9, _header_end(content), len(content) - 1, source.randrange(len(content))))
        ]
    )


def _extend(source: random.Random, content: bytearray) -> bytes:
    return bytes(content) + source.randbytes(source.choice((1, 4, 1000)))


def _swap_blocks(source: random.Random, content: bytearray) -> bytes:
    length = source.choice((1, 16, 512))
    one, other = (source.randrange(len(content) - length) for _ in range(2))
    content[one : one + length], content[other : other + length] = (
        content[other : other + length],
        content[one : one + length],
    )
    return bytes(content)


def _blank(source: random.Random, content: bytearray) -> bytes:
    start, length = source.randrange(len(content)), source.choice((1, 64, 4096))
    content[start : start + length] = source.choice((b"\0", b"\xff", b" ")) * len(content[start : start + length])
    return bytes(content)


def _length_field(source: random.Random, content: bytearray) -> bytes:
    real = _header_end(content) - 8
    said = source.choice(
        (
            0,
            1,
            2,
            real - 1,
            real + 1,
            len(content),
            10**8,
            10**8 + 1,
            2**32,
            2**63 - 1,
            2**63,
            2**64 - 1,
            source.randrange(2**64),
        )
    )
    content[:8] = said.to_bytes(8, "little")
    return bytes(content)


def _entries(source: random.Random, content: bytearray) -> bytes:
    """Change an entry of the table of tensors: type, shape, offsets, name."""
    end = _header_end(content)
    table = json.loads(content[8:end])
    name = source.choice([each for each in table if each != "__metadata__"])
    entry, what = table[name], source.choice(("dtype", "shape", "data_offsets", "name", "gone", "more", "metadata"))
    if what == "dtype":
        entry["dtype"] = source.choice(
            ("F64", "F32", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X", "", None, 3)
        )
    elif what == "shape":
        entry["shape"] = source.choice(
            ([], [0], entry["shape"][::-1], [*entry["shape"], 1], [-1], [2**63], [2**40, 2**40], None, [1.5], "4")
        )
    elif what == "data_offsets":
        first, last = entry["data_offsets"]
        entry["data_offsets"] = source.choice(
            ([last, first], [first, last + 4], [first + 4, last + 4], [-1, 3], [0, 2**63], [0], None, [first, first])
        )
    elif what == "name":
        table[source.choice(("", "x" * 1000, name + ".x", "model", "scale.reference"))] = table.pop(name)
    elif what == "gone":
        del table[name]
    elif what == "more":
        table["extra"] = dict(entry)
    else:
        table["__metadata__"] = source.choice(
            (
                None,
                {},
                [],
                "x",
                {"equinet": 3},
                {"equinet": ""},
                {"equinet": "null"},
                {"equinet": "[]"},
                {"equinet": "{"},
                {"equinet": "3"},
            )
        )
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + bytes(content[end:])


def _other_kind(source: random.Random, content: bytearray) -> bytes:
    begins = source.choice(
        (
            b"PK\x03\x04",
            b"\x80\x02}q\x00.",
            b"\x1f\x8b\x08",
            b"<!DOCTYPE html>",
            b"version https://git-lfs",
            b"\n",
            source.randbytes(64),
        )
    )
    return begins + source.choice((b"", bytes(content[len(begins) :]), source.randbytes(300)))


DAMAGE = (
    _flip_in_header,
    _flip_in_header,
    _flip_in_tensors,
    _truncate,
    _extend,
    _swap_blocks,
    _blank,
    _length_field,
    _entries,
    _entries,
    _other_kind,
)
