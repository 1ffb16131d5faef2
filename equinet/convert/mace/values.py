"""Tensors, numbers, arrays and containers are made for the names that torch.save writes; any other name in a pickle stays a name."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .records import Record

DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex64", "complex128"),
        *("int64", "int32", "int16", "int8", "uint8", "bool"),
    )
}
# torch.save names the type of the numbers in a storage by these classes; it gives the length of an untyped one in bytes.
STORAGES = {
    **{
        f"torch.{name}Storage": DTYPES[dtype]
        for name, dtype in {
            **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"},
            **{"ComplexDouble": "complex128", "ComplexFloat": "complex64"},
            **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool"},
        }.items()
    },
    "torch.storage.UntypedStorage": torch.uint8,
}
# Plain numbers only. The letter of an object array, "O", would make numpy read addresses.
NUMPY_CODES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}
ENDLESS = 2**63
LONGEST_KEY = 100  # parts of a tuple that is the key of a dictionary


class Name(Record):
    """A class or function that the file only names: one that is called or made, or a value such as ``torch.nn.functional.silu``."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class Storage:
    """The bytes of one entry of the archive as numbers of one type; ``numbers`` is one-dimensional."""

    numbers: Tensor
    file_bytes: int


def value_named(dotted: str) -> Any:
    """Turn a name of torch's into a dtype; leave any other as a :class:`Name`."""
    package, _, name = dotted.rpartition(".")
    return DTYPES[name] if package == "torch" and name in DTYPES else Name(dotted)


def value_called(target: Any, arguments: Any) -> Any:
    """Make the value that a call stands for if it is one of ``MAKERS``, else a record of the call."""
    if not isinstance(target, Record) or not isinstance(arguments, tuple):
        raise ValueError("it calls something that is not a name, or without arguments")
    maker = MAKERS.get(target.class_name) if isinstance(target, Name) else None
    return maker(*arguments) if maker else Record(target.class_name, arguments)


def give_state(value: Any, state: Any) -> None:
    """Give an object its state, as ``__setstate__`` would, without calling one of the file's."""
    if type(value) is Record:
        by_name = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        if all(part is None or _is_by_name(part) for part in by_name):
            for part in by_name:
                value.attributes.update(part or {})
        else:
            value.attributes["__state__"] = state
    elif isinstance(value, np.dtype):
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise ValueError("it holds numpy numbers that are not little-endian")
    elif isinstance(value, np.ndarray):
        _fill_array(value, state)
    elif not isinstance(value, OrderedDict):  # of which only torch's notes on versions are lost
        raise ValueError(f"it gives a state to a {type(value).__name__}, which has none")


def checked_key(key: Any) -> Any:
    """Refuse keys of a dictionary or members of a set whose hash takes long: tuples in tuples can take for ever."""
    if _is_plain(key) or (isinstance(key, tuple) and len(key) <= LONGEST_KEY and all(map(_is_plain, key))):
        return key
    raise ValueError(f"it has a {type(key).__name__} as key")


def _is_plain(key: Any) -> bool:
    if isinstance(key, int):
        return abs(key) < ENDLESS  # larger ones are hashed modulo 2^61 - 1, so that a file can make them all collide
    return isinstance(key, (str, bytes, float, type(None), torch.dtype, Record))


def _is_by_name(state: Any) -> bool:
    return isinstance(state, dict) and all(isinstance(name, str) for name in state)


