"""equinet: equivariant interatomic potentials with interchangeable tensor products.

>>> from equinet import load, load_mace
>>> from equinet.md import EquinetCalculator
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from equinet.lazy import lazy_names

if TYPE_CHECKING:
    from equinet.checkpoint import load_potential as load
    from equinet.checkpoint import save_potential as save
    from equinet.convert.mace import load_mace
    from equinet.potential import Potential

__version__ = _version("equinet-atomistic")  # as `equinet` the package index has another project

__all__ = ["Potential", "__version__", "load", "load_mace", "save"]

__getattr__ = lazy_names(
    __name__,
    {
        "Potential": "potential",
        "load": "checkpoint:load_potential",
        "load_mace": "convert.mace",
        "save": "checkpoint:save_potential",
    },
)
