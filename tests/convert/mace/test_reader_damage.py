"""Damaged and dishonest files are refused in words: none crashes, hangs, or asks for more memory than it is long."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from pickles import Reduces, archive, module_holding, record_or_complaint, text

from equinet.convert.mace.reader import read_record
from equinet.convert.mace.records import Record, irreps_of


@pytest.mark.parametrize(
    ("pickled", "complaint"),
    [
        (b"", "pickle exhausted before seeing STOP"),
        (b"\x80\x02]", "pickle exhausted before seeing STOP"),
        (b".", "pop from empty list"),
        (b"\x85.", "tuple of more values than there are"),
        (b"]s.", "fewer values than it takes"),
        (b"(](t" + b"t" * 9 + b".", "damaged"),
        (b"h\x05.", "KeyError: 5"),
        (b"\xff.", "opcode b'\\\\xff' unknown"),
        (b"Pstorage\n.", "opcode PERSID"),
        (b"]\x97.", "opcode NEXT_BUFFER"),
        (b"]" + text("a") + b"R.", "calls something that is not a name"),
        (b"cos\nsystem\n" + text("a") + b"R.", "without arguments"),
        (b"])\x81.", "makes an object of something that is no class"),
        (b"N]]\x92.", "arguments that are none"),
        (b"]}b.", "gives a state to a list"),
        (b"K\x01K\x02a.", "appends to a int"),
        (b"]K\x01K\x02s.", "sets items of a list"),
        (b"](K\x01\x90.", "adds members to a list"),
        (b"}]K\x01s.", "has a list as key"),
        (b"}K\x01\x85\x85K\x01s.", "has a tuple as key"),
        (b"}(K\x01u.", "key without a value"),
        (b"(K\x01d.", "key without a value"),
        (b"]K\x01\x93.", "names a class by something that is not text"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "makes a set or dictionary of a int"),
        (b"c__builtin__\nslice\n(Nc__builtin__\nprint\nNtR.", "slice whose bounds are not numbers"),
        (b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R.", "encodes something that is not bytes"),
        (b"ctorch\nSize\n]J\xff\xff\xff\xffa\x85R.", "size that is not made of counts"),
        (b"cnumpy\ndtype\n" + text("O8") + b"\x85R.", "numpy values that are not plain numbers"),
        (b"cnumpy\ndtype\n" + text("f8") + b"\x85R(K\x03" + text(">") + b"tb.", "not little-endian"),
        (b"cnumpy.core.multiarray\nscalar\nN" + text("a") + b"\x86R.", "bytes do not fit its type"),
        (b"cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\n\x85R.", "array of a class of its own"),
        (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R}b.", "in a form that equinet does not know"),
        (b"ctorch._utils\n_rebuild_parameter\n]\x85R.", "parameter that is a list, not a tensor"),
        (b"ctorch._utils\n_rebuild_parameter\n)R.", "damaged \\(TypeError"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\nNcos\nsystem\n)\x87R.", "tensor of the class os.system"),
    ],
)  # fmt: skip
def test_a_damaged_pickle_is_refused(pickled: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_record(archive(pickled))


# --- tensors ------------------------------------------------------------------------------------------------------------


class Outside(tuple):
    """Pickled as a persistent id."""


def module_with_tensor(
    identity: Any,
    offset: Any = 0,
    size: Any = (2,),
    stride: Any = (1,),
    *rest: Any,
    version: str = "_rebuild_tensor_v2",
) -> bytes:
    """A file whose attribute ``held`` is this view of a storage of six float32, ``data/0``."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return tuple(value) if isinstance(value, Outside) else value.of if isinstance(value, Bare) else None

    out = io.BytesIO()
    rest = rest or (False, OrderedDict())
    call = Reduces(getattr(torch._utils, version), identity, offset, size, stride, *rest)
    Pickler(out, protocol=2).dump(call)
    content = np.arange(6, dtype=np.float32).tobytes()
    return archive(module_holding(out.getvalue()), {"data/0": content, "data/1": b""})


class Bare:
    """Pickled as a persistent id that is no tuple."""

    def __init__(self, of: Any) -> None:
        self.of = of


SIX = Outside(("storage", torch.FloatStorage, "0", "cpu", 6))


def test_a_view_of_a_storage_is_read() -> None:
    held = read_record(module_with_tensor(SIX, 1, (2, 2), (1, 3)))["held"]
    assert torch.equal(held, torch.tensor([[1.0, 4.0], [2.0, 5.0]]))


