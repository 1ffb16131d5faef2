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

from equinet.graph.elements import HEAVIEST, SYMBOLS

from .machine import Function, Number, Variable

# Kinds of columns.
REAL, INTEGER, LOGICAL, TEXT, SYMBOL, ATOMIC_NUMBER = range(6)
# Why the scanner stopped.
FULL, CUT, UNUSUAL = range(3)
# Numbers for each frame: where it begins, where its comment begins and ends, atoms, first row, line of its first line (from 1), and 1 if the
# comment has the form that was expected.
BEGIN, COMMENT, COMMENT_END, COUNT, ROW, LINE, MATCHED = range(7)
RECORD = 7
# Pieces of a comment's form (:mod:`.form`): bytes that stay the same, numbers, a word, a text in quotes.
LITERAL, REALS, WORD, QUOTED = range(4)
PIECE = 5  # numbers for each piece: kind, address of the bytes or of what is read, how many, step to the next frame, whether a point is wanted

MOST_DIGITS = 19  # of a number below 2^64
FURTHEST = 280  # power of ten; beyond, results may be subnormal or infinite
NEW_LINE, RETURN, SPACE, TAB = b"\n\r \t"


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
    scan = _Scan(code, p, unusual)
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
    scan = _Scan(code, p, different, ends=(SPACE, NEW_LINE, TAB, RETURN, ord('"')))
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


