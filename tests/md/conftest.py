"""A softer potential: what the dynamics of a trained one looks like, forces of a few eV/Å."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from equinet.potential import Potential


@pytest.fixture
def potential(make_potential: Callable[..., Potential]) -> Potential:
    """The small random potential with a twentieth of its energy scale."""
    soft = make_potential()
    soft.scale.scale.mul_(0.05)
    return soft
