"""Package names that are looked up when first used, so that importing a package stays light, and words on what is not installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the module function ``__getattr__`` (PEP 562) of a package.

    Args:
        package: Name of the package.
        homes: Module of each name, relative to the package, ``"loader"``, or ``"loader:other"`` if it is called ``other`` there.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = homes[name].partition(":")
        return getattr(import_module(f"{package}.{module}"), attribute or name)

    return find


def how_to_install(extra: str) -> str:
    """Command that installs an optional dependency group (extra) of equinet.

    It names the folder of the checkout and not ``equinet``, which on the public package index is another project.
    """
    return f"pip install -e '.[{extra}]' in the folder of equinet's checkout"
