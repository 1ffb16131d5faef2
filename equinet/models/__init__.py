"""Models: per-node outputs from edge vectors, one folder an architecture, behind the seam of :mod:`equinet.models.base`."""

from .base import (
    AnyModelConfig,
    Model,
    ModelConfig,
    NodeOutput,
    build_model,
    count_weights,
    model_class,
    model_config,
    model_names,
    register_model,
)
from .mace.config import MACEConfig
from .mace.model import MACE

__all__ = [
    "MACE",
    "AnyModelConfig",
    "MACEConfig",
    "Model",
    "ModelConfig",
    "NodeOutput",
    "build_model",
    "count_weights",
    "model_class",
    "model_config",
    "model_names",
    "register_model",
]
