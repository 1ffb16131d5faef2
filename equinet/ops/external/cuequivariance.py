"""Products by NVIDIA's cuequivariance: its CUDA kernels where tensors are on a GPU, its torch form where they are on the CPU.

All products are handed over as polynomials with our order of weights and rows, so that weights are the same numbers with every
backend and nothing is permuted. Their kernels (method ``uniform_1d``) gather, multiply and sum in one pass, in which an edge's
harmonics are shared by all channels, and their derivatives are polynomials by the same kernels, to any order.

Sums by these kernels are made with atomic additions, whose order differs from run to run.

Source:
    https://docs.nvidia.com/cuda/cuequivariance (0.13): ``SegmentedPolynomial`` and ``SegmentedTensorProduct``.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch._subclasses import FakeTensor

from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.coupling.polynomials import Covariants
from equinet.ops.edges import Edges
from equinet.ops.kernels.node.reference import PolynomialTables
from equinet.ops.kernels.pair.reference import ExactPair
from equinet.ops.kernels.pair.table import name_of, table_of
from equinet.ops.spec import ManyBodySpec, TensorProductSpec
from equinet.ops.species import SpeciesGroups

from .base import LibraryConvolution, kernel_of, load, missing, require_device

LIBRARY, KERNELS = "cuequivariance_torch", "cuequivariance_ops_torch"
# The method with kernels does not fall back where tensors are on the CPU, so one is chosen for every call.
METHODS = {"cuda": "uniform_1d", "cpu": "naive"}
_made: dict[tuple[TensorProductSpec | ManyBodySpec, str, torch.dtype], Any] = {}


def unavailable() -> str | None:
    """Reason why cuequivariance cannot run here, or None."""
    return missing(LIBRARY, "cuequivariance")


def kernels_unavailable() -> str | None:
    """Reason why cuequivariance cannot run on a GPU here, or None."""
    return unavailable() or missing(KERNELS, "cuda")


def _segments(count: int, *shape: int) -> Any:
    """An operand of ``count`` segments alike: rows with ``channels`` numbers, or with one number for all channels."""
    return load("cuequivariance", "cuequivariance").SegmentedOperand(ndim=len(shape), segments=[shape] * count)


class CuEquivarianceConvolution(LibraryConvolution):
    """The edge convolution, gather and sum over the edges included.

    Raises:
        ValueError: If the library is missing or broken, when made; if the features are on a GPU and the kernels are missing
            or broken, or on a device that is neither GPU nor CPU, when called.
    """

    package, devices = "cuequivariance", tuple(METHODS)

    def __init__(self, spec: TensorProductSpec) -> None:
        super().__init__(spec)
        load(LIBRARY, "cuequivariance")

    def polynomial(self) -> Any:
        """Weights, features and harmonics to rows: one term for every coupling that is not zero."""
        cue, spec, channels = load("cuequivariance", "cuequivariance"), self.spec, self.spec.channels
        operands = [
            (_segments(len(spec.paths), channels), "u"),
            (_segments(spec.irreps_in1.dim // channels, channels), "u"),
            (_segments(spec.irreps_in2.dim), ""),
            (_segments(spec.rows, channels), "u"),
        ]
        product = cue.SegmentedTensorProduct(operands)
        starts1 = [part.start // channels for part in spec.irreps_in1.slices()]
        starts2 = [part.start for part in spec.irreps_in2.slices()]
        for n, path in enumerate(spec.paths):
            l1, l2 = spec.irreps_in1[path.i1].ir.l, spec.irreps_in2[path.i2].ir.l
            coupling = math.sqrt(path.out.dim) * clebsch_gordan(l1, l2, path.out.l).numpy()
            rows = spec.row_of(n)
            for i, j, k in np.argwhere(np.abs(coupling) > 1e-12).tolist():
                product.add_path(n, starts1[path.i1] + i, starts2[path.i2] + j, rows[k], c=coupling[i, j, k])
        return cue.SegmentedPolynomial.eval_last_operand(product)

    def convolve(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows paths channels"],
        edges: Edges,
    ) -> Float[Tensor, "nodes out channels"]:
        sender, receiver, edge_attrs, weight = edges.unfold(edge_attrs, weight, self.spec.irreps_in2)
        nodes = _flat(node_feats)
        inputs = [_flat(weight), nodes, edge_attrs.contiguous()]
        # Of the tensor given for the shape of the result they read the number of rows only.
        (rows,) = evaluator(self, nodes)(inputs, {1: sender.contiguous()}, {0: nodes}, {0: receiver.contiguous()})
        return rows.unflatten(1, (self.spec.rows, self.spec.channels))


class CuEquivariancePair(ExactPair):
    """The pair product, weights of each row or the same for all.

    Raises:
        ValueError: As :class:`CuEquivarianceConvolution`.
    """

    package, devices = CuEquivarianceConvolution.package, CuEquivarianceConvolution.devices

    def __init__(self, spec: TensorProductSpec) -> None:
        super().__init__(spec)
        load(LIBRARY, "cuequivariance")

    @property
    def kernel(self) -> str:
        """Library that computes, on any device that it runs on."""
        return kernel_of(self.package, self.devices)

    def polynomial(self) -> Any:
        """Weights and both inputs to rows: one term for every coupling that is not zero."""
        cue, spec, channels = load("cuequivariance", "cuequivariance"), self.spec, self.spec.channels
        counts = len(spec.paths), spec.irreps_in1.dim // channels, spec.irreps_in2.dim // channels, spec.rows
        product = cue.SegmentedTensorProduct([(_segments(count, channels), "u") for count in counts])
        for block in table_of(name_of(spec)).blocks:
            for i, j, k, t in block.entries:
                product.add_path(block.weight, i, j, k, c=t)
        return cue.SegmentedPolynomial.eval_last_operand(product)

    def forward(
        self,
        x: Float[Tensor, "rows dim1 channels"],
        y: Float[Tensor, "rows dim2 channels"],
        weight: Float[Tensor, "*rows_or_none weights channels"],
    ) -> Float[Tensor, "rows out channels"]:
        require_device(x, self.package, self.devices)
        if len(x) == 0:  # what the kernels of others make of nothing is not known; zeros with derivatives are
            return (x[:, :1] * y[:, :1] * weight[..., :1, :]).expand(-1, self.spec.rows, -1)
        weight = weight.unsqueeze(0) if weight.dim() == 2 else weight
        (rows,) = evaluator(self, x)([_flat(weight), _flat(x), _flat(y)])
        return rows.unflatten(1, (self.spec.rows, self.spec.channels))


class CuEquivarianceManyBody(PolynomialTables):
    """The many-body product, weights of each node's species gathered in the same pass.

    Its polynomials are ours (:mod:`equinet.ops.coupling.polynomials`), monomial by monomial, and not those of the library's own symmetric
    contraction, whose basis differs: so any weights are good for either. That costs 497 terms in place of 425 for degrees up
    to 3 in, up to 1 out and three factors.

    Raises:
        ValueError: As :class:`CuEquivarianceConvolution`.
        IndexError: If a node has a species without weights.
    """

    package, devices = CuEquivarianceConvolution.package, CuEquivarianceConvolution.devices

    def __init__(self, spec: ManyBodySpec) -> None:
        load(LIBRARY, "cuequivariance")
        self._bases: dict[tuple[int, int], Covariants] = {}
        super().__init__(spec)

    @property
    def kernel(self) -> str:
        """Library that computes, on any device that it runs on."""
        return kernel_of(self.package, self.devices)

    def _add(self, k: int, nu: int, basis: Covariants) -> None:
        self._bases[k, nu] = basis

    def polynomial(self) -> Any:
        """Weights and features to rows: one term for every polynomial and monomial that is in it."""
        cue, spec, channels = load("cuequivariance", "cuequivariance"), self.spec, self.spec.channels
        variables = spec.irreps_in.dim // channels
        weights, features = _segments(self.weight_numel, channels), _segments(variables, channels)
        rows = _segments(spec.irreps_out.dim // channels, channels)
        products = {
            nu: cue.SegmentedTensorProduct([(weights, "u"), *[(features, "u")] * nu, (rows, "u")])
            for nu in range(1, spec.correlation + 1)
        }
        starts = [part.start // channels for part in spec.irreps_out.slices()]
        column = 0
        for (k, nu), basis in self._bases.items():
            for p, component, monomial, coefficient in basis.terms():
                products[nu].add_path(column + p, *monomial, starts[k] + component, c=coefficient)
            column += len(basis.parts)
        operations = [([0, *[1] * nu, 2], product) for nu, product in products.items() if product.num_paths]
        return cue.SegmentedPolynomial([weights, features], [rows], operations)

    def forward(
        self,
        features: Float[Tensor, "nodes dim channels"],
        weight: Float[Tensor, "species paths channels"],
        groups: SpeciesGroups,
    ) -> Float[Tensor, "nodes out channels"]:
        require_device(features, self.package, self.devices)
        groups.require_weights_for(weight.shape[0])
        out = self.spec.irreps_out.dim // self.spec.channels
        if len(features) == 0:
            return (features[:, :1] * weight[groups.species, :1]).expand(-1, out, -1)
        (rows,) = evaluator(self, features)([_flat(weight), _flat(features)], {0: groups.species})
        return rows.unflatten(1, (out, self.spec.channels))


def _flat(values: Float[Tensor, "batch rows channels"]) -> Float[Tensor, "batch numbers"]:
    """Features flattened to their layout ``ir_mul``: channels innermost, as here."""
    return values.flatten(1).contiguous()


def evaluator(executor: CuEquivarianceConvolution | CuEquivariancePair | CuEquivarianceManyBody, like: Tensor) -> Any:
    """The library's module for tensors of this device and precision, made once for all executors of one spec.

    It is no part of the executor, as it would lose digits when that goes to float32 and back.

    Raises:
        ValueError: If ``like`` is on a GPU and the kernels are missing or cannot be loaded.
        RuntimeError: If ``like`` is on the CPU and stands for any numbers while a graph is written down.
    """
    method = METHODS[like.device.type]
    if method == "naive" and isinstance(like, FakeTensor):
        # Made now, it would keep tensors without numbers for ever.
        raise RuntimeError(
            "cuequivariance's form for the CPU holds tensors of its own, with which a step cannot be written down as a graph; "
            "take ClebschGordan() as it comes there"
        )
    key = executor.spec, method, like.dtype
    if key not in _made:
        if method != "naive" and (reason := kernels_unavailable()):
            raise ValueError(f'`backend` "cuequivariance" cannot run on {like.device}: {reason}, or take "auto"')
        loaded = load(LIBRARY, "cuequivariance")
        with warnings.catch_warnings():
            # It warns that it falls back to a slow form; here that is an error.
            warnings.filterwarnings("ignore", module="cuequivariance")
            module = loaded.SegmentedPolynomial(executor.polynomial(), method=method, math_dtype=like.dtype)
        if module.method != method:
            raise ValueError(
                f'`backend` "cuequivariance" cannot run on {like.device}: {KERNELS} is installed but cannot be loaded; '
                f"import {KERNELS} says why"
            )
        _made[key] = module
    return _made[key]
