"""Numbers, truths and texts of extended XYZ, from words to values; strict where Python is not."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import numpy as np

from equinet.datasets.properties import is_label
from equinet.quotes import quoted

_DIGITS = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
NUMBER = re.compile(rf"{_DIGITS}(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
# Fortran's exponents. Without a point or a sign, 1D2 is rather a name.
FORTRAN = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)[dD][+-]?[0-9]+|[+-]?[0-9]+[dD][+-][0-9]+")
INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
TRUTHS = {
    "T": True,
    "F": False,
    "true": True,
    "false": False,
    "True": True,
    "False": False,
    "TRUE": True,
    "FALSE": False,
}
LOGICALS = {**TRUTHS, "1": True, "0": False}
SEPARATORS = re.compile(r"[\s,]+")
SPECIAL = {"stress", "virial"}  # nine numbers are 3 x 3 in Fortran's order, as in ASE


def real(word: str) -> float:
    """The number that a word says, with Fortran's exponents.

    Raises:
        ValueError: If it is none.
    """
    plain = word.replace("d", "e").replace("D", "e")
    if NUMBER.fullmatch(plain):
        return float(plain)
    raise ValueError(f"{quoted(word)} is not a number{_hint(word)}")


def _hint(word: str) -> str:
    if "_" in word:
        return "; remove the `_`"
    if "," in word:
        return "; decimals are written with a point"
    if re.fullmatch(r"\*+", word):
        return "; the number was too wide for its column when it was written, write the file again with wider columns"
    if re.fullmatch(r"[+-]?[0-9.]+[+-][0-9]+(\.[0-9]*)?", word):
        return "; two numbers without a blank between them, or an exponent without its letter?"
    return ""


def integer(word: str) -> int:
    """The whole number that a word says.

    Raises:
        ValueError: If it is none, or beyond 18 digits.
    """
    if INTEGER.fullmatch(word):
        return int(word)
    raise ValueError(f"{quoted(word)} is not a whole number of at most 18 digits")


def logical(word: str) -> bool:
    """The truth that a word says.

    Raises:
        ValueError: If it is none.
    """
    try:
        return LOGICALS[word]
    except KeyError:
        raise ValueError(f"{quoted(word)} is neither T nor F") from None


def value_of(key: str, text: str) -> Any:
    """:func:`any_value`, in a fraction of the time for what is usual: reals as Python writes them, and texts."""
    if text[:1] in _BEGIN_NUMBERS:
        if "_" not in text and "." in text and text.isascii() and key != "uid":
            try:
                return _special(key, np.array(list(map(float, text.split())))) if " " in text else float(text)
            except ValueError:
                pass
    elif text[:1].isalpha():
        if text[0] not in _BEGIN_WORDS and text.split(maxsplit=1)[0].isalpha():
            return text
        if " " not in text and "," not in text:
            return _one_word(key, text)
    elif text.startswith("_JSON "):
        return _special(key, _json(text[6:]))
    return any_value(key, text)


@lru_cache(4096)
def _one_word(key: str, text: str) -> Any:
    """:func:`any_value` of what recurs from frame to frame: a truth or a name."""
    return any_value(key, text)


def is_usual_real(word: str) -> bool:
    """True for a number with a point and no more than Python writes."""
    return "." in word and NUMBER.fullmatch(word) is not None


_BEGIN_NUMBERS = frozenset("0123456789+-.")
_BEGIN_WORDS = frozenset("TFtfnNiI")  # of truths, nan and inf


def any_value(key: str, text: str) -> Any:
    """The value of an item of a comment: a number, an array, a truth, a list of truths, JSON or the text itself, as in ASE.

    Raises:
        ValueError: If it must be a number and is none that every reader reads alike, or is no JSON.
    """
    if key.lower() == "uid":
        return text
    words = SEPARATORS.split(text)
    if not words[0] or not words[-1]:
        words = [word for word in words if word]
    if len(words) == 1:
        value = _number(words[0])
        if value is None:
            value = TRUTHS.get(words[0])
    else:
        value = _array(words)
    if value is None:
        value = _text(key, text)
    elif value is True or value is False:
        _require_no_label(key, value)
    return _special(key, value)


def _require_no_label(key: str, truth: bool) -> None:
    if is_label(key):
        raise ValueError(f"`{key}` is {'T' if truth else 'F'} and must be a number; give it one, or remove it")


def _number(word: str) -> float | int | None:
    if INTEGER.fullmatch(word):
        return int(word)
    if NUMBER.fullmatch(word):
        return float(word)
    return real(word) if FORTRAN.fullmatch(word) else None


def _array(words: list[str]) -> Any:
    numbers = [_number(word) for word in words]
    if words and None not in numbers:
        return np.array(numbers)
    truths = [TRUTHS.get(word) for word in words]
    return truths if words and None not in truths else None


def _text(key: str, text: str) -> Any:
    if text.startswith("_JSON "):
        return _json(text[6:])
    if text.startswith("[["):
        return _json(text)
    if "_" in text and NUMBER.fullmatch(text.replace("_", "")) and is_label(key):
        raise ValueError(f"`{key}` is no number that every reader reads alike, {quoted(text)}; remove the `_`")
    return text


def _json(text: str) -> Any:
    try:
        value = json.loads(text)
        if isinstance(value, (list, int, float)):
            array = np.array(value)
            if array.dtype.kind in "ifb":
                return array if array.shape else array[()]
        return value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({type(error).__name__}), {quoted(text)}") from None


def _special(key: str, value: Any) -> Any:
    if key in SPECIAL and isinstance(value, np.ndarray) and value.shape == (9,):
        return value.reshape(3, 3).T
    return value
