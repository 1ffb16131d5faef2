"""Potentials re-expressed in other tensor products: exact where that can be, refused or measured where not."""

from __future__ import annotations

import io
import itertools
import json

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from equinet.checkpoint import load_potential, read_header, save_potential
from equinet.cli import app
from equinet.convert.products import EXACT, convert, measure_change
from equinet.graph import collate, from_atoms
from equinet.ops import ManyBodySpec, SpeciesGroups
from equinet.ops.analysis.refit import Basis, coefficients, product_error, random_features, weights_for
from equinet.ops.methods.bracket import Bracket
from equinet.ops.methods.clebsch_gordan import ClebschGordan
from equinet.ops.methods.cp import CPDecomposed
from equinet.ops.methods.gaunt import GauntFourier, GauntGrid
from equinet.ops.methods.matrix import MatrixProduct
from equinet.ops.methods.so2 import SO2

CG = ClebschGordan()


@pytest.fixture
def results(ethanol, triclinic):
    """A function: energies and forces of a potential on two structures."""

    def compute(potential):
        out = potential(collate([from_atoms(atoms, potential.cutoff) for atoms in (ethanol, triclinic)]))
        return torch.cat([out["energy"], out["forces"].double().flatten()])

    return compute


def agree(first, second, tolerance=1e-9):
    return float((first - second).abs().max()) <= tolerance * float(second.abs().max().clamp(min=1))


# The many-body product by itself


def product(features, out, correlation, method, channels=4, species=2):
    spec = ManyBodySpec(*(irreps.replace("x", f"{channels}x") for irreps in (features, out)), correlation, species)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        executor = method.many_body(spec).double()
        return executor, executor.initial_weight().double()


