r"""The edge convolution and its derivatives for GPUs: the four functions of :mod:`edge_loops` on tiles of edges by channels.

* ``forward`` and ``jvp``: a program owns a receiver and some channels. It goes through the receiver's edges, a tile at a time,
  keeps all sums in registers and writes each once.
* ``backward`` and ``double_backward``: a program owns some rows, and goes through the channels. A row that stands for both directions of a pair
  is used from both ends, so its gradients are complete. Gradients of features are left one by one for every edge, and summed
  afterwards by programs that each own a node.

No sum depends on which program comes first: results are the same bits in every run.

Source:
    Schedules of this kind: OpenEquivariance (Bharadwaj et al. 2025, arXiv 2501.13986), which keeps the sums of a receiver, and
    FlashTP (Lee et al. 2025).
"""

from __future__ import annotations

import torch

from equinet.ops.codegen.tiles import Kernel, Kind, Memory, Tile, Writer

from .couplings import Block, Couplings


class EdgeTiles:
    """Writes the kernels for one set of couplings.

    Args:
        couplings: Couplings to compute.
        dtype: float32 or float64.
        mirrored: True if each row stands for its reverse too.
        tile: See :class:`Tile`.
    """

    def __init__(self, couplings: Couplings, dtype: torch.dtype, mirrored: bool, tile: Tile) -> None:
        self.couplings, self.dtype, self.mirrored, self.tile = couplings, dtype, mirrored, tile
        self._memory, self._integers = Memory(dtype), Memory(torch.int64)

    def forward(self, blocks: list[Block], *, jvp: bool) -> Kernel:
        """``forward`` or ``jvp`` of some blocks, for a grid of nodes by blocks of channels; writes their rows of the result."""
        c, t = self.couplings, self.tile
        rows = sorted({row for block in blocks for row in block.outputs})
        inputs = sorted({i for block in blocks for i in block.inputs})
        changes = ("a", "b", "c") if jvp else ()
        w = Writer()
        w("node = tl.program_id(0).to(tl.int64)")
        w(f"line = tl.broadcast_to(tl.arange(0, {t.rows})[:, None], [{t.rows}, {t.channels}])")
        w(f"channel = tl.program_id(1) * {t.channels} + tl.arange(0, {t.channels})[None, :]")
        if c.channels % t.channels:  # what is beyond the last does what the last does, and writes it again
            w(f"channel = tl.minimum(channel, {c.channels - 1})")
        for k in rows:
            w(f"sum{k} = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
        w("end = tl.load(pointers + node + 1)")
        with w.block(f"for first in range(tl.load(pointers + node), end, {t.rows}):"):
            w("edge = first + line")
            if t.rows > 1:  # beyond the last edge is the last, times a weight of zero
                w("inside = edge < end")
                w("edge = tl.minimum(edge, end - 1)")
            w(f"code = {self._integers.load('codes + edge')}")
            w("row = code >> 1")
            self._where_weights_are(w, jvp)
            for block in blocks:  # first what comes from far: the others may be in a cache
                self._weight(w, block, jvp, t.rows > 1)
            w(f"of_sender = {self._integers.load('edge_senders + edge')} * {c.dim * c.channels} + channel")
            for name in ("x", "a") if jvp else ("x",):
                w(f"of_{name} = {name} + of_sender")
                for i in inputs:
                    w(f"{name}{i} = {self._memory.load(f'of_{name}', i * c.channels)}")
            self._harmonics(w, ["y", "b"] if jvp else ["y"], reversed_by="code" if self.mirrored else None)
            begun = {f"sum{k}" for k in rows}
            for block in blocks:
                self._message(w, block, jvp, begun)
        w(f"of_out = out + node * {c.rows * c.channels} + tl.broadcast_to(channel, [{t.rows}, {t.channels}])")
        for k in rows:
            value = f"sum{k}" if t.rows == 1 else f"tl.sum(sum{k}, axis=0)[None, :]"
            w(self._memory.store("of_out", k * c.channels, value, "line == 0" if t.rows > 1 else None))
        parameters: dict[str, Kind] = dict.fromkeys(("pointers", "edge_senders", "codes"), "integers")
        parameters |= dict.fromkeys(("x", "y", "w", *changes, "out"), "numbers")
        return self._kernel("edge_jvp" if jvp else "edge_forward", parameters, w)

    def _message(self, w: Writer, block: Block, jvp: bool, begun: set[str]) -> None:
        """Add one path to the sums of its outputs."""
        weight, change = f"weight{block.weight}", f"change{block.weight}"
        for i in sorted({entry.i for entry in block.entries}):
            x, a = f"x{block.inputs[i]}", f"a{block.inputs[i]}"
            w(f"xw{i} = {x} * {weight}")
            if jvp:  # of (x w): a w + x c
                w(f"aw{i} = {a} * {weight} + {x} * {change}")
        for t, i, k in block.entries:
            w(f"t = {self._contracted('y', t)}")
            w.add(f"sum{block.outputs[k]}", f"t * {'aw' if jvp else 'xw'}{i}", begun)
        for t, i, k in block.entries if jvp else []:  # apart: that takes fewer registers
            w(f"t = {self._contracted('b', t)}")
            w.add(f"sum{block.outputs[k]}", f"t * xw{i}", begun)

    def backward(
        self, blocks: list[Block], *, double_backward: bool, features: bool, harmonics: bool, more: bool
    ) -> Kernel:
        """``backward`` or ``double_backward`` of some blocks, for a grid of blocks of rows.

        Args:
            blocks: Their gradients of weights are written.
            double_backward: True for ``double_backward``, False for ``backward``.
            features: True if the gradients of features are wanted: ``dx``, ``(rows, directions, dim, channels)``, of every edge.
            harmonics: True if those of the harmonics are wanted.
            more: True if gradients of features and harmonics are added to those of other blocks.
        """
        c, t = self.couplings, self.tile
        inputs = sorted({i for block in blocks for i in block.inputs})
        of_blocks = sorted({j for block in blocks for entry in block.entries for j, _ in c.terms[entry.t]})
        changes = ("a", "b", "c") if double_backward else ()
        # What is beyond the last row or channel reads what the last reads, and neither adds to sums nor writes.
        inside = " & ".join(["here"] * (t.rows > 1) + ["there"] * (c.channels % t.channels > 0))
        w = Writer()
        w(f"row = tl.program_id(0).to(tl.int64) * {t.rows} + tl.arange(0, {t.rows})[:, None]")
        w(f"row = tl.broadcast_to(row, [{t.rows}, {t.channels}])")
        w(f"lane = tl.arange(0, {t.channels})[None, :]")
        w("here = row < count")
        if t.rows > 1:
            w("row = tl.minimum(row, count - 1)")
        w(f"sender = {self._integers.load('senders + row')}")
        w(f"receiver = {self._integers.load('receivers + row')}")
        if harmonics:
            for j in of_blocks:
                w(f"dy{j} = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
        with w.block(f"for first in range(0, {c.channels}, {t.channels}):"):
            w("channel = first + lane")
            if c.channels % t.channels:
                w(f"there = channel < {c.channels}")
                w(f"channel = tl.minimum(channel, {c.channels - 1})")
            if inside:
                w(f"inside = {inside}")
            self._where_weights_are(w, double_backward)
            for block in blocks:
                w(f"dw{block.weight} = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
            # A loop, not the same code twice: that would take twice the registers and twice the time to compile.
            with w.block(f"for direction in range({1 + self.mirrored}):"):
                w(f"source = {'tl.where(direction == 0, sender, receiver)' if self.mirrored else 'sender'}")
                w(f"target = {'tl.where(direction == 0, receiver, sender)' if self.mirrored else 'receiver'}")
                self._harmonics(
                    w, ["y", "b"] if double_backward else ["y"], reversed_by="direction" if self.mirrored else None
                )
                w(f"of_g = g + target * {c.rows * c.channels} + channel")
                begun: set[str] = set()
                for name in ("x", "a") if double_backward else ("x",):
                    w(f"of_{name} = {name} + source * {c.dim * c.channels} + channel")
                    for i in inputs:
                        w(f"{name}{i} = {self._memory.load(f'of_{name}', i * c.channels)}")
                for block in blocks:
                    w("tl.debug_barrier()")  # else all paths' loads come first, and there are not so many registers
                    self._gradients(w, block, double_backward, features, harmonics, bool(inside), begun)
                if features:
                    w(f"of_dx = dx + (row * {1 + self.mirrored} + direction) * {c.dim * c.channels} + channel")
                    for i in inputs if more else range(c.dim):
                        value = f"dx{i}" if f"dx{i}" in begun else f"tl.zeros([{t.rows}, {t.channels}], dtype=number)"
                        if more:
                            value += f" + {self._memory.load('of_dx', i * c.channels)}"
                        w(self._memory.store("of_dx", i * c.channels, value, inside))
            w(f"of_dw = dw + row * {c.weights * c.channels} + channel")
            for block in blocks:
                w(self._memory.store("of_dw", block.weight * c.channels, f"dw{block.weight}", inside))
        if harmonics:
            self._store_gradients_of_harmonics(w, of_blocks, more)
        results = [name for name, there in (("dx", features), ("dy", harmonics), ("dw", True)) if there]
        parameters: dict[str, Kind] = dict.fromkeys(("senders", "receivers"), "integers")
        parameters |= dict.fromkeys(("g", "x", "y", "w", *changes, *results), "numbers") | {"count": "size"}
        return self._kernel("edge_double_backward" if double_backward else "edge_backward", parameters, w)

    def _store_gradients_of_harmonics(self, w: Writer, known: list[int], more: bool) -> None:
        """Sum ``dy`` of the ``known`` ones over channels; as many as there are threads for a row, one each, are written together."""
        c, t = self.couplings, self.tile
        for start in range(0, c.harmonics, t.channels):
            w(f"total = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
            for j in known:
                if start <= j < start + t.channels:
                    w(f"total = tl.where(lane == {j - start}, tl.sum(dy{j}, axis=1)[:, None], total)")
            place, mask = f"dy + row * {c.harmonics} + {start} + lane", f"here & (lane < {c.harmonics - start})"
            before = f" + tl.load({place}, mask={mask}, other=0.0)" if more else ""
            w(f"tl.store({place}, total{before}, mask={mask})")

    def _gradients(
        self,
        w: Writer,
        block: Block,
        double_backward: bool,
        features: bool,
        harmonics: bool,
        inside: bool,
        begun: set[str],
    ) -> None:
        """Gradients of one path in one direction, and what it adds to those of features and harmonics.

        With s_j, what the path would be if harmonic j were one and its weight too, the gradient of the weight is the sum of y_j
        s_j and that of y_j is w s_j.
        """
        c = self.couplings
        self._weight(w, block, double_backward, inside)
        weight, change = f"weight{block.weight}", f"change{block.weight}"
        for k in sorted({entry.k for entry in block.entries}):
            w(f"g{k} = {self._memory.load('of_g', block.outputs[k] * c.channels)}")
        new: set[str] = set()
        for t, i, k in block.entries:
            for name in ("x", "a") if double_backward else ("x",):
                w(f"gx = g{k} * {name}{block.inputs[i]}")
                for j, number in c.terms[t]:
                    w.add(f"s{name}{j}", f"{number!r} * gx", new)
            if features:
                w(f"t = {self._contracted('y', t)}")
                w.add(f"ry{i}", f"t * g{k}", new)
        for t, i, k in block.entries if double_backward and features else []:  # apart: that takes fewer registers
            w(f"t = {self._contracted('b', t)}")
            w.add(f"rb{i}", f"t * g{k}", new)
        for j in sorted({j for entry in block.entries for j, _ in c.terms[entry.t]}):
            w(f"dw{block.weight} += y{j} * {'sa' if double_backward else 'sx'}{j}")
            if double_backward:
                w(f"dw{block.weight} += b{j} * sx{j}")
            if harmonics:
                value = f"{weight} * sa{j} + {change} * sx{j}" if double_backward else f"{weight} * sx{j}"
                w(f"dy{j} += " + (f"sign * ({value})" if self.mirrored and c.odd[j] else value))
        if features:
            for i in sorted({entry.i for entry in block.entries}):
                value = f"{change} * ry{i} + {weight} * rb{i}" if double_backward else f"{weight} * ry{i}"
                w.add(f"dx{block.inputs[i]}", value, begun)

    def _where_weights_are(self, w: Writer, changes: bool) -> None:
        """Pointers to the weights of the rows and to their changes."""
        c = self.couplings
        for name in ("w", "c") if changes else ("w",):
            w(f"of_{name} = {name} + row * {c.weights * c.channels} + channel")

    def _weight(self, w: Writer, block: Block, changes: bool, inside: bool) -> None:
        """A weight, and its change; both zero beyond what is ``inside``, if tiles reach beyond."""
        for name, array in (("weight", "w"), ("change", "c"))[: 1 + changes]:
            value = self._memory.load(f"of_{array}", block.weight * self.couplings.channels)
            w(f"{name}{block.weight} = {f'tl.where(inside, {value}, 0.0)' if inside else value}")

    def _harmonics(self, w: Writer, names: list[str], reversed_by: str | None) -> None:
        """Harmonics (or their change) of the rows; ``reversed_by``: what is odd for edges that run against their row."""
        c = self.couplings
        if reversed_by is not None:
            w(f"sign = 1.0 - 2.0 * ({reversed_by} & 1)")
        for name in names:
            w(f"of_{name} = {name} + row * {c.harmonics}")
            for j in range(c.harmonics):
                w(f"{name}{j} = {self._memory.load(f'of_{name}', j)}")
                if reversed_by is not None and c.odd[j]:
                    w(f"{name}{j} = {name}{j} * sign")

    def _contracted(self, name: str, t: int) -> str:
        """T of the harmonics ``name``."""
        return " + ".join(f"{number!r} * {name}{j}" for j, number in self.couplings.terms[t])

    def _kernel(self, name: str, parameters: dict[str, Kind], w: Writer) -> Kernel:
        return Kernel(name, parameters, self.dtype, w.text, warps=self.tile.warps)
