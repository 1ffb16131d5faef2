r"""The edge convolution and its derivatives as loops over edges, generated from the couplings of a :class:`TensorProductSpec`.

With the harmonics contracted into the couplings first, which all channels share,

.. math:: T^{p}_{ik} = \sqrt{2 l_3 + 1} \sum_j C^p_{ijk} \, y_j, \qquad z^p_k = \sum_i T^p_{ik} \, w_p \, x_i,

what remains per channel is straight-line code. The product is linear in each of features x, harmonics y (through T) and weights
w, so four functions are enough for derivatives of any order:

================  =====================================================================================================
``forward``       z
``jvp``       change of z along (a, b, c), changes of (x, y, w)
``backward``      gradients of :math:`\langle g, z \rangle` with respect to x, y, w
``double_backward``          change of those gradients along (a, b, c)
================  =====================================================================================================

The first two go from receiver to receiver and write every sum once; the last two go from row to row, where both directions of a
pair share the weights, and add to the gradients of features on both ends.

Source:
    The order of summation is the channel-wise convolution of MACE and NequIP; both directions of a pair at once is possible
    because harmonics of the opposite direction differ by :math:`(-1)^l` only.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from equinet.ops.codegen.llvm import Function, Value, lanes_for

from .couplings import Block, Couplings

# In one loop over channels; those of MACE up to max_l 3 go into one.
ENTRIES_OF_A_LOOP = 100

# Seconds for each loop of n entries: SECONDS * n^1.5, of all four functions together. Measured on one core (Xeon, AVX-512, LLVM 20), in
# seconds of float64 for all four, with the sum of n^1.5 over the loops in brackets: MACE's second convolution with features up to degree
# 1: 0.8 (663), 2: 1.5 (1,556), 3: 3.2 (2,836); everything up to degree 4: 10.9 (8,868; 13.5 in float32); matrices that hold degrees 1, 6
# and 8: 15.7 (15,585). Half of it is the second derivative, a third the first one, which forces take.
SECONDS = 1.1e-3

Matrices = dict[str, Value]  # T of the harmonics "y" and of their change "b"
ROWS = ("senders", "receivers")  # of each row
INCOMING = ("pointers", "edge_senders", "codes")  # of :class:`equinet.ops.edges.Incoming`


def portions(couplings: Couplings) -> list[list[Block]]:
    """The blocks, in loops of their own if they are many: compilation takes more than twice the time for twice the code."""
    found: list[list[Block]] = [[]]
    for block in couplings.blocks:
        if found[-1] and sum(len(each.entries) for each in found[-1]) + len(block.entries) > ENTRIES_OF_A_LOOP:
            found.append([])
        found[-1].append(block)
    return found


def seconds_to_generate(couplings: Couplings) -> float:
    """Estimate of the time that making the code of all four functions takes, in seconds of one core."""
    return SECONDS * sum(sum(len(each.entries) for each in portion) ** 1.5 for portion in portions(couplings))


class EdgeLoops:
    """Writes the four functions for one set of couplings.

    Args:
        couplings: Couplings to compute.
        dtype: float32 or float64.
        mirrored: True if each row stands for its reverse too.
    """

    def __init__(self, couplings: Couplings, dtype: torch.dtype, mirrored: bool) -> None:
        self.couplings, self.dtype, self.mirrored = couplings, dtype, mirrored
        self.lanes = lanes_for(couplings.channels, dtype)

    def forward(self, *, jvp: bool) -> Function:
        """``forward`` or ``jvp``: for the nodes ``begin`` to ``end``, whose results are overwritten."""
        c = self.couplings
        changes = ("a", "b", "c") if jvp else ()
        f = Function("jvp" if jvp else "forward", (*INCOMING, "x", "y", "w", *changes, "out"), self.dtype, self.lanes)
        matrices: Matrices = {name: self._room(f) for name in ("y", "b") if name in f.pointer}
        with f.loop(f.begin, f.end) as node:
            with f.loop(
                f.at((node, c.rows * c.channels)), f.at((node, c.rows * c.channels), c.rows * c.channels), f.lanes
            ) as n:
                f.store(f.zero(), "out", n)
            with f.loop(f.load_integer("pointers", node), f.load_integer("pointers", f.at(node, 1))) as edge:
                sender = f.load_integer("edge_senders", edge)
                row, reverse = f.halved(f.load_integer("codes", edge))
                sign = f.choose(reverse, -1.0, 1.0) if self.mirrored else None
                for name, memory in matrices.items():
                    self._matrix(f, name, row, memory, sign)
                for blocks in portions(self.couplings):
                    with f.loop(0, c.channels, f.lanes) as channel:
                        self._message(f, blocks, matrices, sender, row, node, channel)
        return f

    def _message(
        self,
        f: Function,
        blocks: list[Block],
        matrices: Matrices,
        sender: Value,
        row: Value,
        node: Value,
        channel: Value,
    ) -> None:
        """Add what one edge sends, for some channels: ``T (w x)``, or ``T (w a + c x) + B (w x)``."""
        c = self.couplings
        x = self._rows(f, "x", sender, c.dim, channel)
        a = self._rows(f, "a", sender, c.dim, channel) if "a" in f.pointer else None
        for block in blocks:
            w = f.load("w", f.at((row, c.weights * c.channels), block.weight * c.channels, channel))
            sources = {"y": [f.multiply(w, x[i]) for i in block.inputs]}
            if a is not None:
                change = f.load("c", f.at((row, c.weights * c.channels), block.weight * c.channels, channel))
                sources["b"] = sources["y"]
                sources["y"] = [f.sum_of_products([(w, a[i]), (change, x[i])]) for i in block.inputs]
            for k, output in enumerate(block.outputs):
                where = f.at((node, c.rows * c.channels), output * c.channels, channel)
                factors = [
                    (f.splat(f.load_number(matrices[name], entry.t)), source[entry.i])
                    for name, source in sources.items()
                    for entry in block.entries
                    if entry.k == k
                ]
                if factors:
                    f.store(f.sum_of_products(factors, f.load("out", where)), "out", where)

    def backward(self, *, double_backward: bool, features: bool, harmonics: bool) -> Function:
        """``backward`` or ``double_backward``: for the rows ``begin`` to ``end``; features' gradients ``dx`` are added to.

        Args:
            double_backward: True for ``double_backward``, False for ``backward``.
            features: True if the gradients ``dx`` of the features are wanted.
            harmonics: True if the gradients ``dy`` of the harmonics are wanted.
        """
        c = self.couplings
        changes = ("a", "b", "c") if double_backward else ()
        results = [name for name, there in (("dx", features), ("dy", harmonics), ("dw", True)) if there]
        f = Function(
            "double_backward" if double_backward else "backward",
            (*ROWS, "g", "x", "y", "w", *changes, *results),
            self.dtype,
            self.lanes,
        )
        matrices: Matrices = {name: self._room(f) for name in ("y", "b") if name in f.pointer}
        gradients = f.scratch(len(c.terms)) if harmonics else None
        with f.loop(f.begin, f.end) as row:
            ends = [f.load_integer(name, row) for name in ROWS]
            for name, memory in matrices.items():
                self._matrix(f, name, row, memory)
            if gradients is not None:
                with f.loop(0, len(c.terms) * f.lanes, f.lanes) as n:
                    f.store(f.zero(), gradients, n)
            for blocks in portions(self.couplings):
                with f.loop(0, c.channels, f.lanes) as channel:
                    self._gradients(f, blocks, matrices, gradients, ends, row, channel)
            if gradients is not None:
                self._harmonics(f, gradients, row)
        return f

    def _gradients(
        self,
        f: Function,
        blocks: list[Block],
        matrices: Matrices,
        gradients: Value | None,
        ends: list[Value],
        row: Value,
        channel: Value,
    ) -> None:
        """Gradients of one row for some channels. ``ends`` are sender and receiver; a mirrored row is used from both sides."""
        c = self.couplings
        directions = [(0, 1), (1, 0)] if self.mirrored else [(0, 1)]  # (end of the features, end of the result)
        x = {source: self._rows(f, "x", ends[source], c.dim, channel) for source, _ in directions}
        a = {source: self._rows(f, "a", ends[source], c.dim, channel) for source, _ in directions if "a" in f.pointer}
        dx: dict[int, dict[int, Value]] = {source: {} for source, _ in directions}
        for block in blocks:
            where = f.at((row, c.weights * c.channels), block.weight * c.channels, channel)
            w = f.load("w", where)
            factor_of = {"y": f.load("c", where), "b": w} if a else {"y": w}  # what dx has with each matrix
            g = {}
            for _, target in directions:
                g[target] = [
                    f.load("g", f.at((ends[target], c.rows * c.channels), output * c.channels, channel))
                    for output in block.outputs
                ]
            scaled = {
                (name, target): [f.multiply(factor, value) for value in g[target]]
                for name, factor in factor_of.items()
                for _, target in directions
            }
            dw = None
            for t, i, k in block.entries:
                tensors = {name: f.splat(f.load_number(memory, t)) for name, memory in matrices.items()}
                of_x = self._both_ways(f, g, x, block, i, k)
                of_a = self._both_ways(f, g, a, block, i, k) if a else None
                dw = f.sum_of_products(
                    [(tensors["y"], of_a), (tensors["b"], of_x)] if a else [(tensors["y"], of_x)], dw
                )
                if gradients is not None:
                    products = [(w, of_a), (factor_of["y"], of_x)] if a else [(w, of_x)]
                    f.store(f.sum_of_products(products, f.load(gradients, t * f.lanes)), gradients, t * f.lanes)
                for source, target in directions if "dx" in f.pointer else ():
                    for name, tensor in tensors.items():
                        product = f.multiply(tensor, scaled[name, target][k])
                        self._add(f, dx[source], block.inputs[i], product, block.sign if source == 1 else 1)
            f.store(f.zero() if dw is None else dw, "dw", where)
        for source, _ in directions:  # one after the other: both ends may be one node
            for i, value in dx[source].items():
                f.accumulate(value, "dx", f.at((ends[source], c.dim * c.channels), i * c.channels, channel))

    def _both_ways(
        self, f: Function, g: dict[int, list[Value]], x: dict[int, list[Value]], block: Block, i: int, k: int
    ) -> Value:
        """Product of result's gradient and feature, summed over the directions with T's sign in each."""
        total = f.multiply(g[1][k], x[0][block.inputs[i]])
        if self.mirrored:
            back = f.multiply(g[0][k], x[1][block.inputs[i]])
            total = f.add(total, back) if block.sign > 0 else f.subtract(total, back)
        return total

    @staticmethod
    def _add(f: Function, sums: dict[int, Value], key: int, value: Value, sign: int) -> None:
        start = sums.get(key)
        if sign > 0:
            sums[key] = value if start is None else f.add(start, value)
        else:
            sums[key] = f.subtract(f.zero() if start is None else start, value)

    def _room(self, f: Function) -> Value:
        """Memory for one T."""
        return f.scratch(-(-len(self.couplings.terms) // self.lanes))

    def _matrix(self, f: Function, name: str, row: Value, memory: Value, sign: Value | None = None) -> None:
        """Contract harmonics (or their change) with the couplings into ``memory``; ``sign`` multiplies the odd ones."""
        c = self.couplings
        values = [f.load_number(name, f.at((row, c.harmonics), j)) for j in range(c.harmonics)]
        if sign is not None:
            values = [f.multiply(value, sign) if odd else value for value, odd in zip(values, c.odd)]
        for t, terms in enumerate(c.terms):
            f.store(f.sum_of_products([(f.constant(number), values[j]) for j, number in terms]), memory, t)

    def _harmonics(self, f: Function, gradients: Value, row: Value) -> None:
        """Gradients of the harmonics from those of T."""
        c = self.couplings
        totals = self._room(f)
        with f.loop(0, len(c.terms)) as t:
            f.store(f.total(f.load(gradients, f.at((t, f.lanes)))), totals, t)
        for j in range(c.harmonics):
            factors = [
                (f.constant(number), f.load_number(totals, t))
                for t, terms in enumerate(c.terms)
                for n, number in terms
                if n == j
            ]
            value = f.sum_of_products(factors) if factors else f.constant(0.0)
            f.store(value, "dy", f.at((row, c.harmonics), j))

    def _rows(self, f: Function, name: str, node: Value, rows: int | Iterable[int], channel: Value) -> list[Value]:
        c = self.couplings
        return [f.load(name, f.at((node, c.dim * c.channels), i * c.channels, channel)) for i in range(c.dim)]
