"""Tensor products: what they are (spec), how they are computed (methods), and nothing about models."""

if __name__ != "equinet.ops":
    raise ImportError("import this folder as `equinet.ops`")

from equinet.ops.methods.bracket import Bracket
from equinet.ops.methods.clebsch_gordan import ClebschGordan
from equinet.ops.methods.cp import CPDecomposed
from equinet.ops.methods.gaunt import GauntFourier, GauntGrid
from equinet.ops.methods.matrix import MatrixProduct
from equinet.ops.methods.registry import METHODS, method_from_config, method_to_config, register_method
from equinet.ops.methods.so2 import SO2
from equinet.ops.methods.tensor_product import tensor_product

from .analysis import explain
from .harmonics import SphericalHarmonics
from .kernels.choice import describe_executor
from .layout import from_mul_ir, natural_irreps, to_mul_ir
from .protocols import Convolution, ManyBody, Method, Pair, PairMethod
from .spec import ManyBodySpec, TensorProductSpec
from .species import SpeciesGroups

__all__ = [
    "METHODS",
    "SO2",
    "Bracket",
    "CPDecomposed",
    "ClebschGordan",
    "Convolution",
    "GauntFourier",
    "GauntGrid",
    "ManyBody",
    "ManyBodySpec",
    "MatrixProduct",
    "Method",
    "Pair",
    "PairMethod",
    "SpeciesGroups",
    "SphericalHarmonics",
    "TensorProductSpec",
    "describe_executor",
    "explain",
    "from_mul_ir",
    "method_from_config",
    "method_to_config",
    "natural_irreps",
    "register_method",
    "tensor_product",
    "to_mul_ir",
]