def _is_size(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(type(n) is int and 0 <= n < ENDLESS for n in value)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A view of a storage. ``rest``: whether it asks for a gradient, hooks, and marks of conjugation or negation."""
    if not isinstance(storage, Storage) or not (_is_size(size) and _is_size(stride) and _is_size((offset,))):
        raise ValueError("a tensor in it has no storage, or a size, stride or offset that is not a count")
    if len(rest) > 2 and rest[2]:
        raise ValueError("a tensor in it is marked as conjugated or negated, which no MACE model needs")
    if len(size) != len(stride) or len(size) > 64:
        raise ValueError(f"a tensor in it has {len(size)} sizes and {len(stride)} strides")
    numbers, held = storage.numbers, math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if held else 0
    if held and last >= len(numbers):
        raise ValueError(f"a tensor in it reaches to number {last + 1} of a storage of {len(numbers)}")
    # Strides of zero repeat numbers for free, until the tensor is copied.
    if held * numbers.element_size() > storage.file_bytes:
        raise ValueError(f"a tensor in it claims {held} numbers, more than the whole file has")
    return torch.as_strided(numbers, size, stride, offset) if held else numbers.new_empty(size)


def _tensor_of_type(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A view of an untyped storage. ``rest``: as for :func:`_tensor`, with the type of its numbers before the marks."""
    dtype = rest[2] if len(rest) > 2 else None
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor in it has numbers of a type that equinet does not read")
    typed = Storage(storage.numbers.view(dtype), storage.file_bytes)
    return _tensor(typed, offset, size, stride, *rest[:2], *rest[3:])


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError(f"it has a parameter that is a {type(data).__name__}, not a tensor")
    return data


def _subclassed(function: Any, subclass: Any, arguments: Any, *_: Any) -> Any:
    """Make the plain tensor below one that carries attributes of its own."""
    name = subclass.class_name if isinstance(subclass, Name) else ""
    if name not in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"):
        raise ValueError(f"it has a tensor of the class {name or 'of no name'}, which equinet does not read")
    tensor = value_called(function, arguments)
    if not isinstance(tensor, Tensor):
        raise ValueError(f"it has a tensor that is made by {function.class_name}, which makes none")
    return tensor


def _encoded(text: Any, encoding: Any = None) -> bytes:
    """Bytes as old pickle protocols write them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("it encodes something that is not bytes written as text")
    return text.encode("latin1")


def _plain_bytes(*contents: Any) -> bytes:
    if len(contents) == 1 and isinstance(contents[0], bytes):
        return contents[0]
    return _encoded(*contents) if contents else b""


def _numpy_type(code: Any, *_: Any) -> np.dtype[Any]:
    if not isinstance(code, str) or code not in NUMPY_CODES:
        raise ValueError("it holds numpy values that are not plain numbers")
    return np.dtype(code).newbyteorder("<")


def _numpy_scalar(dtype: Any, content: Any = None) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(content, bytes) or len(content) != dtype.itemsize:
        raise ValueError("it holds a numpy number whose bytes do not fit its type")
    return np.frombuffer(content, dtype)[0].item()


def _empty_array(subclass: Any, *_: Any) -> np.ndarray:
    if not (isinstance(subclass, Name) and subclass.class_name == "numpy.ndarray"):
        raise ValueError("it holds a numpy array of a class of its own")
    return np.empty(0)


def _fill_array(array: np.ndarray, state: Any) -> None:
    """Shape, type and numbers of an array that :func:`_empty_array` began: the same object, for others may hold it."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("it holds a numpy array in a form that equinet does not know")
    _, shape, dtype, columns_first, content = state
    if not (_is_size(shape) and isinstance(dtype, np.dtype) and isinstance(content, bytes)):
        raise ValueError("it holds a numpy array whose shape or type is none")
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"it holds a numpy array whose {len(content)} bytes do not fit its shape and type")
    checked: Any = (1, tuple(shape), dtype, columns_first is True, content)
    array.__setstate__(checked)


def _size(numbers: Any = ()) -> torch.Size:
    if not _is_size(numbers):
        raise ValueError("it has a size that is not made of counts")
    return torch.Size(numbers)


def _members(members: Any) -> Any:
    if not isinstance(members, (list, tuple)):
        raise ValueError(f"it makes a set or dictionary of a {type(members).__name__}")
    return members


def _set(members: Any = ()) -> set[Any]:
    return {checked_key(each) for each in _members(members)}


def _frozenset(members: Any = ()) -> frozenset[Any]:
    return frozenset(_set(members))


def _dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((checked_key(key), value) for key, value in map(_members, _members(pairs)))


def _slice(*bounds: Any) -> slice:
    if len(bounds) != 3 or not all(bound is None or type(bound) is int for bound in bounds):
        raise ValueError("it has a slice whose bounds are not numbers")
    return slice(*bounds)


MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclassed,
    "torch.Size": _size,
    "_codecs.encode": _encoded,
    "builtins.bytes": _plain_bytes,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.slice": _slice,
    "collections.OrderedDict": _dict,
    "numpy.dtype": _numpy_type,
    **{f"numpy.{core}.multiarray.scalar": _numpy_scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _empty_array for core in ("core", "_core")},
}