def test_an_untyped_storage_is_read() -> None:
    storage = Outside(("storage", torch.UntypedStorage, "0", "cpu", 24))
    file = module_with_tensor(storage, 1, (2,), (3,), False, {}, torch.float32, version="_rebuild_tensor_v3")
    assert torch.equal(read_record(file)["held"], torch.tensor([1.0, 4.0]))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((SIX, 5), "reaches to number 7 of a storage of 6"),
        ((SIX, 0, (2, 2), (5, 1)), "reaches to number 7 of a storage of 6"),
        ((SIX, 0, (10**12,), (1,)), "reaches to number 1000000000000 of a storage of 6"),
        ((SIX, 2**62, (2,), (1,)), "reaches to number"),
        ((SIX, 2**64, (2,), (1,)), "size, stride or offset that is not a count"),
        ((SIX, 0, (10**12,), (0,)), "claims 1000000000000 numbers, more than the whole file has"),
        ((SIX, 0, (2**40, 2**40), (0, 0)), "more than the whole file has"),
        ((SIX, -1), "not a count"),
        ((SIX, 1, (2,), (-1,)), "not a count"),
        ((SIX, 0, (-2,), (1,)), "not a count"),
        ((SIX, 0, (2.0,), (1,)), "not a count"),
        ((SIX, True), "not a count"),
        ((SIX, 0, 2, 1), "not a count"),
        ((SIX, 0, (1, 2), (1,)), "2 sizes and 1 strides"),
        ((SIX, 0, (1,) * 65, (1,) * 65), "65 sizes"),
        ((SIX, 0, (2,), (1,), False, {}, {"conj": True}), "conjugated or negated"),
        (("0",), "has no storage"),
        ((Outside(("storage", torch.FloatStorage, "0", "cpu", 7)),), "has 24 bytes and claims 7 numbers of torch.float32"),
        ((Outside(("storage", torch.FloatStorage, "0", "cpu", 10**15)),), "has 24 bytes and claims 1000000000000000"),
        ((Outside(("storage", torch.FloatStorage, "0", "cpu", -6)),), "has 24 bytes and claims -6"),
        ((Outside(("storage", torch.DoubleStorage, "0", "cpu", 6)),), "has 24 bytes and claims 6 numbers of torch.float64"),
        ((Outside(("storage", torch.FloatStorage, "2", "cpu", 6)),), "asks for `data/2`, which is not in the archive"),
        ((Outside(("storage", torch.FloatStorage, "../data.pkl", "cpu", 6)),), "not in the archive"),
        ((Outside(("storage", torch.QInt8Storage, "0", "cpu", 6)),), "tensors in a torch.QInt8Storage"),
        ((Outside(("storage", "torch.FloatStorage", "0", "cpu", 6)),), "without type, key or length"),
        ((Outside(("storage", torch.FloatStorage, 0, "cpu", 6)),), "without type, key or length"),
        ((Outside(("storage", torch.FloatStorage, "0", "cpu", 6.0)),), "without type, key or length"),
        ((Outside(("storage", torch.FloatStorage, "0", "cpu")),), "no storage of tensors"),
        ((Outside(("module", torch.FloatStorage, "0", "cpu", 6)),), "no storage of tensors"),
        ((Bare(7),), "no storage of tensors"),
    ],
)  # fmt: skip
def test_a_tensor_that_cannot_be_is_refused(arguments: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_record(module_with_tensor(*arguments))


def test_an_untyped_storage_needs_a_type() -> None:
    file = module_with_tensor(SIX, 0, (2,), (1,), False, {}, "float32", version="_rebuild_tensor_v3")
    with pytest.raises(ValueError, match="numbers of a type that equinet does not read"):
        read_record(file)


@pytest.mark.parametrize(("shape", "content"), [((3,), bytes(16)), ((-2,), bytes(16)), ((2**60, 2**60), bytes(16))])
def test_an_array_whose_bytes_do_not_fit_is_refused(shape: tuple[int, ...], content: bytes) -> None:
    state = (1, shape, np.dtype("f8"), False, content)
    begun = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R"
    with pytest.raises(ValueError, match=r"bytes do not fit its shape|whose shape or type is none"):
        read_record(archive(module_holding(begun + pickle.dumps(state, protocol=2)[2:-1] + b"b.")))


# --- depth and size -----------------------------------------------------------------------------------------------------


def test_deep_nesting_is_read_without_recursion() -> None:
    deep = read_record(archive(module_holding(b")" + b"\x85" * 200_000 + b".")))["held"]
    for _ in range(200_000):
        (deep,) = deep
    assert deep == ()


def nested_modules(depth: int, repeat: int) -> Record:
    """Modules of which each has the next under ``repeat`` names."""
    inner = Record("torch.nn.Module")
    for _ in range(depth):
        outer = Record("torch.nn.Module")
        outer.attributes["_modules"] = {str(i): inner for i in range(repeat)}
        inner = outer
    return inner


def test_modules_may_be_shared_and_deep() -> None:
    assert nested_modules(2000, 1).tensors() == {}
    assert nested_modules(10, 2).tensors() == {}


def test_more_modules_than_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="lists more than 100000 modules and tensors"):
        nested_modules(40, 2).tensors()


