"""Machine code that reads one word: a number, correctly rounded, a symbol, a truth, a text."""

from __future__ import annotations

from equinet.graph.elements import HEAVIEST

from .machine import Function, Number, Variable

# Kinds of columns.
REAL, INTEGER, LOGICAL, TEXT, SYMBOL, ATOMIC_NUMBER = range(6)
MOST_DIGITS = 19  # of a number below 2^64
FURTHEST = 280  # power of ten; beyond, results may be subnormal or infinite
NEW_LINE, RETURN, SPACE, TAB = b"\n\r \t"


class Word:
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
