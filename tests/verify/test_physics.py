"""What every potential must pass: sound ones do, and each property has a broken potential that it alone finds."""

from __future__ import annotations

import copy
import io
import itertools
import json

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from ase.geometry import get_distances
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from equinet.checkpoint import save_potential
from equinet.cli import app, console, errors_to
from equinet.cli.render import render
from equinet.datasets import SAMPLE, read_frames
from equinet.graph import from_atoms
from equinet.nn.prediction import Prediction
from equinet.ops.edges import sum_on_nodes
from equinet.potential import Potential
from equinet.verify.physics import NO_LABELS, PROPERTIES, check, own_structures


def failing(report):
    return {finding.property for finding in report.failures}


def printed(report):
    output = Console(width=200, record=True, file=io.StringIO())
    output.print(render(report.table()))
    return output.export_text()


# Sound potentials


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"layers": 1},
        {"max_l": 2, "sh_degree": 3, "correlation": 3},
        {"first_interaction": "density", "interaction": "density_residual", "exact_isolated_atoms": False},
        {"cutoff": 2.5, "bessel_functions": 4},
        {"first_interaction": "gated", "interaction": "gated", "envelope_on": "weights", "zbl": True},
    ],
    ids=str,
)
def test_a_sound_potential_holds_in_both_precisions(make_potential, config):
    report = check(make_potential(**config))
    assert report.failures == []
    assert report.missing == []
    margin = {"float32": 5, "float64": 100}
    for name, dtype in itertools.product(PROPERTIES, margin):
        found = report.worst(name, dtype)
        if found is not None:
            assert found.relative <= found.tolerance / (margin[dtype] if "=" not in name else 10), found


@pytest.mark.parametrize("structure", ["ethanol", "triclinic", "one_atom"])
def test_a_sound_potential_holds_on_one_structure_of_any_kind(potential, structure, request):
    assert check(potential, [request.getfixturevalue(structure)]).failures == []


def test_a_perfect_crystal_is_measured_by_what_forces_are_when_its_atoms_move(make_potential):
    crystal = bulk("C", "diamond", a=3.57)
    potential = make_potential()
    assert potential(from_atoms(crystal, potential.cutoff))["forces"].abs().max() < 1e-12
    report = check(potential, [crystal])
    assert report.failures == []
    assert report.scales["forces"] > 1e-2


def test_reference_energies_of_heavy_elements_are_no_error_of_the_model(make_potential):
    """All-electron energies of gold: their sum is a multiple of 1e-9 eV."""
    potential = make_potential()
    potential.scale.reference.fill_(-5.2e5)
    assert check(potential).failures == []


def test_a_potential_that_gives_nothing_holds_and_shows_that_it_gives_nothing(make_potential):
    potential = make_potential()
    potential.scale.scale.zero_()
    potential.scale.shift.zero_()
    report = check(potential)
    assert report.failures == []
    assert report.scales["forces"] < 1e-5


# Broken ones, and what finds them


class Changed(nn.Module):
    """The harmonics, changed afterwards."""

    def __init__(self, functions, change):
        super().__init__()
        self.functions, self.change = functions, change

    def forward(self, vectors):
        lengths, harmonics, *radial = self.functions(vectors)
        return lengths, self.change(harmonics), *radial


def first_of_each(graph):
    """The first atom of every structure."""
    return torch.tensor([int((graph.graph_of_node == n).nonzero()[0]) for n in range(graph.graph_count)])


def atoms_in_each(graph):
    return torch.bincount(graph.graph_of_node, minlength=graph.graph_count)


class Handed(Potential):
    def node_values(self, vectors, species, edges):
        receiver = edges.directed[1]
        each = torch.cat([vectors, -vectors]) if edges.mirrored else vectors
        lengths = each.norm(dim=1, keepdim=True)
        sums = [sum_on_nodes(torch.exp(-k * lengths) * each, receiver, edges.num_nodes) for k in (0.5, 1, 2)]
        handed = 1e-2 * torch.linalg.det(torch.stack(sums, dim=1))
        values = super().node_values(vectors, species, edges)
        return values._replace(energy=values.energy + handed.double())


