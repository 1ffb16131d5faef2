"""MACE models as torch saves them, damaged, and pickles made by hand that ask for much with few bytes."""

from __future__ import annotations

import io
import os
import pickletools
import random
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from child import Wrong
from models import ELEMENTS, SMALL, prediction_of, same

from equinet.convert.mace import load_mace
from equinet.models import MACEConfig

MODULE = b"\x80\x02ctorch.nn.modules.module\nModule\n)\x81"


def pickles(shared: Path) -> Callable[[random.Random, Path], Callable[[], object]]:
    """Damaged archives, damaged pickles in good archives, floods of opcodes, values copied again and again."""
    base = _written_by_mace(shared / "base.model")
    whole, expected = base.read_bytes(), load_mace(base)
    prediction_of(expected)  # compiles what all cases need
    entries = _entries(whole)
    opcodes = [(opcode.name, argument, at or 0) for opcode, argument, at in pickletools.genops(entries["data.pkl"])]

    def make(source: random.Random, file: Path) -> Callable[[], object]:
        what, untouched = (
            source.choice(("archive", "bytes", "opcodes", "opcodes", "flood", "copies", "copies", "depth")),
            False,
        )
        if what == "archive":
            content, untouched = _damaged(source, whole), True
        elif what == "bytes":
            content = _archive(entries | {"data.pkl": _damaged(source, entries["data.pkl"])})
        elif what == "opcodes":
            content = _archive(entries | {"data.pkl": _changed(source, entries["data.pkl"], opcodes)})
        else:
            made = {"flood": _flood, "copies": _copies, "depth": _depth}[what](source)
            content = _archive({"data.pkl": made, "byteorder": b"little", "data/0": bytes(400)})
        file.write_bytes(content)

        def case() -> None:
            potential = load_mace(file)
            if not torch.isfinite(prediction_of(potential)).all():
                raise Wrong("a prediction is not finite, without a word")
            if untouched and not same(potential, expected):
                raise Wrong("a damaged archive loads as another potential")

        return case

    return make


def _written_by_mace(path: Path) -> Path:
    """A small model, made in a process of its own, so that this one never imports mace-torch."""
    child = os.fork()
    if child == 0:
        from equinet.bench.peers.mace_torch.model import build_mace, mace_defaults

        config = MACEConfig(**SMALL | {"exact_isolated_atoms": False})
        with mace_defaults("float64"):
            torch.save(build_mace(config, dict.fromkeys(ELEMENTS, -3.0), 7.5), path)
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit("no model of mace-torch can be made here; `make reference` installs it")
    return path


