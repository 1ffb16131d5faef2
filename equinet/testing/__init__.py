"""What a new tensor product has to pass, for those who write one."""

from .tensor_product import TensorProductContract

__all__ = ["TensorProductContract"]
