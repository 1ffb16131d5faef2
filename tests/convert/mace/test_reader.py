"""Tensors and hyper-parameters come out of model files as they went in, and every other kind of file is called by its name."""

from __future__ import annotations

import io
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import preloaded
import pytest
import torch
from e3nn import o3
from old_versions import available_versions, write
from pickles import saved
from torch import Tensor, nn

from equinet.convert.mace.reader import read_record
from equinet.convert.mace.records import Record, irreps_of
from equinet.tensorfile import save_tensors


def same(one: Tensor, other: Tensor) -> bool:
    """Equal bit for bit, in type and in shape."""
    bits = [tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


class Everything(nn.Module):
    """Parameters and buffers of every kind, some of them views of the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        shared = torch.randn(4, 6)
        self.layers = nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 2, bias=False)])
        self.same_layer = self.layers[0]
        self.tied = nn.Parameter(torch.randn(5))
        self.tied_again = self.tied
        self.frozen = nn.Parameter(torch.randn(3, dtype=torch.float64), requires_grad=False)
        self.weights = nn.ParameterList([torch.randn(2), torch.randn(())])
        for name, tensor in {
            "whole": shared,
            "transposed": shared.T,
            "column": shared[:, 2],
            "corner": shared[1:3, 4:],
            "every_second": shared.flatten()[1::2],
            "repeated": torch.randn(3, 1).expand(3, 4),
            "scalar": torch.tensor(2.5, dtype=torch.float64),
            "empty": torch.empty(0),
            "empty_too": torch.empty(2, 0, 3),
            "flags": torch.tensor([True, False]),
            "counts": torch.arange(3),
            "small_counts": torch.tensor(5, dtype=torch.int32),
            "half_precision": torch.randn(3).half(),
            "brain": torch.randn(3).bfloat16(),
            "complex": torch.randn(2, dtype=torch.complex128),
            "odd_numbers": torch.tensor([torch.nan, torch.inf, -0.0]),
            "absent": None,
        }.items():
            self.register_buffer(name, tensor)
        self.register_buffer("temporary", torch.ones(2), persistent=False)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_tensors_of_a_module_come_back(protocol: int) -> None:
    module = Everything()
    record = read_record(saved(module, pickle_protocol=protocol))
    found, expected = record.tensors(), module.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert same(found[name], tensor), name
        assert type(found[name]) is Tensor
        assert not found[name].requires_grad
    assert torch.equal(record["temporary"], module.temporary)
    assert record["absent"] is None
    assert [child.kind for child in record["layers"].children()] == ["Linear", "Linear"]


def test_shared_numbers_stay_shared() -> None:
    record = read_record(saved(Everything()))
    record["whole"][1, 2] = 77.0
    assert record["transposed"][2, 1] == record["column"][1] == 77.0
    assert record["tied"] is record["tied_again"]
    assert record["same_layer"] is record["layers.0"]
    assert record["transposed"].stride() == (1, 6)


def test_files_and_open_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.model"
    torch.save(nn.Linear(2, 3), path)
    written = io.BytesIO()
    torch.save(nn.Linear(2, 3), written)  # which leaves the position at the end
    with path.open("rb") as file:
        for source in (path, str(path), path.read_bytes(), file, written):
            assert read_record(source)["in_features"] == 2


class Plain(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.__dict__.update(attributes)


ATTRIBUTES = {
    "number": np.float64(7.5),
    "count": np.int64(3),
    "flag": np.bool_(True),
    "energies": np.array([[1.0, -2.0], [3.5, 4.0]]),
    "by_columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "integers": np.arange(4, dtype=np.int32),
    "no_numbers": np.zeros((0, 3)),
    "content": b"\x00\xff" * 50,
    "nothing": b"",
    "members": {"a", 1},
    "frozen": frozenset({2}),
    "part": slice(1, None, 2),
    "size": torch.Size([2, 3]),
    "dtype": torch.float64,
    "numpy_dtype": np.dtype("f4"),
    "large": 2**100,
    "nested": {"a": [1.5, None, ("x", True)]},
}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_attributes_come_back(protocol: int) -> None:
    record = read_record(saved(Plain(**ATTRIBUTES), pickle_protocol=protocol))
    for name, value in ATTRIBUTES.items():
        found = record[name]
        if isinstance(value, np.ndarray):
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value, err_msg=name)
        else:
            assert found == value, name
            assert type(found) is type(value.item() if isinstance(value, np.generic) else value), name
    assert record["by_columns"].flags.f_contiguous


def test_numpy_under_its_old_name_comes_back() -> None:
    """NumPy 1 wrote ``numpy.core``, where NumPy 2 writes ``numpy._core``."""
    file = saved(Plain(number=np.float64(7.5), energies=np.arange(3.0)))
    old = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as source, zipfile.ZipFile(old, "w") as out:
        for name in source.namelist():
            out.writestr(name, source.read(name).replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"))
    assert b"cnumpy.core.multiarray" in old.getvalue()
    record = read_record(old.getvalue())
    assert record["number"] == 7.5
    assert record["energies"].tolist() == [0.0, 1.0, 2.0]


def test_unknown_objects_come_back_as_records() -> None:
    library = types.ModuleType("a_library_that_is_gone")
    exec(
        "class Setting(dict): pass\nclass Sizes(list): pass\nclass Span(tuple): pass\nclass Thing: pass",
        library.__dict__,
    )
    thing = library.Thing()
    thing.width = 3
    sys.modules[library.__name__] = library
    held = Plain(
        **{
            "setting": library.Setting(a=1),
            "sizes": library.Sizes([4, 5]),
            "span": library.Span((6, 7)),
            "thing": thing,
        },
        **{"kind": library.Thing, "act": nn.functional.silu, "device": torch.device("cuda", 0)},
    )
    try:
        file = saved(held)
    finally:
        del sys.modules[library.__name__]
    record = read_record(file)
    assert record["setting"]["__items__"] == {"a": 1}
    assert record["sizes"]["__items__"] == [4, 5]
    assert record["span"].arguments == ((6, 7),)
    assert (record["thing"].class_name, record["thing"]["width"]) == ("a_library_that_is_gone.Thing", 3)
    assert record["kind"].class_name == "a_library_that_is_gone.Thing"
    assert (record["act"].class_name, record["act"].kind) == ("torch.nn.functional.silu", "silu")
    assert (record["device"].kind, record["device"].arguments) == ("device", ("cuda", 0))


def test_a_missing_attribute_is_named() -> None:
    record = read_record(saved(nn.Sequential(nn.Linear(2, 3))))
    assert "0.weight" in record
    assert "0.heads" not in record
    assert record.get("heads") is None
    assert record.get("0.heads", ["Default"]) == ["Default"]
    assert repr(record).startswith("<Record of torch.nn.modules.container.Sequential")
    with pytest.raises(ValueError, match=r"a torch.nn.modules.container.Sequential in this file has no `heads`"):
        record["heads"]
    with pytest.raises(
        ValueError, match=r"a torch.nn.modules.linear.Linear .* no `heads`, looked for as `0.heads` of a"
    ):
        record["0.heads"]
    with pytest.raises(ValueError, match="a plain int in this file has no `more`"):
        record["0.in_features.more"]


# --- other files --------------------------------------------------------------------------------------------------------


def torchscript() -> bytes:
    out = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 3)), out)
    return out.getvalue()


def safetensors(folder: Path) -> bytes:
    save_tensors(folder / "net.eqn", {"a": torch.ones(2)}, {"kind": "potential"})
    return (folder / "net.eqn").read_bytes()


def some_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("readme.txt", "no model")
    return out.getvalue()


OTHER_FILES = {
    "TorchScript": (lambda _: torchscript(), "it is TorchScript, which is code; take the .model file it was made from"),
    "weights": (lambda _: saved(nn.Linear(2, 3).state_dict()), "weights without architecture.*take the .model file"),
    "checkpoint": (lambda _: saved({"model": {}, "optimizer": {}}), "a training checkpoint; take the .model file"),
    "tensor": (lambda _: saved(torch.ones(3)), "holds a Tensor, not a torch module"),
    "class": (lambda _: saved(nn.Linear), "holds a torch.nn.modules.linear.Linear, not a torch module"),
    "irreps": (lambda _: saved(o3.Irreps("0e")), "holds a e3nn.o3._irreps.Irreps, not a torch module"),
    "equinet": (safetensors, "is an equinet or another safetensors file; `equinet.load` reads"),
    "old torch": (
        lambda _: saved(nn.Linear(2, 3), _use_new_zipfile_serialization=False),
        "before version 1.6; load it with torch and save it again",
    ),
    "zip": (lambda _: some_zip(), "a zip archive, but torch.save did not write it"),
    "cut short": (lambda _: saved(nn.Linear(2, 3))[:-200], "was it cut short"),
    "git lfs": (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "web page": (lambda _: b"<!DOCTYPE html><html>", "not a zip archive.*it begins with b'<!DOCTYPE html><"),
    "empty": (lambda _: b"", "is empty"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", OTHER_FILES)
def test_another_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    make, complaint = OTHER_FILES[kind]
    path = tmp_path / "other.model"
    path.write_bytes(make(tmp_path))
    with pytest.raises(ValueError, match=f"other.model.*{complaint}"):
        read_record(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.model"):
        read_record(tmp_path / "none.model")


# --- models of mace-torch -----------------------------------------------------------------------------------------------

MODEL = {
    "class": "ScaleShiftMACE",
    "seed": 3,
    "dtype": "float64",
    "factor": 1.5,
    "model": {
        **{"r_max": 4.0, "num_bessel": 5, "num_polynomial_cutoff": 6, "max_ell": 2, "num_interactions": 2},
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        **{"hidden_irreps": "4x0e+4x1o", "MLP_irreps": "6x0e", "gate": "silu", "correlation": 3, "radial_MLP": [16, 8]},
        **{"atomic_numbers": [1, 8], "atomic_energies": [[-1.5, -2.5]], "avg_num_neighbors": 7.25},
        **{"atomic_inter_scale": 1.25, "atomic_inter_shift": 0.5},
    },
    "if_known": {"heads": ["only"]},
}


def old_e3nn(version: str) -> str:
    if "0.4.4" not in available_versions("e3nn"):
        pytest.skip("e3nn 0.4.4 is not in .reference; `make reference` puts it there")
    return "0.4.4"


def assert_read_whole(record: Record, state: dict[str, np.ndarray]) -> None:
    """All tensors of the state, bit for bit, except the constants of compiled products, which e3nn keeps elsewhere."""
    found = record.tensors()
    assert not set(found) - set(state)
    missing = set(state) - set(found)
    assert all("._compiled_main" in name and "._w3j_" in name for name in missing), missing
    assert len(found) > 60
    for name, tensor in found.items():
        assert str(tensor.dtype) == f"torch.{state[name].dtype}", name
        np.testing.assert_array_equal(tensor.numpy(), state[name], err_msg=name)


def assert_hyperparameters(record: Record) -> None:
    assert record.class_name == "mace.modules.models.ScaleShiftMACE"
    blocks = record["interactions"].children()
    assert [block.kind for block in blocks] == [
        "RealAgnosticInteractionBlock",
        "RealAgnosticResidualInteractionBlock",
    ]
    assert float(record["r_max"]) == 4.0
    assert int(record["radial_embedding.cutoff_fn.p"]) == 6
    assert [block["avg_num_neighbors"] for block in blocks] == [7.25, 7.25]
    assert [str(irreps_of(block["hidden_irreps"]).simplify()) for block in blocks] == ["4x0e+4x1o", "4x0e"]
    assert str(irreps_of(record["spherical_harmonics.irreps_out"])) == "1x0e+1x1o+1x2e"
    assert record["interactions.1.conv_tp_weights.hs"][:-1] == [5, 16, 8]
    assert record["products.0.symmetric_contractions.contractions.1.correlation"] == 3
    gate = record["readouts.1.non_linearity.acts"].children()[0]
    assert (gate.kind, gate["f"].class_name) == ("normalize2mom", "torch.nn.functional.silu")
    assert gate["cst"] == pytest.approx(1.6792, abs=1e-3)
    assert record["atomic_energies_fn.atomic_energies"].flatten().tolist() == [-1.5, -2.5]
    assert record["atomic_numbers"].tolist() == [1, 8]
    assert record.get("heads") in (None, ["only"])


@pytest.mark.slow
@pytest.mark.skipif(
    not available_versions(), reason="no version of mace-torch is here; `make reference` puts some there"
)
@pytest.mark.parametrize("version", available_versions() or ["none"])
def test_a_file_of_each_version_is_read_whole(version: str, tmp_path: Path) -> None:
    path, arrays = write(version, old_e3nn(version), MODEL, tmp_path)
    state = {name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")}
    record = read_record(path)
    assert_read_whole(record, state)
    assert_hyperparameters(record)
    heads_since = [int(part) for part in version.split(".")] >= [0, 3, 10]
    assert record.get("heads") == (["only"] if heads_since else None)


@pytest.mark.slow
def test_a_file_is_read_where_mace_is_not(tmp_path: Path) -> None:
    pytest.importorskip("mace.modules", reason="mace-torch is not installed")
    installed, e3nn_installed = available_versions()[-1], available_versions("e3nn")[-1]
    path, arrays = write(installed, e3nn_installed, MODEL, tmp_path)
    state = {name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")}
    assert_read_whole(read_record(path), state)
    assert_hyperparameters(read_record(path))
    code = (
        "import sys; sys.modules['mace'] = sys.modules['matscipy'] = None\n"
        "from equinet.convert.mace.reader import read_record\n"
        f"record = read_record({str(path)!r})\n"
        "print(len(record.tensors()), [name for name in sys.modules if name.startswith('mace.')])"
    )
    result = preloaded.run([sys.executable, "-c", code])
    assert result.stdout.strip() == f"{len(read_record(path).tensors())} []", result.stderr
