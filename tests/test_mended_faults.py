"""Faults that were once there: each test failed before its fault was mended."""

from __future__ import annotations

import sys

import numpy as np
import preloaded
import pytest
import torch
from ase import Atoms

from equinet.graph import from_atoms
from equinet.ops import ManyBodySpec, SpeciesGroups
from equinet.ops.kernels.node.reference import HornerManyBody, ReferenceManyBody

SPEC = ManyBodySpec("2x0e+2x1o", "2x0e", 2, 1)


def test_stale_matrices_when_a_new_weight_lies_where_an_old_one_was():
    spec = ManyBodySpec("64x0e+64x1o+64x2e", "64x0e", 3, 3)
    fast, reference = HornerManyBody(spec).double(), ReferenceManyBody(spec).double()
    x = torch.randn(3, 9, 64).double()
    groups = SpeciesGroups(torch.zeros(3, dtype=torch.int64))
    base = torch.randn(3, fast.weight_numel, 64, dtype=torch.float64)
    for k in range(50):  # weights that live for one call, as with torch.func.functional_call over a committee
        torch.testing.assert_close(fast(x, base * (k + 1), groups), reference(x, base * (k + 1), groups))


def test_matrices_kept_in_inference_mode_break_the_next_ordinary_call():
    fast = HornerManyBody(SPEC).double()
    x = torch.randn(3, 4, 2).double()
    groups = SpeciesGroups(torch.zeros(3, dtype=torch.int64))
    weight = torch.nn.Parameter(torch.randn(1, fast.weight_numel, 2, dtype=torch.float64), requires_grad=False)
    with torch.inference_mode():
        fast(x, weight, groups)
    x.requires_grad_()
    fast(x, weight, groups).sum().backward()


@pytest.mark.parametrize("cell", [[0, 0, 0], [5, 5, 0]])
def test_periodic_direction_without_a_lattice_vector_is_refused(cell):
    with pytest.raises(ValueError, match="no volume"):
        from_atoms(Atoms("H2", [[0, 0, 0], [0.8, 0, 0]], cell=cell, pbc=True), 4.0)


def run(code):
    head = "import numpy as np\nfrom ase import Atoms\nfrom equinet.graph import from_atoms\n"
    return preloaded.run([sys.executable, "-c", head + code], timeout=60)


@pytest.mark.parametrize("bad", ["np.nan", "np.inf"])
def test_cell_not_finite_raises(bad):
    out = run(f"from_atoms(Atoms('H2',[[0,0,0],[.9,0,0]],cell=[3,3,{bad}],pbc=True),4.)")
    assert out.returncode == 1, out.stderr[-300:]
    assert "ValueError" in out.stderr


def test_atoms_a_tenth_of_a_millimetre_apart_do_not_kill_the_process():
    out = run("print(from_atoms(Atoms('H2',[[0,0,0],[1e6,0,0]]),4.).edge_index.shape)")
    assert "the atoms are spread over" in out.stderr


def test_long_cutoff_on_a_molecule_returns():
    assert run("from_atoms(Atoms('H2',[[0,0,0],[.9,0,0]]),1e4)").returncode == 0


def test_shift_of_a_set_without_energies_is_zero():
    from ase.build import molecule

    from equinet.datasets import Labels, measure, to_graphs, with_labels

    water = with_labels(molecule("H2O"), Labels({"forces": np.ones((3, 3))}))
    isolated = [with_labels(Atoms([z]), Labels({"energy": e})) for z, e in ((1, -13.6), (8, -2041.8))]
    found = measure([water], isolated, to_graphs([water], 4.0))
    assert found.shift == (0, 0), found.shift


@pytest.mark.usefixtures("double_default")
def test_a_model_made_under_another_default_dtype_runs():
    from equinet.models import MACE, MACEConfig

    model = MACE(MACEConfig(channels=2), [1], 5.0)
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    model(torch.eye(3)[:2].float(), torch.tensor([0, 0]), torch.tensor([[0, 1], [1, 0]]))


def test_measure_takes_the_frames_that_to_graphs_takes():
    from equinet.datasets import measure, to_graphs

    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], info={"energy": -1.5})
    atoms.arrays["forces"] = np.ones((2, 3))
    measure([atoms], [], to_graphs([atoms], 4.0))


def test_envelope_in_single_precision_is_as_smooth_as_in_double():
    from equinet.nn import PolynomialEnvelope

    r = torch.linspace(4.9, 5.0, 2001, dtype=torch.float64)[:, None]
    f = PolynomialEnvelope(5.0, 5)
    single, double = f(r.float()).double(), f(r)
    assert single.min() >= 0, single.min()
    assert (single - double).abs().max() < 1e-7, (single - double).abs().max()


def test_an_atom_with_a_near_image_across_a_skewed_cell_is_not_isolated():
    from equinet.datasets import is_isolated_atom

    atoms = Atoms("Cu", cell=[[20, 0, 0], [41, 2, 0], [0, 0, 20]], pbc=True)  # b - 2 a = (1, 2, 0)
    assert not is_isolated_atom(atoms)
