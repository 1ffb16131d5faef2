"""Models: from edge vectors to what every node says."""

from .config import MACEConfig
from .mace import MACE, NodeOutput, count_weights

__all__ = ["MACE", "MACEConfig", "NodeOutput", "count_weights"]
