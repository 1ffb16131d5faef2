r"""The edge convolution and its derivatives for GPUs: the four functions of :mod:`edge_loops` on tiles of edges by channels.

* ``forward`` and ``tangent``: a program owns a receiver and some channels. It goes through the receiver's edges, a tile at a time,
  keeps all sums in registers and writes each once.
* ``backward`` and ``bend``: a program owns some rows, and goes through the channels. A row that stands for both directions of a pair
  is used from both ends, so its slopes are complete. Slopes of features are left one by one for every edge, and summed
  afterwards by programs that each own a node.

No sum depends on which program comes first: results are the same bits in every run.

Source:
    Schedules of this kind: OpenEquivariance (Bharadwaj et al. 2025, arXiv 2501.13986), which keeps the sums of a receiver, and
    FlashTP (Lee et al. 2025).
"""

from __future__ import annotations

import torch

from .couplings import Block, Couplings
from .tiles import Kernel, Kind, Tile, Writer


class EdgeTiles:
    """Writes the kernels for one set of couplings.

    Args:
        couplings: What to compute.
        dtype: float32 or float64.
        mirrored: Whether each row stands for its reverse too.
        tile: See :class:`Tile`.
    """

    def __init__(self, couplings: Couplings, dtype: torch.dtype, mirrored: bool, tile: Tile) -> None:
        self.couplings, self.dtype, self.mirrored, self.tile = couplings, dtype, mirrored, tile

    def forward(self, blocks: list[Block], *, tangent: bool) -> Kernel:
        """``forward`` or ``tangent`` of some blocks, for a grid of nodes by blocks of channels; writes their rows of the result."""
        c, t = self.couplings, self.tile
        rows = sorted({row for block in blocks for row in block.outputs})
        changes = ("a", "b", "c") if tangent else ()
        w = Writer()
        w("node = tl.program_id(0).to(tl.int64)")
        w(f"channel = tl.program_id(1) * {t.channels} + tl.arange(0, {t.channels})[None, :]")
        for k in rows:
            w(f"sum{k} = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
        w("end = tl.load(pointers + node + 1)")
        with w.block(f"for first in range(tl.load(pointers + node), end, {t.rows}):"):
            w(f"edge = first + tl.arange(0, {t.rows})[:, None]")
            w("here = edge < end")
            w("code = tl.load(codes + edge, mask=here, other=0)")
            w("row = code >> 1")
            self._harmonics(w, ["y", "b"] if tangent else ["y"], reversed_by="code" if self.mirrored else None)
            w(f"inside = here & (channel < {c.channels})")
            w(f"of_x = tl.load(edge_senders + edge, mask=here, other=0) * {c.dim * c.channels} + channel")
            w(f"of_w = row * {c.weights * c.channels} + channel")
            begun = {f"sum{k}" for k in rows}
            for block in blocks:
                self._message(w, block, tangent, begun)
        w(f"of_out = node * {c.rows * c.channels} + channel")
        for k in rows:
            value = f"tl.sum(sum{k}, axis=0)[None, :]"
            w(f"tl.store(out + of_out + {k * c.channels}, {value}, mask=channel < {c.channels})")
        parameters: dict[str, Kind] = dict.fromkeys(("pointers", "edge_senders", "codes"), "integers")
        parameters |= dict.fromkeys(("x", "y", "w", *changes, "out"), "numbers")
        return self._kernel("edge_tangent" if tangent else "edge_forward", parameters, w)

    def _message(self, w: Writer, block: Block, tangent: bool, begun: set[str]) -> None:
        """Add one path to the sums of its outputs."""
        c = self.couplings
        w(f"weight = {self._load('w', f'of_w + {block.weight * c.channels}')}")
        if tangent:
            w(f"change = {self._load('c', f'of_w + {block.weight * c.channels}')}")
        for i in sorted({entry.i for entry in block.entries}):
            row = block.inputs[i] * c.channels
            w(f"x_ = {self._load('x', f'of_x + {row}')}")
            w(f"xw{i} = x_ * weight")
            if tangent:  # of (x w): a w + x c
                w(f"aw{i} = {self._load('a', f'of_x + {row}')} * weight + x_ * change")
        for t, i, k in block.entries:
            w(f"t = {self._contracted('y', t)}")
            w.add(f"sum{block.outputs[k]}", f"t * {'aw' if tangent else 'xw'}{i}", begun)
            if tangent:
                w(f"t = {self._contracted('b', t)}")
                w.add(f"sum{block.outputs[k]}", f"t * xw{i}", begun)

    def backward(self, blocks: list[Block], *, bend: bool, features: bool, harmonics: bool, more: bool) -> Kernel:
        """``backward`` or ``bend`` of some blocks, for a grid of blocks of rows.

        Args:
            blocks: Their slopes of weights are written.
            bend: Which of the two.
            features: Whether the slopes of features are wanted: ``dx``, ``(rows, directions, dim, channels)``, of every edge.
            harmonics: Whether those of the harmonics are wanted.
            more: Whether slopes of features and harmonics are added to those of other blocks.
        """
        c, t = self.couplings, self.tile
        inputs = sorted({i for block in blocks for i in block.inputs})
        of_blocks = sorted({j for block in blocks for entry in block.entries for j, _ in c.terms[entry.t]})
        changes = ("a", "b", "c") if bend else ()
        w = Writer()
        w(f"row = tl.program_id(0).to(tl.int64) * {t.rows} + tl.arange(0, {t.rows})[:, None]")
        w("here = row < count")
        w("sender = tl.load(senders + row, mask=here, other=0)")
        w("receiver = tl.load(receivers + row, mask=here, other=0)")
        if harmonics:
            for j in of_blocks:
                w(f"dy{j} = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
        with w.block(f"for first in range(0, {c.channels}, {t.channels}):"):
            w(f"channel = first + tl.arange(0, {t.channels})[None, :]")
            w(f"inside = here & (channel < {c.channels})")
            w(f"of_w = row * {c.weights * c.channels} + channel")
            for block in blocks:
                w(f"dw{block.weight} = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
            # A loop, not the same code twice: that would take twice the registers and twice the time to compile.
            with w.block(f"for direction in range({1 + self.mirrored}):"):
                w(f"source = {'tl.where(direction == 0, sender, receiver)' if self.mirrored else 'sender'}")
                w(f"target = {'tl.where(direction == 0, receiver, sender)' if self.mirrored else 'receiver'}")
                self._harmonics(w, ["y", "b"] if bend else ["y"], reversed_by="direction" if self.mirrored else None)
                w(f"of_x = source * {c.dim * c.channels} + channel")
                w(f"of_g = target * {c.rows * c.channels} + channel")
                begun: set[str] = set()
                for i in inputs:
                    for name in ("x", "a") if bend else ("x",):
                        w(f"{name}{i} = {self._load(name, f'of_x + {i * c.channels}')}")
                for block in blocks:
                    w("tl.debug_barrier()")  # else all paths' loads come first, and there are not so many registers
                    self._slopes(w, block, bend, features, harmonics, begun)
                if features:
                    w(f"of_dx = (row * {1 + self.mirrored} + direction) * {c.dim * c.channels} + channel")
                    for i in inputs if more else range(c.dim):
                        place = f"dx + of_dx + {i * c.channels}"
                        value = f"dx{i}" if f"dx{i}" in begun else f"tl.zeros([{t.rows}, {t.channels}], dtype=number)"
                        w(f"tl.store({place}, {value}{self._before(place, 'inside', more)}, mask=inside)")
            for block in blocks:
                w(f"tl.store(dw + of_w + {block.weight * c.channels}, dw{block.weight}, mask=inside)")
        if harmonics:
            for j in of_blocks if more else range(c.harmonics):
                place = f"dy + row * {c.harmonics} + {j}"
                value = (
                    f"tl.sum(dy{j}, axis=1)[:, None]" if j in of_blocks else f"tl.zeros([{t.rows}, 1], dtype=number)"
                )
                w(f"tl.store({place}, {value}{self._before(place, 'here', more)}, mask=here)")
        results = [name for name, there in (("dx", features), ("dy", harmonics), ("dw", True)) if there]
        parameters: dict[str, Kind] = dict.fromkeys(("senders", "receivers"), "integers")
        parameters |= dict.fromkeys(("g", "x", "y", "w", *changes, *results), "numbers") | {"count": "size"}
        return self._kernel("edge_bend" if bend else "edge_backward", parameters, w)

    def _slopes(self, w: Writer, block: Block, bend: bool, features: bool, harmonics: bool, begun: set[str]) -> None:
        """Slopes of one path in one direction, and what it adds to those of features and harmonics.

        With s_j, what the path would be if harmonic j were one and its weight too, the slope of the weight is the sum of y_j
        s_j and that of y_j is w s_j.
        """
        c = self.couplings
        place = f"of_w + {block.weight * c.channels}"
        w(f"weight = {self._load('w', place)}")
        if bend:
            w(f"change = {self._load('c', place)}")
        for k in sorted({entry.k for entry in block.entries}):
            w(f"g{k} = {self._load('g', f'of_g + {block.outputs[k] * c.channels}')}")
        new: set[str] = set()
        for t, i, k in block.entries:
            for name in ("x", "a") if bend else ("x",):
                w(f"gx = g{k} * {name}{block.inputs[i]}")
                for j, number in c.terms[t]:
                    w.add(f"s{name}{j}", f"{number!r} * gx", new)
            if features:
                w(f"t = {self._contracted('y', t)}")
                w.add(f"ry{i}", f"t * g{k}", new)
                if bend:
                    w(f"t = {self._contracted('b', t)}")
                    w.add(f"rb{i}", f"t * g{k}", new)
        for j in sorted({j for entry in block.entries for j, _ in c.terms[entry.t]}):
            w(f"dw{block.weight} += y{j} * {'sa' if bend else 'sx'}{j}")
            if bend:
                w(f"dw{block.weight} += b{j} * sx{j}")
            if harmonics:
                value = f"weight * sa{j} + change * sx{j}" if bend else f"weight * sx{j}"
                w(f"dy{j} += " + (f"sign * ({value})" if self.mirrored and c.odd[j] else value))
        if features:
            for i in sorted({entry.i for entry in block.entries}):
                w.add(f"dx{block.inputs[i]}", f"change * ry{i} + weight * rb{i}" if bend else f"weight * ry{i}", begun)

    def _harmonics(self, w: Writer, names: list[str], reversed_by: str | None) -> None:
        """Harmonics (or their change) of the rows; ``reversed_by``: what is odd for edges that run against their row."""
        c = self.couplings
        if reversed_by is not None:
            w(f"sign = 1.0 - 2.0 * ({reversed_by} & 1)")
        for name in names:
            for j in range(c.harmonics):
                w(f"{name}{j} = tl.load({name} + row * {c.harmonics} + {j}, mask=here, other=0.0)")
                if reversed_by is not None and c.odd[j]:
                    w(f"{name}{j} = {name}{j} * sign")

    def _contracted(self, name: str, t: int) -> str:
        """T of the harmonics ``name``."""
        return " + ".join(f"{number!r} * {name}{j}" for j, number in self.couplings.terms[t])

    @staticmethod
    def _before(place: str, mask: str, more: bool) -> str:
        """What other blocks left at a place, to add to."""
        return f" + tl.load({place}, mask={mask}, other=0.0)" if more else ""

    def _load(self, name: str, place: str) -> str:
        return f"tl.load({name} + {place}, mask=inside, other=0.0)"

    def _kernel(self, name: str, parameters: dict[str, Kind], w: Writer) -> Kernel:
        return Kernel(name, parameters, self.dtype, w.text, warps=self.tile.warps)
