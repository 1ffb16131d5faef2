"""Kernels: tensor products in machine code made for the processor at hand, in generated kernels for GPUs, by other libraries."""

from .contraction import CompiledManyBody
from .convolution import CompiledConvolution, can_run, worthwhile
from .llvm import processor, runs_on, unavailable
from .mix import Maps, Nodes, all_alike, mix, mix_slopes
from .row_code import RowFunction
from .row_ops import family, row_value, rows_run_on, silu

__all__ = [
    "CompiledConvolution",
    "CompiledManyBody",
    "Maps",
    "Nodes",
    "RowFunction",
    "all_alike",
    "can_run",
    "family",
    "mix",
    "mix_slopes",
    "processor",
    "row_value",
    "rows_run_on",
    "runs_on",
    "silu",
    "unavailable",
    "worthwhile",
]
