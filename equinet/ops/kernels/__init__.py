"""Kernels: tensor products in machine code made for the processor at hand."""

from .contraction import CompiledManyBody
from .convolution import CompiledConvolution
from .llvm import unavailable
from .silu import silu

__all__ = ["CompiledConvolution", "CompiledManyBody", "silu", "unavailable"]
