r"""Linear maps of blocks of rows as loops: products of small matrices, read and written where they lie.

.. math:: y_{n m c} = s \sum_k x_{n m k} \, W_{k c}, \qquad \frac{\partial}{\partial W_{k c}} = s \sum_{n m} x_{n m k} \, g_{n m c}

for every node n of a species and every component m of a block. Libraries for matrices want each block, each species and each
result copied into a matrix of its own; for the few rows of a molecule this takes longer than the products.

A tile of rows and columns stays in registers while the inner index runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch

from equinet.ops.codegen.llvm import Function, Value, registers_hold

ROWS_OF_A_TILE = 6
NODES_AT_A_TIME = 32  # whose numbers stay in the cache while all tiles of a gradient of weights go over them
PARTS = 16  # into which the rows of a gradient of weights are divided among threads

# What is known of a block, in this order: where in a node's x and y it begins, how far its components are apart in each, how many
# components there are, how many numbers each has in x (the depth), how many in y (the columns), where its weights begin.
NUMBERS = ("start", "to_start", "step", "to_step", "components", "depth", "columns", "weights")
# And of all: how many blocks, and how many numbers a node has in x and in y.
SIZES = ("blocks", "stride", "to_stride")
COMMON = ("sizes", "numbers", "spans", "order", "scales")


class Block(NamedTuple):
    """Numbers of a block while code for it is written; see ``NUMBERS``."""

    start: Value
    to_start: Value
    step: Value
    to_step: Value
    components: Value
    depth: Value
    columns: Value
    weights: Value
    scale: Value
    matrix: Value


class MixLoops:
    """Writes the two functions.

    Args:
        dtype: float32 or float64.
        lanes: Length of a vector; it divides the columns of every block.
    """

    def __init__(self, dtype: torch.dtype, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        self.widths = [4, 1] if registers_hold(4 * ROWS_OF_A_TILE + 5) else [1]  # vectors in a tile, the widest first

    def product(self) -> Function:
        """y from x and W: for the places ``begin`` to ``end`` of ``order``. Rows without a block are not written."""
        f = Function("mix", (*COMMON, "x", "w", "y"), self.dtype, self.lanes)
        with self._blocks(f) as (block, species, first, last):
            first, last = f.larger(first, f.begin), f.smaller(last, f.end)
            weights = f.at(block.weights, f.product(species, block.matrix))
            for width, columns in self._columns(f, block):
                with columns as column:
                    for height, rows in self._rows(f, first, last):
                        with rows as place, f.loop(0, block.components) as component:
                            self._tile(f, block, weights, place, component, column, height, width)
        return f

    def _tile(
        self,
        f: Function,
        block: Block,
        weights: Value,
        place: Value,
        component: Value,
        column: Value,
        height: int,
        width: int,
    ) -> None:
        nodes = [f.load_integer("order", f.at(place, r)) for r in range(height)]
        stride, to_stride = (f.load_integer("sizes", n) for n in (1, 2))
        sources = [f.at(f.product(n, stride), block.start, f.product(component, block.step)) for n in nodes]
        sums = [[f.scratch(1) for _ in range(width)] for _ in nodes]
        self._clear(f, sums)
        with f.loop(0, block.depth) as k:
            at = f.at(weights, f.product(k, block.columns), column)
            w = [f.load("w", f.at(at, v * self.lanes)) for v in range(width)]
            for source, row in zip(sources, sums):
                x = f.splat(f.load_number("x", f.at(source, k)))
                for total, each in zip(row, w):
                    f.accumulate(f.multiply(x, each), total, 0)
        for node, row in zip(nodes, sums):
            target = f.at(f.product(node, to_stride), block.to_start, f.product(component, block.to_step), column)
            for v, total in enumerate(row):
                f.store(f.multiply(f.load(total, 0), block.scale), "y", f.at(target, v * self.lanes))

    def gradients(self) -> Function:
        """Gradients of W from x and g: for parts ``begin`` to ``end`` of ``PARTS`` of the rows of every W. They are added."""
        f = Function("mix_gradients", (*COMMON, "x", "g", "dw"), self.dtype, self.lanes)
        with self._blocks(f) as (block, species, first, last):
            low, high = (f.divided(f.product(block.depth, end), PARTS) for end in (f.begin, f.end))
            weights = f.at(block.weights, f.product(species, block.matrix))
            with f.loop(first, last, NODES_AT_A_TIME) as start:
                stop = f.smaller(last, f.at(start, NODES_AT_A_TIME))
                for width, columns in self._columns(f, block):
                    with columns as column:
                        for height, rows in self._rows(f, low, high):
                            with rows as row:
                                self._gradient_tile(f, block, weights, start, stop, row, column, height, width)
        return f

    def _gradient_tile(
        self,
        f: Function,
        block: Block,
        weights: Value,
        first: Value,
        last: Value,
        row: Value,
        column: Value,
        height: int,
        width: int,
    ) -> None:
        stride, to_stride = (f.load_integer("sizes", n) for n in (1, 2))
        sums = [[f.scratch(1) for _ in range(width)] for _ in range(height)]
        self._clear(f, sums)
        with f.loop(first, last) as place:
            node = f.load_integer("order", place)
            source = f.at(f.product(node, stride), block.start, row)
            target = f.at(f.product(node, to_stride), block.to_start, column)
            with f.loop(0, block.components) as component:
                at = f.at(target, f.product(component, block.to_step))
                g = [f.load("g", f.at(at, v * self.lanes)) for v in range(width)]
                for r, totals in enumerate(sums):
                    x = f.splat(f.load_number("x", f.at(source, f.product(component, block.step), r)))
                    for total, each in zip(totals, g):
                        f.accumulate(f.multiply(x, each), total, 0)
        for r, totals in enumerate(sums):
            where = f.at(weights, f.product(f.at(row, r), block.columns), column)
            for v, total in enumerate(totals):
                f.accumulate(f.multiply(f.load(total, 0), block.scale), "dw", f.at(where, v * self.lanes))

    def _clear(self, f: Function, sums: list[list[Value]]) -> None:
        for row in sums:
            for total in row:
                f.store(f.zero(), total, 0)

    @contextmanager
    def _blocks(self, f: Function) -> Iterator[tuple[Block, Value, Value, Value]]:
        """A loop over blocks and spans: the block, the species, its first place and the one after its last."""
        size = len(NUMBERS)
        with f.loop(0, f.load_integer("sizes", 0)) as b:
            numbers = {name: f.load_integer("numbers", f.at((b, size), n)) for n, name in enumerate(NUMBERS)}
            matrix = f.product(numbers["depth"], numbers["columns"])
            block = Block(**numbers, scale=f.splat(f.load_number("scales", b)), matrix=matrix)
            with f.loop(0, f.load_integer("spans", 0)) as span:
                species, first, last = (f.load_integer("spans", f.at((span, 3), n)) for n in (1, 2, 3))
                yield block, species, first, last

    def _columns(self, f: Function, block: Block) -> Iterator[tuple[int, AbstractContextManager[Value]]]:
        """Loops over tiles of columns, the wide ones first and then what is left: their width in vectors."""
        begin: int | Value = 0
        for width in self.widths:
            step = width * self.lanes
            end = f.at((f.divided(block.columns, step), step))
            yield width, f.loop(begin, end, step)
            begin = end

    def _rows(self, f: Function, first: Value, last: Value) -> Iterator[tuple[int, AbstractContextManager[Value]]]:
        """Loops over tiles of rows, whole ones first and then one by one."""
        count = f.larger(f.at(last, (first, -1)), f.integer(0))
        middle = f.at(first, (f.divided(count, ROWS_OF_A_TILE), ROWS_OF_A_TILE))
        yield ROWS_OF_A_TILE, f.loop(first, middle, ROWS_OF_A_TILE)
        yield 1, f.loop(middle, last)
