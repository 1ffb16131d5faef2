"""Memory of the machine in :mod:`ptx`, which sees what threads must not do to it, and the instructions that use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ptx_instructions import TYPES, Array, Group, Rule, T, names_in, rule

if TYPE_CHECKING:
    from ptx import Machine

NOBODY, SEVERAL = -1, -2


class Fault(Exception):
    """What a GPU must not be given."""


class Memory:
    """Bytes in rows, and which warp has read and written each unit of them.

    Args:
        rows: Of which an address is in one: programs for shared memory, threads for local.
        size: Bytes of a row.
        unit: Bytes that are watched together.
    """

    def __init__(self, rows: int, size: int, unit: int) -> None:
        self.size, self.unit = -(-size // 16) * 16, unit
        self.bytes = np.full(rows * self.size, 0xFF, np.uint8)
        self.there = np.zeros(len(self.bytes) // unit, bool)
        self._last = np.full((2, rows, self.size // unit), NOBODY, np.int32)
        self.reader, self.writer = (each.ravel() for each in self._last)

    def forget(self, rows: Group) -> None:
        """What was read and written before a barrier."""
        self._last[:, rows] = NOBODY

    def _units(self, rows: Array, at: Array, width: int) -> tuple[Array, Array]:
        """Addresses from the first row on, and all units of what is there."""
        for wrong, what in (
            ((at < 0) | (at + width > self.size), "is beside the memory"),
            (at % width != 0, f"is no multiple of the {width} bytes there"),
        ):
            if wrong.any():
                raise Fault(f"address {at[wrong][0]} {what}")
        whole = at + rows * self.size
        units = (whole // self.unit)[:, None] + np.arange(max(1, width // self.unit))
        outside = ~self.there[units].all(axis=1)
        if outside.any():
            raise Fault(f"address {at[outside][0]} is beside the arrays")
        return whole, units

    def load(self, rows: Array, at: Array, dtype: Any, count: int, who: Array) -> list[Array]:
        """``count`` numbers side by side from every address; ``who`` are the warps."""
        whole, units = self._units(rows, at, dtype.itemsize * count)
        who = who[:, None]
        self._refuse(self.writer[units], who, at, "is read by one warp, but written by another")
        before = self.reader[units]
        self.reader[units] = who
        several = ((before != NOBODY) & (before != who)) | (self.reader[units] != who)
        self.reader[units[several]] = SEVERAL
        words = self.bytes.view(dtype)
        return [words[whole // dtype.itemsize + n] for n in range(count)]

    def store(self, rows: Array, at: Array, values: Sequence[Array], who: Array) -> None:
        """Numbers side by side to every address."""
        dtype = values[0].dtype
        whole, units = self._units(rows, at, dtype.itemsize * len(values))
        self._refuse(self.reader[units], who[:, None], at, "is written by one warp, but read by another")
        before = self.writer[units]
        of_others = ((before != NOBODY) & (before != who[:, None])).any(axis=1)
        words = self.bytes.view(dtype)
        for n, value in enumerate(values):
            place = whole // dtype.itemsize + n
            wrong = of_others & (words[place] != value)
            words[place] = value
            wrong |= words[place] != value
            if wrong.any():
                raise Fault(f"address {at[wrong][0]} gets different numbers")
        self.writer[units] = who[:, None]

    def _refuse(self, others: Array, who: Array, at: Array, what: str) -> None:
        wrong = ((others != NOBODY) & (others != who)).any(axis=1)
        if wrong.any():
            raise Fault(f"address {at[wrong][0]} {what}")


@rule(rf"ld\.param\.{T}")
def load_parameter(m: Machine, found: Any, operands: list[str]) -> Rule:
    if operands[1].strip("[] ") not in m.parameters:
        raise Fault("functions are not known")
    value = np.array(m.parameters[operands[1].strip("[] ")], np.int64).astype(TYPES[found[1]])
    return operands[:1], lambda g, _: [value]


def place(m: Machine, space: str, operand: str) -> tuple[Any, Callable[[Group, Any], tuple[Array, Array, Array]]]:
    """A memory, and a function that says for all threads that the guard lets: row, address and warp."""
    memory = {"global": m.memory, "shared": m.shared, "local": m.local}[space]
    rows = {"global": np.zeros_like(m.thread), "shared": m.program, "local": m.program * m.threads + m.thread}[space]
    at = m.address(operand)

    def find(g: Group, where: Any) -> tuple[Array, Array, Array]:
        where = slice(None) if where is None else where
        return rows[g][where].ravel(), m.spread(g, at(g))[where].ravel(), m.warp[g][where].ravel()

    return memory, find


@rule(rf"ld\.(global|shared|local)(?:\.nc|\.ca|\.cg)?(?:\.L[12]::\w+)*(?:\.v([24]))?\.{T}")
def load(m: Machine, found: Any, operands: list[str]) -> Rule:
    memory, find = place(m, found[1], operands[1])
    count, dtype = int(found[2] or 1), TYPES[found[3]]

    def compute(g: Group, where: Any) -> list[Array]:
        rows, at, who = find(g, where)
        values = memory.load(rows, at, dtype, count, who)
        if where is None:
            return [each.reshape(-1, m.threads) for each in values]
        whole = np.zeros((count, *where.shape), dtype)
        whole[:, where] = values
        return list(whole)

    return names_in(operands[0]), compute


@rule(rf"st\.(global|shared|local)(?:\.L[12]::\w+)*(?:\.v([24]))?\.{T}")
def store(m: Machine, found: Any, operands: list[str]) -> Rule:
    memory, find = place(m, found[1], operands[0])
    reads = m.readers(names_in(operands[1]), f"b{8 * TYPES[found[3]].itemsize}")  # bits, as no number equals NaN

    def compute(g: Group, where: Any) -> list[Array]:
        rows, at, who = find(g, where)
        allowed = slice(None) if where is None else where
        memory.store(rows, at, [m.spread(g, read(g))[allowed].ravel() for read in reads], who)
        return []

    return [], compute


@rule(r"cp\.async\.c[ag]\.shared\.global(?:\.L2::\w+)?")
def copy(m: Machine, found: Any, operands: list[str]) -> Rule:
    """All bytes, or zeros if the size of what is there is zero."""
    (to, find_to), (source, find_source) = place(m, "shared", operands[0]), place(m, "global", operands[1])
    words = int(operands[2], 0) // 4
    there = m.reader(operands[3] if len(operands) > 3 else operands[2], "u32")

    def compute(g: Group, where: Any) -> list[Array]:
        rows, at, who = find_to(g, where)
        count = m.spread(g, there(g))[slice(None) if where is None else where].ravel() // 4
        values = np.zeros((words, len(at)), np.uint32)
        full = count == words
        if not (full | (count == 0)).all():
            raise Fault("copies of a part are not known")
        source_rows, source_at, warp = (each[full] for each in find_source(g, where))
        values[:, full] = source.load(source_rows, source_at, TYPES["b32"], words, warp)
        to.store(rows, at, list(values), who)
        return []

    return [], compute


@rule(r"bar\.sync")
def barrier(m: Machine, found: Any, operands: list[str]) -> Rule:
    def compute(g: Group, _: Any) -> list[Array]:
        m.shared.forget(g)
        return []

    return [], compute


@rule(r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16")
def load_matrices(m: Machine, found: Any, operands: list[str]) -> Rule:
    """8 x 8 numbers of 16 bits; eight threads have the addresses of a matrix's rows."""
    memory, find = place(m, "shared", operands[1])
    count = int(found[1])

    def compute(g: Group, _: Any) -> list[Array]:
        rows, at, who = (each.reshape(-1, 4, 8)[:, :count].ravel() for each in find(g, None))
        words = np.stack(memory.load(rows, at, TYPES["b32"], 4, who), axis=-1)
        halves = words.view(np.uint16).reshape(-1, count, 8, 8)
        if found[2]:
            halves = halves.swapaxes(2, 3)
        mine = np.ascontiguousarray(halves).view(np.uint32).reshape(-1, count, 32)
        return [mine[:, n].reshape(-1, m.threads) for n in range(count)]

    return names_in(operands[0]), compute


@rule(r"bar\.warp\.sync|cp\.async\.(?:commit_group|wait_group|wait_all)")
def nothing(m: Machine, found: Any, operands: list[str]) -> Rule:
    return [], lambda g, _: []
