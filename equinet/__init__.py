"""equinet: equivariant interatomic potentials with interchangeable tensor products.

>>> from equinet import load, load_mace
>>> from equinet.md import EquinetCalculator
"""

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equinet.checkpoint import load_potential as load
    from equinet.checkpoint import save_potential as save
    from equinet.convert.mace import load_mace
    from equinet.potential import Potential

__version__ = _version("equinet")

__all__ = ["Potential", "__version__", "load", "load_mace", "save"]

# Names are looked up when first used, so that `import equinet` stays light.
_HOMES = {
    "Potential": ("equinet.potential", "Potential"),
    "load": ("equinet.checkpoint", "load_potential"),
    "load_mace": ("equinet.convert.mace", "load_mace"),
    "save": ("equinet.checkpoint", "save_potential"),
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'equinet' has no attribute {name!r}")
