"""A stack machine reads pickles as plain data: it looks up no class and calls nothing that a file names.

:mod:`pickletools` splits the bytes into opcodes without acting on them; each opcode of ``STEPS`` then makes a plain value
or a :class:`Record`, and any other opcode is an error. https://docs.python.org/3/library/pickletools.html describes them.

A ``pickle.Unpickler`` whose ``find_class`` returns stubs is shorter and not as safe, since its other steps have no hook:
extension codes that the process has used before are called without ``find_class``; nested tuples as keys are hashed until
the process hangs or overflows the C stack; a memo index of four bytes reserves gigabytes; ``add``, ``__setitem__`` and
``__setstate__`` of tensors run with the file's arguments.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

from .budget import Budget, size_of
from .records import Record
from .values import ENDLESS, Name, checked_key, give_state, value_called, value_named

RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # modules of Python 2, whose names old protocols keep
Step = Callable[["Machine", Any], object]


def value_of_pickle(pickled: bytes, stored: Callable[[Any], Any], budget: Budget) -> Any:
    """Read the value that a pickle describes.

    Args:
        pickled: Bytes of the pickle.
        stored: Function from a persistent id to the storage of tensors that it names, kept outside the pickle.
        budget: What reading may cost.

    Raises:
        ValueError: If it is damaged, asks for what no torch module needs, or costs more than the budget.
    """
    machine = Machine(stored, budget)
    at = 0
    try:
        for opcode, argument, position in pickletools.genops(pickled):
            at = position or 0
            budget.take_steps(1)
            if opcode.name == "STOP":
                return machine.stack.pop()
            if opcode.name not in STEPS:
                raise ValueError(f"it uses the opcode {opcode.name}, which torch.save does not")
            STEPS[opcode.name](machine, argument)
    except (ValueError, TypeError, LookupError, OverflowError, RuntimeError) as error:
        # A damaged pickle takes from an empty stack or hands values of the wrong type to the makers.
        reason = error if type(error) is ValueError else f"it is damaged ({type(error).__name__}: {error})"
        raise ValueError(f"its pickle, at byte {at}: {reason}") from error
    raise ValueError("its pickle has no end")


class Machine:
    """Stack, marks and memo of the pickle protocol."""

    def __init__(self, stored: Callable[[Any], Any], budget: Budget) -> None:
        self.stored = stored
        self.budget = budget
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # one stack for each open mark
        self.memo: dict[int, Any] = {}

    def take(self, count: int, complaint: str = "fewer values than it takes") -> list[Any]:
        """Remove the last values from the stack."""
        if count > len(self.stack):
            raise IndexError(complaint)
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def take_marked(self) -> list[Any]:
        """Remove all values above the last mark, and the mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def push(self, value: Any) -> None:
        """Put a new value on the stack."""
        self.budget.take_bytes(size_of(value))
        self.stack.append(value)

    def push_again(self, value: Any) -> None:
        """Put a value on the stack that is there already, or a constant."""
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []
        self.budget.take_bytes(size_of(self.stack))

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.take_marked()

    def put(self, place: int) -> None:
        if place >= ENDLESS:  # larger ones can be made to collide, see `checked_key`
            raise ValueError("it has a place in its memo that is beyond all counts")
        self.memo[place] = self.stack[-1]

    def tuple_of(self, count: int) -> None:
        self.push(tuple(self.take(count, "tuple of more values than there are")))

    def append(self, items: list[Any]) -> None:
        held = self.stack[-1]
        if type(held) is Record:  # a subclass of list
            held = held.attributes.setdefault("__items__", [])
        if type(held) is not list:
            raise ValueError(f"it appends to a {type(held).__name__}")
        before = size_of(held)
        held.extend(items)
        self.budget.take_bytes(size_of(held) - before)

    def set_items(self, items: list[Any]) -> None:
        held = self.stack[-1]
        if type(held) is Record:  # a subclass of dict
            held = held.attributes.setdefault("__items__", {})
        if not isinstance(held, dict):
            raise ValueError(f"it sets items of a {type(held).__name__}")
        before = size_of(held)
        held.update(self.pairs(items))
        self.budget.take_bytes(size_of(held) - before)

    def add_members(self, items: list[Any]) -> None:
        held = self.stack[-1]
        if type(held) is not set:
            raise ValueError(f"it adds members to a {type(held).__name__}")
        before = size_of(held)
        held.update(self.members(items))
        self.budget.take_bytes(size_of(held) - before)

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it names a class by something that is not text")
        dotted = f"{RENAMED.get(module, module)}.{name}"
        self.budget.take_bytes(size_of(dotted))
        self.push(value_named(dotted))

    def members(self, items: list[Any]) -> list[Any]:
        """Check members of a set or keys of a dictionary."""
        self.budget.take_copies([items])
        return [checked_key(item) for item in items]

    def pairs(self, items: list[Any]) -> dict[Any, Any]:
        """Turn keys and values in alternation into a dictionary."""
        if len(items) % 2:
            raise ValueError("it has a key without a value")
        return dict(zip(self.members(items[::2]), items[1::2]))

    def call(self, target: Any, arguments: Any) -> None:
        self.budget.take_copies(arguments if isinstance(arguments, tuple) else ())
        self.push(value_called(target, arguments))

    def make(self, target: Any, arguments: Any, keywords: Any = None) -> None:
        """Push a new instance: always a record, so that no state can reach the results of :func:`value_called`."""
        if not isinstance(arguments, tuple):
            raise ValueError("it makes an object with arguments that are none")
        if not isinstance(target, Name):
            raise ValueError("it makes an object of something that is no class")
        if keywords:
            self.budget.take_bytes(size_of(arguments))
            arguments = (*arguments, keywords)
        self.push(Record(target.class_name, arguments))

    def make_marked(self, target: Any, *arguments: Any) -> None:
        self.make(target, arguments)

    def make_named(self, names: str) -> None:
        arguments = self.take_marked()
        self.name(*names.split(" ", 1))
        self.make(self.stack.pop(), tuple(arguments))

    def give_state(self, state: Any) -> None:
        held = self.stack[-1]
        self.budget.take_copies(state if isinstance(state, tuple) else [state])
        before = size_of(held)
        give_state(held, state)
        self.budget.take_bytes(size_of(held) - before)


