"""Other libraries, each in one file that alone imports it, and only when it takes part."""

from __future__ import annotations

import torch

from equinet.bench.core.record import Contender
from equinet.bench.products.problems import Problem

from . import cuequivariance, e3nn, openequivariance

__all__ = ["peers"]


def peers(problem: Problem, device: torch.device) -> list[Contender]:
    """Every other library that has the problem's product, those that cannot run here with the reason."""
    found: list[Contender] = []
    if problem.kind != "product":
        found.append(e3nn.E3nn())
    found += [cuequivariance.CuEquivariance(method, device.type) for method in ("naive", "uniform_1d")]
    found.append(openequivariance.OpenEquivariance(problem.kind, device.type))
    return found
