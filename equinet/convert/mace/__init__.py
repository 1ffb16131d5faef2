"""Potentials of mace-torch as equinet potentials, read without mace-torch and without running anything from their files.

``reader`` reads a file into ``records``; ``architecture`` and ``weights`` say what they are in equinet's terms; ``export`` goes back.
"""

from .export import to_mace_arguments, to_mace_state_dict
from .load import load_mace, read_mace

__all__ = ["load_mace", "read_mace", "to_mace_arguments", "to_mace_state_dict"]
