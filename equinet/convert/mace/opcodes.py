"""A pickle read as data, by a stack machine of our own: no class of the file is looked up, so none can be run.

Python's ``pickle.Unpickler`` calls what the file names, and must be told name by name what not to call. Here there is
nothing to call: :mod:`pickletools` splits the bytes into opcodes without acting on them, and each opcode makes a plain
value or a :class:`Record`. https://docs.python.org/3/library/pickletools.html describes what the opcodes mean.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

from .records import Record
from .values import Name, checked_key, give_state, value_called, value_named

RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # modules of Python 2, whose names old protocols keep
Step = Callable[["Machine", Any], None]


def value_of_pickle(pickled: bytes, stored: Callable[[Any], Any]) -> Any:
    """The value that a pickle describes.

    Args:
        pickled: The pickle.
        stored: Gives what a persistent id stands for: a storage of tensors, kept outside the pickle.

    Raises:
        ValueError: If it is damaged, or asks for what no torch module needs.
    """
    machine = Machine(stored)
    at = 0
    try:
        for opcode, argument, position in pickletools.genops(pickled):
            at = position or 0
            if opcode.name == "STOP":
                return machine.stack.pop()
            step = STEPS.get(opcode.name)
            if step is None:
                raise ValueError(f"it uses the opcode {opcode.name}, which torch.save does not")
            step(machine, argument)
    except (ValueError, TypeError, LookupError, OverflowError, RuntimeError) as error:
        # A damaged pickle takes from an empty stack or hands values of the wrong type to the makers.
        reason = error if type(error) is ValueError else f"it is damaged ({type(error).__name__}: {error})"
        raise ValueError(f"its pickle, at byte {at}: {reason}") from error
    raise ValueError("its pickle has no end")


class Machine:
    """Stack, marks and memo of the pickle protocol."""

    def __init__(self, stored: Callable[[Any], Any]) -> None:
        self.stored = stored
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # one stack for each open mark
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def drop_to_mark(self, _: Any) -> None:
        self.since_mark()

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, place: int) -> None:
        self.push(self.memo[place])

    def tuple_of(self, count: int) -> None:
        if count > len(self.stack):
            raise IndexError("tuple of more values than there are")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def append(self, items: list[Any]) -> None:
        held = self.stack[-1]
        if type(held) is Record:  # a subclass of list
            held = held.attributes.setdefault("__items__", [])
        if type(held) is not list:
            raise ValueError(f"it appends to a {type(held).__name__}")
        held.extend(items)

    def set_items(self, items: list[Any]) -> None:
        held = self.stack[-1]
        if type(held) is Record:  # a subclass of dict
            held = held.attributes.setdefault("__items__", {})
        if not isinstance(held, dict):
            raise ValueError(f"it sets items of a {type(held).__name__}")
        held.update(pairs(items))

    def add_items(self, _: Any) -> None:
        items = self.since_mark()
        if type(self.stack[-1]) is not set:
            raise ValueError(f"it adds members to a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(map(checked_key, items))

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it names a class by something that is not text")
        self.push(value_named(f"{RENAMED.get(module, module)}.{name}"))

    def call(self, _: Any) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        self.push(value_called(target, arguments))

    def make(self, target: Any, arguments: Any) -> None:
        """A new instance: always a record, so that no state can reach what :func:`value_called` makes."""
        if not isinstance(target, Name) or not isinstance(arguments, tuple):
            raise ValueError("it makes an object of something that is no class")
        self.push(Record(target.class_name, arguments))

    def make_from_stack(self, _: Any) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        self.make(target, arguments)

    def make_with_keywords(self, _: Any) -> None:
        keywords, arguments, target = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise ValueError("it makes an object with arguments that are none")
        self.make(target, (*arguments, keywords) if keywords else arguments)

    def make_by_name(self, names: str) -> None:
        arguments = tuple(self.since_mark())
        self.name(*names.split(" ", 1))
        self.make(self.stack.pop(), arguments)

    def make_from_mark(self, _: Any) -> None:
        target, *arguments = self.since_mark()
        self.make(target, tuple(arguments))

    def give_state(self, _: Any) -> None:
        state = self.stack.pop()
        give_state(self.stack[-1], state)


def pairs(items: list[Any]) -> dict[Any, Any]:
    """Keys and values in turn, as a dictionary."""
    if len(items) % 2:
        raise ValueError("it has a key without a value")
    return {checked_key(key): value for key, value in zip(items[::2], items[1::2])}


def by_stack_name(machine: Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.name(module, name)


def last(machine: Machine, count: int) -> list[Any]:
    if count > len(machine.stack):
        raise IndexError("fewer values than it takes")
    items = machine.stack[-count:]
    del machine.stack[-count:]
    return items


# INT and LONG are text, the others differ in how the length is written; pickletools has read them all.
VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
STEPS: dict[str, Step] = {
    **dict.fromkeys(VALUES, Machine.push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.drop_to_mark,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.get),
    "MEMOIZE": Machine.memoize,
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "APPEND": lambda machine, _: machine.append(last(machine, 1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": lambda machine, _: machine.push(pairs(machine.since_mark())),
    "SETITEM": lambda machine, _: machine.set_items(last(machine, 2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "ADDITEMS": Machine.add_items,
    "FROZENSET": lambda machine, _: machine.push(frozenset(map(checked_key, machine.since_mark()))),
    "GLOBAL": lambda machine, names: machine.name(*names.split(" ", 1)),
    "STACK_GLOBAL": by_stack_name,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.make_from_stack,
    "NEWOBJ_EX": Machine.make_with_keywords,
    "INST": Machine.make_by_name,
    "OBJ": Machine.make_from_mark,
    "BUILD": Machine.give_state,
    "BINPERSID": lambda machine, _: machine.push(machine.stored(machine.stack.pop())),
}