# INT and LONG are text, the others differ in how the length is written; pickletools has read them all.
VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
STEPS: dict[str, Step] = {
    **dict.fromkeys(VALUES, Machine.push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    "NONE": lambda machine, _: machine.push_again(None),
    "NEWTRUE": lambda machine, _: machine.push_again(True),
    "NEWFALSE": lambda machine, _: machine.push_again(False),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.take_marked(),
    "DUP": lambda machine, _: machine.push_again(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine.push_again(machine.memo[place])),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.take_marked())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.take_marked()),
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    "APPENDS": lambda machine, _: machine.append(machine.take_marked()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": lambda machine, _: machine.push(machine.pairs(machine.take_marked())),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.take_marked()),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "ADDITEMS": lambda machine, _: machine.add_members(machine.take_marked()),
    "FROZENSET": lambda machine, _: machine.push(frozenset(machine.members(machine.take_marked()))),
    "GLOBAL": lambda machine, names: machine.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.take(2)),
    "REDUCE": lambda machine, _: machine.call(*machine.take(2)),
    "NEWOBJ": lambda machine, _: machine.make(*machine.take(2)),
    "NEWOBJ_EX": lambda machine, _: machine.make(*machine.take(3)),
    "INST": lambda machine, names: machine.make_named(names),
    "OBJ": lambda machine, _: machine.make_marked(*machine.take_marked()),
    "BUILD": lambda machine, _: machine.give_state(machine.stack.pop()),
    "BINPERSID": lambda machine, _: machine.push(machine.stored(machine.stack.pop())),
}