class _Scan:
    """Code that reads one thing at ``p`` and moves ``p`` behind it, or goes to ``unusual``.

    Args:
        ends: Letters that may follow a word.
    """

    def __init__(
        self, code: Function, p: Variable, unusual: object, ends: tuple[int, ...] = (SPACE, NEW_LINE, TAB, RETURN)
    ) -> None:
        self.code, self.p, self.unusual, self.ends = code, p, unusual, ends

    def letter(self) -> Number:
        return self.code.byte(self.code.argument["data"], self.p.value)

    def is_one_of(self, *letters: int) -> Number:
        found = self.letter()
        first, *rest = (found.equals(each) for each in letters)
        for each in rest:
            first = first | each
        return first

    def blanks(self) -> None:
        with self.code.loop():
            self.code.leave_if(~self.is_one_of(SPACE, TAB))
            self.p.value += 1

    def separator(self) -> None:
        """Something that ends a word stands here, and stays."""
        self.code.go_if(~self.is_one_of(*self.ends), self.unusual)

    def line_end(self) -> None:
        self.blanks()
        with self.code.when(self.letter().equals(RETURN)):
            self.p.value += 1
        self.code.go_if(~self.letter().equals(NEW_LINE), self.unusual)
        self.p.value += 1

    def digits(self, total: Variable) -> Number:
        """Read at least one digit; what is beyond 64 bits is lost. Gives how many there were."""
        code = self.code
        begin = code.variable(self.p.value)
        self._more_digits(total)
        code.go_if(self.p.value.equals(begin.value), self.unusual)
        return self.p.value - begin.value

    def sign(self) -> Number:
        """1 after a minus, else 0."""
        negative = self.letter().equals(ord("-")).as_number()
        self.p.value += negative | self.letter().equals(ord("+")).as_number()
        return negative

    def value(self, column: Number, row: Number, powers: Number, symbols: Number, data: Number) -> None:
        """Read a value of a column into its array."""
        code = self.code
        kind, address, step = (code.load(column, code.number(n)) for n in range(3))
        place = row * step
        done = code.label()
        with code.when(kind.equals(REAL)):
            code.store(self.real(powers)[0], address, place)
            code.go(done)
        with code.when(kind.equals(SYMBOL)):
            code.store(self.symbol(symbols), address, place)
            code.go(done)
        with code.when(kind.equals(TEXT)):
            begin = code.variable(self.p.value)
            with code.loop():
                code.leave_if(~(self.letter() - 33).below(94))  # printable ASCII
                self.p.value += 1
            code.go_if(self.p.value.equals(begin.value), self.unusual)
            code.store(begin.value, address, place * 2)
            code.store(self.p.value, address, place * 2 + 1)
            self.separator()
            code.go(done)
        with code.when(kind.equals(LOGICAL)):
            code.go_if(~self.is_one_of(ord("T"), ord("F")), self.unusual)
            code.store(self.letter().equals(ord("T")).as_number(), address, place, bits=8)
            self.p.value += 1
            self.separator()
            code.go(done)
        negative, total = self.sign(), code.variable()
        code.go_if(self.digits(total) > 18, self.unusual)
        self.separator()
        signed = code.choose(negative.equals(1), code.number(0) - total.value, total.value)
        is_atom = kind.equals(ATOMIC_NUMBER)
        code.go_if(is_atom & ~(signed - 1).below(HEAVIEST), self.unusual)
        code.store(signed, address, place)
        code.here(done)

    def symbol(self, symbols: Number) -> Number:
        """Atomic number of a symbol."""
        code = self.code
        letters = code.variable(self.letter())
        self.p.value += 1
        with code.when((self.letter() - 33).below(94)):
            letters.value = letters.value | (self.letter() << 8)
            self.p.value += 1
        self.separator()
        number = code.byte(symbols, letters.value)
        code.go_if(number.equals(0), self.unusual)
        return number

    def real(self, powers: Number) -> tuple[Number, Number]:
        """The 64 bits of a number in decimal digits, and where its point is, 0 if it has none."""
        code, p = self.code, self.p
        negative = self.sign()
        begin, point = code.variable(p.value), code.variable()
        mantissa, power, dropped = code.variable(), code.variable(), code.variable()
        self._more_digits(mantissa)
        with code.when(self.letter().equals(ord("."))):
            p.value += 1
            point.value = p.value
            self._more_digits(mantissa)
            power.value = point.value - p.value
        length = p.value - begin.value - (~point.value.equals(0)).as_number()
        code.go_if(length.equals(0), self.unusual)
        with code.when(length > MOST_DIGITS):
            self._first_digits(begin.value, p.value, mantissa, dropped)
            power.value += dropped.value
        lower = self.letter() | 32
        with code.when(lower.equals(ord("e")) | lower.equals(ord("d"))):  # d as Fortran writes it
            p.value += 1
            minus, exponent = self.sign(), code.variable()
            code.go_if(self.digits(exponent) > 4, self.unusual)
            power.value += code.choose(minus.equals(1), code.number(0) - exponent.value, exponent.value)
        self.separator()
        bits = code.variable()
        with code.when(~mantissa.value.equals(0)):
            code.go_if(~(power.value + FURTHEST + MOST_DIGITS).below(2 * FURTHEST + 1 + MOST_DIGITS), self.unusual)
            bits.value = self.rounded(mantissa.value, power.value, powers)
            with code.when(dropped.value > 0):  # the number lies between two that must round to the same
                above = self.rounded(mantissa.value + 1, power.value, powers)
                code.go_if(~above.equals(bits.value), self.unusual)
        return bits.value | (negative << 63), point.value

    def _more_digits(self, total: Variable) -> None:
        with self.code.loop():
            digit = self.letter() - 48
            self.code.leave_if(~digit.below(10))
            total.value = total.value * 10 + digit
            self.p.value += 1

    def _first_digits(self, begin: Number, end: Number, mantissa: Variable, dropped: Variable) -> None:
        """The first 19 digits, from the first that is not 0, of what stands between two places, and how many are left out."""
        code = self.code
        at, count = code.variable(begin), code.variable()
        mantissa.value = 0
        with code.loop():
            code.leave_if(at.value >= end)
            digit = code.byte(code.argument["data"], at.value) - 48
            with code.when(digit.below(10)):
                kept = count.value < MOST_DIGITS
                mantissa.value = code.choose(kept, mantissa.value * 10 + digit, mantissa.value)
                dropped.value += (~kept).as_number()
                count.value += (~mantissa.value.equals(0)).as_number()
            at.value += 1

    def rounded(self, w: Number, q: Number, powers: Number) -> Number:
        """Bits of w * 10^q, rounded to nearest, ties to even.

        Source: D. Lemire, "Number parsing at a gigabyte per second", Software: Practice and Experience 51, 1700 (2021), algorithm 1; the
        proof that 128 bits of each power are enough is N. Mushtak and D. Lemire, ibid. 53, 1467 (2023).
        """
        code = self.code
        index = (q + FURTHEST + MOST_DIGITS) * 2
        zeros = code.leading_zeros(w)
        shifted = w << zeros
        first_high, first_low = code.product(shifted, code.load(powers, index))
        high, low = code.variable(first_high), code.variable(first_low)
        with code.when((first_high & 0x1FF).equals(0x1FF)):
            second_high, _ = code.product(shifted, code.load(powers, index + 1))
            low.value = first_low + second_high
            high.value = first_high + second_high.exceeds(low.value).as_number()
        upper = high.value >> 63
        mantissa = code.variable(high.value >> (upper + 9))
        exponent = ((q * 217706).arithmetic_shift(16)) + 1086 + upper - zeros
        near = (low.value.below(2) & (q + 4).below(28)) & (mantissa.value & 3).equals(1)
        exact = (mantissa.value << (upper + 9)).equals(high.value)
        mantissa.value = mantissa.value - (near & exact).as_number()  # half way between two: to the even one
        mantissa.value = (mantissa.value + (mantissa.value & 1)) >> 1
        over = mantissa.value >> 53
        fraction = (mantissa.value >> over) & ((1 << 52) - 1)
        return fraction | ((exponent + over) << 52)
