"""Model files: what is read is what was written, damage is named, and a failed write costs nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import equinet
from equinet import tensorfile
from equinet.checkpoint import FORMAT, load_potential, read_header, save_potential
from equinet.graph import from_atoms
from equinet.models.allocation import AllocationLimit
from equinet.potential import Potential
from equinet.tensorfile import UncheckedFile, checksum, read_tensors, save_tensors

# What the files of format 3 can say and older ones could not.
EVERYTHING_ELSE = {
    "interaction": "gated",
    "envelope_on": "weights",
    "distance_transform": "agnesi",
    "edge_channels": 4,
    "readout_biases": True,
    "readout_layers": "last",
    "zbl": True,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.eqn"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "overrides", [{}, {"first_interaction": "density", "exact_isolated_atoms": False, "max_l": 2}, EVERYTHING_ELSE]
)
def test_what_is_loaded_gives_exactly_what_was_saved(
    make_potential: Callable[..., Potential],
    path: Path,
    triclinic: Atoms,
    dtype: torch.dtype,
    overrides: dict[str, Any],
) -> None:
    potential = make_potential(**overrides).to(dtype)
    save_potential(potential, path)
    loaded = load_potential(path)
    assert loaded.dtype == dtype
    assert not loaded.training
    assert loaded.elements == potential.elements
    assert loaded.model.config == potential.model.config
    assert loaded.scale.exact_isolated_atoms == potential.scale.exact_isolated_atoms
    assert loaded.scale.reference.tolist() == potential.scale.reference.tolist()
    assert repr(loaded) == repr(potential)
    graph = from_atoms(triclinic, potential.cutoff)
    before, after = potential(graph, stress=True), loaded(graph, stress=True)
    for name in before:
        assert torch.equal(before[name], after[name])


def test_a_potential_may_be_loaded_in_another_precision(potential: Potential, path: Path, triclinic: Atoms) -> None:
    save_potential(potential.double(), path)
    graph = from_atoms(triclinic, potential.cutoff)
    expected = potential(graph)
    single = load_potential(path, dtype=torch.float32)
    assert single.dtype == torch.float32
    assert single.scale.reference.dtype == torch.float64
    torch.testing.assert_close(single(graph)["forces"].double(), expected["forces"], rtol=0, atol=1e-3)
    assert torch.equal(load_potential(path, dtype=torch.float64)(graph)["forces"], expected["forces"])


def test_saving_twice_writes_the_same_weights(potential: Potential, path: Path, tmp_path: Path) -> None:
    save_potential(potential, path)
    save_potential(load_potential(path), tmp_path / "again.eqn")
    first, second = load_file(path), load_file(tmp_path / "again.eqn")
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loading_leaves_the_stream_of_random_numbers_alone(potential: Potential, path: Path) -> None:
    save_potential(potential, path)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_potential(path)
    assert torch.equal(torch.rand(3), expected)


def test_saving_leaves_the_potential_as_it_was(potential: Potential, path: Path) -> None:
    potential.train()
    before = {name: value.clone() for name, value in potential.state_dict().items()}
    save_potential(potential, path)
    assert potential.training
    assert all(torch.equal(value, before[name]) for name, value in potential.state_dict().items())


def test_the_header_says_what_the_model_is(potential: Potential, path: Path) -> None:
    save_potential(potential, path, training={"data": "ethanol", "epochs": 3})
    header = read_header(path)
    assert header.kind == "potential"
    assert header.format == FORMAT
    assert header.elements == ["H", "C", "O"]
    assert header.model == potential.model.config.model_dump(mode="json")
    assert header.config == potential.model.config
    assert header.units["energy"] == "eV"
    assert header.versions["equinet"] == equinet.__version__
    assert header.training == {"data": "ethanol", "epochs": 3}


def test_the_file_is_safetensors_with_a_header_in_json(potential: Potential, path: Path) -> None:
    save_potential(potential, path)
    assert set(load_file(path)) == set(potential.state_dict())
    size = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    assert json.loads(metadata["equinet"])["kind"] == "potential"


def test_the_package_offers_both_by_short_names(potential: Potential, path: Path) -> None:
    equinet.save(potential, path)
    assert equinet.load(path).elements == (1, 6, 8)
    assert isinstance(equinet.load(path), equinet.Potential)
    with pytest.raises(AttributeError, match="module 'equinet' has no attribute 'laod'"):
        equinet.laod  # noqa: B018


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.eqn"):
        load_potential(tmp_path / "nothing.eqn")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_potential(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(potential: Potential, path: Path, keep: float) -> None:
    save_potential(potential, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=f"cut short while being copied; it has {int(keep * len(whole))} bytes"):
        load_potential(path)


@pytest.mark.parametrize("content", [b"\x80\x02 a bare pickle", b"just some words, long enough to hold a length"])
def test_a_file_of_another_kind_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match="It is not an equinet file"):
        load_potential(path)


def test_safetensors_of_another_program_are_refused(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is a safetensors file, but equinet did not write it"):
        load_potential(path)
    save_file({"weight": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="equinet did not write it"):
        load_potential(path)


def test_something_else_of_ours_is_refused(path: Path) -> None:
    save_tensors(path, {"step": torch.zeros(1)}, {"kind": "training state", "format": 1})
    with pytest.raises(ValueError, match="holds a training state, not a potential"):
        load_potential(path)


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> None:
    old, header = read_tensors(path)
    save_tensors(path, old if tensors is None else tensors, {**header, **changes})


def test_a_newer_format_is_refused(potential: Potential, path: Path) -> None:
    save_potential(potential, path)
    rewrite(path, format=FORMAT + 1)
    message = f"has format {FORMAT + 1}, this equinet reads up to {FORMAT}; upgrade equinet"
    with pytest.raises(ValueError, match=message):
        load_potential(path)


def write_as_before(path: Path, potential: Potential, version: int, *, residual_first: bool, density: bool) -> None:
    """What format 1 and 2 were: two switches for the interactions, nothing about what came later, weights by degree in 1."""
    save_potential(potential, path)
    tensors, header = read_tensors(path)
    known = [
        "channels",
        "max_l",
        "sh_degree",
        "correlation",
        "layers",
        "cutoff",
        "convolution",
        "many_body",
        "pseudotensors",
        "bessel_functions",
        "envelope_power",
        "radial_hidden",
        "readout_hidden",
        "exact_isolated_atoms",
    ]
    model = {key: header["model"][key] for key in known}
    model |= {"residual_first": residual_first, "density_normalization": density}
    if version == 1:
        del model["pseudotensors"]
        tensors = {re.sub(r"(linear.*\.\d)[oe]$", r"\1", name): tensor for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"equinet": json.dumps({**header, "format": version, "model": model})})


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("residual_first", "density", "kinds"),
    [
        (False, False, ("plain", "residual")),
        (True, False, ("residual", "residual")),
        (False, True, ("density", "density_residual")),
        (True, True, ("density_residual", "density_residual")),
    ],
)
def test_files_of_older_formats_give_the_same_function(
    make_potential: Callable[..., Potential],
    path: Path,
    triclinic: Atoms,
    version: int,
    residual_first: bool,
    density: bool,
    kinds: tuple[str, str],
) -> None:
    potential = make_potential(first_interaction=kinds[0], interaction=kinds[1], max_l=2)
    write_as_before(path, potential, version, residual_first=residual_first, density=density)
    with pytest.warns(UncheckedFile, match=r"model\.eqn was written before files had checksums"):
        loaded = load_potential(path)
    assert loaded.model.config == potential.model.config
    graph = from_atoms(triclinic, potential.cutoff)
    before, after = potential(graph, stress=True), loaded(graph, stress=True)
    for name in before:
        assert torch.equal(before[name], after[name])


def test_switches_of_older_formats_are_refused_in_a_new_one(potential: Potential, path: Path) -> None:
    save_potential(potential, path)
    rewrite(path, model={**potential.model.config.model_dump(mode="json"), "residual_first": True})
    with pytest.raises(ValueError, match="residual_first"):
        load_potential(path)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_are_refused(potential: Potential, path: Path, change: str) -> None:
    save_potential(potential, path)
    tensors, _ = read_tensors(path)
    if change == "missing":
        del tensors["model.embedding"]
    elif change == "extra":
        tensors["model.surprise"] = torch.zeros(1)
    else:
        tensors["model.embedding"] = torch.zeros(3, 9)
    rewrite(path, tensors)
    names = {"missing": "model.embedding", "extra": "model.surprise", "shape": "model.embedding"}
    with pytest.raises(ValueError, match=f"do not fit the architecture it states: [^$]*{re.escape(names[change])}"):
        load_potential(path)


def test_an_architecture_this_version_does_not_know_is_refused(potential: Potential, path: Path) -> None:
    save_potential(potential, path)
    config = potential.model.config.model_dump(mode="json")
    rewrite(path, model={**config, "many_body": "quantum"})
    with pytest.raises(ValueError, match="there is no tensor product called 'quantum'"):
        load_potential(path)
    rewrite(path, model={**config, "flux": 1})
    with pytest.raises(ValueError, match="flux"):
        load_potential(path)


@pytest.mark.parametrize("moment", ["write", "replace", "serialise"])
def test_a_failed_save_leaves_the_old_file_whole(
    potential: Potential, path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    save_potential(potential, path)
    before = path.read_bytes()
    with torch.no_grad():
        potential.model.embedding.mul_(2)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    if moment == "write":
        monkeypatch.setattr(os, "fsync", fail)
    elif moment == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(tensorfile, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_potential(potential, path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    save_potential(potential, path)  # and the remains of the failure are not in the way
    assert torch.equal(load_potential(path).model.embedding, potential.model.embedding)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_training_notes_that_are_not_json_are_refused_before_anything_is_written(
    potential: Potential, path: Path
) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_potential(potential, path, training={"model": potential})
    assert not path.exists()


def test_a_file_of_torch_is_sent_to_the_converter(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "some.model")
    with pytest.raises(ValueError, match=r"`equinet convert-mace .*some\.model OUT\.eqn`"):
        load_potential(tmp_path / "some.model")


def test_no_flipped_bit_goes_unnoticed(potential: Potential, path: Path) -> None:
    save_potential(potential, path)
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    for place in [*draw.integers(8 * len(whole), size=150), *range(0, 64, 5)]:
        content = bytearray(whole)
        content[place // 8] ^= 1 << (place % 8)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.eqn"):
            load_potential(path)
    path.write_bytes(whole)
    assert torch.equal(load_potential(path).model.embedding, potential.model.embedding)


def test_a_checksum_that_was_taken_out_is_missed(potential: Potential, path: Path) -> None:
    save_potential(potential, path)
    tensors, _ = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match="is damaged: its content is not that of its checksum"):
        load_potential(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_the_checksum_sees_names_shapes_dtypes_and_bytes(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).to(dtype)
    found = {
        checksum(tensors, header)
        for tensors in (
            {"a": tensor},
            {"b": tensor},
            {"a": tensor.view(2, 3)},
            {"a": tensor.flip(0)},
            {},
            {"a": tensor[0]},
        )
        for header in ("{}", '{"c": 1}')
    }
    assert len(found) == 12
    assert checksum({"a": tensor, "b": tensor[:0]}, "{}") == checksum({"b": tensor[:0], "a": tensor.clone()}, "{}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    potential: Potential, path: Path, value: float
) -> None:
    save_potential(potential, path)
    tensors, header = read_tensors(path)
    tensors["model.embedding"][0, 0] = value
    save_tensors(path, tensors, header)
    with pytest.raises(ValueError, match=r"model\.eqn holds numbers that are not finite, in `model\.embedding`"):
        load_potential(path)
    with torch.no_grad():
        potential.model.embedding[0, 0] = value
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"the potential holds numbers that are not finite, in `model\.embedding`"):
        save_potential(potential, path)
    assert path.read_bytes() == before


DAMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "no format": ({"format": ...}, "`format`: Field required"),
    "format is text": ({"format": "5"}, "`format`"),
    "format is true": ({"format": True}, "`format`"),
    "format is 0": ({"format": 0}, "`format`"),
    "no elements": ({"elements": ...}, "`elements`: Field required"),
    "elements empty": ({"elements": []}, "`elements`"),
    "elements are numbers": ({"elements": [1, 6, 8]}, r"`elements\.0`"),
    "elements unknown": ({"elements": ["H", "C", "Qq"]}, "`elements`: Qq is no element"),
    "elements twice": ({"elements": ["H", "C", "C"]}, "`elements`: elements must be distinct"),
    "placeholder": ({"elements": ["X", "C", "O"]}, "`elements`: X is no element"),
    "model is a list": ({"model": [1]}, "`model`"),
    "no neighbours": ({"avg_num_neighbors": 0.0}, "`avg_num_neighbors`"),
    "NaN neighbours": ({"avg_num_neighbors": float("nan")}, "`avg_num_neighbors`"),
    "gate is a number": ({"exact_isolated_atoms": 1}, "`exact_isolated_atoms`"),
    "dtype is a function": ({"dtype": "load"}, "`dtype`"),
    "dtype is half": ({"dtype": "float16"}, "`dtype`"),
    "origin is text": ({"origin": "MP"}, "`origin`"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_header_is_one_error_that_names_the_file(potential: Potential, path: Path, damage: str) -> None:
    save_potential(potential, path)
    tensors, header = read_tensors(path)
    changes, words = DAMAGES[damage]
    changed = {key: value for key, value in {**header, **changes}.items() if value is not ...}
    save_tensors(path, tensors, changed)
    for read in (load_potential, read_header):
        with pytest.raises(ValueError, match=rf"model\.eqn is damaged: in its header {words}"):
            read(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "its header is no JSON (nested too deeply)"),
        ("{", "its header is no JSON"),
        ("[]", "its header is no table of keys"),
        ("12", "its header is no table of keys"),
        ('{"kind": "potential", "format": 1' + "0" * 5000 + "}", "its header is no JSON"),
    ],
)
def test_a_header_that_is_no_table_is_one_error_that_names_the_file(path: Path, text: str, words: str) -> None:
    save_file({"a": torch.ones(1)}, path, metadata={"equinet": text})
    with pytest.raises(ValueError, match=re.escape(f"model.eqn is damaged: {words}")):
        load_potential(path)


@pytest.mark.parametrize(
    "change", [{"channels": 1024, "max_l": 3, "layers": 4}, {"radial_hidden": [1024] * 8, "layers": 8}]
)
def test_a_model_far_larger_than_its_file_is_refused_before_it_is_built(
    potential: Potential, path: Path, change: dict[str, Any]
) -> None:
    save_potential(potential, path)
    rewrite(path, model={**potential.model.config.model_dump(mode="json"), **change})
    with pytest.raises(
        ValueError, match=r"model\.eqn do not fit the architecture it states: its arrays take more than 0\.\d+ GB"
    ):
        load_potential(path)


def test_the_limit_of_allocations_counts_what_is_made_from_nothing() -> None:
    with AllocationLimit(10_000):
        kept = [torch.zeros(100), torch.randn(100, dtype=torch.float64), torch.ones(0)]
        for _ in range(100):
            kept[0] + 1  # what is computed from arrays does not count
        with pytest.raises(MemoryError, match="far more than the weights"):
            torch.empty(10**15)
    torch.empty(10_000)


def test_a_precision_is_named_by_text_or_by_torch(potential: Potential, path: Path) -> None:
    save_potential(potential, path)
    for dtype in ("float32", torch.float32):
        assert load_potential(path, dtype=dtype).dtype == torch.float32
    for dtype in ("half", torch.float16, "float", 32):
        with pytest.raises(ValueError, match="`dtype` must be one of float32, float64, got"):
            load_potential(path, dtype=dtype)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weights in float32 or float64, and the potential is in bfloat16"):
        save_potential(potential.bfloat16(), path)


def test_a_model_may_be_loaded_whatever_the_mode_and_the_default_device(
    potential: Potential, path: Path, triclinic: Atoms
) -> None:
    save_potential(potential, path)
    expected = potential(triclinic).forces
    with torch.inference_mode():
        loaded = load_potential(path)
        assert torch.equal(loaded(triclinic).forces, expected)
    loaded.train()(triclinic).forces.square().sum().backward()  # no weight is a tensor of that mode
    with torch.device("meta"):
        there = load_potential(path)
    assert torch.equal(there(triclinic).forces, expected)


def test_a_long_value_in_a_header_is_quoted_in_part(potential: Potential, path: Path) -> None:
    save_potential(potential, path)
    deep: list[Any] = []
    for _ in range(800):
        deep = [deep]
    _, header = read_tensors(path)
    model = header["model"]
    for changes in (
        {"format": deep},
        {"dtype": "a" * 10_000},
        {"kind": "a" * 10_000},
        {"elements": ["\x1b[31m" * 2000]},
        {"model": {**model, "architecture": "a" * 10_000}},
        {"model": {**model, "many_body": {"method": "a" * 10_000}}},
        {"model": {**model, "many_body": {"method": "gaunt_grid", "a" * 10_000: 1}}},
        {"model": {**model, "many_body": {"method": "gaunt_grid", "copies": "a" * 10_000}}},
        {"model": {**model, "a" * 10_000: 1}},
        {"model": {**model, "channels": {"a": deep}}},
    ):
        save_potential(potential, path)
        rewrite(path, **changes)
        with pytest.raises(ValueError, match=r"model\.eqn") as caught:
            load_potential(path)
        assert len(str(caught.value)) < 1000, changes.keys()
        assert str(caught.value).isprintable(), changes.keys()


MISFITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: [t.pop(name) for name in list(t)[1:]], r"\d+ missing, first `[a-z_.0-9]+`$"),
    "unexpected": (
        lambda t: t.update({"a" * 10_000 + str(n): torch.ones(1) for n in range(300)}),
        r"300 unexpected, first `a{39}\.\.\.a*\d+`$",
    ),
    "shape": (
        lambda t: t.update({"model.embedding": t["model.embedding"].T.contiguous()}),
        r"1 of another shape, first `model.embedding` with \(8, 3\) instead of \(3, 8\)$",
    ),
    "int": (
        lambda t: t.update({"model.embedding": t["model.embedding"].int()}),
        "1 of another type, first `model.embedding` in int32 instead of float64$",
    ),
    "bool": (
        lambda t: t.update({"scale.shift": t["scale.shift"].bool()}),
        "1 of another type, first `scale.shift` in bool instead of float64$",
    ),
    "complex": (
        lambda t: t.update({"model.embedding": t["model.embedding"].to(torch.complex64)}),
        "1 of another type, first `model.embedding` in complex64 instead of float64$",
    ),
    "half": (
        lambda t: t.update({"model.embedding": t["model.embedding"].half()}),
        "1 of another type, first `model.embedding` in float16 instead of float64$",
    ),
    "single": (
        lambda t: t.update({"scale.reference": t["scale.reference"].float()}),
        "1 of another type, first `scale.reference` in float32 instead of float64$",
    ),
    "several": (
        lambda t: t.update({"x": t.pop("model.embedding"), "y": torch.ones(1)}),
        "1 missing, first `model.embedding`; 2 unexpected, first `x`$",
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_weights_of_another_model_are_told_in_one_sentence(potential: Potential, path: Path, what: str) -> None:
    change, words = MISFITS[what]
    save_potential(potential, path)
    tensors, _ = read_tensors(path)
    change(tensors)
    rewrite(path, tensors)
    with pytest.raises(ValueError, match=rf"model\.eqn do not fit the architecture it states: {words}") as caught:
        load_potential(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("model.embedding", 3e38, r"holds numbers beyond 1e\+09, in `model\.embedding`"),
        (
            "scale.reference",
            1e8,
            r"numbers in `scale` with which nothing can be computed: `reference` is beyond 1e\+07 eV",
        ),
        ("scale.scale", -1e8, "numbers in `scale` with which nothing can be computed: `scale` is beyond"),
        ("scale.shift", 1e8, "numbers in `scale` with which nothing can be computed: `shift` is beyond"),
        (
            "model.interactions.0.normalization",
            0.0,
            r"`model\.interactions\.0` .*: `normalization` must be from .*, and is 0$",
        ),
        ("model.interactions.1.normalization", 1e-300, r"`model\.interactions\.1` .*: `normalization` must be from"),
        ("model.interactions.1.normalization", -1.0, r"`model\.interactions\.1` .*: `normalization` must be from"),
    ],
)
def test_numbers_with_which_nothing_can_be_computed_are_neither_loaded_nor_saved(
    potential: Potential, path: Path, name: str, number: float, words: str
) -> None:
    save_potential(potential, path)
    tensors, header = read_tensors(path)
    tensors[name].fill_(number)
    save_tensors(path, tensors, header)
    with pytest.raises(ValueError, match=rf"model\.eqn .*{words}"):
        load_potential(path)
    with torch.no_grad():
        potential.state_dict()[name].fill_(number)
    with pytest.raises(ValueError, match=f"the potential .*{words}"):
        save_potential(potential, path)


def test_a_potential_in_two_precisions_is_not_saved(potential: Potential, path: Path) -> None:
    potential.model.interactions[1].float()
    with pytest.raises(
        ValueError, match=r"this one is in float64 but for `model\.interactions\.1\..*`; convert all of it"
    ):
        save_potential(potential, path)
    assert not path.exists()