def change(first, second):
    """Relative change of the values of one executor with weights and another, at random features."""
    (a, w), (b, v) = first, second
    spec = a.spec
    x = random_features(11, 200, spec.irreps_in.dim // spec.channels, spec.channels)
    groups = SpeciesGroups(torch.arange(200) % spec.species)
    old, new = a(x, w, groups), b(x, v, groups)
    return float((new - old).norm() / old.norm())


L2, L3 = "x0e+x1o+x2e", "x0e+x1o+x2e+x3o"


@pytest.mark.parametrize(
    ("features", "out", "method"),
    [
        (L3, "x0e+x1o", GauntGrid()),
        (L2, "x0e+x1o", GauntFourier(copies=2)),
        (L2, "x0e+x1o", MatrixProduct()),
        ("x0e+x1o+x1e", "x0e+x1o+x1e", GauntGrid(bracket=True)),
        ("x0e+x1o", "x0e+x1o", CPDecomposed(rank=6)),
        (L2, "x0e", GauntGrid(backend="reference")),
    ],
    ids=str,
)
def test_exact_couplings_have_every_product_and_it_comes_back(features, out, method):
    executor, weight = source = product(features, out, 3, method)
    found, missed = coefficients(executor, weight)
    assert missed < 1e-12
    assert change(source, (product(features, out, 3, CG)[0], found)) < 1e-11
    assert change(source, (executor, weights_for(executor, found))) < EXACT


def test_coefficients_of_exact_couplings_are_their_weights_also_if_found_by_values():
    executor, weight = product(L2, "x0e+x1o", 3, CG)
    assert torch.equal(coefficients(executor, weight)[0], weight)

    class Hidden:
        spec = executor.spec

        def __call__(self, *inputs):
            return executor(*inputs)

    torch.testing.assert_close(coefficients(Hidden(), weight)[0], weight, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="no way to find weights for a Hidden; train it anew"):
        weights_for(Hidden(), weight)


def test_the_metric_is_the_mean_square_for_features_of_unit_variance():
    executor, weight = product(L2, "x0e+x1o", 3, CG, channels=1, species=1)
    basis = Basis(executor.spec)
    x = random_features(1, 200_000, basis.dim, 1)
    values = executor(x, weight, SpeciesGroups(torch.zeros(len(x), dtype=torch.int64)))
    for columns, rows, r in zip(basis.outputs, values.split([1, 3], dim=1), basis.metric()):
        assert float((r @ weight[0, columns]).square().sum()) == pytest.approx(
            float(rows.square().sum() / len(x)), rel=0.03
        )


def test_couplings_are_named_by_the_irreps_they_multiply():
    spec = ManyBodySpec("1x0e+1x1o+1x1e", "1x0e", 3, 1)
    labels = [factors for _, factors in Basis(spec).labels]
    assert labels.count("1o ⊗ 1o") == labels.count("1e ⊗ 1e") == labels.count("0e ⊗ 1e ⊗ 1e") == 1
    assert "1o ⊗ 1e" not in labels


@pytest.mark.parametrize("features", ["x0e+x1o", L2])
def test_scalars_become_exact_with_copies_enough(features):
    executor, weight = source = product(features, "x0e", 3, CG, channels=2)
    errors = []
    for copies in (1, 2, 4):
        target = GauntGrid(copies=copies).many_body(executor.spec).double()
        errors.append(change(source, (target, weights_for(target, weight))))
    assert errors[0] > errors[1]
    assert errors[0] > 0.1
    assert errors[2] < EXACT


def test_vectors_come_nearer_with_copies_and_never_all_the_way():
    executor, weight = product(L2, "x0e+x1o", 3, CG, channels=2, species=1)
    errors = []
    for copies in (1, 2, 4):
        target = GauntGrid(copies=copies).many_body(executor.spec).double()
        found, _ = coefficients(target, weights_for(target, weight))
        errors.append(product_error(executor.spec, weight, found))
    assert all(more < fewer for fewer, more in itertools.pairwise(errors))
    assert 0.05 < errors[-1] < 0.9 * errors[0]


def test_a_fit_is_as_good_as_its_gradient_says():
    """At the weights found, no small change of any weight makes the product better."""
    executor, weight = product("x0e+x1o", "x0e+x1o", 3, CG, channels=2, species=1)
    target = GauntGrid().many_body(executor.spec).double()
    found = weights_for(target, weight)
    best = product_error(executor.spec, weight, coefficients(target, found)[0])
    for seed in range(20):
        nudged = found * (1 + 1e-2 * random_features(seed, *found.shape))
        assert product_error(executor.spec, weight, coefficients(target, nudged)[0]) > best - 1e-5


def test_fits_are_repeatable_and_follow_the_seed():
    executor, weight = product("x0e+x1o", "x0e+x1o", 3, CG)
    target = GauntGrid().many_body(executor.spec).double()
    first, again, other = (weights_for(target, weight, seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first, other, rtol=1e-3, atol=1e-3)


def test_a_channel_without_weights_stays_without():
    executor, weight = product(L2, "x0e", 3, CG)
    weight[0, :, 1] = 0
    target = GauntGrid().many_body(executor.spec).double()
    found = coefficients(target, weights_for(target, weight))[0]
    assert found.isfinite().all()
    assert not found[0, :, 1].any()


# Potentials: the many-body product


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        (GauntGrid(), {"correlation": 3}),
        (GauntGrid(copies=2), {"max_l": 2, "sh_degree": 3}),
        (MatrixProduct(), {"correlation": 3}),
        (CPDecomposed(rank=24), {}),
        (GauntGrid(bracket=True), {"pseudotensors": True, "correlation": 3}),
    ],
    ids=str,
)
def test_any_product_becomes_exact_couplings(make_potential, results, method, overrides):
    old = make_potential(many_body=method, **overrides)
    before = {name: value.clone() for name, value in old.state_dict().items()}
    new, report = convert(old, many_body=CG)
    assert agree(results(new), results(old))
    assert report.exact
    assert "exact" in report.sentence()
    assert new.model.config == old.model.config.model_copy(update={"many_body": CG})
    assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())
    assert not new.training


def test_exact_couplings_of_scalars_become_gaunt(make_potential, results):
    old = make_potential(max_l=0, correlation=3, channels=4)
    new, report = convert(old, many_body=GauntGrid(copies=4))
    assert report.exact
    assert agree(results(new), results(old), 1e-7)


def test_a_product_that_is_one_comes_back(make_potential, results):
    old = make_potential(many_body=GauntGrid(), channels=4)
    there, _ = convert(old, many_body=CG)
    back, report = convert(there, many_body=GauntGrid())
    assert report.exact
    assert agree(results(back), results(old), 1e-7)


@pytest.mark.parametrize(
    "pair", [(GauntGrid(copies=2), GauntFourier(copies=2)), (CG, ClebschGordan(backend="reference"))]
)
def test_another_way_to_the_same_product_keeps_every_bit(make_potential, results, pair):
    old = make_potential(many_body=pair[0])
    new, report = convert(old, many_body=pair[1])
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items())
    assert report.exact
    assert report.couplings == ()
    assert agree(results(new), results(old), 1e-10)


def test_the_residual_of_a_truncated_decomposition_is_told(make_potential):
    old = make_potential(many_body=CPDecomposed(rank=5), sh_degree=1)
    new, report = convert(old, many_body=CG)
    assert not report.exact
    assert all(product.relative >= product.not_equivariant[0] > 0.01 for product in report.products)
    assert all(product.not_equivariant[1] < 1e-12 for product in report.products)
    assert "approximate" in report.sentence()
    assert measure_change(old, new).forces_rms_mev_per_ang > 0.1


