"""Short pickles cannot take long or much memory, as several of these do in Python's own unpickler even with stubs for classes."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pickles import archive, module_holding, record_or_complaint, text

from equinet.convert.mace import load_mace
from equinet.convert.mace.reader import read_record
from equinet.convert.mace.records import Record, refusing_what_is_damaged
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
    "many bytes": repeated(text("a" * 10 * MANY), b"c_codecs\nencode\n", b"h\x02h\x01" + text("latin1") + b"\x86R"),
    "many arguments": repeated(b"(" + b"N" * MANY + b"t", b"ca\nb\n", b"h\x02h\x01}" + text("c") + b"Ns\x92"),
    "many calls of nothing": repeated(b"(" + b"N" * MANY + b"t", b"ca\nb\n", b"h\x02h\x01R"),
    "many names": repeated(text("a" * MANY), b"N", b"h\x01h\x01\x93"),
}
FLOODS = {  # of opcodes, and how many
    "nothing": (b"N0", 550_000),
    "copies of a value": (b"2", 1_100_000),
    "lists in marks": (b"(", 500_000),
    "sets": (b"\x8f", 100_000),
    "objects": (b"h\x02)\x81", 150_000),
    "calls": (b"h\x02)R", 150_000),
    "storages": (b"h\x03Q", 20_000),
    "tensors": (b"h\x04h\x05R", 20_000),
}
MAKER = b"ctorch._utils\n_rebuild_tensor_v2\n"
IDENTITY = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(MANY) + b"t"
MEMO = (  # a name as 2, a storage's identity as 3, and as 4 and 5 a function and arguments that make a tensor
    b"ca\nb\nq\x020" + IDENTITY + b"q\x030" + MAKER + b"q\x040" + storage_view(1, 1)[len(MAKER) : -1] + b"q\x050"
)
LIMITS: dict[str, tuple[bytes, str]] = {
    "a key that doubles": (b"})" + b"2\x86" * 60 + b"Ns", "has a tuple as key"),
    "a member that doubles": (b"\x8f()" + b"2\x86" * 60 + b"\x90", "has a tuple as key"),
    "a deep key": (b"})" + b"\x85" * 200_000 + b"Ns", "has a tuple as key"),
    "a deep member": (b"()" + b"\x85" * 200_000 + b"\x91", "has a tuple as key"),
    "a long key": (b"}(" + b"N" * 101 + b"tNs", "has a tuple as key"),
    "tuples as keys, which can collide": (b"}(" + b"".join(b"J" + i.to_bytes(4, "little") + b"\x85N" for i in range(10_001)) + b"u", "takes more than 1000000 steps"),
    "pairs with tuples as keys": (
        b"](" + b"".join(b"J" + i.to_bytes(4, "little") + b"\x85N\x86" for i in range(10_001)) + b"eq\x010ccollections\nOrderedDict\nh\x01\x85R", "takes more than 1000000 steps"
    ),
    "places that collide": (b"Np" + str(2**61 - 1 << 3).encode() + b"\n", "a place in its memo that is beyond all counts"),
    "keys that collide": (b"}\x8a\x09" + (2**61 - 1 << 8).to_bytes(9, "little") + b"Ns", "has a int as key"),
    "bytes that are not there": (b"\x8e" + LARGE + b"a", "but only .* remain"),
    "text that is not there": (b"\x8d" + LARGE + b"a", "but only .* remain"),
    "a buffer that is not there": (b"\x96" + LARGE + b"a", "but only .* remain"),
    "many digits": (b"L" + b"9" * 1_000_000 + b"L\n", "Exceeds the limit"),
    "a sum of tensors": (storage_view(MANY, 1) + b"(" + storage_view(1, MANY) + b"\x90", "adds members to a Tensor"),
    "an item of a tensor": (storage_view(MANY, 1) + b"K\x00K\x07s", "sets items of a Tensor"),
    "a state of a tensor": (storage_view(MANY, 1) + b"(" + storage_view(1, 1) + b"\x89}Ntb", "gives a state to a Tensor"),
    **{name: (opcodes, r"takes more than \d+ (steps|bytes of memory) to read") for name, opcodes in COPIES.items()},
    **{f"a flood of {name}": (MEMO + b"](N" + flood * count, r"takes more than \d+ (steps|bytes of memory) to read") for name, (flood, count) in FLOODS.items()},
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


def test_a_refusal_names_the_file_and_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.model"
    path.write_bytes(file_with(COPIES["many bytes"]))
    limit = (16 << 20) + 8 * path.stat().st_size
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(path))} cannot be read .* more than {limit} bytes of memory"
    ):
        read_record(path)


def test_a_module_that_is_no_mace_is_refused_by_the_name_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "other.model"
    path.write_bytes(archive(module_holding(b"N.")))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: this model cannot be converted"):
        load_mace(path)
    with path.open("rb") as file, pytest.raises(ValueError, match=r"^this model cannot be converted"):
        load_mace(file)


def test_a_longer_file_may_take_more() -> None:
    large = {"data/1": bytes(10_000_000)}
    assert isinstance(read_record(archive(module_holding(COPIES["many bytes"] + b"."), large)), Record)
    flood = module_holding(b"](" + b"N0" * 600_000 + b"e.")
    with pytest.raises(ValueError, match="takes more than 1000000 steps to read"):
        read_record(archive(flood))
    assert isinstance(read_record(archive(flood, large | {"data/2": bytes(10_000_000)})), Record)


def chain(depth: int, name: str) -> Record:
    """Modules of which each has the next under this name."""
    inner = Record("torch.nn.Module")
    for _ in range(depth):
        outer = Record("torch.nn.Module")
        outer.attributes["_modules"] = {name: inner}
        inner = outer
    return inner


@pytest.mark.parametrize(("depth", "name"), [(50_000, "m"), (300, "m" * 10_000)])
def test_names_longer_than_memory_are_refused(depth: int, name: str) -> None:
    module = chain(depth, name)
    with pytest.raises(
        ValueError, match="names of modules and tensors of this file have more than 10000000 characters"
    ):
        list(module.modules())


def test_tensors_that_many_modules_share_are_counted() -> None:
    root, shared = Record("torch.nn.Module"), {str(i): torch.zeros(1) for i in range(1000)}
    root.attributes["_modules"] = {str(i): Record("torch.nn.Module") for i in range(1000)}
    for child in root.children():
        child.attributes["_parameters"] = shared
    with pytest.raises(ValueError, match="lists more than 100000 modules and tensors"):
        root.tensors()
    with pytest.raises(ValueError, match="lists more than 100000 modules and tensors"):
        root.parameters()


def test_marks_of_buffers_that_are_no_set_are_none() -> None:
    module = Record("torch.nn.Module")
    module.attributes |= {"_buffers": {"a": torch.zeros(1)}, "_non_persistent_buffers_set": 7}
    assert list(module.tensors()) == ["a"]