def _entries(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def _archive(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in entries.items():
            file.writestr(f"archive/{name}", content)
    return out.getvalue()


def _damaged(source: random.Random, content: bytes) -> bytes:
    new = bytearray(content)
    what = source.choice(("flip", "flip", "cut", "swap", "insert", "end"))
    if what == "flip":
        for _ in range(source.choice((1, 1, 2, 8))):
            new[source.randrange(len(new))] ^= 1 << source.randrange(8)
    elif what == "cut":
        del new[source.choice((0, 10, len(new) - 1, len(new) - 22, source.randrange(len(new)))) :]
    elif what == "swap":
        one, other = sorted(source.sample(range(len(new) - 64), 2))
        new[one : one + 64], new[other : other + 64] = new[other : other + 64], new[one : one + 64]
    elif what == "insert":
        at = source.randrange(len(new))
        new[at:at] = source.randbytes(source.choice((1, 4, 30)))
    else:  # the list of entries of an archive
        at = max(0, len(new) - 1 - source.randrange(3000))
        new[at] = source.randrange(256)
    return bytes(new)


ODD_INTEGERS = (0, 1, 2, 3, 17, 255, 10**4, 10**6, 2**31 - 1, -1, -(2**31))
ODD_TEXTS = (
    "",
    "x",
    "_modules",
    "interactions",
    "weight",
    "Default",
    "1000000x0e",
    "1x100000e",
    "4x1z",
    "0e+" * 1000 + "0e",
    "\x1b[31m",
    "é",
    "a" * 5000,
)
ODD_FRACTIONS = (0.0, -1.0, 1e308, float("nan"), float("inf"))


def _changed(source: random.Random, pickled: bytes, opcodes: list[tuple[str, object, int]]) -> bytes:
    """Replace arguments of opcodes by others of the same kind; leave out, repeat or exchange opcodes."""
    for _ in range(source.choice((1, 1, 1, 3))):
        if source.random() < 0.6:
            kinds = source.choice(
                (
                    ("BININT1", "BININT2", "BININT"),
                    ("BINUNICODE",),
                    ("BINFLOAT",),
                    ("BINGET", "LONG_BINGET"),
                    ("NEWTRUE", "NEWFALSE", "NONE"),
                )
            )
            at = source.choice([n for n, (name, _, _) in enumerate(opcodes) if name in kinds] or [0])
            name = opcodes[at][0]
            if name.startswith("BININT"):
                new = b"J" + source.choice(ODD_INTEGERS).to_bytes(4, "little", signed=True)
            elif name == "BINUNICODE":
                new = _text(source.choice(ODD_TEXTS))
            elif name == "BINFLOAT":
                new = b"G" + struct.pack(">d", source.choice(ODD_FRACTIONS))
            elif name.endswith("BINGET"):
                new = b"j" + source.randrange(3000).to_bytes(4, "little")
            else:
                new = source.choice((b"\x88", b"\x89", b"N", b"]", b"}", b")"))
        else:
            at = source.randrange(len(opcodes) - 1)
            own = pickled[opcodes[at][2] : opcodes[at + 1][2]]
            new = source.choice((b"", own * 2, own[:1] + b"\0", b"N", b"0", b"2", b"R", b"b", b"(", b"t"))
        # From the end of the pickle places would stay what they are; one change after the other makes later ones miss, which is as good.
        pickled = pickled[: opcodes[at][2]] + new + pickled[opcodes[min(at + 1, len(opcodes) - 1)][2] :]
    return pickled


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _module_holding(opcodes: bytes) -> bytes:
    return MODULE + b"}(" + _text("_modules") + b"}" + _text("held") + opcodes + b"ub."


STORAGE = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + b"K\x64tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00K\x64\x85K\x01\x85\x89}tR"
FLOODS = (
    *(b"N0", b")0", b"]0", b"}0", b"\x8f0", b"2", b"(0", b"K\x01", b"N", b")", b"]", b"}", b"\x8f", b"(", b"\x85", b")\x85", b"(t", b"(l", b"(d"),
    *(b"q\x01", b"\x94", b"h\x05", b"h\x05\x85", b"ca\nb\n", b"ca\nb\n)\x81", b"h\x06)\x81", b"h\x06)R", b"h\x06)\x81}" + _text("a") + b"Nsb"),
    *(b"h\x07", b"h\x08Q", b"c__builtin__\nset\n)R", b"ccollections\nOrderedDict\n)R", b"ctorch\nSize\n)R", b"\x95" + bytes(8), b"I1\n", b"L7L\n", b"p5\n"),
)  # fmt: skip


def _memo(source: random.Random) -> bytes:
    """Values under 5, 6, 7 and 8 in the memo: a text, a name, a tensor, the identity of a storage."""
    return _text("a") + b"q\x050ca\nb\nq\x060" + TENSOR + b"q\x070" + STORAGE[:-1] + b"q\x080"


def _flood(source: random.Random) -> bytes:
    unit, count = source.choice(FLOODS), source.choice((10**4, 10**5, 10**6, 4 * 10**6))
    return _module_holding(_memo(source) + b"](" + unit * (count // len(unit)) + b"e")


LARGE = (
    lambda count: _text("a" * count),
    lambda count: _text("é" * count),
    lambda count: b"B" + count.to_bytes(4, "little") + bytes(count),
    lambda count: b"(" + b"N" * count + b"t",
    lambda count: b"](" + b"N" * count + b"e",
    lambda count: b"](" + b"".join(b"J" + n.to_bytes(4, "little") for n in range(count // 5)) + b"e",
    lambda count: b"](" + b"".join(b"J" + n.to_bytes(4, "little") + b"N\x86" for n in range(count // 7)) + b"e",
    lambda count: b"}(" + b"".join(_text(str(n)) + b"N" for n in range(count // 10)) + b"u",
    lambda count: b"\x8a\xff" + b"\xff" * 254 + b"\x01" if count < 10**4 else b"\x8b" + count.to_bytes(4, "little") + b"\x01" * count,
)  # fmt: skip
USES = (
    (b"c_codecs\nencode\n", b"h\x02h\x01" + _text("latin1") + b"\x86R"),
    (b"c__builtin__\nbytes\n", b"h\x02h\x01" + _text("latin1") + b"\x86R"),
    (b"c__builtin__\nset\n", b"h\x02h\x01\x85R"),
    (b"c__builtin__\nfrozenset\n", b"h\x02h\x01\x85R"),
    (b"ccollections\nOrderedDict\n", b"h\x02h\x01\x85R"),
    (b"ctorch\nSize\n", b"h\x02h\x01\x85R"),
    (b"ca\nb\n", b"h\x02h\x01R"),
    (b"ca\nb\n", b"h\x02h\x01\x85R"),
    (b"ca\nb\n", b"h\x02h\x01\x81"),
    (b"ca\nb\n", b"h\x02h\x01}" + _text("c") + b"Ns\x92"),
    (b"ca\nb\n", b"h\x02)\x81h\x01b"),
    (b"ca\nb\n", b"h\x02)\x81Nh\x01\x86b"),
    (b"N", b"h\x01h\x01\x93"),
    (b"N", b"h\x01" + _text("a") + b"\x93"),
    (b"}", b"h\x01h\x01s"),
    (b"N", b"h\x01h\x01\x86"),
    (b"N", b"}h\x01Ns"),
    (b"N", b"}(h\x01h\x01tNs"),
    (b"cnumpy.core.multiarray\n_reconstruct\n", b"h\x02cnumpy\nndarray\n\x85R(K\x01h\x01cnumpy\ndtype\n" + _text("u1") + b"\x85R\x89h\x01tb"),
    (b"ctorch._utils\n_rebuild_tensor_v2\n", b"h\x02(" + STORAGE + b"K\x00h\x01h\x01\x89}tR"),
)  # fmt: skip


def _copies(source: random.Random) -> bytes:
    """One large value in the memo that a step uses again and again."""
    value, (name, use) = source.choice(LARGE)(source.choice((300, 10**4, 10**6))), source.choice(USES)
    return _module_holding(value + b"q\x010" + name + b"q\x020](" + use * source.choice((30, 3000, 30_000)) + b"e")


def _depth(source: random.Random) -> bytes:
    count = source.choice((500, 5000, 100_000))
    what = source.choice(
        (
            "tuples",
            "doubling",
            "key",
            "modules",
            "shared modules",
            "long names",
            "colliding keys",
            "colliding places",
            "calls",
        )
    )
    if what == "tuples":
        return _module_holding(b")" + source.choice((b"\x85", b"2\x86", b"]2a")) * count)
    if what == "doubling":
        return _module_holding(b")" + b"2\x86" * min(count, 5000) + b"q\x01}h\x01Ns0")
    if what == "key":
        return _module_holding(b"})" + b"\x85" * count + b"Ns")
    if what in ("modules", "shared modules", "long names"):
        name = _text("n" * (10**5 if what == "long names" else 1))
        twice = what == "shared modules"
        inner = MODULE[2:] + b"}" + _text("_modules") + b"}sb"
        # Each module is pushed before its holder: the value below on the stack moves into the holder's table by the memo.
        step = b"q\x010" + b"h\x03" + b")\x81}h\x04}(h\x05h\x01" + (b"h\x06h\x01" if twice else b"") + b"usb"
        head = (
            b"ctorch.nn.modules.module\nModule\nq\x030"
            + _text("_modules")
            + b"q\x040"
            + name
            + b"q\x050"
            + _text("m")
            + b"q\x060"
        )
        return b"\x80\x02" + head + inner + step * min(count, 30 if twice else count) + b"."
    if what == "colliding keys":
        return _module_holding(
            b"}("
            + b"".join(_long(n * (2**61 - 1)) + b"N" for n in range(-4, 4))
            + b"".join(b"G" + struct.pack(">d", 2.0**n) + b"N" for n in range(-1000, 1000))
            + b"u"
        )
    if what == "colliding places":
        return _module_holding(b"N" + b"".join(b"p%d\n" % (n * (2**61 - 1)) for n in range(min(count, 30_000))))
    names = b"ctorch._tensor\n_rebuild_from_type_v2\nq\x010ctorch\nTensor\nq\x020"
    return _module_holding(names + b"h\x01" + b"h\x01h\x02" * count + b")" + b"\x87" * count + b"R")


def _long(value: int) -> bytes:
    content = value.to_bytes(10, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content