def test_an_approximate_conversion_says_where_it_errs(make_potential):
    old = make_potential(correlation=3, channels=2)
    report = convert(old, many_body=GauntGrid())[1]
    assert not report.exact
    assert {c.layer for c in report.couplings} == {1, 2}
    worst = max(report.couplings, key=lambda c: c.share)
    printed = printed_table(report.table())
    assert f"{worst.factors} -> {worst.output}" in printed
    assert f"{worst.share:.1e}" in printed
    assert "train on" in report.sentence()
    record = json.loads(json.dumps(report.as_json()))
    assert record["many_body"] == ["cg", "gaunt_grid"]
    assert record["exact"] is False
    assert len(record["couplings"]) == len(report.couplings)


def printed_table(table):
    file = io.StringIO()
    Console(width=160, file=file).print(table)
    return file.getvalue()


def test_what_a_method_cannot_do_is_refused_in_its_words(make_potential):
    with pytest.raises(ValueError, match="features multiplied with themselves have none"):
        convert(make_potential(), many_body=SO2())
    with pytest.raises(ValueError, match=r"none of its products|vanish"):
        convert(make_potential(), many_body=Bracket())
    with pytest.raises(ValueError, match="there is nothing to convert"):
        convert(make_potential())


def test_a_product_that_reaches_other_pseudotensors_is_refused(make_potential):
    old = make_potential(pseudotensors=True, correlation=3)
    with pytest.raises(ValueError, match="reach different pseudotensors"):
        convert(old, many_body=GauntGrid())


# Potentials: the convolution


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SO2(), CG),
        (GauntGrid(), CG),
        (GauntGrid(weights="shared"), CG),
        (MatrixProduct(), CG),
        (CPDecomposed(rank=24), CG),
        (GauntGrid(), SO2()),
        (GauntGrid(weights="shared"), GauntGrid()),
    ],
    ids=str,
)
@pytest.mark.parametrize("max_l", [1, 2])
def test_convolutions_with_linear_path_weights_are_exact(make_potential, results, before, after, max_l):
    old = make_potential(convolution=before, max_l=max_l)
    new, report = convert(old, convolution=after)
    assert report.convolutions == ("exact", "exact")
    assert report.exact
    assert agree(results(new), results(old))


def test_bracket_and_pointwise_product_side_by_side_are_exact(make_potential, results):
    method = GauntGrid(bracket=True)
    old = make_potential(convolution=method, many_body=method, pseudotensors=True, correlation=3)
    new, report = convert(old, convolution=CG, many_body=CG)
    assert report.exact
    assert agree(results(new), results(old))


def test_gaunt_convolutions_keep_every_bit(make_potential, results):
    old = make_potential(convolution=GauntGrid(copies=2, weights="degrees"))
    new, report = convert(old, convolution=GauntFourier(copies=2, weights="degrees"))
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items())
    assert report.convolutions == ("as it was", "as it was")
    assert agree(results(new), results(old), 1e-10)


def test_scalar_features_need_no_map(make_potential, results):
    old = make_potential(max_l=0)
    new, _ = convert(old, convolution=GauntGrid())
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items())
    assert agree(results(new), results(old), 1e-12)
    assert agree(results(convert(old, convolution=SO2())[0]), results(old))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (CG, GauntGrid(), "layer 2 .* keep each path apart, with a mixing matrix of its own.*train anew"),
        (CG, SO2(), "keep each path apart"),
        (
            GauntGrid(weights="degrees"),
            CG,
            "products of functions of the distance.*Convert the many-body product alone",
        ),
        (GauntGrid(copies=2), CG, "sum of several copies, each with a mixing matrix"),
        (GauntGrid(), GauntGrid(copies=2), "the new product is a sum of several copies"),
        (GauntGrid(), GauntGrid(weights="shared"), "other strengths"),
        (GauntGrid(), MatrixProduct(), "other strengths"),
        (CPDecomposed(rank=8), CG, "factors are approximate"),
    ],
    ids=str,
)
def test_what_has_no_map_is_refused_with_a_remedy(make_potential, before, after, message):
    with pytest.raises(ValueError, match=message):
        convert(make_potential(convolution=before), convolution=after)


# Files and figures