class Changing(Potential):
    def forward(self, graph, *, stress=False):
        output = dict(super().forward(graph, stress=stress))
        self.change(output, graph)
        return Prediction(**output)


class Anchored(Changing):
    def change(self, output, graph):
        here = graph.positions
        output["energy"] = output["energy"] + 1e-3 * sum_on_nodes(
            here.square().sum(1), graph.graph_of_node, graph.graph_count
        )
        output["forces"] = output["forces"] - 2e-3 * here.to(output["forces"].dtype)


class Ordered(Changing):
    def change(self, output, graph):
        first = graph.atomic_numbers[first_of_each(graph)]
        output["energy"] = output["energy"] + 1e-3 * atoms_in_each(graph) * first


class Sociable(Changing):
    def change(self, output, graph):
        output["energy"] = output["energy"] + 1e-3 * atoms_in_each(graph) * (graph.graph_count - 1)


class Intensive(Changing):
    def change(self, output, graph):
        output["energy"] = output["energy"] + 1e-2


class Wasteful(Changing):
    def change(self, output, graph):
        output["forces"] = 1.00001 * output["forces"]


class Strained(Changing):
    def change(self, output, graph):
        if "stress" in output:
            output["stress"] = 1.001 * output["stress"]


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (Handed, {"inversion"}),
        (Ordered, {"permutation"}),
        (Sociable, {"batch mates"}),
        (Intensive, {"doubled cell"}),
        (Wasteful, {"F = -dE/dx"}),
        (Strained, {"σ = dE/dε/V"}),
        # An energy that depends on the distance from the origin must also break what compares different cells.
        (Anchored, {"translation", "doubled cell", "σ = dE/dε/V"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_property_finds_what_breaks_it(potential, broken, found):
    potential.__class__ = broken
    report = check(potential)
    assert failing(report) == found
    for name in found:
        assert PROPERTIES[name] in report.sentences()[-1]


def test_a_component_of_the_harmonics_that_is_a_thousandth_too_large_breaks_rotation_alone(potential):
    factor = torch.tensor([1, 1.001, *[1] * 7])
    potential.model.edge_functions = Changed(potential.model.edge_functions, lambda y: y * factor.to(y))
    report = check(potential)
    assert failing(report) == {"rotation"}
    assert {report.worst("rotation", dtype).relative > 3e-5 for dtype in ("float32", "float64")} == {True}


def test_an_approximation_is_told_with_its_number(potential):
    """An error of a potential whose products are approximate shows as it is, in both precisions and in eV/Å."""
    sizes = []
    for error in (1e-2, 1e-3):
        factor = 1 + error * torch.linspace(-1, 1, 9)
        changed = copy.deepcopy(potential)
        changed.model.edge_functions = Changed(
            potential.model.edge_functions, lambda y, factor=factor: y * factor.to(y)
        )
        sizes.append(check(changed).worst("rotation", "float64", "forces").absolute)
    assert sizes[0] == pytest.approx(10 * sizes[1], rel=0.2)


def test_a_potential_that_computes_in_float32_in_secret_is_found_in_float64(potential):
    potential.model.edge_functions = Changed(potential.model.edge_functions, lambda y: y.float().to(y.dtype))
    report = check(potential)
    assert "rotation" in failing(report)
    assert {finding.dtype for finding in report.failures} == {"float64"}


def test_a_defect_in_one_structure_of_many_is_found_and_the_structure_named(potential, ethanol, triclinic):
    potential.__class__ = Intensive
    report = check(potential, [ethanol, ethanol, triclinic, ethanol])
    assert failing(report) == {"doubled cell"}
    assert report.sentences()[0].startswith("doubled cell: worst in structure 2 (C2H2O2): energy off by 0.00")


# Structures


def test_own_structures_hold_every_element_and_keep_their_distance():
    elements, cutoff = tuple(range(1, 40)), 5.0
    made = own_structures(elements, cutoff)
    clusters = [atoms for atoms in made if "cluster" in atoms.info["equinet_source"]]
    assert {int(z) for atoms in clusters for z in atoms.numbers} == set(elements)
    assert sorted({tuple(atoms.pbc) for atoms in made}) == [(False,) * 3, (True, True, False), (True,) * 3]
    assert {len(atoms) for atoms in made} == {1, 2, 8}
    for atoms in made:
        distances = get_distances(atoms.positions, cell=atoms.cell, pbc=atoms.pbc)[1]
        np.fill_diagonal(distances, atoms.cell.lengths()[atoms.pbc].min(initial=np.inf))  # to the atom's own image
        radii = np.minimum(covalent_radii[atoms.numbers], cutoff / 4)
        assert (distances >= 0.9 * (radii[:, None] + radii)).all()


def test_own_structures_are_the_same_every_time_and_follow_the_seed():
    first, again, other = (own_structures((1, 6, 8), 5.0, seed) for seed in (0, 0, 1))
    assert all(a == b for a, b in zip(first, again))
    assert not any(a == b for a, b in zip(first, other))


def test_own_structures_have_neighbours_under_a_short_cutoff():
    for atoms in own_structures((55,), 2.0)[:4]:
        assert from_atoms(atoms, 2.0).edge_index.shape[1] > 0


def test_of_many_structures_some_are_taken_evenly(potential, ethanol):
    report = check(potential, [ethanol] * 9, max_structures=3)
    assert [name.split()[1] for name in report.structures] == ["0", "4", "8"]


def test_without_a_periodic_structure_two_properties_are_not_seen(potential, ethanol):
    report = check(potential, [ethanol])
    assert report.missing == ["doubled cell", "σ = dE/dε/V"]
    assert "not seen: doubled cell, σ = dE/dε/V; that needs a periodic structure" in report.sentences()[0]
    assert report.sentences()[-1] == "All 6 properties hold, in float32 and in float64."
    assert printed(report).count("not seen") == 2


def test_labels_are_ignored_even_wrong_ones(potential, ethanol, tmp_path):
    (tmp_path / "wrong.xyz").write_text('1\nProperties=species:S:1:pos:R:3 energy=nan pbc="F F F"\nC 0 0 0\n')
    ethanol.info["stress"] = "none"
    structures = [*read_frames(tmp_path / "wrong.xyz", NO_LABELS), ethanol]
    assert check(potential, structures).failures == []


# The report


def test_the_table_and_the_file_tell_the_same(potential):
    potential.__class__ = Wasteful
    report = check(potential)
    lines = [line for line in printed(report).splitlines() if "FAILS" in line or "holds" in line]
    assert [line.strip().startswith(name) for line, name in zip(lines, PROPERTIES)] == [True] * len(PROPERTIES)
    assert [name for name, line in zip(PROPERTIES, lines) if "FAILS" in line] == ["F = -dE/dx"]
    written = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert (written["holds"], written["fails"], written["not_seen"]) == (False, ["F = -dE/dx"], [])
    worst = {(each["property"], each["dtype"], each["quantity"]): each for each in written["worst"]}
    gradient = worst["F = -dE/dx", "float64", "forces"]
    assert gradient["relative"] > gradient["tolerance"] == 1e-6
    assert gradient["unit"] == "eV/Å"
    assert f"{gradient['relative']:.1e}" in lines[6]
    assert ("F = -dE/dx", "float32", "forces") not in worst
    assert {each["tolerance"] for each in written["worst"]} == {3e-5, 1e-10, 1e-6}


def test_absolute_errors_are_the_relative_ones_times_the_scale(potential):
    potential.__class__ = Intensive
    report = check(potential)
    found = report.worst("doubled cell", "float64", "energy")
    assert found.absolute == pytest.approx(1e-2 / 2 / 8)  # half a constant, of eight atoms
    assert found.relative <= found.absolute / report.scales["energy"]


# The caller's things


def test_the_callers_potential_stays_as_it_is(potential, ethanol):
    potential.float().train()
    before = {name: value.clone() for name, value in potential.state_dict().items()}
    check(potential, [ethanol])
    assert potential.dtype == torch.float32
    assert potential.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in potential.parameters())
    assert all(torch.equal(value, before[name]) for name, value in potential.state_dict().items())
    assert "energy" not in ethanol.info


def test_the_same_errors_every_time_and_whatever_the_default_dtype(potential, ethanol, in_double):
    with in_double():
        doubled = check(potential, [ethanol])
    assert check(potential, [ethanol]) == doubled


def test_the_random_stream_of_the_caller_stays_where_it_is(potential, ethanol):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check(potential, [ethanol])
    assert torch.rand(1) == expected


# What cannot be checked


@pytest.mark.parametrize(
    "arguments", [{"max_structures": 0}, {"tolerance_float32": 0.0}, {"tolerance_float64": float("nan")}], ids=str
)
def test_numbers_that_make_no_sense_are_refused(potential, arguments):
    with pytest.raises(ValueError, match="one structure or more and positive tolerances"):
        check(potential, **arguments)


def test_nothing_cannot_be_checked(potential):
    with pytest.raises(ValueError, match="nothing to check: `structures` is empty"):
        check(potential, [])


def test_an_unknown_element_is_named_with_its_frame(potential):
    with pytest.raises(ValueError, match="holds F, which the model does not know"):
        check(potential, [Atoms("HF", [[0, 0, 0], [0, 0, 1]])])


def test_results_that_are_not_finite_are_told_with_the_structure(potential, ethanol):
    with torch.no_grad():
        potential.model.embedding.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"structure 0 \(C2H6O\): energy or forces are not finite in torch.fl"):
        check(potential, [ethanol])


