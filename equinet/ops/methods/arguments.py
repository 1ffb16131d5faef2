"""Checks of the arguments of methods; each error names the argument, what it must be and what came."""

from __future__ import annotations

from equinet.ops.spec import TensorProductSpec
from equinet.quotes import quoted


def require_whole(name: str, value: object, most: int) -> None:
    """Refuse a value that is not a whole number from 1 to ``most``.

    Raises:
        ValueError: If it is none; names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"`{name}` must be a whole number from 1 to {most}, got {quoted(value)}")


def require_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among ``allowed``.

    Raises:
        ValueError: If it is not; names the argument and the allowed values.
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {quoted(value)}")


def require_role(spec: TensorProductSpec, *, pair: bool) -> None:
    """Refuse a spec of the other role of a product of two inputs.

    Raises:
        ValueError: If ``spec`` is a pair product and a convolution is to be made of it, or the reverse; names the right call.
    """
    if spec.pair != pair:
        kind, call = ("a pair product", "pair") if spec.pair else ("one with paths kept apart", "convolution")
        raise ValueError(f"{spec} is {kind}: its executor is made by `{call}` of a method, or by `tensor_product`")
