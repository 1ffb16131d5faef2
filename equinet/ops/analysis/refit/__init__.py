"""One product in the weights of another: polynomials fitted, convolutions mapped exactly."""

from .basis import Basis, coefficients, group_errors, product_error, random_features
from .fit import weights_for
from .remap import ConvolutionMap, essence, exact_map

__all__ = [
    "Basis",
    "ConvolutionMap",
    "coefficients",
    "essence",
    "exact_map",
    "group_errors",
    "product_error",
    "random_features",
    "weights_for",
]
