"""The comparison with mace-torch: it covers what it says, its errors mean what they say, and it can fail."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import combinations, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write
from typer.testing import CliRunner

from equinet.bench.core.record import Settings
from equinet.bench.mace import cases as mace
from equinet.bench.mace import run as running
from equinet.bench.mace.cases import FAMILIES, pairs_of
from equinet.bench.mace.errors import QUANTITIES, Errors, Outcome, allowed, errors_of
from equinet.bench.mace.run import Cell, compare_case, compare_file, outcome_of, outcomes_of_mace
from equinet.bench.mace.structures import structures, structures_of
from equinet.bench.peers.mace_torch.model import differs
from equinet.bench.peers.mace_torch.weights import lively_mace
from equinet.cli import app
from equinet.convert.mace.load import load_mace
from equinet.graph import from_atoms

beside_mace = pytest.mark.skipif(
    find_spec("mace") is None, reason="mace-torch is not installed; CONTRIBUTING.md says how to put it here"
)

SMALL = {"channels": 4, "sh_degree": 2, "radial_hidden": (8,)}
RICH = mace.Case("gated", 1, 3, "full", "agnesi", True, 2, "small", SMALL)
TINY = mace.Case("plain+residual", 1, 2, "full", "soft", True, 2, "small", SMALL)
QUICK = Settings(rounds=3, budget=0.1)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(running, "timed", lambda: bulk("Si"))


def test_every_pair_of_values_occurs_in_the_small_set():
    cases = mace.pairwise()
    found = set().union(*(pairs_of(case) for case in cases))
    for (a, of_a), (b, of_b) in combinations(mace.AXES.items(), 2):
        for one, other in product(of_a, of_b):
            assert ((a, one), (b, other)) in found
    assert len(cases) <= 20
    assert len(mace.every_case()) == len(set(map(str, mace.every_case()))) == 1080


def test_every_kind_of_interaction_occurs_and_mace_torch_has_all_forms():
    assert {kind for first, others, _ in FAMILIES.values() for kind in (first, others)} == {
        "plain", "residual", "density", "density_residual", "gated",
    }  # fmt: skip
    cases = [*mace.pairwise(), *mace.extras()]
    assert all(differs(case.config) is None for case in cases)
    names = [str(case) for case in cases]
    assert len(set(names)) == len(names), "two cells of one name"


def test_cases_are_chosen_by_what_their_text_contains():
    chosen = mace.select(mace.every_case(), ["gated", "L=2", "zbl"])
    assert len(chosen) == 1080 / 5 / 3 / 2
    with pytest.raises(
        ValueError, match=r"none of the 1080 cases contains 'gated' and 'L=7'; a case reads 'plain\+res"
    ):
        mace.select(mace.every_case(), ["gated", "L=7"])


def test_structures_are_a_molecule_a_small_bulk_and_a_slab():
    found = structures()
    assert [atoms.pbc.sum() for atoms in found.values()] == [0, 3, 2]
    graph = from_atoms(found["bulk"], 5.0)
    assert bool((graph.edge_index[0] == graph.edge_index[1]).any()), "no atom sees its own image"
    own, large = structures_of([3, 9, 57])
    assert {z for atoms in own.values() for z in atoms.numbers} == {3, 9, 57}
    assert [atoms.pbc.sum() for atoms in own.values()] == [0, 3, 2]
    assert len(large) == 64


def an_outcome(**changes):
    one = Outcome(-3.0, np.array([-1.0, -2.0]), np.array([[0.5, 0, 0], [-0.5, 0, 0]]), np.eye(3))
    return replace(one, **changes)


def test_errors_are_relative_to_the_largest_of_the_truth():
    truth = an_outcome()
    assert errors_of(truth, truth) == dict.fromkeys(QUANTITIES, 0.0)
    found = an_outcome(energy=-3.3, forces=truth.forces + 1e-3, virial=truth.virial * 1.3)
    expected = {"energy": 0.1, "forces": 2e-3, "virial": 0.1, "atomic energies": 0}
    assert errors_of(found, truth) == pytest.approx(expected), "a virial of 1 eV is held against energies of 3 eV"
    strained = an_outcome(virial=10 * truth.virial)
    assert errors_of(replace(strained, virial=11 * truth.virial), strained)["virial"] == pytest.approx(0.1)
    moved = an_outcome(atomic_energies=np.array([-1.2, -2.0]))
    assert errors_of(moved, truth)["atomic energies"] == pytest.approx(0.1)


def test_atoms_that_cancel_do_not_make_the_energy_tiny():
    truth = an_outcome(energy=1e-9, atomic_energies=np.array([2.0, -2.0]))
    assert errors_of(replace(truth, energy=4e-6), truth)["energy"] == pytest.approx(1e-6, rel=1e-3)


def test_what_is_not_a_number_is_infinitely_wrong():
    truth = an_outcome()
    for name, field in (("energy", "energy"), ("forces", "forces"), ("virial", "virial")):
        assert errors_of(an_outcome(**{field: getattr(truth, field) * np.nan}), truth)[name] == np.inf
    assert errors_of(an_outcome(virial=None), truth)["virial"] == np.inf
    assert "virial" not in errors_of(truth, an_outcome(virial=None))


def test_limits_are_1e_9_and_1e_5_or_twice_what_mace_torch_errs_itself():
    assert (allowed("float64"), allowed("float32"), allowed("float32", 1e-7), allowed("float32", 1e-4)) == (
        1e-9, 1e-5, 1e-5, 2e-4,
    )  # fmt: skip
    one = Errors("bulk", "a", {"forces": 2e-9}, {"forces": 1.9e-4}, {"forces": 1e-4})
    own = {"forces": 1e-4}
    assert one.excesses(own) == ["forces in float64: 2.0e-09, more than 1e-09 (bulk, head a)"]
    assert replace(one, double_counts=False).excesses(own) == []
    worse = replace(one, double={"forces": 0.0}, single={"forces": 3e-4})
    assert worse.excesses(own) == [
        "forces in float32: 3.0e-04, more than 2e-04; mace-torch's own is 1e-04 (bulk, head a)"
    ]
    assert replace(worse, of_formulas={"forces": 1.6e-4}).excesses(own) == []
    assert replace(worse, of_formulas={"forces": 1e-6}).excesses(own)
    assert replace(one, double={"forces": np.inf}).excesses(own)


@beside_mace
def test_a_cell_compares_every_head_on_every_structure_and_times_both(tmp_path, quick):
    cell = compare_case(TINY, tmp_path, QUICK)
    assert cell.failures == []
    assert {(one.structure, one.head) for one in cell.errors} == set(product(structures(), TINY.head_names))
    assert cell.worst("double") < 1e-9
    assert 0 < cell.worst("single") < 1e-5
    energy, force = cell.size
    assert 1 < energy < 1000
    assert 1 < force < 20
    assert cell.timing is not None
    assert cell.mace_timing is not None
    assert torch.get_default_dtype() == torch.float32


@beside_mace
@pytest.mark.parametrize("case", [TINY, RICH], ids=["plain", "gated"])
def test_no_tensor_of_a_potential_can_be_wrong_unseen(case, tmp_path):
    frames, heads = structures(), case.head_names
    model = lively_mace(case.config, running.E0S, 20.0, list(frames.values()), heads=heads).requires_grad_(False)
    torch.save(model, tmp_path / "some.model")
    atoms = frames["bulk"]
    (truth,) = outcomes_of_mace(model, [atoms], heads[1], heads, "float64")
    potential, e0s = (
        load_mace(tmp_path / "some.model", head=heads[1]),
        running.isolated_energies(model, heads[1], heads),
    )

    def worst() -> float:
        return max(errors_of(outcome_of(potential, atoms, e0s), truth).values())

    unseen = []
    with torch.no_grad():
        for name, tensor in potential.state_dict().items():
            kept = tensor.clone()
            # No uniform change: a layer norm would take it away.
            noise = torch.from_numpy(np.random.default_rng(0).normal(size=tensor.shape))
            tensor.add_(1e-3 * noise * (tensor.abs().mean() or 1.0))
            if not worst() > 1e-9:
                unseen.append(name)
            tensor.copy_(kept)
    assert worst() < 1e-9
    assert unseen == []


@beside_mace
def test_a_wrong_weight_makes_the_cell_red_and_gets_no_time(tmp_path, quick, monkeypatch):
    def wrong(*arguments, **options):
        potential = load_mace(*arguments, **options)
        with torch.no_grad():
            potential.model.zbl.c[3] *= 1.001
        return potential

    monkeypatch.setattr(running, "load_mace", wrong)
    cell = compare_case(TINY, tmp_path, QUICK)
    assert any("in float64" in reason for reason in cell.failures)
    assert cell.over_equinet is None


@beside_mace
def test_a_part_without_say_makes_the_cell_red(tmp_path, quick, monkeypatch):
    def silent(*arguments, **options):
        model = lively_mace(*arguments, **options)
        with torch.no_grad():
            model.products[1].symmetric_contractions.contractions[0].weights_max.mul_(1e-7)
        return model

    monkeypatch.setattr(running, "lively_mace", silent)
    (reason,) = compare_case(TINY, tmp_path, QUICK).failures
    assert reason.startswith("products.1.symmetric_contractions.contractions.0.weights_max hardly changes the energy")


@beside_mace
def test_an_error_is_the_cells_reason_and_no_end(tmp_path, quick, monkeypatch):
    def refuse(path, **options):
        raise ValueError(f"{path} is no model")

    monkeypatch.setattr(running, "load_mace", refuse)
    assert compare_case(TINY, tmp_path, QUICK).failures == ["ValueError: random.model is no model"]


@beside_mace
def test_a_file_of_ones_own_is_compared_on_ones_own_structures(tmp_path, monkeypatch):
    model = lively_mace(TINY.config, running.E0S, 20.0, list(structures().values()), heads=["one", "two"])
    torch.save(model, tmp_path / "mine.model")
    monkeypatch.chdir(tmp_path)
    write("frames.xyz", [structures()["molecule"], structures()["bulk"]])
    arguments = [
        "bench",
        "mace",
        "mine.model",
        "--atoms",
        "frames.xyz",
        "--rounds",
        "3",
        "--seconds",
        "0.1",
        "--out",
        "o",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for text in ("mine.model", "frames.xyz 0", "frames.xyz 1", "two", "1 cell, all agree"):
        assert text in result.output
    write("other.xyz", bulk("Cu"))
    result = CliRunner().invoke(app, ["bench", "mace", "mine.model", "--atoms", "other.xyz"])
    assert result.exit_code == 1
    assert "mine.model does not know Cu of other.xyz" in result.output


@beside_mace
def test_a_file_that_is_no_model_is_refused_before_mace_torch_runs_it(tmp_path, monkeypatch):
    (tmp_path / "no.model").write_text("nothing")
    with pytest.raises(ValueError, match=r"no\.model"):
        compare_file(tmp_path / "no.model", {}, QUICK)
    monkeypatch.setattr(running, "read_record", lambda path: None)
    monkeypatch.setattr(running, "architecture_of", lambda record: SimpleNamespace(dtype=torch.float64))
    monkeypatch.setattr(running, "heads_of", lambda record: ("Default",))
    with pytest.raises(ValueError, match=r"mace-torch cannot read no\.model"):
        compare_file(tmp_path / "no.model", {}, QUICK)


def test_a_failed_cell_is_shown_with_its_reason_and_the_command_fails(tmp_path, monkeypatch):
    def compare(case, folder, settings, seed):
        failures = ["it does not agree"] if case.family == "gated" else []
        return Cell(problem=str(case), case=case, failures=failures)

    monkeypatch.setattr(running, "compare_case", compare)
    monkeypatch.setattr("equinet.bench.peers.mace_torch.model.require", lambda: None)
    result = CliRunner().invoke(app, ["bench", "mace", "--only", "edge_irreps", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "FAILED gated L=1 nu=2 full 1 head; edge_irreps: it does not agree" in " ".join(result.output.split())
    assert "4 cells, 2 FAILED" in result.output
    tree = json.loads((tmp_path / "mace.json").read_text())
    assert [bool(cell["failures"]) for cell in tree["rows"]] == [True, False, False, True]
    assert tree["complete"]
    assert str(tmp_path) not in (tmp_path / "mace.json").read_text()
    assert "2 FAILED" in (tmp_path / "mace_table.md").read_text()
    assert (tmp_path / "mace.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "nothing"], "cases contains 'nothing'"),
        (["--atoms", "here.xyz"], "`--atoms` are structures for a MODEL, but none is given"),
        (["here.xyz", "--all"], "`--all` and `--only` choose among random models"),
        (["gone.model"], "there is no file gone.model"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("equinet.bench.peers.mace_torch.model.require", lambda: None)
    (tmp_path / "here.xyz").write_text("")
    result = CliRunner().invoke(app, ["bench", "mace", *arguments])
    assert result.exit_code == 1
    assert reason in " ".join(result.output.split())


def test_without_mace_torch_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "mace", None)
    monkeypatch.setitem(sys.modules, "mace.modules", None)
    result = CliRunner().invoke(app, ["bench", "mace"])
    assert result.exit_code == 1
    assert "pip install --no-deps mace-torch" in result.output
