"""A convolution in the terms of another: which weights of the one make the function of the other, where any do."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, NamedTuple

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equinet.ops.harmonics import SphericalHarmonics
from equinet.ops.kernels.edge.reference import ReferenceConvolution
from equinet.ops.protocols import Convolution, Method

from .basis import random_features

ROUNDING = 1e-10
REMEDY = "Convert the many-body product alone, or train anew with this convolution"


def essence(method: Method, role: Literal["many_body", "convolution"]) -> dict[str, Any]:
    """Arguments of a method that decide its function of the weights, without those that decide how it is computed."""
    kind = type(method).__name__
    essence = {field.name: getattr(method, field.name) for field in fields(method)}  # type: ignore[arg-type]
    reference = essence.pop("backend", None) == "reference" and kind == "CPDecomposed"  # that one has no decomposition
    if kind in ("GauntGrid", "GauntFourier"):
        kind, essence = "Gaunt", {"bracket": False, **essence}
        essence.pop("transform", None)
    if role == "many_body":
        essence.pop("weights", None)
    return {"kind": kind, "reference": reference, **essence}


class ConvolutionMap(NamedTuple):
    """Map from the weights of the old convolution to those of the new one.

    Attributes:
        weights: The new weights of an edge and channel as a linear map of the old ones.
        copies: For each copy of each output of the new one the old copy whose mixing matrix, the one behind the product, it
            has to have.
    """

    weights: Float[Tensor, "new old"]
    copies: dict[o3.Irrep, list[int]]


@torch.no_grad()
def exact_map(old: Convolution, new: Convolution) -> ConvolutionMap | str:
    """Weights by which ``new`` computes exactly what ``old`` does, or why there are none, in words and with a remedy.

    A copy of an output is a sum over paths with weights that depend on the distance, and is mixed by a matrix of its own. So
    paths that share a copy can be parted, each with the same matrix, but paths with matrices of their own cannot be joined.

    Args:
        old: Convolution in float64, on the CPU.
        new: Convolution of the same spec, likewise.
    """
    source, target = _path_map(old), _path_map(new)
    for which, found in (("old", source), ("new", target)):
        if found is None:
            return (
                f"path weights of the {which} product are products of functions of the distance, or its factors are approximate, "
                f"and no linear map leads from one to the other. {REMEDY}"
            )
    assert source is not None
    assert target is not None
    owners = [path.nonzero().flatten().tolist() for path in source.abs().amax(2).T]
    if max(map(len, owners)) > 1:
        return f"the old product is a sum of several copies, each with a mixing matrix of its own. {REMEDY}"
    wanted, mixing = torch.zeros(*target.shape[:2], source.shape[2], dtype=torch.float64), []
    for s, slot in enumerate(target.abs().amax(2)):
        carried = slot.nonzero().flatten().tolist()
        own = {owners[p][0] for p in carried if owners[p]}
        if len(own) > 1:
            return (
                "exact couplings keep each path apart, with a mixing matrix of its own, and a product that sums its paths has one "
                f"matrix for all of them. {REMEDY}"
            )
        mixing.append(own.pop() if own else 0)
        wanted[s, carried] = source[mixing[s], carried]
    if int((target.abs().amax(2) > 0).sum(0).max()) > 1:
        return f"the new product is a sum of several copies; with copies = 1 there may be a way. {REMEDY}"
    weights = torch.linalg.lstsq(target.flatten(0, 1), wanted.flatten(0, 1), driver="gelsd").solution
    missed = max(float((target @ weights - wanted).abs().max()), float((wanted.sum(0) - source.sum(0)).abs().max()))
    if missed > ROUNDING:
        return f"its paths have other strengths than those of the old product, and fewer weights than paths. {REMEDY}"
    if target.shape == source.shape and torch.equal(target, source):
        weights = torch.eye(len(weights), dtype=torch.float64)
    slots, first = _slots(new), {ir: _slots(old).index(ir) for ir in old.copies}
    copies = {ir: [mixing[s] - first[ir] for s, out in enumerate(slots) if out == ir] for ir in new.copies}
    return ConvolutionMap(weights, copies)


def _slots(executor: Convolution) -> list[o3.Irrep]:
    return [ir for ir, count in executor.copies.items() for _ in range(count)]


def _path_map(executor: Convolution) -> Float[Tensor, "slots paths weights"] | None:
    """``path_weights`` as numbers; None if it is not linear, or not all that is computed."""
    spec, numel, edges = executor.spec, executor.weight_numel, 8
    eye = torch.eye(numel, dtype=torch.float64).unsqueeze(2)
    found = executor.path_weights(eye).squeeze(3).permute(1, 2, 0)
    found = torch.where(found.abs() > ROUNDING, found, 0.0)
    weight = random_features(5, edges, numel, spec.channels)
    if not torch.allclose(torch.einsum("spk,ekc->espc", found, weight), executor.path_weights(weight), atol=1e-8):
        return None
    harmonics = SphericalHarmonics(spec.irreps_in2.lmax).double()
    attrs = harmonics(torch.nn.functional.normalize(random_features(6, edges, 3)))
    features = random_features(7, 2, spec.irreps_in1.dim // spec.channels, spec.channels)
    ends = torch.arange(edges) % 2
    inputs = (features, attrs, weight, torch.stack([ends, 1 - ends]))
    by_paths = ReferenceConvolution(spec, like=executor).double()(*inputs)
    return found if torch.allclose(executor(*inputs), by_paths, atol=1e-8) else None
