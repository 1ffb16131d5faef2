"""Nothing in a model file is run, imported or believed: every attack here works on Python's own pickle, and not on ours."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import io
import os
import pickle
import runpy
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickles import Reduces, archive, module_holding, record_or_complaint, saved, text
from torch import Tensor
from torch.fx.graph_module import reduce_graph_module

from equinet.convert.mace.reader import read_record
from equinet.convert.mace.records import Record
from equinet.convert.mace.values import Name, Storage

INERT = (
    *(str, int, float, bool, bytes, bytearray, slice, type(None), Record, Name, Storage),
    *(Tensor, torch.dtype, np.ndarray, np.dtype),
)


class RunsWhenFilled:
    def __setstate__(self, path: str) -> None:
        Path(path).touch()


class RunsWhenSet:
    @property
    def path(self) -> str:
        return ""

    @path.setter
    def path(self, path: str) -> None:
        Path(path).touch()


class RunsWhenMade:
    def __new__(cls, path: str) -> RunsWhenMade:
        Path(path).touch()
        return super().__new__(cls)


CALLS = {
    "os.system": lambda marker: Reduces(os.system, f"touch {marker}"),
    "eval": lambda marker: Reduces(eval, f"open({str(marker)!r}, 'w')"),
    "exec": lambda marker: Reduces(exec, f"open({str(marker)!r}, 'w')"),
    "a subprocess": lambda marker: Reduces(subprocess.call, ["touch", str(marker)]),
    "a method": lambda marker: Reduces(Path.touch, marker),
    "an argument": lambda marker: Reduces(str, Reduces(os.system, f"touch {marker}")),
    "a value in containers": lambda marker: {"b": [(Reduces(os.system, f"touch {marker}"),)]},
    "a value of an OrderedDict": lambda marker: OrderedDict(a=Reduces(os.system, f"touch {marker}")),
    "a key": lambda marker: {Reduces(os.system, f"touch {marker}"): 1},
    "a pickle": lambda marker: Reduces(pickle.loads, pickle.dumps(Reduces(os.system, f"touch {marker}"))),
    "torch.load": lambda marker: Reduces(
        functools.partial(torch.load, weights_only=False),
        Reduces(io.BytesIO, saved(Reduces(os.system, f"touch {marker}"))),
    ),
    "a script": lambda marker: Reduces(runpy.run_path, a_script(marker)),
    "numpy": lambda marker: Reduces(np.savetxt, str(marker), [1.0]),
    "source of a graph": lambda marker: Reduces(
        reduce_graph_module,
        {"_code": "def forward(self):\n    pass\n", "_graphmodule_cls_name": "Net"},
        f"open({str(marker)!r}, 'w')\n",
    ),
}
MADE_BY_HAND = {
    "INST": lambda marker: b"(" + text(f"touch {marker}") + b"iposix\nsystem\n.",
    "OBJ": lambda marker: b"(c" + mine(RunsWhenMade) + text(str(marker)) + b"o.",
    "NEWOBJ": lambda marker: b"c" + mine(RunsWhenMade) + text(str(marker)) + b"\x85\x81.",
    "NEWOBJ_EX": lambda marker: b"c" + mine(RunsWhenMade) + text(str(marker)) + b"\x85}\x92.",
    "__setstate__": lambda marker: b"c" + mine(RunsWhenFilled) + b")\x81" + text(str(marker)) + b"b.",
    "state of slots": lambda marker: b"c" + mine(RunsWhenSet) + b")\x81N}" + text("path") + text(str(marker)) + b"s\x86b.",
    "STACK_GLOBAL": lambda marker: b"\x80\x04" + text("posix") + text("system") + b"\x93" + text(f"touch {marker}") + b"\x85R.",
    "getattr of an import": lambda marker: (
        b"cbuiltins\ngetattr\ncbuiltins\n__import__\n" + text("os") + b"\x85R" + text("system") + b"\x86R"
        + text(f"touch {marker}") + b"\x85R."
    ),
    "state of what a call gives": lambda marker: (  # state for what a call gives
        b"cbuiltins\ngetattr\nc" + mine(RunsWhenFilled) + text("__new__") + b"\x86Rc" + mine(RunsWhenFilled) + b"\x85R"
        + text(str(marker)) + b"b."
    ),
    "an import": lambda marker: b"c" + a_module(marker).encode() + b"\nanything\n.",
    "EXT": lambda marker: b"\x80\x02\x82\xfa" + text(f"touch {marker}") + b"\x85R.",
}  # fmt: skip


def mine(kind: type) -> bytes:
    return f"{kind.__module__}\n{kind.__name__}\n".encode()


def a_script(marker: Path) -> str:
    script = marker.with_suffix(".py")
    script.write_text(f"open({str(marker)!r}, 'w')")
    return str(script)


def a_module(marker: Path) -> str:
    a_script(marker)
    return marker.name


@pytest.fixture
def extension() -> Iterator[None]:
    """A code for ``os.system``, which Python's pickle then writes and reads in place of the name."""
    copyreg.add_extension("posix", "system", 250)
    yield
    copyreg.remove_extension("posix", "system", 250)


def attack_named(name: str, marker: Path) -> bytes:
    return pickle.dumps(CALLS[name](marker), protocol=2) if name in CALLS else MADE_BY_HAND[name](marker)


# The attacks, which the test runs once to see that they work, leave files open.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("place", ["root", "attribute"])
@pytest.mark.parametrize("name", [*CALLS, *MADE_BY_HAND])
def test_what_runs_in_a_pickle_does_not_run_here(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    if name == "EXT":
        request.getfixturevalue("extension")
    marker = tmp_path / "marker_of_an_attack"
    attack = attack_named(name, marker)
    attack = module_holding(attack) if place == "attribute" else attack

    with contextlib.suppress(AttributeError, TypeError):  # after the deed
        pickle.loads(attack)
    assert marker.exists(), "the attack is none, so this test shows nothing"
    marker.unlink()
    sys.modules.pop(marker.name, None)

    read_record(archive(module_holding(b"N.")))  # zipfile loads the codec of names when it first reads one
    before = set(sys.modules)
    outcome = record_or_complaint(archive(attack))
    if name == "EXT" and place == "attribute":
        assert "it uses the opcode EXT1, which torch.save does not" in str(outcome)
    elif place == "attribute":
        assert_inert(outcome["held"])
    else:
        assert isinstance(outcome, str)  # whatever it is, it is no module
    assert not marker.exists()
    assert set(sys.modules) == before


def assert_inert(value: Any) -> None:
    if type(value) in (tuple, list, set, frozenset):
        for each in value:
            assert_inert(each)
    elif type(value) in (dict, OrderedDict):
        assert_inert([*value, *value.values()])
    else:
        assert type(value) in INERT
        if isinstance(value, Record):
            assert_inert([value.arguments, value.attributes])


def test_a_name_takes_no_state() -> None:
    attack = b"cbuiltins\nprint\n}" + text("__call__") + b"Nsb."
    with pytest.raises(ValueError, match="gives a state to a Name, which has none"):
        read_record(archive(module_holding(attack)))
