"""Products of other people: registered or named by an entry point, found by configuration, explain, doctor, bench and model files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import preloaded
import pytest
import torch
from ase import Atoms
from rescaled_products import Rescaled

from equinet.bench.products.contenders import ours
from equinet.bench.products.problems import named_problem
from equinet.checkpoint import load_potential, save_potential
from equinet.graph import from_atoms
from equinet.ops import (
    METHODS,
    ClebschGordan,
    ManyBodySpec,
    TensorProductSpec,
    explain,
    method_from_config,
    method_to_config,
    register_method,
)
from equinet.ops.analysis import label, usual_methods
from equinet.ops.methods import plugins
from equinet.potential import Potential
from equinet.testing import TensorProductContract
from equinet.verify import installation

SPEC = TensorProductSpec("4x0e+4x1o", "0e+1o", "0e+1o")
MANY = ManyBodySpec("4x0e+4x1o", "4x0e+4x1o", 2, 2)
HERE = Path(__file__).resolve()


@pytest.fixture
def rescaled() -> Iterator[None]:
    register_method("rescaled", Rescaled)
    yield
    METHODS.pop("rescaled")


@dataclass(frozen=True)
class Needy(Rescaled):
    """One that needs an argument."""

    rank: int = field(kw_only=True)


# Registration


@pytest.mark.usefixtures("rescaled")
def test_a_registered_product_has_a_configuration() -> None:
    assert method_from_config("rescaled") == Rescaled()
    assert method_from_config({"method": "rescaled", "factor": 2.0}) == Rescaled(2.0)
    assert method_to_config(Rescaled()) == "rescaled"
    assert method_to_config(Rescaled(2.0)) == {"method": "rescaled", "factor": 2.0}
    method = Rescaled(3.0)
    assert method_from_config(method) is method
    assert label(method) == "rescaled:factor=3.0"
    with pytest.raises(ValueError, match="'rescaled' has no argument `factr`; did you mean `factor`"):
        method_from_config({"method": "rescaled", "factr": 2.0})
    with pytest.raises(
        ValueError, match=r"called 'rescale'; did you mean 'rescaled'\? Choose one of: cg, .*, rescaled$"
    ):
        method_from_config("rescale")
    register_method("rescaled", Rescaled)  # again, as where a module is imported anew


def test_a_product_without_a_name_is_told_how_to_get_one() -> None:
    with pytest.raises(
        ValueError, match=r"A class of your own needs one too: equinet\.ops\.register_method\(name, class\)"
    ):
        method_from_config(Rescaled())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rescaled_products\.Rescaled has no name .*: equinet\.ops\.register_method"):
        method_to_config(Rescaled())


def no_dataclass() -> type:
    return type("Plain", (), {})


def not_frozen() -> type:
    return dataclass(type("Soft", (), {}))


def incomplete() -> type:
    methods = {"supports": Rescaled.supports, "many_body": Rescaled.many_body}
    return dataclass(frozen=True)(type("Half", (), methods))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("cg", Rescaled, r"the name 'cg' is taken by equinet\.ops\.methods\.clebsch_gordan\.ClebschGordan; register .*Rescaled by "),
        ("exact", ClebschGordan, r"ClebschGordan is registered as 'cg' already, and a class has one name"),
        ("my product", Rescaled, "`name` must be letters, digits, - and _, as in my_product, got 'my product'"),
        ("plain", no_dataclass(), r"but .*Plain is not a dataclass: write @dataclass\(frozen=True\) above it"),
        ("soft", not_frozen(), r"but .*Soft is not frozen: write @dataclass\(frozen=True\)"),
        ("half", incomplete(), r"methods of equinet\.ops\.Method, but .*Half lacks `reached`, `convolution`$"),
        ("object", Rescaled(), r"but Rescaled\(factor=1\.0\) is not a class"),
    ],
)  # fmt: skip
def test_what_is_no_product_is_refused(name: str, kind: Any, message: str) -> None:
    before = dict(METHODS)
    with pytest.raises(ValueError, match=message):
        register_method(name, kind)
    assert before == METHODS


# Where it is found


@pytest.mark.usefixtures("rescaled")
def test_explain_and_the_benches_find_it() -> None:
    assert [type(method) for method in usual_methods(SPEC)].count(Rescaled) == 1
    found = explain(SPEC, "rescaled")
    assert (found.method, found.reached, found.executor) == ("rescaled", found.full, "Scaled")
    assert explain(MANY, "rescaled").expressivity == explain(MANY, "cg").expressivity
    problem = named_problem("conv", "mace-4x1", 5, 3, 2)
    names = [contender.name for contender in ours(problem, None, reference=False)]
    assert names.count("ours: rescaled") == 1
    (contender,) = ours(problem, [Rescaled(2.0)], reference=False)
    bound = contender.build(problem.spec, torch.float64, torch.device("cpu")).bind(problem)
    torch.testing.assert_close(bound.call(*bound.leaves), bound.expected(*bound.leaves))


def test_a_product_that_needs_arguments_is_listed_but_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "needy", Needy)
    assert not any(isinstance(method, Needy) for method in usual_methods(SPEC))
    assert [other[2] for other in installation.products_of_others()] == ["not tested: it needs `rank`"]
    with pytest.raises(ValueError, match="'needy' needs `rank`"):
        method_from_config("needy")
    assert method_from_config({"method": "needy", "rank": 3}) == Needy(rank=3)


@pytest.mark.usefixtures("rescaled")
def test_doctor_tests_it() -> None:
    assert ("rescaled", "rescaled_products.Rescaled", "ok") in installation.products_of_others()
    rows = [row for row in installation.self_test() if "rescaled" in row.product and row.device == "cpu"]
    assert [row.product for row in rows] == 2 * ["rescaled conv."] + 2 * ["rescaled many-body"]
    assert {(row.backend, row.executor) for row in rows} == {("-", "Scaled")}
    assert all(row.error < 1e-5 for row in rows)


def test_doctor_says_what_is_wrong_with_a_product_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Rescaled, spec: Any) -> Any:
        raise TypeError("half finished")

    monkeypatch.setitem(METHODS, "rescaled", Rescaled)
    monkeypatch.setattr(Rescaled, "convolution", fail)
    (row,) = [row for row in installation.self_test() if "rescaled" in row.product]
    assert row.kernel == "TypeError: half finished"
    assert not row.error < 1e9


@pytest.mark.usefixtures("rescaled")
def test_it_keeps_the_contract() -> None:
    TensorProductContract(Rescaled(), SPEC).check()
    TensorProductContract(Rescaled(), MANY).check()


@pytest.mark.usefixtures("rescaled")
def test_its_model_files_load_again(make_potential: Callable[..., Potential], triclinic: Atoms, tmp_path: Path) -> None:
    potential = make_potential(convolution=Rescaled(0.5), many_body="rescaled")
    save_potential(potential, tmp_path / "model.eqn")
    loaded = load_potential(tmp_path / "model.eqn")
    assert loaded.model.config.convolution == Rescaled(0.5)
    assert "Scaled" in repr(loaded)
    graph = from_atoms(triclinic, potential.cutoff)
    assert torch.equal(loaded(graph)["forces"], potential(graph)["forces"])


# Entry points


def distribution(folder: Path, name: str, entries: str) -> None:
    """Metadata of an installed package."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[equinet.tensor_products]\n{entries}\n")


