"""Short pickles cannot take long or much memory, as several of these do in Python's own unpickler even with stubs for classes."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from pickles import archive, module_holding, record_or_complaint, text

from equinet.convert.mace.reader import read_record
from equinet.convert.mace.records import refusing_what_is_damaged
from equinet.models import MACEConfig

MANY = 3000
LARGE = (1 << 40).to_bytes(8, "little")


def number(value: int) -> bytes:
    return b"M" + value.to_bytes(2, "little")


def storage_view(rows: int, columns: int) -> bytes:
    """Opcodes that push a float32 tensor of this shape, a view of ``data/0``."""
    identity = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(MANY) + b"tQ"
    size, stride = number(rows) + number(columns) + b"\x86", b"K\x01K\x01\x86"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + b"K\x00" + size + stride + b"\x89}tR"


def file_with(opcodes: bytes) -> bytes:
    return archive(module_holding(opcodes + b"."), {"data/0": np.zeros(MANY, np.float32).tobytes()})


def repeated(value: bytes, *steps: bytes) -> bytes:
    """Opcodes that keep a value and a name in the memo, as 1 and 2, and then repeat steps with them in a list."""
    return value + b"q\x010" + steps[0] + b"q\x020](" + steps[1] * MANY + b"e"


NAMES = b"}(" + b"".join(text(str(i)) + b"N" for i in range(MANY)) + b"u"
NUMBERS = b"](" + b"".join(number(i) for i in range(MANY)) + b"e"
PAIRS = b"](" + b"".join(number(i) + b"N\x86" for i in range(MANY)) + b"e"
COPIES = {
    "one state of many objects": repeated(NAMES, b"ca\nb\n", b"h\x02)\x81h\x01b"),
    "the same state of slots": repeated(NAMES, b"ca\nb\n", b"h\x02)\x81Nh\x01\x86b"),
    "many dictionaries": repeated(PAIRS, b"ccollections\nOrderedDict\n", b"h\x02h\x01\x85R"),
    "many sets": repeated(NUMBERS, b"c__builtin__\nset\n", b"h\x02h\x01\x85R"),
    "many sizes": repeated(NUMBERS, b"ctorch\nSize\n", b"h\x02h\x01\x85R"),
    "many bytes": repeated(text("a" * MANY), b"c_codecs\nencode\n", b"h\x02h\x01" + text("latin1") + b"\x86R"),
    "many arguments": repeated(b"(" + b"N" * MANY + b"t", b"ca\nb\n", b"h\x02h\x01}" + text("c") + b"Ns\x92"),
}
LIMITS: dict[str, tuple[bytes, str]] = {
    "a key that doubles": (b"})" + b"2\x86" * 60 + b"Ns", "has a tuple as key"),
    "a member that doubles": (b"\x8f()" + b"2\x86" * 60 + b"\x90", "has a tuple as key"),
    "a deep key": (b"})" + b"\x85" * 200_000 + b"Ns", "has a tuple as key"),
    "a deep member": (b"()" + b"\x85" * 200_000 + b"\x91", "has a tuple as key"),
    "a long key": (b"}(" + b"N" * 101 + b"tNs", "has a tuple as key"),
    "keys that collide": (b"}\x8a\x09" + (2**61 - 1 << 8).to_bytes(9, "little") + b"Ns", "has a int as key"),
    "bytes that are not there": (b"\x8e" + LARGE + b"a", "but only .* remain"),
    "text that is not there": (b"\x8d" + LARGE + b"a", "but only .* remain"),
    "a buffer that is not there": (b"\x96" + LARGE + b"a", "but only .* remain"),
    "many digits": (b"L" + b"9" * 1_000_000 + b"L\n", "Exceeds the limit"),
    "a sum of tensors": (storage_view(MANY, 1) + b"(" + storage_view(1, MANY) + b"\x90", "adds members to a Tensor"),
    "an item of a tensor": (storage_view(MANY, 1) + b"K\x00K\x07s", "sets items of a Tensor"),
    "a state of a tensor": (storage_view(MANY, 1) + b"(" + storage_view(1, 1) + b"\x89}Ntb", "gives a state to a Tensor"),
    **{name: (opcodes, "copies the same values again and again") for name, opcodes in COPIES.items()},
}  # fmt: skip


def memory_of(function: Callable[[], object]) -> int:
    """Largest number of bytes that Python held more than before."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", LIMITS)
def test_a_short_pickle_is_refused_before_it_takes_much(name: str) -> None:
    opcodes, complaint = LIMITS[name]
    file, outcomes = file_with(opcodes), []
    assert memory_of(lambda: outcomes.append(record_or_complaint(file))) < 1000 * len(file)
    assert re.search(f"its pickle, at byte .*{complaint}", str(outcomes[0]))


@pytest.mark.parametrize("opcodes", [b"Nr\xff\xff\xff\x7f", b"\x95" + LARGE + b"N"], ids=["memo index", "frame"])
def test_a_large_number_reserves_nothing(opcodes: bytes) -> None:
    file = file_with(opcodes)
    assert read_record(file)["held"] is None
    assert memory_of(lambda: read_record(file)) < 100 * len(file)


def test_values_may_be_shared_as_often_as_real_files_share_them() -> None:
    held = read_record(file_with(repeated(b"}" + text("a") + b"Ns", b"ca\nb\n", b"h\x02)\x81h\x01b")))["held"]
    assert len(held) == MANY
    assert all(each["a"] is None for each in held)
    assert read_record(file_with(b"}(K\x01" + text("a") + b"\x88tNs"))["held"] == {(1, "a", True): None}


def test_a_tensor_of_a_class_is_made_by_a_maker_of_tensors() -> None:
    arguments = text("a") + text("latin1") + b"\x86"
    attack = b"ctorch._tensor\n_rebuild_from_type_v2\n(c_codecs\nencode\nctorch\nTensor\n" + arguments + b"}tR"
    with pytest.raises(ValueError, match=r"made by _codecs\.encode, which makes none"):
        read_record(file_with(attack))


def test_a_model_beyond_the_bounds_of_the_configuration_is_refused_by_the_key() -> None:
    sentence = r"^this model cannot be converted; .* `channels`: .* equal to 1024, got 5000$"
    with pytest.raises(ValueError, match=sentence), refusing_what_is_damaged():
        MACEConfig(channels=5000)
