"""Linear maps of blocks of rows in machine code; :mod:`equinet.ops.kernels.linear.maps` differentiates them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equinet.ops.codegen.llvm import compile_function, lanes_for
from equinet.ops.codegen.once import once
from equinet.ops.codegen.threads import require, run_in_parts
from equinet.ops.devices import made_on_cpu

from .loops import PARTS, MixLoops


class Maps(NamedTuple):
    """Blocks of the linear maps as plain numbers.

    Attributes:
        blocks: Eight numbers for each block, see ``NUMBERS`` in :mod:`.mix_loops`.
        scales: A factor for each block.
        stride, to_stride: Numbers that a node has in x and in y.
        full: True if the blocks fill y.
    """

    blocks: tuple[int, ...]
    scales: tuple[float, ...]
    stride: int
    to_stride: int
    full: bool


class Nodes(NamedTuple):
    """Nodes in an order in which every species has a span.

    Attributes:
        order: ``(nodes,)`` int64.
        spans: int64, how many there are, and for each a species, its first place in ``order`` and the one after its last.
    """

    order: Tensor
    spans: Tensor


@lru_cache(maxsize=64)
def all_alike(count: int) -> Nodes:
    """Nodes of one species."""
    return Nodes(torch.arange(count, device="cpu"), torch.tensor([1, 0, 0, count], device="cpu"))


def mix(x: Tensor, w: Tensor, nodes: Nodes, maps: Maps, shape: tuple[int, ...]) -> Tensor:
    """The linear maps of every node: ``(nodes, *shape)``.

    Args:
        x: ``(nodes, ...)``.
        w: Weights of all blocks, one after the other, each ``(depth, columns)`` or ``(species, depth, columns)``.
        nodes: Nodes by species.
        maps: The blocks.
        shape: Shape of the result of one node.
    """
    y = (x.new_empty if maps.full else x.new_zeros)(x.shape[0], *shape)
    _run(False, x, w, y, nodes, maps)
    return y


def mix_gradients(x: Tensor, g: Tensor, nodes: Nodes, maps: Maps, numbers: int) -> Tensor:
    """Gradients ``(numbers,)`` of all weights, one after the other, for gradients ``g`` of the result."""
    dw = x.new_zeros(numbers)
    _run(True, x, g, dw, nodes, maps)
    return dw


@once
def _code(gradients: bool, dtype: torch.dtype, lanes: int) -> Any:
    loops = MixLoops(dtype, lanes)
    return compile_function(loops.gradients() if gradients else loops.product())


@lru_cache(maxsize=512)
@made_on_cpu
def _constants(maps: Maps, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, int]:
    """Sizes, blocks and scales as the code reads them, and the length of a vector."""
    sizes = torch.tensor([len(maps.scales), maps.stride, maps.to_stride])
    lanes = min(lanes_for(columns, dtype) for columns in maps.blocks[6::8])
    return sizes, torch.tensor(maps.blocks), torch.tensor(maps.scales, dtype=dtype), lanes


def _run(gradients: bool, x: Tensor, other: Tensor, result: Tensor, nodes: Nodes, maps: Maps) -> None:
    y = other if gradients else result
    require(x[:1].numel() in (0, maps.stride) and y[:1].numel() in (0, maps.to_stride) and len(x) == len(y), x, other)
    sizes, blocks, scales, lanes = _constants(maps, x.dtype)
    arrays = [sizes, blocks, nodes.spans, nodes.order, scales, x.contiguous(), other.contiguous(), result]
    code = _code(gradients, x.dtype, lanes)
    if gradients:
        run_in_parts(code, PARTS, arrays, smallest=1)
    else:
        run_in_parts(code, len(nodes.order), arrays)