def test_precision_and_files(make_potential, results, tmp_path):
    old = make_potential(many_body=GauntGrid()).float()
    new, report = convert(old, many_body=CG)
    assert report.exact
    assert new.dtype == torch.float32
    save_potential(new, tmp_path / "new.eqn")
    loaded = load_potential(tmp_path / "new.eqn")
    assert loaded.dtype == torch.float32
    assert torch.equal(results(loaded), results(new))
    assert loaded.model.config.many_body == CG
    assert agree(results(loaded), results(old), 1e-5)


def test_decompositions_survive_a_file(make_potential, results, tmp_path):
    new, _ = convert(make_potential(channels=2), many_body=CPDecomposed(rank=16))
    save_potential(new, tmp_path / "new.eqn")
    assert torch.equal(results(load_potential(tmp_path / "new.eqn")), results(new))


def test_the_change_is_that_of_energies_and_forces(make_potential, ethanol, triclinic):
    old = make_potential()
    new = make_potential()
    with torch.no_grad():
        new.model.embedding *= 1.01
    found = measure_change(old, new, [ethanol, triclinic])
    assert 0 < found.energy_rms_mev_per_atom <= found.energy_max_mev_per_atom
    graphs = [from_atoms(atoms, old.cutoff) for atoms in (ethanol, triclinic)]
    energies = [1e3 * float(new(g)["energy"] - old(g)["energy"]) / g.num_nodes for g in graphs]
    assert found.energy_max_mev_per_atom == pytest.approx(max(map(abs, energies)), rel=1e-9)
    forces = torch.cat([1e3 * (new(g)["forces"] - old(g)["forces"]) for g in graphs])
    assert found.forces_rms_mev_per_ang == pytest.approx(float(forces.square().mean().sqrt()), rel=1e-9)
    assert found.forces_max_mev_per_ang == pytest.approx(float(forces.abs().max()), rel=1e-9)
    assert measure_change(old, old).forces_max_mev_per_ang == 0
    with pytest.raises(ValueError, match="there is no frame"):
        measure_change(old, new, [])


@pytest.fixture
def call(monkeypatch):
    import equinet.cli

    for console in (equinet.cli.console, equinet.cli.errors_to):
        monkeypatch.setattr(console, "_width", 200)
    return lambda *arguments: CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["convert", *map(str, arguments)])


def test_the_command_converts_and_tells(make_potential, ethanol, call, tmp_path):
    import ase.io

    ase.io.write(tmp_path / "frames.xyz", [ethanol])
    save_potential(make_potential(channels=2, correlation=3), tmp_path / "old.eqn", training={"errors": 1})
    out, record = tmp_path / "new.eqn", tmp_path / "new.json"
    options = ["--many-body", "gaunt_grid", "--copies", 2, "--data", tmp_path / "frames.xyz", "--json", record]
    result = call(tmp_path / "old.eqn", *options, "--out", out)
    assert result.exit_code == 0, result.output
    assert "meV/atom" in result.output
    assert "approximate" in result.output
    assert load_potential(out).model.config.many_body == GauntGrid(copies=2)
    written = json.loads(record.read_text())
    assert written["change"]["frames"] == 1
    assert written["many_body"][1] == {"method": "gaunt_grid", "copies": 2}
    training = read_header(out).training
    assert training["converted_from"] == {"file": "old.eqn", "training": {"errors": 1}}
    again = call(tmp_path / "old.eqn", "--many-body", "cg", "--out", out)
    assert again.exit_code == 1
    assert "new.eqn is there already" in again.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is nothing to convert"),
        (["--many-body", "cp"], "needs --rank"),
        (["--many-body", "cg", "--rank", "3"], "has no argument --rank"),
        (["--copies", "3"], "belong to --many-body"),
        (["--many-body", "gant"], "there is no tensor product called"),
        (["--many-body", "so2"], "have none"),
        (["--convolution", "gaunt_grid"], "keep each path apart"),
    ],
)
def test_what_the_command_cannot_do_is_one_sentence(make_potential, call, tmp_path, options, message):
    save_potential(make_potential(channels=2), tmp_path / "old.eqn")
    result = call(tmp_path / "old.eqn", *options, "--out", tmp_path / "new.eqn")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert not (tmp_path / "new.eqn").exists()


def test_a_table_is_a_method_too(make_potential, call, tmp_path):
    save_potential(make_potential(channels=2), tmp_path / "old.eqn")
    table = '{ method = "gaunt_fourier" }'
    result = call(tmp_path / "old.eqn", "--many-body", table, "--copies", 2, "--out", tmp_path / "new.eqn")
    assert result.exit_code == 0, result.output
    assert load_potential(tmp_path / "new.eqn").model.config.many_body == GauntFourier(copies=2)
