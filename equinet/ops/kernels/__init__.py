"""Kernels: tensor products in machine code made for the processor at hand."""

from .contraction import CompiledManyBody
from .convolution import CompiledConvolution, worthwhile
from .llvm import processor, runs_on, unavailable
from .mix import Maps, Nodes, all_alike, mix, mix_slopes
from .silu import silu

__all__ = [
    "CompiledConvolution",
    "CompiledManyBody",
    "Maps",
    "Nodes",
    "all_alike",
    "mix",
    "mix_slopes",
    "processor",
    "runs_on",
    "silu",
    "unavailable",
    "worthwhile",
]
