"""Machine code that reads the atoms of many frames of extended XYZ at once; numbers are rounded as Python rounds them.

It takes clean frames only. Where anything is unusual it stops at the beginning of that frame, and the form in Python
(:mod:`.rows`) reads it or says what is wrong.

Every loop over letters ends at a line end, and the last byte of what it is given is one, so that nothing outside is read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from equinet.graph.elements import SYMBOLS

from .machine import Function, Number, Variable
from .words import FURTHEST, MOST_DIGITS, NEW_LINE, RETURN, SPACE, TAB, Word

# Why the scanner stopped.
FULL, CUT, UNUSUAL = range(3)
# Numbers for each frame: where it begins, where its comment begins and ends, atoms, first row, line of its first line (from 1), and 1 if the
# comment has the form that was expected.
BEGIN, COMMENT, COMMENT_END, COUNT, ROW, LINE, MATCHED = range(7)
RECORD = 7
# Pieces of a comment's form (:mod:`.form`): bytes that stay the same, numbers, a word, a text in quotes.
LITERAL, REALS, WORD, QUOTED = range(4)
PIECE = 5  # numbers for each piece: kind, address of the bytes or of what is read, how many, step to the next frame, whether a point is wanted


@cache
def scanner() -> Callable[..., int]:
    """The compiled scanner; see :func:`_written` for its arguments. Made once, in about 0.1 s."""
    return _written().compiled()


@cache
def tables() -> tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint8]]:
    """Powers of five, (powers, 2), high and low half; atomic numbers by the two letters of a symbol, (65536,), 0 for none; kinds of letters, (256,)."""
    powers = np.array([[*divmod(_power(q), 2**64)] for q in range(-FURTHEST - MOST_DIGITS, FURTHEST + 1)], np.uint64)
    symbols = np.zeros(2**16, np.uint8)
    for number, symbol in enumerate(SYMBOLS[1:], start=1):
        symbols[int.from_bytes(symbol.encode(), "little")] = number
    letters = np.zeros(256, np.uint8)
    for letter in range(32, 127):
        letters[letter] = (chr(letter) not in " \"'{}[]\\=") << WORD | (chr(letter) not in '"\\') << QUOTED
    return powers, symbols, letters


def _power(q: int) -> int:
    """5^q in 128 bits without its power of two, rounded towards zero, for negative q upwards."""
    if q >= 0:
        power = 5**q
        surplus = power.bit_length() - 128
        return power >> surplus if surplus > 0 else power << -surplus
    power = 5**-q
    bits = (power - 1).bit_length()
    inverse = 2 ** (2 * bits + 128) // power + 1 if q < -27 else 2 ** (bits + 127) // power + 1
    return inverse >> max(0, inverse.bit_length() - 128)


def _written() -> Function:
    """The scanner as code.

    Arguments: ``data``, ``at``, ``end``: the bytes and where in them to begin and end, behind a line end; ``line``: number of the first line;
    ``columns``, ``width``: for each column its kind, the address of its first value and the step to the next, in values;
    ``rows``: most rows; ``records``, ``frames``: array for what is said of each frame, and most frames; ``stop``: why it stopped, and where;
    ``form``, ``pieces``: form of the comments, and how many pieces it has; ``powers``, ``symbols``, ``letters``: :func:`tables`. Gives the number of frames.
    """
    code = Function(
        "scan_frames",
        [
            "data",
            "at",
            "end",
            "line",
            "columns",
            "width",
            "rows",
            "records",
            "frames",
            "stop",
            "form",
            "pieces",
            "powers",
            "symbols",
            "letters",
        ],
    )
    a = code.argument
    at, line, p = code.variable(a["at"]), code.variable(a["line"]), code.variable()
    row, frames, reason = code.variable(), code.variable(), code.variable(FULL)
    finish, unusual, cut = code.label(), code.label(), code.label()
    scan = Word(code, p, unusual)
    with code.loop():
        code.leave_if(frames.value >= a["frames"])
        p.value = at.value
        with code.loop():  # blank lines before the frame
            code.go_if(p.value >= a["end"], cut)
            code.leave_if(~scan.is_one_of(NEW_LINE, RETURN, SPACE, TAB))
            with code.when(scan.letter().equals(NEW_LINE)):
                line.value += 1
                at.value = p.value + 1
            p.value += 1
        count = code.variable()
        code.go_if(scan.digits(count) > 9, unusual)
        code.go_if(count.value.equals(0), unusual)
        scan.line_end()
        code.go_if(p.value >= a["end"], cut)
        comment = code.variable(p.value)
        with code.loop():
            code.leave_if(scan.letter().equals(NEW_LINE))
            p.value += 1
        comment_end = code.variable(p.value)
        matched = _match_form(code, p, comment.value, frames.value)
        p.value = comment_end.value + 1
        atom = code.variable()
        with code.loop():
            code.leave_if(atom.value >= count.value)
            code.go_if(p.value >= a["end"], cut)
            here = row.value + atom.value
            code.go_if(here >= a["rows"], unusual)
            column = code.variable(a["columns"])
            last = a["columns"] + a["width"] * 24
            with code.loop():
                code.leave_if(column.value >= last)
                scan.blanks()
                scan.value(column.value, here, a["powers"], a["symbols"], a["data"])
                column.value += 24
            scan.line_end()
            atom.value += 1
        told = {
            BEGIN: at,
            COMMENT: comment,
            COMMENT_END: comment_end,
            COUNT: count,
            ROW: row,
            LINE: line,
            MATCHED: matched,
        }
        for place, number in told.items():
            code.store(number.value, a["records"], frames.value * RECORD + place)
        row.value += count.value
        line.value += count.value + 2
        at.value = p.value
        frames.value += 1
    code.go(finish)
    code.here(unusual)
    reason.value = UNUSUAL
    code.go(finish)
    code.here(cut)
    reason.value = CUT
    code.here(finish)
    for place, number in enumerate((reason, at, line)):
        code.store(number.value, a["stop"], code.number(place))
    code.give(frames.value)
    return code


def _match_form(code: Function, p: Variable, comment: Number, frame: Number) -> Variable:
    """Compare a comment with the form and read its values; 1 if it has it."""
    a = code.argument
    matched, different = code.variable(), code.label()
    scan = Word(code, p, different, ends=(SPACE, NEW_LINE, TAB, RETURN, ord('"')))
    p.value = comment
    piece = code.variable(a["form"])
    last = a["form"] + a["pieces"] * (8 * PIECE)
    with code.loop():
        code.leave_if(piece.value >= last)
        kind, address, count, step, pointed = (code.load(piece.value, code.number(n)) for n in range(PIECE))
        n, begin = code.variable(), code.variable(p.value)
        with code.when(kind.equals(LITERAL)), code.loop():
            code.leave_if(n.value >= count)
            code.go_if(~scan.letter().equals(code.byte(address, n.value)), different)
            n.value += 1
            p.value += 1
        with code.when(kind.equals(REALS)), code.loop():
            code.leave_if(n.value >= count)
            scan.blanks()
            bits, point = scan.real(a["powers"])
            code.go_if(point.equals(0) & pointed.equals(1), different)
            code.store(bits, address, frame * step + n.value)
            n.value += 1
        with code.when(kind >= WORD):
            with code.loop():
                allowed = code.byte(a["letters"], scan.letter())
                code.leave_if(((allowed >> kind) & 1).equals(0))
                p.value += 1
            code.go_if(p.value.equals(begin.value), different)
            code.store(begin.value, address, frame * step)
            code.store(p.value, address, frame * step + 1)
        piece.value += 8 * PIECE
    scan.line_end()
    matched.value = 1
    code.here(different)
    return matched
