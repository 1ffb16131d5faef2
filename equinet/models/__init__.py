"""Models: per-node outputs from edge vectors."""

from .mace.config import MACEConfig
from .mace.model import MACE, NodeOutput, count_weights

__all__ = ["MACE", "MACEConfig", "NodeOutput", "count_weights"]
