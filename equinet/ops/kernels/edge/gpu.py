"""The kernels of an edge convolution: into how many it is divided, the tiles they work on, and how they are started."""

from __future__ import annotations

import torch
from torch import Tensor

from equinet.ops.codegen.once import once
from equinet.ops.codegen.tiles import Kernel, Kind, Tile, Writer, blocks, tile_for

from .couplings import Block, couplings_of
from .gpu_tiles import EdgeTiles

Tensors = tuple[Tensor, ...]

# From so many nodes on, programs of one warp fill an H100: 132 multiprocessors, 16 warps of these kernels on each, 4 of them for the
# channels of a node. Not measured.
MANY_NODES = 500

# What a kernel may have in float32, half in float64, before it spills (seen in what compilers make of it for an H100):
# rows of the result, or entries.
MOST = {"forward": 100, "jvp": 72, "backward": 200, "double_backward": 130}


def portions(function: str, blocks: list[Block], dtype: torch.dtype) -> list[list[Block]]:
    """The blocks, in as many kernels as it takes for each to keep in registers what it works on.

    Sums take registers for every row of the result, so blocks that share rows stay together. Gradients take them, and time to
    compile, for every entry.
    """
    together: list[tuple[set[int], list[Block]]] = []
    for block in blocks:
        rows, members = set(block.outputs), [block]
        if function in ("forward", "jvp"):
            for other in [each for each in together if each[0] & rows]:
                rows, members = other[0] | rows, [*other[1], *members]
                together.remove(other)
        together.append((rows, members))
    found: list[tuple[int, list[Block]]] = []
    for rows, members in together:
        size = len(rows) if function in ("forward", "jvp") else sum(len(block.entries) for block in members)
        if found and found[-1][0] + size <= MOST[function] // (dtype.itemsize // 4):
            found[-1] = (found[-1][0] + size, found[-1][1] + members)
        else:
            found.append((size, members))
    return [members for _, members in found]


@once
def kernels_for(
    function: str,
    product: str,
    dtype: torch.dtype,
    mirrored: bool,
    rows: int,
    features: bool = True,
    harmonics: bool = True,
) -> tuple[list[Kernel], Tile]:
    """Kernels that together are one of the four functions, with so many rows in a tile, and the tile."""
    couplings = couplings_of(product)
    tile = tile_for(couplings.channels, rows)
    tiles = EdgeTiles(couplings, dtype, mirrored, tile)
    kernels = []
    for n, part in enumerate(portions(function, couplings.blocks, dtype)):
        if function in ("forward", "jvp"):
            kernels.append(tiles.forward(part, jvp=function == "jvp"))
        else:
            double_backward = function == "double_backward"
            kernels.append(
                tiles.backward(
                    part, double_backward=double_backward, features=features, harmonics=harmonics, more=n > 0
                )
            )
    return kernels, tile


def sum_on_nodes(
    function: str, inputs: Tensors, pointers: Tensor, senders: Tensor, codes: Tensor, mirrored: bool, product: str
) -> Tensor:
    """``forward`` or ``jvp`` of contiguous inputs."""
    c, x = couplings_of(product), inputs[0]
    out = x.new_empty(x.shape[0], c.rows, c.channels)
    # With few nodes there are not enough programs to hide what each waits for, unless warps share a node's edges.
    rows = 1 if x.shape[0] >= MANY_NODES else 4
    kernels, tile = kernels_for(function, product, x.dtype, mirrored, rows)
    for kernel in kernels:
        kernel((x.shape[0], blocks(c.channels, tile.channels)), pointers, senders, codes, *inputs, out)
    return out


def gradients(
    function: str,
    inputs: Tensors,
    index: Tensor,
    pointers: Tensor,
    codes: Tensor,
    mirrored: bool,
    product: str,
    features: bool,
    harmonics: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """``backward`` or ``double_backward`` of contiguous inputs: gradients of features, of harmonics and of weights."""
    c, (_, x, y, w) = couplings_of(product), inputs[:4]
    count = index.shape[1]
    of_edges = x.new_empty(count, 1 + mirrored, c.dim, c.channels) if features else None
    dy, dw = torch.empty_like(y) if harmonics else None, torch.empty_like(w)
    kernels, tile = kernels_for(function, product, x.dtype, mirrored, 1, features, harmonics)
    results = [each for each in (of_edges, dy, dw) if each is not None]
    for kernel in kernels:
        kernel((blocks(count, tile.rows),), *index, *inputs, *results, count)
    if of_edges is None:
        return None, dy, dw
    width, dx = c.dim * c.channels, torch.empty_like(x)
    summing, tile = gather_sum(width, x.dtype)
    summing((x.shape[0], blocks(width, tile.channels)), *outgoing(index, pointers, codes, mirrored), of_edges, dx)
    return dx, dy, dw


@once
def gather_sum(width: int, dtype: torch.dtype) -> tuple[Kernel, Tile]:
    """Sums of ``width`` numbers over the rows that lists of rows name, for a grid of lists by blocks of columns."""
    t = tile_for(width, 4)
    w = Writer()
    w("node = tl.program_id(0).to(tl.int64)")
    w(f"column = tl.program_id(1) * {t.channels} + tl.arange(0, {t.channels})[None, :]")
    w(f"total = tl.zeros([{t.rows}, {t.channels}], dtype=number)")
    w("end = tl.load(pointers + node + 1)")
    with w.block(f"for first in range(tl.load(pointers + node), end, {t.rows}):"):
        w(f"n = first + tl.arange(0, {t.rows})[:, None]")
        w("row = tl.load(rows + n, mask=n < end, other=0)")
        w(f"total += tl.load(values + row * {width} + column, mask=(n < end) & (column < {width}), other=0.0)")
    w(f"tl.store(out + node * {width} + column, tl.sum(total, axis=0)[None, :], mask=column < {width})")
    parameters: dict[str, Kind] = {"pointers": "integers", "rows": "integers", "values": "numbers", "out": "numbers"}
    return Kernel("gather_sum", parameters, dtype, w.text, warps=t.warps), t


def outgoing(index: Tensor, pointers: Tensor, codes: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Pointers and lists of the edges out of every node, numbered as ``dx`` of ``backward`` has them.

    Of rows for both directions these are the reverses of the edges into a node.
    """
    if mirrored:
        return pointers, codes ^ 1
    senders, order = torch.sort(index[0], stable=True)
    nodes = torch.arange(len(pointers), device=senders.device)
    return torch.searchsorted(senders, nodes), order
