"""The edge convolution by OpenEquivariance: CUDA and HIP kernels generated for a product, gather and sum over the edges included.

What is said here of its calls is read from its release 0.7.0, documentation and source. Its kernels are compiled when first
needed, with a C++ compiler for the part on the host, which takes minutes once.

Source:
    Bharadwaj et al. 2025, arXiv 2501.13986; https://passionlab.github.io/OpenEquivariance
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from equinet.ops.edges import Edges
from equinet.ops.layout import with_channels
from equinet.ops.spec import TensorProductSpec

from .base import LibraryConvolution, load, missing

LIBRARY = EXTRA = "openequivariance"


def unavailable() -> str | None:
    """Reason why OpenEquivariance cannot run here, or None; a missing GPU shows when it is called."""
    return missing(LIBRARY, EXTRA)


def problem_of(spec: TensorProductSpec, dtype: torch.dtype, layout: str) -> Any:
    """``spec`` in the library's words: e3nn's ``uvu`` instructions, path after path, each with an output and weights of its own."""
    number = np.dtype(str(dtype).removeprefix("torch.")).type
    outputs = with_channels((path.out for path in spec.paths), spec.channels)
    return load(LIBRARY, EXTRA).TPProblem(
        *(str(irreps) for irreps in (spec.irreps_in1, spec.irreps_in2, outputs)),
        [(path.i1, path.i2, n, "uvu", True) for n, path in enumerate(spec.paths)],
        irrep_normalization="component",
        path_normalization="element",
        shared_weights=False,
        internal_weights=False,
        irrep_dtype=number,
        weight_dtype=number,
        layout=layout,
    )


@cache
def kernel(spec: TensorProductSpec, dtype: torch.dtype, deterministic: bool) -> Any:
    """The library's convolution, made once for all layers with the same product, on the GPU that is the current one."""
    task = problem_of(spec, dtype, "ir_mul")
    return load(LIBRARY, EXTRA).TensorProductConv(task, deterministic=deterministic)


def sorted_pairs(edges: Edges) -> tuple[Int[Tensor, " edges"], Int[Tensor, " edges"]]:
    """Order of edges that stand for both directions.

    Returns:
        order: Sorts ``edges.directed`` by receiver, then by sender.
        reverse: For each of the sorted edges the place of its reverse among them; as a permutation it sorts them by sender, then
            by receiver.
    """
    sender, receiver = edges.directed
    order = torch.argsort(receiver * edges.num_nodes + sender, stable=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return order, place[(order + edges.index.shape[1]) % len(order)]


class OpenEquivarianceConvolution(LibraryConvolution):
    """The edge convolution by ``TensorProductConv`` in the layout ``ir_mul``, which is ours.

    Edges that stand for both directions go to its deterministic form, which takes them sorted by receiver and, for the gradients of
    features, a permutation that sorts them by sender. That form supposes that every edge has its reverse (its backward pass
    reads the i-th sorted edge turned round as the ``sender_perm[i]``-th), so single directions go to the form with atomic
    additions, which supposes nothing.

    Raises:
        ValueError: If the library is missing or broken, when made; if the features are not on a GPU, when called.
    """

    package, devices = LIBRARY, ("cuda",)

    def __init__(self, spec: TensorProductSpec) -> None:
        super().__init__(spec)
        load(LIBRARY, EXTRA)
        # Theirs are path after path, component after component; ours have the path fast (TensorProductSpec).
        rows = [row for n in range(len(spec.paths)) for row in spec.row_of(n)]
        self.register_buffer("_order", torch.tensor(rows).argsort(), persistent=False)

    def convolve(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows paths channels"],
        edges: Edges,
    ) -> Float[Tensor, "nodes out channels"]:
        permutation: tuple[Tensor, ...] = ()
        if edges.mirrored:
            # Weights are the larger part, so these are not doubled before they are sorted.
            sender, receiver, edge_attrs, _ = edges.unfold(edge_attrs, weight[:, :0], self.spec.irreps_in2)
            order, reverse = sorted_pairs(edges)
            sender, receiver, edge_attrs = (each.index_select(0, order) for each in (sender, receiver, edge_attrs))
            weight = weight.index_select(0, order % edges.index.shape[1])
            permutation = (reverse,)
        else:
            sender, receiver = edges.index
        # Their kernels read memory in order, and make gradients in the shape of what they are given.
        x, y, w = (each.contiguous() for each in (node_feats.flatten(1), edge_attrs, weight.flatten(1)))
        convolution = kernel(self.spec, node_feats.dtype, edges.mirrored)
        result = convolution(x, y, w, receiver.contiguous(), sender.contiguous(), *permutation)
        return result.unflatten(1, (self.spec.rows, self.spec.channels)).index_select(1, self._order)
