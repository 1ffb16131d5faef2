r"""The many-body product and its derivatives for GPUs: the four functions of :mod:`node_loops` on tiles of nodes by channels.

* ``value``, ``gradient``, and the gradients in g and x of ``double_backward``: a thread has one channel of one node, and goes through the terms
  K m_M x_l in straight-line code, along a walk through the tree in which the parent of a monomial is the one it is made from. Only
  the monomials on the way from the root are alive at a time, and so are their gradients, which are passed on to the parent when
  the walk leaves them. Neighbours in the order by species read the same K, which so stay in the cache.
* ``weight_gradient``, and the gradients in K of ``double_backward``, are sums over nodes: see :mod:`.node_sums`.

No sum depends on which program comes first: results are the same bits in every run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from equinet.ops.codegen.once import once
from equinet.ops.codegen.tiles import Kernel, Memory, Tile, Writer, blocks, parameters, tile_for

from .cpu import Polynomials
from .gpu_sums import Path, paths_of, sum_over_nodes

Tensors = tuple[Tensor, ...]

# With more terms a kernel takes longer than a minute to compile (2091, of 1o out of l <= 3 at nu = 4, half a minute to a minute).
MOST_TERMS = 2500

# Loads are not moved across a barrier. Without, those of so many more terms come so early that there are no registers for them.
BETWEEN_BARRIERS = 64


class Head(NamedTuple):
    """Terms with the same monomial M and output k.

    Attributes:
        path: M.
        output: k.
        terms: Number and l of each.
    """

    path: Path
    output: int
    terms: list[tuple[int, int]]


def heads_of(polynomials: Polynomials) -> list[Head]:
    """All terms in the order of the walk."""
    paths = paths_of(polynomials)
    found: dict[tuple[Path, int], list[tuple[int, int]]] = defaultdict(list)
    for t, (k, m, l) in enumerate(polynomials.terms.tolist()):
        found[paths[m], k].append((t, l))
    return [Head(path, k, terms) for (path, k), terms in sorted(found.items())]


class NodeTiles:
    """Writes the kernels in which a program owns nodes, all for a grid of blocks of nodes by blocks of channels.

    Names in the code, with d the degree of a monomial on the way: ``m{d}`` the monomial, ``c{d}`` its change along a, ``s{d}`` the
    gradient in m, ``q{d}`` the gradient in c. Those of degree 1 are ``x{v}``, ``a{v}``, ``dx{v}``, and nobody asks for the last.

    Args:
        polynomials: Polynomials to compute.
        dtype: float32 or float64.
        tile: See :class:`Tile`; a thread has one number of it.
    """

    def __init__(self, polynomials: Polynomials, dtype: torch.dtype, tile: Tile) -> None:
        self.p, self.dtype, self.tile = polynomials, dtype, tile
        self._heads = heads_of(polynomials)
        self._memory = Memory(dtype)

    def value(self) -> Kernel:
        """``value``."""
        w, begun = Writer(), set[str]()
        self._begin(w, "x")
        for head in self._walk(w, changes=False):
            self._inner(w, head, "x")
            w.add(f"out{head.output}", product(name("m", head.path), "inner_x"), begun)
        self._store(w, "out", begun)
        return self._kernel("node_value", ("x", "K", "out"), w)

    def gradient(self) -> Kernel:
        """``gradient``."""
        w, begun = Writer(), set[str]()
        self._begin(w, "g", "x")
        for head in self._walk(w, changes=False, begun=begun):
            self._inner(w, head, "x")
            if head.path:
                w.add(name("s", head.path), f"g{head.output} * inner_x", begun)
            self._outer(w, head, product(f"g{head.output}", name("m", head.path)), begun)
        self._store(w, "dx", begun)
        return self._kernel("node_gradient", ("g", "x", "K", "dx"), w)

    def double_backward(self) -> Kernel:
        """The gradients of ``double_backward`` in g and x. The part of a head in <a, gradient> is g (c (sum of K x) + m (sum of K a))."""
        w, begun = Writer(), set[str]()
        self._begin(w, "a", "g", "x")
        for head in self._walk(w, changes=True, begun=begun):
            self._inner(w, head, "x", "a")
            g, c = f"g{head.output}", name("c", head.path)
            w.add(f"d{g}", product(name("m", head.path), "inner_a"), begun)
            if head.path:  # else c is zero
                w.add(f"d{g}", f"{c} * inner_x", begun)
                w.add(name("s", head.path), f"{g} * inner_a", begun)
                if len(head.path) > 1:
                    w.add(name("q", head.path), f"{g} * inner_x", begun)
                self._outer(w, head, f"{g} * {c}", begun)
        self._store(w, "dg", begun)
        self._store(w, "dx", begun)
        return self._kernel("node_double_backward", ("a", "g", "x", "K", "dg", "dx"), w)

    def _begin(self, w: Writer, *arrays: str) -> None:
        """Load the nodes of a program and pointers to the given arrays."""
        t, channels = self.tile, self.p.channels
        w(f"place = tl.program_id(0).to(tl.int64) * {t.rows} + tl.arange(0, {t.rows})[:, None]")
        # What is beyond the last node or channel does what the last does, and writes it again: cheaper than to ask at every load.
        w("node = tl.load(order + tl.minimum(place, count - 1))")
        w(f"channel = tl.program_id(1) * {t.channels} + tl.arange(0, {t.channels})[None, :]")
        if channels % t.channels:
            w(f"channel = tl.minimum(channel, {channels - 1})")
        w(f"of_K = K + tl.load(species + node) * {len(self.p.terms) * channels} + channel")
        for array in arrays:
            w(f"of_{array} = {array} + node * {self._rows(array) * channels} + channel")
            for row in range(self._rows(array)):
                w(f"{array}{row} = {self._load(f'of_{array}', row)}")

    def _walk(self, w: Writer, *, changes: bool, begun: set[str] | None = None) -> Iterator[Head]:
        """Heads, after the code for the monomials on the way to each (and their changes along a), and before that for the way back.

        Args:
            begun: Names that have been given a value, for those who collect gradients; None if nothing is to be passed on to parents.
        """
        way: Path = ()
        terms = 0
        for head in [*self._heads, None]:
            target = head.path if head else ()
            while target[: len(way)] != way:
                if begun is not None:
                    self._leave(w, way, changes, begun)
                way = way[:-1]
            while len(way) < len(target):
                way = target[: len(way) + 1]
                if len(way) > 1:
                    m, v = name("m", way[:-1]), way[-1]
                    if changes:
                        w(f"{name('c', way)} = {name('c', way[:-1])} * x{v} + {m} * a{v}")
                    w(f"{name('m', way)} = {m} * x{v}")
            if head:
                yield head
                terms += len(head.terms)
            if terms >= BETWEEN_BARRIERS:
                w("tl.debug_barrier()")
                terms = 0

    def _leave(self, w: Writer, path: Path, changes: bool, begun: set[str]) -> None:
        """Pass the gradients of a monomial on to its parent and its last variable."""
        if len(path) < 2:
            return
        v, parent, s = path[-1], path[:-1], name("s", path)
        w.add(name("s", parent), f"{s} * x{v}", begun)
        w.add(f"dx{v}", f"{s} * {name('m', parent)}", begun)
        if changes:
            q = name("q", path)
            w.add(name("s", parent), f"{q} * a{v}", begun)
            w.add(f"dx{v}", f"{q} * {name('c', parent)}", begun)
            if len(parent) > 1:
                w.add(name("q", parent), f"{q} * x{v}", begun)
            begun.discard(q)
        begun.discard(s)

    def _inner(self, w: Writer, head: Head, *names: str) -> None:
        """``inner_x``, the sum of K x of a head, and ``inner_a``; its K are left in ``k0``, ``k1``, ..."""
        for n, (t, l) in enumerate(head.terms):
            w(f"k{n} = {self._load('of_K', t)}")
            for each in names:
                w(f"inner_{each} {'+=' if n else '='} k{n} * {each}{l}")

    def _outer(self, w: Writer, head: Head, factor: str, begun: set[str]) -> None:
        """Add K times a factor to the gradient in each x_l of a head."""
        w(f"outer = {factor}")
        for n, (_, l) in enumerate(head.terms):
            w.add(f"dx{l}", f"k{n} * outer", begun)

    def _rows(self, array: str) -> int:
        return self.p.outputs if array in ("g", "dg", "out") else self.p.variables

    def _load(self, pointers: str, row: int) -> str:
        return self._memory.load(pointers, row * self.p.channels)

    def _store(self, w: Writer, array: str, begun: set[str]) -> None:
        """Write an array's rows of every node."""
        w(f"of_{array} = {array} + node * {self._rows(array) * self.p.channels} + channel")
        zeros = f"tl.zeros([{self.tile.rows}, {self.tile.channels}], dtype=number)"
        for row in range(self._rows(array)):
            value = f"{array}{row}" if f"{array}{row}" in begun else zeros
            w(self._memory.store(f"of_{array}", row * self.p.channels, value))

    def _kernel(self, called: str, numbers: Sequence[str], w: Writer) -> Kernel:
        found = parameters(("order", "species"), numbers, "count")
        return Kernel(called, found, self.dtype, w.text, warps=self.tile.warps)


