"""Quotes: whatever a user wrote is shown on one line, printable, and no longer than asked for."""

from __future__ import annotations

import pytest

from equinet.quotes import LONGEST, quoted, shortened


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "a" * 10**6,
        "\x00\x1b[31m\n" * 1000,
        "\u202e" * 79,
        nested(900),
        {"a" * 1000: 1},
        10**10_000,
        -(10**10_000),
        [10**10_000],
        1.5,
        None,
        b"\x00" * 1000,
    ],
    ids=range(11),
)
def test_a_quote_is_one_short_line(value: object) -> None:
    for longest in (LONGEST, 20):
        assert quoted(value, longest).isprintable()
        assert 0 < len(quoted(value, longest)) <= max(longest, 40)


def test_short_values_are_quoted_as_python_writes_them() -> None:
    for value in (3, -0.5, "x", True, None, [1, "a"], {"a": 1}, "ångström"):
        assert quoted(value) == repr(value)


def test_a_text_without_its_middle_keeps_both_ends() -> None:
    assert shortened("begin" + "x" * 1000 + "end").startswith("begin")
    assert shortened("begin" + "x" * 1000 + "end").endswith("end")
    assert len(shortened("x" * 1000, 33)) == 33
    assert shortened("x" * 33, 33) == "x" * 33
