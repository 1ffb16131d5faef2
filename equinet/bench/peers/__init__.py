"""Other libraries, each in one file that alone imports it, and only when it takes part."""

from __future__ import annotations

import torch

from equinet.bench.core.record import Contender
from equinet.bench.products.problems import Problem
from equinet.ops.spec import TensorProductSpec

from . import cuequivariance, e3nn, openequivariance

__all__ = ["peers"]


def peers(problem: Problem, device: torch.device) -> list[Contender]:
    """Every other library that has the problem's product, those that cannot run here with the reason."""
    found: list[Contender] = []
    if problem.kind != "product":
        found.append(e3nn.E3nn())
    if isinstance(problem.spec, TensorProductSpec) and problem.spec.pair:
        return (
            found  # the others have no such product ready-made; cuequivariance's kernels take part as a backend of ours
        )
    found += [cuequivariance.CuEquivariance(method, device.type) for method in ("naive", "uniform_1d")]
    found.append(openequivariance.OpenEquivariance(problem.kind, device.type))
    return found
