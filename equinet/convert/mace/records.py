"""Objects of a pickle as plain data: class name, arguments and attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from e3nn import o3
from pydantic import ValidationError
from torch import Tensor

from equinet.models.base import problems
from equinet.quotes import quoted

MISSING = object()
# A file may name one module or tensor under many parents, and with few bytes more often, or by longer names, than memory holds.
# No real model comes near.
MOST_NAMED = 100_000
MOST_CHARACTERS = 10_000_000


class Record:
    """An object of a file or of a live module as plain data. No code of its class is imported or run.

    Args:
        class_name: Full dotted name of its class, ``"mace.modules.blocks.RealAgnosticInteractionBlock"``.
        arguments: Arguments of the call that made it, such as the contents of an e3nn ``Irreps``, a subclass of ``tuple``.

    Attributes:
        attributes: Its state, by name. What a subclass of ``dict`` or ``list`` holds is under ``"__items__"``; state that
            is not by name, as that of a ``functools.partial``, under ``"__state__"``.

    >>> module = Record("torch.nn.modules.linear.Linear")
    >>> module.attributes.update(in_features=3, _parameters={"weight": None})
    >>> module.kind, module["in_features"], "bias" in module
    ('Linear', 3, False)
    """

    __slots__ = ("arguments", "attributes", "class_name")

    def __init__(self, class_name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.class_name = class_name
        self.arguments = arguments
        self.attributes: dict[str, Any] = {}

    def __repr__(self) -> str:
        # Without what is in it: records of a file may hold each other in a circle.
        return f"<{type(self).__name__} of {self.class_name}, {len(self.attributes)} attributes>"

    @property
    def kind(self) -> str:
        """The last part of the name of the class."""
        return self.class_name.rpartition(".")[2]

    def __getitem__(self, name: str) -> Any:
        """An attribute, parameter, buffer or submodule; a dotted name walks down: ``"interactions.0.linear.weight"``.

        Raises:
            ValueError: If there is none of that name.
        """
        at: Any = self
        for part in name.split("."):
            found = at._own(part) if isinstance(at, Record) else MISSING
            if found is MISSING:
                what = f"a {at.class_name}" if isinstance(at, Record) else f"a plain {type(at).__name__}"
                where = "" if part == name else f", looked for as `{name}` of a {self.class_name}"
                raise ValueError(
                    f"{what} in this file has no `{part}`{where}; was it written by another version of mace?"
                )
            at = found
        return at

    def get(self, name: str, default: Any = None) -> Any:
        """``self[name]``, or ``default`` where there is none."""
        try:
            return self[name]
        except ValueError:
            return default

    def __contains__(self, name: str) -> bool:
        try:
            self[name]
        except ValueError:
            return False
        return True

    def children(self) -> list[Record]:
        """The submodules, in order: what a ``ModuleList`` lists."""
        return [child for child in self._held_in("_modules").values() if isinstance(child, Record)]

    def modules(self) -> Iterator[tuple[str, Record]]:
        """Every module below by its dotted name, this one first with an empty one. Without recursion: a file can nest deeper than Python.

        Raises:
            ValueError: If a module contains itself, or there are more than any real model has.
        """
        yield from self._modules(_Names())

    def _modules(self, names: _Names) -> Iterator[tuple[str, Record]]:
        path: list[int] = []  # from this module down to the one before
        inside: set[int] = set()  # the same
        ahead: list[tuple[str, Record, int]] = [("", self, 0)]
        while ahead:
            name, module, depth = ahead.pop()
            inside.difference_update(path[depth:])
            del path[depth:]
            if id(module) in inside:
                raise ValueError(f"the {module.class_name} at `{name}` of this file contains itself")
            yield name, module
            path.append(id(module))
            inside.add(id(module))
            held = module._held_in("_modules").items()
            below = [(names.below(name, own), child) for own, child in held if isinstance(child, Record)]
            ahead.extend((own, child, depth + 1) for own, child in reversed(below))

    def tensors(self) -> dict[str, Tensor]:
        """All parameters and persistent buffers below, under the names they have in the module's ``state_dict``.

        Raises:
            ValueError: If a module contains itself, or there are more than any real model has.
        """
        return dict(self._tensors("_parameters", "_buffers"))

    def parameters(self) -> dict[str, Tensor]:
        """Those of :meth:`tensors` that are weights; empty ones, which stand for none, are left out."""
        return {name: value for name, value in self._tensors("_parameters") if value.numel()}

    def _tensors(self, *holders: str) -> Iterator[tuple[str, Tensor]]:
        names = _Names()
        for name, module in self._modules(names):
            marked = module.attributes.get("_non_persistent_buffers_set")
            temporary = marked if isinstance(marked, (set, frozenset)) else ()
            for holder in holders:
                for own, value in module._held_in(holder).items():
                    if isinstance(value, Tensor) and not (holder == "_buffers" and own in temporary):
                        yield names.below(name, own), value

    def _own(self, name: str) -> Any:
        for names in (self.attributes, *map(self._held_in, ("_parameters", "_buffers", "_modules"))):
            if name in names:
                return names[name]
        return MISSING

    def _held_in(self, holder: str) -> Mapping[str, Any]:
        held = self.attributes.get(holder)
        return held if isinstance(held, Mapping) else {}


class _Names:
    """Dotted names of modules and tensors, no more of them than a real model has."""

    def __init__(self) -> None:
        self.count = 0
        self.characters = 0

    def below(self, name: str, own: Any) -> str:
        """Join the name of a module and that of what it holds.

        Raises:
            ValueError: If there are more names, or longer ones, than any real model has.
        """
        own = str(own)
        self.count += 1
        self.characters += len(name) + len(own)
        if self.count > MOST_NAMED:
            raise ValueError(f"this file lists more than {MOST_NAMED} modules and tensors, which no real model does")
        if self.characters > MOST_CHARACTERS:
            raise ValueError(
                f"the names of modules and tensors of this file have more than {MOST_CHARACTERS} characters, which no real model's do"
            )
        return f"{name}.{own}" if name else own


@contextmanager
def refusing_what_is_damaged() -> Iterator[None]:
    """Records hold whatever a file says: texts where weights should be, matrices of any shape. What comes of it is one error.

    Raises:
        ValueError: Instead of errors of another kind.
    """
    try:
        yield
    except ValidationError as error:
        raise ValueError(
            f"this model cannot be converted; in the configuration of equinet {problems(error, 1)}"
        ) from error
    except (RuntimeError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(
            f"this model is not what one of mace-torch is; it is damaged, or from a version that equinet does not know: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def irreps_of(value: Any) -> o3.Irreps:
    """Real irreps from the record of an e3nn ``Irreps``, or from their text.

    Raises:
        ValueError: If it is neither.

    >>> irreps_of("8x0e+8x1o")
    8x0e+8x1o
    """
    if isinstance(value, (str, o3.Irreps)):
        try:
            return o3.Irreps(value)
        except (ValueError, AssertionError) as error:
            raise ValueError(f"the text {quoted(value)} describes no irreps") from error
    return o3.Irreps([_multiple_of(each) for each in _contents(value, "Irreps", None)])


def _multiple_of(value: Any) -> tuple[int, tuple[int, int]]:
    """Multiplicity, (degree, parity) from the record of an entry of irreps."""
    mul, irrep = _contents(value, "_MulIr", 2)
    l, p = _contents(irrep, "Irrep", 2)
    if not all(type(number) is int for number in (mul, l, p)) or mul < 0 or l < 0 or p not in (-1, 1):
        raise ValueError(
            "irreps in this file have a multiplicity, degree or parity that cannot be; the file is damaged"
        )
    return mul, (l, p)


def _contents(value: Any, kind: str, length: int | None) -> tuple[Any, ...]:
    """Contents of the e3nn tuple that this record stands for."""
    if not (isinstance(value, Record) and value.kind == kind and value.class_name.startswith("e3nn.")):
        what = f"a {value.class_name}" if isinstance(value, Record) else f"a plain {type(value).__name__}"
        raise ValueError(f"expected an e3nn {kind} in this file, found {what}")
    held = value.arguments[0] if len(value.arguments) == 1 else None
    if not isinstance(held, tuple) or length not in (None, len(held)):
        raise ValueError(f"the e3nn {kind} in this file does not hold what one holds; the file is damaged")
    return held
