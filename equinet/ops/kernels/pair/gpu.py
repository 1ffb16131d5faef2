"""The pair product and all its derivatives for GPUs, on tiles of rows by channels: the steps of :mod:`.table`, one number per thread.

A program owns some rows and channels and writes their results. Gradients of weights that all rows share are summed over the rows of a
program, and the sums of all programs afterwards: no atomics, and the same bits in every run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equinet.ops.codegen.once import once
from equinet.ops.codegen.tiles import Kernel, Memory, Tile, Writer, blocks, parameters, tile_for

from .table import ROLES, Block, Table, operands, steps, table_of

# What a kernel may have before it spills: rows of arrays, half as many in float64 (seen in what compilers make of it for an A100 and an
# H100; not measured). And entries, which take time to compile.
MOST_ROWS, MOST_ENTRIES = 120, 400
# Rows of a program that sums gradients of common weights.
CHUNK = 16


def portions(table: Table, wanted: str, dtype: torch.dtype) -> list[list[Block]]:
    """The blocks, in as many kernels as it takes for each to keep in registers what it works on."""
    most = MOST_ROWS * 4 // dtype.itemsize
    found: list[list[Block]] = []
    rows: set[str] = set()
    for block in table.blocks:
        own = rows_of(block, wanted)
        entries = len(block.entries) + (sum(len(each.entries) for each in found[-1]) if found else 0)
        if not found or len(rows | own) > most or entries > MOST_ENTRIES:
            found.append([])
            rows = set()
        found[-1].append(block)
        rows |= own
    return found


def rows_of(block: Block, wanted: str) -> set[str]:
    """Rows that the steps of a block read and add to."""
    return {name for step in steps(block, wanted) for name in step if isinstance(name, str) and is_row(name)}


def is_row(name: str) -> bool:
    """True of rows of arrays and of their derivatives, ``x3`` and ``dx3``; False of what is of one block."""
    return name[0] in "d" + ROLES


class PairTiles:
    """Writes the kernels for one table.

    Args:
        table: Couplings to compute.
        dtype: float32 or float64.
        shared: True if all rows have the same weights.
        tile: See :class:`Tile`.
    """

    def __init__(self, table: Table, dtype: torch.dtype, shared: bool, tile: Tile) -> None:
        self.table, self.dtype, self.shared, self.tile = table, dtype, shared, tile
        self._memory = Memory(dtype)

    def contract(self, part: list[Block], wanted: str, written: set[str]) -> Kernel:
        """Derivatives of F in the ``wanted`` roles by some blocks, for a grid of chunks of rows by blocks of channels.

        Args:
            part: Blocks.
            wanted: Roles.
            written: Rows of results that earlier kernels wrote, to which this one adds.
        """
        t, c = self.tile, self.table.channels
        summed = self.shared and "w" in wanted
        chunk = rows_of_a_program(t) if summed else t.rows
        results = sorted({name for block in part for name in rows_of(block, wanted) if name[0] == "d"})
        sums = [name for name in results if summed and name[1] == "w"]
        w = Writer()
        w(f"line = tl.broadcast_to(tl.arange(0, {t.rows})[:, None], [{t.rows}, {t.channels}])")
        w(f"channel = tl.program_id(1) * {t.channels} + tl.arange(0, {t.channels})[None, :]")
        w(f"channel = tl.broadcast_to(channel, [{t.rows}, {t.channels}])")
        if c % t.channels:  # what is beyond the last does what the last does, and writes it again
            w(f"there = channel < {c}")
            w(f"channel = tl.minimum(channel, {c - 1})")
        for name in sums:
            w(f"{name} = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
        w(f"begin = tl.program_id(0).to(tl.int64) * {chunk}")
        with w.block(f"for first in range(begin, tl.minimum(begin + {chunk}, count), {t.rows}):"):
            w("row = first + line")
            w("here = row < count")
            w("row = tl.minimum(row, count - 1)")
            for role in operands(wanted):
                fixed = self.shared and role == "w"
                w(f"of_{role} = {role} + {'' if fixed else f'row * {self.table.sizes[role] * c} + '}channel")
            self._blocks(w, part, wanted, sums)
            for role in wanted.replace("w", "") if summed else wanted:
                w(f"of_d{role} = d{role} + row * {self.table.sizes[role] * c} + channel")
            inside = "here & there" if c % t.channels else "here"
            for name in results:
                if name not in sums:
                    self._store(w, name, name, inside if name in written else None, name in written)
        if sums:
            w(f"of_dw = dw + tl.program_id(0).to(tl.int64) * {self.table.sizes['w'] * c} + channel")
            inside = "(line == 0) & there" if c % t.channels else "line == 0"
            for name in sums:
                value = f"tl.broadcast_to(tl.sum({name}, axis=0)[None, :], [{t.rows}, {t.channels}])"
                self._store(w, name, value, inside, name in written)
        names = [*operands(wanted), *(f"d{role}" for role in wanted)]
        return Kernel("pair_contract", parameters([], names, "count"), self.dtype, w.text, warps=t.warps)

    def _blocks(self, w: Writer, part: list[Block], wanted: str, sums: list[str]) -> None:
        """The steps of all blocks. What rows beyond the last add to sums over rows is nothing."""
        known: set[str] = set()
        for block in part:
            own: set[str] = set()
            for target, *factors in steps(block, wanted):
                for name in factors:
                    if isinstance(name, str) and is_row(name) and name not in known:
                        w(f"{name} = {self._memory.load(f'of_{name[0]}', int(name[1:]) * self.table.channels)}")
                        known.add(name)
                value = " * ".join(name if isinstance(name, str) else repr(name) for name in factors)
                if target in sums:
                    w(f"{target} += tl.where(here, {value}, 0.0)")
                else:
                    w.add(target, value, known if target[0] == "d" else own)

    def _store(self, w: Writer, name: str, value: str, mask: str | None, more: bool) -> None:
        """A row of a result, added to what is there if there is ``more``."""
        offset = int(name[2:]) * self.table.channels
        if more:
            value += f" + {self._memory.load(f'of_{name[:2]}', offset)}"
        w(self._memory.store(f"of_{name[:2]}", offset, value, mask))


@once
def kernels_for(product: str, dtype: torch.dtype, shared: bool, wanted: str) -> tuple[list[Kernel], Tile]:
    """Kernels that together are the derivatives in some roles, and their tile."""
    table = table_of(product)
    tile = tile_for(table.channels, 4)
    tiles, kernels, written = PairTiles(table, dtype, shared, tile), [], set[str]()
    for part in portions(table, wanted, dtype):
        kernels.append(tiles.contract(part, wanted, written))
        written |= set.union(*(rows_of(block, wanted) for block in part))
    return kernels, tile


def run(
    product: str, shared: bool, wanted: str, arrays: Sequence[Tensor], results: Sequence[Tensor], rows: int
) -> None:
    """Fill in the results.

    Args:
        product: Name of the table.
        shared: True if all rows have the same weights.
        wanted: Roles.
        arrays: Contiguous arrays of the roles on which the derivatives depend.
        results: Results of the wanted roles; rows of them without couplings are left as they are.
        rows: Rows, one or more.
    """
    kernels, tile = kernels_for(product, arrays[0].dtype, shared, wanted)
    chunk = rows_of_a_program(tile) if shared and "w" in wanted else tile.rows
    for kernel in kernels:
        kernel((blocks(rows, chunk), blocks(table_of(product).channels, tile.channels)), *arrays, *results, rows)


def rows_of_a_program(tile: Tile) -> int:
    """Rows over which a program sums gradients of common weights."""
    return max(CHUNK, tile.rows)


def sums_of(product: str, rows: int) -> int:
    """Sums of gradients of common weights: one for each program."""
    return blocks(rows, rows_of_a_program(tile_for(table_of(product).channels, 4)))