def name(letter: str, path: Path) -> str:
    """Variable name of a monomial (m), its change (c), or the gradient in one of them (s, q); empty for degree 0, which is one."""
    if len(path) > 1:
        return f"{letter}{len(path)}"
    return {"m": "x", "c": "a", "s": "dx"}[letter] + str(path[0]) if path else ""


def product(*factors: str) -> str:
    """Product of factors as Python text; empty factors are ones and left out."""
    return " * ".join(each for each in factors if each)


@once
def kernel_for(function: str, p: Polynomials, dtype: torch.dtype) -> tuple[Kernel, Tile]:
    """The kernel of ``value``, ``gradient`` or ``double_backward``, and its tile."""
    tile = tile_for(p.channels, 4)
    kernel: Kernel = getattr(NodeTiles(p, dtype, tile), function)()
    return kernel, tile


def run(function: str, inputs: Tensors, order: Tensor, species: Tensor, p: Polynomials, results: Tensors) -> None:
    """One of the four functions of contiguous inputs."""
    if function in ("value", "gradient", "double_backward"):
        kernel, tile = kernel_for(function, p, results[0].dtype)
        grid = (blocks(len(order), tile.rows), blocks(p.channels, tile.channels))
        kernel(grid, order, species, *inputs, *results[:2], len(order))
    if function in ("weight_gradient", "double_backward"):
        sum_over_nodes(inputs[:-1] if function == "double_backward" else inputs, order, species, p, results[-1])
