"""The two memory layouts of equivariant features, and the one way between them.

Inside equinet a feature tensor is ``(nodes, dim, channels)``: the rows are the components of every irrep, degree after
degree, and the channels lie innermost (cuequivariance's ``ir_mul``). e3nn stores ``mul_ir``: all components of one
channel, then the next channel. Everything that leaves equinet (descriptors, exported features) is in ``mul_ir``.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor


def channels_of(irreps: o3.Irreps) -> int:
    """The common multiplicity of ``irreps``.

    Raises:
        ValueError: If the multiplicities differ or there is no irrep.
    """
    multiplicities = {mul for mul, _ in irreps}
    if len(multiplicities) != 1:
        raise ValueError(
            f"every irrep must have the same number of channels, but {irreps} has {sorted(multiplicities)}"
        )
    return multiplicities.pop()


def natural_irreps(max_degree: int, channels: int = 1) -> o3.Irreps:
    """``channels`` copies of each degree 0 to ``max_degree`` with the parity of a spherical harmonic, (-1)^l."""
    return with_channels(irreps_up_to(max_degree, pseudotensors=False), channels)


def irreps_up_to(max_degree: int, *, pseudotensors: bool) -> list[o3.Irrep]:
    """True tensors of degree 0 to ``max_degree``, parity (-1)^l, and after those of each degree the pseudotensors if wanted."""
    parities = (1, -1) if pseudotensors else (1,)
    return [o3.Irrep(l, sign * (-1) ** l) for l in range(max_degree + 1) for sign in parities]


def is_true(ir: o3.Irrep) -> bool:
    """True if an irrep is a true tensor, with the parity of a harmonic of its degree; else it is a pseudotensor."""
    return bool(ir.p == (-1) ** ir.l)


def with_channels(irreps: Iterable[o3.Irrep], channels: int) -> o3.Irreps:
    """``channels`` copies of each irrep, in order."""
    return o3.Irreps([(channels, ir) for ir in irreps])


def one_of_each(irreps: o3.Irreps) -> o3.Irreps:
    """The same irreps with one channel."""
    return o3.Irreps([(1, ir) for _, ir in o3.Irreps(irreps)])


def from_mul_ir(features: Float[Tensor, "nodes features"], irreps: o3.Irreps) -> Float[Tensor, "nodes dim channels"]:
    """e3nn's flat ``mul_ir`` features as ``(nodes, dim, channels)``.

    Args:
        features: ``(nodes, irreps.dim)``.
        irreps: Equal multiplicities, e.g. ``32x0e+32x1o``.

    Raises:
        ValueError: If the number of columns is not ``irreps.dim``, or the multiplicities differ.
    """
    irreps = o3.Irreps(irreps)
    if features.shape[-1] != irreps.dim:
        raise ValueError(f"`features` has {features.shape[-1]} columns, but {irreps} has {irreps.dim}")
    channels = channels_of(irreps)
    blocks = [features[:, s].unflatten(1, (channels, ir.dim)) for s, (_, ir) in zip(irreps.slices(), irreps)]
    return torch.cat(blocks, dim=2).transpose(1, 2)


def to_mul_ir(features: Float[Tensor, "nodes dim channels"], irreps: o3.Irreps) -> Float[Tensor, "nodes features"]:
    """``(nodes, dim, channels)`` as e3nn's flat ``mul_ir`` features; the inverse of :func:`from_mul_ir`.

    Raises:
        ValueError: If the shape does not match ``irreps``.
    """
    irreps = o3.Irreps(irreps)
    rows = [ir.dim for _, ir in irreps]
    if features.shape[1:] != (sum(rows), channels_of(irreps)):
        raise ValueError(f"`features` is {tuple(features.shape)}, but {irreps} asks for (nodes, {sum(rows)}, channels)")
    return torch.cat([block.transpose(1, 2).flatten(1) for block in features.split(rows, dim=1)], dim=1)