# The command


@pytest.fixture
def model(potential, tmp_path, monkeypatch):
    """A saved model, and consoles that break no lines."""
    for each in (console, errors_to):
        monkeypatch.setattr(each, "_width", 220)
    save_potential(potential, tmp_path / "model.eqn")
    return tmp_path / "model.eqn"


def call(*arguments):
    return CliRunner(env={"NO_COLOR": "1", "TERM": "dumb"}).invoke(app, ["check", *map(str, arguments)])


def test_the_command_passes_a_sound_model_and_writes_a_file(model, tmp_path):
    result = call(model, "--json", tmp_path / "report.json", "--device", "cpu", "--seed", 1)
    assert result.exit_code == 0, result.output
    assert "on 5 random structures" in result.stdout
    assert result.stdout.rstrip().endswith("All 8 properties hold, in float32 and in float64.")
    assert json.loads((tmp_path / "report.json").read_text())["holds"] is True


def test_the_command_takes_frames_evenly_and_says_so(model):
    result = call(model, SAMPLE["test"], "--max-frames", 2)
    assert result.exit_code == 0, result.output
    frames = len(ase.io.read(SAMPLE["test"], ":"))
    assert f"on 2 of {frames} frames of {SAMPLE['test']}, spread evenly" in result.stdout


def test_the_command_ends_with_one_if_something_fails_and_names_the_worst_structure(model, tmp_path):
    arguments = [SAMPLE["test"], "--max-frames", 2, "--tolerance-float32", "1e-12", "--tolerance-float64", "1e-3"]
    result = call(model, *arguments, "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert f"rotation: worst in {SAMPLE['test']}, frame " in result.stdout
    assert "results depend on how a structure is turned" in result.stdout.splitlines()[-1]
    assert "rotation" in json.loads((tmp_path / "report.json").read_text())["fails"]


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("HF.xyz", [], "holds F, which the model does not know"),
        ("nowhere.xyz", [], "there is no file"),
        ("HH.xyz", ["--device", "gpu"], "--device must be"),
        ("HH.xyz", ["--max-frames", "0"], "one structure or more"),
        ("HH.xyz", ["--tolerance-float64", "-1"], "positive tolerances"),
        ("spot.xyz", [], "spot.xyz, frame 0: atoms 0 and 1 are on one spot"),
        ("model.eqn", [], "cannot be read"),
    ],
)
def test_what_cannot_be_checked_is_told_in_one_sentence(model, file, options, message):
    ase.io.write(model.parent / "HF.xyz", Atoms("HF", [[0, 0, 0], [0, 0, 1]]))
    ase.io.write(model.parent / "HH.xyz", Atoms("HH", [[0, 0, 0], [0, 0, 1]]))
    ase.io.write(model.parent / "spot.xyz", Atoms("HH", [[0, 0, 0], [0, 0, 0]]))
    result = call(model, model.parent / file, *options)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert result.stderr.strip().count("\n") == 0
    assert message in result.stderr
