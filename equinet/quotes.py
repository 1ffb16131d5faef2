"""Quotations of user input in messages: on one line, printable, and never longer than a line."""

from __future__ import annotations

from reprlib import Repr

LONGEST = 80

_REPR = Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxtuple = 3, 8, 8, 8
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = LONGEST


def quoted(value: object, longest: int = LONGEST) -> str:
    """Quote a value as Python writes it, without the middle of a long one.

    Args:
        value: Anything; of nested tables and lists the outer levels are shown.
        longest: Most letters.

    >>> quoted("abc")
    "'abc'"
    >>> quoted([[[[[1]]]]])
    '[[[[...]]]]'
    """
    try:
        return shortened(_REPR.repr(value), longest)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number with thousands of digits"


def shortened(text: str, longest: int = LONGEST) -> str:
    r"""Put a text on one line, without the middle of a long one and with signs for what cannot be printed.

    >>> shortened("a" * 90 + "b", 21)
    'aaaaaaaaa...aaaaaaaab'
    >>> print(shortened("two\nlines"))
    two\nlines
    """
    cut = _without_middle(text, longest)
    return _without_middle("".join(each if each.isprintable() else ascii(each)[1:-1] for each in cut), longest)


def _without_middle(text: str, longest: int) -> str:
    rest = longest - 3
    return text if len(text) <= longest else text[: rest - rest // 2] + "..." + text[len(text) - rest // 2 :]
