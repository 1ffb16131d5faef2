"""Straight-line arithmetic on a few numbers, and its derivatives: what is to be computed for a row, before it is code.

A :class:`Program` is a list of steps, each made of earlier ones. Nothing is computed twice: the same step is one step. Its
derivatives are steps too, so that a function written once gives the code of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One step.

    Attributes:
        operation: ``input``, ``constant``, ``+``, ``-``, ``*``, or a name of ``FUNCTIONS``.
        arguments: Earlier steps; the name of an input; the number of a constant.
    """

    operation: str
    arguments: tuple[Any, ...]


class Program:
    """Steps in an order in which they can be computed."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._places: dict[Step, int] = {}
        # Steps whose derivative in one other is known by itself: that one, and the derivative.
        self._gradients: dict[int, tuple[Number, Number]] = {}

    def input(self, name: str) -> Number:
        return self._number("input", name)

    def constant(self, value: float) -> Number:
        return self._number("constant", float(value))

    def declare(self, of: Number, argument: Number, gradient: Number) -> None:
        """Let the derivative of a step in ``argument`` be ``gradient``, and do not ask how the step is made."""
        self._gradients[of.place] = argument, gradient

    def needed(self, results: Sequence[Number]) -> list[int]:
        """The steps that some results are made of, in order."""
        found: set[int] = set()
        waiting = [result.place for result in results]
        while waiting:
            place = waiting.pop()
            if place not in found:
                found.add(place)
                waiting += self._earlier(place)
        return sorted(found)

    def _number(self, operation: str, *arguments: Any) -> Number:
        step = Step(operation, arguments)
        if step not in self._places:
            self._places[step] = len(self.steps)
            self.steps.append(step)
        return Number(self, self._places[step])

    def _earlier(self, place: int) -> tuple[int, ...]:
        operation, arguments = self.steps[place]
        return () if operation in ("input", "constant") else arguments


@dataclass(frozen=True)
class Number:
    """A step of a program, to calculate with."""

    program: Program
    place: int

    @property
    def value(self) -> float | None:
        """Value of a constant; None for any other number."""
        operation, arguments = self.program.steps[self.place]
        return arguments[0] if operation == "constant" else None

    def __add__(self, other: Number | float) -> Number:
        other = self._as_number(other)
        if self.value == 0:
            return other
        return self if other.value == 0 else self._ordered("+", other)

    def __sub__(self, other: Number | float) -> Number:
        other = self._as_number(other)
        return self if other.value == 0 else self.program._number("-", self.place, other.place)

    def __mul__(self, other: Number | float) -> Number:
        other = self._as_number(other)
        for one, rest in ((self, other), (other, self)):
            if one.value == 0:
                return one
            if one.value == 1:
                return rest
        if self.value is not None and other.value is not None:
            return self.program.constant(self.value * other.value)
        return self._ordered("*", other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: float) -> Number:
        return self._as_number(other) - self

    def __pow__(self, power: int) -> Number:
        result = self
        for _ in range(power - 1):
            result = result * self
        return result

    def _ordered(self, operation: str, other: Number) -> Number:
        return self.program._number(operation, *sorted((self.place, other.place)))

    def _as_number(self, other: Number | float) -> Number:
        return other if isinstance(other, Number) else self.program.constant(other)


def _apply(name: str, *arguments: Number) -> Number:
    return arguments[0].program._number(name, *(each.place for each in arguments))


def sine(x: Number) -> Number:
    """Sine of x in radians."""
    return _apply("sin", x)


def cosine(x: Number) -> Number:
    """Cosine of x in radians."""
    return _apply("cos", x)


def square_root(x: Number) -> Number:
    """Square root of x; NaN where x < 0."""
    return _apply("sqrt", x)


def reciprocal(x: Number) -> Number:
    """1 / x."""
    return _apply("reciprocal", x)


def sigmoid(x: Number) -> Number:
    """1 / (1 + exp(-x))."""
    return _apply("sigmoid", x)


def at_most_one(x: Number) -> Number:
    """The smaller of x and 1; no number stays none."""
    return _apply("at_most_one", x)


def _if_below_one(x: Number, y: Number) -> Number:
    """y where x < 1, else 0."""
    return _apply("if_below_one", x, y)


# What the gradient g of a function's result adds to those of its arguments, given its result and them.
FUNCTIONS: dict[str, Callable[..., tuple[Number | None, ...]]] = {
    "sin": lambda g, _, x: (g * cosine(x),),
    "cos": lambda g, _, x: (g * -1.0 * sine(x),),
    "sqrt": lambda g, root, _: (g * 0.5 * reciprocal(root),),
    "reciprocal": lambda g, inverse, _: (g * -1.0 * inverse * inverse,),
    "sigmoid": lambda g, s, _: (g * (s * (1 - s)),),
    "at_most_one": lambda g, _, x: (_if_below_one(x, g),),
    "if_below_one": lambda g, _, x, y: (None, _if_below_one(x, g)),
}


def gradient(results: Sequence[Number], gradients: Sequence[Number], inputs: Sequence[Number]) -> list[Number]:
    """Gradients in ``inputs`` of the sum of ``results`` times ``gradients``, as further steps of their program."""
    program = results[0].program
    found: dict[int, Number] = {}

    def add(place: int, gradient: Number | None) -> None:
        if gradient is not None:
            found[place] = found[place] + gradient if place in found else gradient

    for result, gradient in zip(results, gradients, strict=True):
        add(result.place, gradient)
    for place in reversed(program.needed(results)):
        if (g := found.get(place)) is None:
            continue
        operation, arguments = program.steps[place]
        if place in program._gradients:
            argument, gradient = program._gradients[place]
            add(argument.place, g * gradient)
        elif operation in "+-":
            add(arguments[0], g)
            add(arguments[1], g if operation == "+" else g * -1.0)
        elif operation == "*":
            a, b = (Number(program, each) for each in arguments)
            add(a.place, g * b)
            add(b.place, g * a)
        elif operation in FUNCTIONS:
            own = (Number(program, each) for each in arguments)
            for each, part in zip(arguments, FUNCTIONS[operation](g, Number(program, place), *own)):
                add(each, part)
    zero = program.constant(0.0)
    return [found.get(each.place, zero) for each in inputs]
