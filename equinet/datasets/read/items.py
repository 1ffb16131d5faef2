"""Items ``key=value`` of a comment: the usual ones by one regular expression, all others letter by letter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from equinet.quotes import quoted, shortened

from .values import LOGICALS


class BadItem(ValueError):
    """An item that cannot be read.

    Attributes:
        column: Where, from 1.
    """

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.column = at + 1


NOT_UTF8 = "the line is not UTF-8; save the file as UTF-8"


def require_text(text: str) -> None:
    """Refuse a line with letters that are no text, such as NUL; tabs are.

    Raises:
        BadItem: Names the first.
    """
    for at, letter in enumerate(text):
        if not letter.isprintable() and letter != "\t":
            raise BadItem(f"the line holds {letter!a}, which is no text; remove it", at)


# What nearly every comment is made of: words, "texts in quotes", blanks between them; no escapes.
USUAL = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.-]*)=(\"[^\"\\]*\"|[^\s\"'{}\[\]\\=]+)(?:\s+|$)")
CLOSING = {'"': '"', "'": "'", "{": "}", "[": "]"}
TRUTH = "|".join(LOGICALS)
MORE_TRUTHS = re.compile(rf"\s+({TRUTH})\s+({TRUTH})(?=\s|$)")


def items_of(text: str) -> tuple[tuple[str, ...], list[str]]:
    """Keys and values of a comment, in their order, the values without their quotes; a key alone has the value T.

    Text without any ``=`` is one item, ``comment``.

    Raises:
        ValueError: If it cannot be taken apart, with the column; see :func:`_items`.
    """
    parts = USUAL.split(text)
    if any(parts[::3]):
        if "=" not in text:
            return ("comment",), [text.strip()]
        found = list(_items(text))
        return tuple(key for key, _ in found), [value for _, value in found]
    return tuple(parts[1::3]), [value[1:-1] if value[0] == '"' else value for value in parts[2::3]]


def _items(text: str) -> Iterator[tuple[str, str]]:
    """Items of a comment that has more than words and quotes.

    Raises:
        BadItem: If a value or key is missing, a quote or bracket has no end, or letters follow a closing quote.
    """
    at = _past_blanks(text, 0)
    while at < len(text):
        begin = at
        key, at = _word(text, at, until="=")
        if not key:
            raise BadItem("there is no key before the `=`; write key=value", begin)
        equals = _past_blanks(text, at)
        if equals == len(text) or text[equals] != "=":
            yield key, "T"
            at = _past_blanks(text, at)
            continue
        at = _past_blanks(text, equals + 1)
        if at == len(text) or (at > equals + 1 and re.match(r"[^\s\"'{}\[\]]*=", text[at:])):
            raise BadItem(f"`{shortened(key)}` has no value; give it one, or remove the key with its `=`", begin)
        enclosed = text[at] in CLOSING
        value, at = _word(text, at)
        if key.lower() == "lattice" and not enclosed:
            raise BadItem('`Lattice` must be nine numbers in quotes: Lattice="ax ay az bx by bz cx cy cz"', begin)
        if key.lower() == "pbc" and value in LOGICALS and (rest := MORE_TRUTHS.match(text, at)):
            value, at = f"{value} {rest[1]} {rest[2]}", rest.end()
        yield key, value
        at = _past_blanks(text, at)


def _past_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _word(text: str, at: int, until: str = "") -> tuple[str, int]:
    """A word in quotes or brackets, or up to the next blank or ``until``; and where it ends."""
    if at < len(text) and text[at] in CLOSING:
        return _enclosed(text, at)
    begin, letters = at, []
    while at < len(text) and not text[at].isspace() and text[at] != until:
        if text[at] in "\"'":
            raise BadItem(
                f"{quoted(text[begin : at + 1])} has a quote in its middle; put the whole of it in quotes", at
            )
        at += text[at] == "\\"
        letters.append(text[at : at + 1])
        at += 1
    word = "".join(letters)
    if word.count("[") != word.count("]") or word.count("{") != word.count("}"):
        raise BadItem(f"{quoted(word)} has a bracket without its other; put the whole of it in quotes", begin)
    return word, at


def _enclosed(text: str, at: int) -> tuple[str, int]:
    """Text between quotes or brackets; of nested brackets with the outer ones."""
    begin, opening = at, text[at]
    closing, depth, nested = CLOSING[opening], 1, False
    letters: list[str] = []
    quote = ""  # within brackets
    at += 1
    while at < len(text):
        letter = text[at]
        if letter == "\\":
            at += 1
            letter = text[at : at + 1]
        elif opening in "[{" and (quote or letter in "\"'"):
            quote = "" if letter == quote else quote or letter
        elif letter == closing:
            depth -= 1
            if not depth:
                break
        elif letter == opening:
            depth, nested = depth + 1, True
        letters.append(letter)
        at += 1
    else:
        raise BadItem(f"the {opening} has no {closing} that closes it; add it", begin)
    at += 1
    if at < len(text) and not text[at].isspace() and text[at] != "=":
        raise BadItem(f"letters follow directly after the closing {closing}; put a blank between, or all in quotes", at)
    inside = "".join(letters)
    return (f"{opening}{inside}{closing}" if nested else inside), at
