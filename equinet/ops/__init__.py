"""Tensor products: what they are (spec), how they are computed (methods), and nothing about models."""

if __name__ != "equinet.ops":
    raise ImportError("import this folder as `equinet.ops`")

from .harmonics import SphericalHarmonics
from .layout import from_mul_ir, natural_irreps, to_mul_ir
from .methods import METHODS, ClebschGordan, Convolution, ManyBody, Method, method_from_name
from .spec import ManyBodySpec, TensorProductSpec
from .species import SpeciesGroups

__all__ = [
    "METHODS",
    "ClebschGordan",
    "Convolution",
    "ManyBody",
    "ManyBodySpec",
    "Method",
    "SpeciesGroups",
    "SphericalHarmonics",
    "TensorProductSpec",
    "from_mul_ir",
    "method_from_name",
    "natural_irreps",
    "to_mul_ir",
]
