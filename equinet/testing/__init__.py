"""Contracts for extensions: the checks that a new tensor product or a new model must pass."""

from .model import ModelContract
from .tensor_product import TensorProductContract

__all__ = ["ModelContract", "TensorProductContract"]