def python(folder: Path, code: str, *arguments: str) -> str:
    """Output of a program that finds the distributions of a folder."""
    path = os.pathsep.join([str(folder), str(HERE.parent), str(HERE.parents[3])])
    done = preloaded.run([sys.executable, "-c", code, *arguments], env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout


FOUND = """
import sys
from equinet.ops import METHODS, method_from_config, method_to_config
assert "rescaled" not in METHODS and "rescaled_products" not in sys.modules
method_from_config("cg")
assert "rescaled_products" not in sys.modules  # only when its name is asked for
method = method_from_config({"method": "rescaled", "factor": 2.0})
print(method, method_to_config(method))
"""
OBJECT = """
from rescaled_products import Rescaled
from equinet.ops import method_from_config, method_to_config
print(method_to_config(method_from_config(Rescaled(2.0))))
"""
LOADED = """
import sys
from equinet.checkpoint import load_potential
print(load_potential(sys.argv[1]).model.config.convolution)
"""
# Without its test of every executor, which :func:`test_doctor_tests_it` runs.
DOCTOR = """
from equinet.cli import app
from equinet.verify import installation
installation.self_test = list
app(["doctor"], standalone_mode=False)
"""


def test_an_entry_point_is_loaded_when_its_name_is_asked_for(tmp_path: Path) -> None:
    distribution(tmp_path, "rescaled-products", "rescaled = rescaled_products:Rescaled")
    assert python(tmp_path, FOUND) == "Rescaled(factor=2.0) {'method': 'rescaled', 'factor': 2.0}\n"
    assert python(tmp_path, OBJECT) == "{'method': 'rescaled', 'factor': 2.0}\n"


@pytest.mark.usefixtures("rescaled")
def test_a_model_file_finds_its_product_by_the_entry_point(
    make_potential: Callable[..., Potential], tmp_path: Path
) -> None:
    save_potential(make_potential(convolution=Rescaled(0.5)), tmp_path / "model.eqn")
    distribution(tmp_path, "rescaled-products", "rescaled = rescaled_products:Rescaled")
    assert python(tmp_path, LOADED, str(tmp_path / "model.eqn")) == "Rescaled(factor=0.5)\n"


def test_a_broken_entry_point_is_named_when_it_is_asked_for_and_by_doctor(tmp_path: Path) -> None:
    (tmp_path / "torn.py").write_text("raise RuntimeError('no licence')")
    entries = (
        "rescaled = rescaled_products:Rescaled\ntorn = torn:Torn\ncg = rescaled_products:Rescaled\nempty = os:path"
    )
    distribution(tmp_path, "torn-products", entries)
    code = """
from equinet.ops import explain, method_from_config
method_from_config("cg"), method_from_config("rescaled")
for name in ("torn", "empty"):
    try:
        method_from_config(name)
    except ValueError as error:
        print(error)
"""
    torn, empty = python(tmp_path, code).splitlines()
    assert torn == (
        "the tensor product 'torn' (torn:Torn) of the distribution torn-products 1.0 cannot be loaded: RuntimeError: no licence"
    )
    assert "'empty' (os:path) of the distribution torn-products 1.0 cannot be loaded: `kind` must be a frozen" in empty
    shown = " ".join(python(tmp_path, DOCTOR.replace("app(", "import os; os.environ['COLUMNS'] = '400'; app(")).split())
    assert "tensor products and models of other packages" in shown
    assert "rescaled rescaled_products.Rescaled ok" in shown
    assert "torn-products 1.0 cannot be loaded: RuntimeError: no licence" in shown
    assert (
        "'cg' (rescaled_products:Rescaled) of the distribution torn-products 1.0 cannot be loaded: the name 'cg'"
        in shown
    )


def test_two_distributions_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        distribution(tmp_path, name, "double = rescaled_products:Rescaled")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugins.names() == ["double"]
    both = "the distribution first 1.0 and the distribution second 1.0; uninstall all but one of them"
    with pytest.raises(ValueError, match=f"the tensor product 'double' is in {both}"):
        method_from_config("double")
