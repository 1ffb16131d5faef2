"""What a new tensor product has to pass, for those who write one."""

from .contract import TensorProductContract

__all__ = ["TensorProductContract"]
