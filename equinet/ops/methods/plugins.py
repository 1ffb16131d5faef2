"""Tensor products that installed packages name in their metadata, in the group of entry points ``equinet.tensor_products``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

GROUP = "equinet.tensor_products"


def names() -> list[str]:
    """Names of all entry points, in order; none of them is loaded."""
    return list(_found())


def load(name: str, register: Callable[[str, type], None]) -> None:
    """Load the entry point with a name and register its class.

    Raises:
        ValueError: If it cannot be loaded or registered, or two distributions have one with this name; names them, with the reason.
    """
    first, *others = _found()[name]
    if others:
        both = " and ".join(map(_distribution, (first, *others)))
        raise ValueError(f"the tensor product {name!r} is in {both}; uninstall all but one of them")
    try:
        register(name, first.load())
    except Exception as error:  # a package of other people may raise anything, and the reason is what the user needs
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"the tensor product {name!r} ({first.value}) of {_distribution(first)} cannot be loaded: {kind}{error}"
        ) from error


def _found() -> dict[str, list[EntryPoint]]:
    """Entry points by name; the same one may be on the path twice, as in an editable installation."""
    found: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for each in sorted(entry_points(group=GROUP), key=lambda each: (each.name, _distribution(each))):
        found.setdefault(each.name, {})[each.value, _distribution(each)] = each
    return {name: list(each.values()) for name, each in found.items()}


def _distribution(entry: EntryPoint) -> str:
    return f"the distribution {entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
