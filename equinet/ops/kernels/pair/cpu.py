"""The pair product and all its derivatives in machine code: straight-line code per row, in loops over vectors of channels."""

from __future__ import annotations

import torch

from equinet.ops.codegen.llvm import Function, Value, lanes_for

from .table import ROLES, Block, Table, operands, steps

# In one loop over channels. Longer ones take longer to compile and need more registers than there are; shorter ones load more often.
ENTRIES_OF_A_LOOP = 50
# Rows whose gradients of common weights are summed one after the other; the sums of all such chunks are added by torch, so that the
# result depends neither on the number of threads nor on which comes first.
CHUNK = 64
# Seconds for each loop of n entries: SECONDS * n^1.5, for all codes of training on gradients together: the product, its gradients, and
# the derivatives of these along x, y and w. Measured on one core (EPYC, AVX-512, LLVM 20), float32, with the sum of n^1.5 in brackets: true
# tensors up to degree 3 on all sides 2.0 (2,351), up to degree 4 7.5 (8,003).
SECONDS = 9e-4


def portions(table: Table) -> list[list[Block]]:
    """The blocks, in loops of their own if they are many: compilation takes more than twice the time for twice the code."""
    found: list[list[Block]] = [[]]
    for block in table.blocks:
        if found[-1] and sum(len(each.entries) for each in found[-1]) + len(block.entries) > ENTRIES_OF_A_LOOP:
            found.append([])
        found[-1].append(block)
    return found


def seconds_to_generate(table: Table) -> float:
    """Estimate of the time that making the code takes, for values, gradients and second derivatives, in seconds of one core."""
    return SECONDS * sum(sum(len(each.entries) for each in portion) ** 1.5 for portion in portions(table))


class PairLoops:
    """Writes the functions for one table.

    Args:
        table: Couplings to compute.
        dtype: float32 or float64.
        shared: True if all rows have the same weights.
    """

    def __init__(self, table: Table, dtype: torch.dtype, shared: bool) -> None:
        self.table, self.dtype, self.shared = table, dtype, shared
        self.lanes = lanes_for(table.channels, dtype)

    def contract(self, wanted: str) -> Function:
        """Derivatives of F in the ``wanted`` roles, for the rows ``begin`` to ``end``.

        Where weights are shared and their derivative is wanted: for chunks of rows, each of which has a sum of its own in ``dw``.
        """
        c = self.table.channels
        results = [f"d{role}" for role in ROLES if role in wanted]
        f = Function("pair", ("count", *operands(wanted), *results), self.dtype, self.lanes)
        if not (self.shared and "w" in wanted):
            with f.loop(f.begin, f.end) as row:
                self._row(f, wanted, row, row)
            return f
        width = self.table.sizes["w"] * c
        with f.loop(f.begin, f.end) as chunk:
            with f.loop(f.at((chunk, width)), f.at((chunk, width), width), f.lanes) as n:
                f.store(f.zero(), "dw", n)
            last = f.smaller(f.at((chunk, CHUNK), CHUNK), f.load_integer("count", 0))
            with f.loop(f.at((chunk, CHUNK)), last) as row:
                self._row(f, wanted, row, chunk)
        return f

    def _row(self, f: Function, wanted: str, row: Value, of_weights: Value) -> None:
        """All of one row; ``of_weights``: the row of ``dw`` that it is written or added to."""
        written = {f"dw{n}" for n in range(self.table.sizes["w"])} if self.shared else set()
        for blocks in portions(self.table):
            with f.loop(0, self.table.channels, f.lanes) as channel:
                values: dict[str, Value] = {}
                for block in blocks:
                    self._block(f, block, wanted, row, channel, values)
                for name, value in values.items():
                    where = self._where(f, name[1], int(name[2:]), of_weights if name[1] == "w" else row, channel)
                    (f.accumulate if name in written else f.store)(value, name[:2], where)
                written |= set(values)
        rest = [(role, n) for role in wanted for n in range(self.table.sizes[role]) if f"d{role}{n}" not in written]
        if rest:  # rows without couplings
            with f.loop(0, self.table.channels, f.lanes) as channel:
                for role, n in rest:
                    f.store(f.zero(), f"d{role}", self._where(f, role, n, row, channel))

    def _block(
        self, f: Function, block: Block, wanted: str, row: Value, channel: Value, results: dict[str, Value]
    ) -> None:
        """Run the steps of one block, whose results are added to ``results``."""
        own: dict[str, Value] = {}

        def value(name: str | float) -> Value:
            if isinstance(name, float):
                return f.constants(name)
            if name in own:
                return own[name]
            fixed = self.shared and name[0] == "w"
            own[name] = f.load(name[0], self._where(f, name[0], int(name[1:]), 0 if fixed else row, channel))
            return own[name]

        for target, first, second in steps(block, wanted):
            sums = results if target[0] == "d" else own
            sums[target] = f.sum_of_products([(value(first), value(second))], sums.get(target))

    def _where(self, f: Function, role: str, n: int, row: int | Value, channel: Value) -> Value:
        c = self.table.channels
        return f.at((row, self.table.sizes[role] * c), n * c, channel)
