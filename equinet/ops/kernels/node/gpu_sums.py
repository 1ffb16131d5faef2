"""Gradients of a many-body product in its weights, for GPUs: sums over the nodes of each species, without atomics.

A program owns some terms, looks up of which variables each is the product, and adds up over a chunk of nodes of one species. The chunks
of a species are added afterwards, in their order.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from equinet.ops.codegen.once import once
from equinet.ops.codegen.tiles import Kernel, Tile, Writer, blocks, parameters, tile_for

from .cpu import Polynomials

Tensors = tuple[Tensor, ...]
Path = tuple[int, ...]  # a monomial as the variables on the way from the root: x_0 x_0 x_3 is (0, 0, 3)

# Nodes of a piece of ``order``, see :func:`sum_over_nodes`: so many that what programs leave to be added is little, but not so many
# that there are few programs.
SHORTEST_PIECE, MOST_PIECES = 16, 128


def paths_of(polynomials: Polynomials) -> list[Path]:
    """All monomials M."""
    paths: list[Path] = [(), *((v,) for v in range(polynomials.variables))]
    for first, last in polynomials.monomials.tolist():
        paths.append((*paths[first], last - 1))
    return paths


def sum_over_nodes(inputs: Tensors, order: Tensor, species: Tensor, p: Polynomials, out: Tensor) -> None:
    """``weight_gradient`` of (g, x), or the gradients in K of ``double_backward`` of (a, g, x), into ``out``: ``(species, terms, channels)``.

    Nothing waits for the device: where chunks begin is found there, and how many there can be follows from shapes. ``order`` is cut
    into pieces of equal length, and where the species changes. The chunk of species z in piece p is in slot p + z, which no two
    share: from one chunk to the next p or z grows, and neither ever falls. A slot that no chunk is in stands for an empty one.
    """
    count, width = len(out), out.shape[1] * out.shape[2]
    starts = torch.searchsorted(species[order], torch.arange(count + 1, device=order.device))
    piece = max(SHORTEST_PIECE, 1 << (blocks(len(order), MOST_PIECES) - 1).bit_length())
    slots = len(order) // piece + count
    chunks = out.new_empty(slots, width)
    kernel, tile = sum_of_chunk(p, count, out.dtype, len(inputs) == 3)
    grid = (slots, blocks(p.channels, tile.channels), blocks(len(p.terms), tile.rows))
    kernel(grid, starts, order, table_on(p, order.device), *inputs, chunks, piece)
    kernel, tile = sum_of_chunks(width, out.dtype)
    kernel((count, blocks(width, tile.channels)), starts, chunks, out, piece)


@cache
def table_on(polynomials: Polynomials, device: torch.device) -> Tensor:
    """``(terms, 1 + degree)`` int64: k of each term, and the variables that it is a product of, then -1."""
    paths = paths_of(polynomials)
    rows = [(k, l, *paths[m]) for k, m, l in polynomials.terms.tolist()]
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows], dtype=torch.int64, device=device)


@once
def sum_of_chunk(p: Polynomials, species: int, dtype: torch.dtype, double_backward: bool) -> tuple[Kernel, Tile]:
    """Sums over every chunk, for a grid of slots by blocks of channels by blocks of terms.

    In a tile of terms by channels a thread has eight sums. Straight-line code would have to be a kernel for every few terms, whose
    sums stay in registers.
    """
    channels, terms, degree = p.channels, len(p.terms), table_on(p, torch.device("cpu")).shape[1] - 1
    width = min(32, 1 << (channels - 1).bit_length())
    t = Tile(1024 // width, width, 4)
    w = Writer()
    w("slot = tl.program_id(0).to(tl.int64)")
    w(f"z = tl.arange(0, {1 << (species - 1).bit_length()})")
    w(f"first_slots = tl.load(starts + z, mask=z < {species}, other=0) // piece + z")
    w(f"z = tl.sum(((z < {species}) & (first_slots <= slot)).to(tl.int64)) - 1")
    w("begin = tl.maximum(tl.load(starts + z), (slot - z) * piece)")
    w("end = tl.minimum(tl.load(starts + z + 1), (slot - z + 1) * piece)")
    w(f"channel = tl.program_id(1) * {t.channels} + tl.arange(0, {t.channels})[None, :]")
    w(f"term = tl.program_id(2) * {t.rows} + tl.arange(0, {t.rows})[:, None]")
    w(f"inside = (term < {terms}) & (channel < {channels})")
    w(f"k = tl.load(table + term * {1 + degree}, mask=term < {terms}, other=0)")
    for n in range(degree):
        w(f"v{n} = tl.load(table + term * {1 + degree} + {1 + n}, mask=term < {terms}, other=-1)")
    w(f"total = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
    with w.block("for place in range(begin, end):"):
        w("node = tl.load(order + place)")
        w(f"m = tl.load(g + (node * {p.outputs} + k) * {channels} + channel, mask=inside, other=0.0)")
        for n in range(degree):
            at = f"(node * {p.variables} + v{n}) * {channels} + channel, mask=inside & (v{n} >= 0)"
            w(f"factor = tl.load(x + {at}, other=1.0)")
            if double_backward:
                change = f"m * tl.load(a + {at}, other=0.0)"
                w(f"c = c * factor + {change}" if n else f"c = {change}")
            w("m = m * factor")
        w(f"total += {'c' if double_backward else 'm'}")
    w(f"tl.store(out + (slot * {terms} + term) * {channels} + channel, total, mask=inside)")
    found = parameters(
        ("starts", "order", "table"), ("a", "g", "x", "out") if double_backward else ("g", "x", "out"), "piece"
    )
    called = "node_double_backward_weights" if double_backward else "node_weight_gradient"
    return Kernel(called, found, dtype, w.text, warps=t.warps), t


@once
def sum_of_chunks(width: int, dtype: torch.dtype) -> tuple[Kernel, Tile]:
    """Sums over the slots of a species of ``width`` numbers, for a grid of species by blocks of columns."""
    t = tile_for(width, 4)
    w = Writer()
    w("z = tl.program_id(0).to(tl.int64)")
    w(f"column = tl.program_id(1) * {t.channels} + tl.arange(0, {t.channels})[None, :]")
    w("first = tl.load(starts + z) // piece + z")
    w("end = tl.load(starts + z + 1) // piece + z + 1  # where the slots of the next begin")
    w(f"total = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
    with w.block(f"for some in range(first, end, {t.rows}):"):
        w(f"slot = some + tl.arange(0, {t.rows})[:, None]")
        w(f"inside = (slot < end) & (column < {width})")
        w(f"total += tl.load(values + slot * {width} + column, mask=inside, other=0.0)")
    w(f"tl.store(out + z * {width} + column, tl.sum(total, axis=0)[None, :], mask=column < {width})")
    found = parameters(("starts",), ("values", "out"), "piece")
    return Kernel("sum_of_chunks", found, dtype, w.text, warps=t.warps), t
