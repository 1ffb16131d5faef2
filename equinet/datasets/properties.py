"""Stub until the table of properties is merged."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Property(NamedTuple):
    """A property."""

    name: str
    per: Literal["atom", "structure"]


def property_named(name: str) -> Property:
    """The row of a property."""
    return Property(name, "structure")
