"""Kernels: tensor products in machine code made for the processor at hand, in generated kernels for GPUs, by other libraries."""

from .contraction import CompiledManyBody
from .convolution import CompiledConvolution, can_run, worthwhile
from .llvm import processor, runs_on, unavailable
from .mix import Maps, Nodes, all_alike, mix, mix_slopes
from .silu import silu

__all__ = [
    "CompiledConvolution",
    "CompiledManyBody",
    "Maps",
    "Nodes",
    "all_alike",
    "can_run",
    "mix",
    "mix_slopes",
    "processor",
    "runs_on",
    "silu",
    "unavailable",
    "worthwhile",
]