def test_a_module_in_itself_is_refused() -> None:
    record = nested_modules(2, 1)
    record["0.0"].attributes["_modules"] = {"again": record}
    with pytest.raises(ValueError, match=r"the torch.nn.Module at `0\.0\.again` of this file contains itself"):
        record.tensors()


def test_damaged_files_are_read_or_refused_but_nothing_else() -> None:
    random_source = random.Random(0)
    pickled = module_holding(
        pickle.dumps({"a": [1.5, (None, True)], "b": np.arange(3.0), "c": {1, 2}, "d": slice(1)}, 2)
    )
    whole = archive(pickled)
    read = 0
    for i in range(1500):
        damaged = bytearray(whole if i % 2 else pickled)
        for _ in range(random_source.choice([1, 1, 2, 8])):
            at = random_source.randrange(len(damaged))
            damaged[at : at + random_source.choice([0, 1, 1, 4])] = random_source.randbytes(
                random_source.choice([0, 1, 1, 4])
            )
        read += isinstance(record_or_complaint(bytes(damaged) if i % 2 else archive(bytes(damaged))), Record)
    assert 0 < read < 1500


# --- the archive --------------------------------------------------------------------------------------------------------


def test_compressed_entries_are_refused() -> None:
    bomb = archive(module_holding(b"N."), {"data/0": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"entry 'archive/data.pkl' is compressed or encrypted.*use `zip -0`"):
        read_record(bomb)


def test_two_entries_of_one_name_are_refused() -> None:
    out = io.BytesIO(archive(module_holding(b"N.")))
    with zipfile.ZipFile(out, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("archive/data.pkl", b"N.")
    with pytest.raises(ValueError, match="two entries of the archive have the same name"):
        read_record(out.getvalue())


def test_overlapping_entries_are_refused() -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("archive/data/1", bytes(5000))
    end_of_entry = file.start_dir
    out = io.BytesIO(archive(module_holding(b"N.")))
    with zipfile.ZipFile(out, "a") as outer:
        outer.writestr("archive/data/0", inner.getvalue()[:end_of_entry])
        hidden = file.getinfo("archive/data/1")
        hidden.header_offset = outer.start_dir - end_of_entry
        outer.filelist.append(hidden)
        outer.NameToInfo[hidden.filename] = hidden
    with zipfile.ZipFile(out) as file:
        assert file.read("archive/data/1") == bytes(5000)  # zipfile itself lets it pass
    with pytest.raises(ValueError, match="longer than the file, so they overlap"):
        read_record(out.getvalue())


@pytest.mark.parametrize("order", [b"big", b"\xff\xfe"])
def test_another_byte_order_is_refused_by_name(order: bytes) -> None:
    with pytest.raises(ValueError, match="record `byteorder` is"):
        read_record(archive(module_holding(b"N."), {"byteorder": order}))


# --- irreps -------------------------------------------------------------------------------------------------------------


def irreps_record(mul: Any, l: Any, p: Any, package: str = "e3nn.o3._irreps") -> Record:
    irrep = Record(f"{package}.Irrep", ((l, p),))
    return Record(f"{package}.Irreps", ((Record(f"{package}._MulIr", ((mul, irrep),)),),))


def test_irreps_come_from_records_and_text() -> None:
    assert str(irreps_of(irreps_record(4, 1, -1))) == "4x1o"
    assert str(irreps_of("4x1o+2x0e")) == "4x1o+2x0e"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (7, "expected an e3nn Irreps in this file, found a plain int"),
        (Record("os.system", ("4x1o",)), "found a os.system"),
        (irreps_record(4, 1, -1, "mine"), "found a mine.Irreps"),
        (Record("e3nn.o3._irreps.Irreps", ("4x1o",)), "does not hold what one holds"),
        (Record("e3nn.o3._irreps.Irreps", ((4,),)), "expected an e3nn _MulIr in this file, found a plain int"),
        (irreps_record(4, 1, 0), "cannot be"),
        (irreps_record(-4, 1, 1), "cannot be"),
        (irreps_record(4, "1", 1), "cannot be"),
        ("4x1z", "the text '4x1z' describes no irreps"),
    ],
)
def test_what_is_no_irreps_is_refused(value: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        irreps_of(value)
