"""MACE's U tensors: against mace-torch under both conventions of e3nn, and what must hold without either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from e3nn import o3

from equinet.convert.mace.couplings import u_matrix, wigner_3j

OLD_E3NN = Path(__file__).resolve().parents[3] / ".reference" / "e3nn-0.4.4"

# Up to which number of factors: larger ones take long in mace-torch.
CASES = {"0e+1o": 4, "0e+1o+2e": 4, "0e+1o+2e+3o": 3, "0e+0o+1o+1e": 3, "0e+1o+2e+3o+4e": 2}
OUTPUTS = ["0e", "1o", "2e", "3o", "1e"]

# What `mace.tools.cg` gives for each of CASES and OUTPUTS, written to the file named in the first argument.
IN_MACE = f"""
import sys
import torch
from e3nn import o3
from mace.tools.cg import U_matrix_real
torch.set_default_dtype(torch.float64)  # of this process alone; mace-torch has no other way to be told
torch.save(
    {{
        (irreps, ir, nu): U_matrix_real(o3.Irreps(irreps), o3.Irreps(ir), nu, dtype=torch.float64, use_cueq_cg=False)[-1]
        for irreps, most in {CASES!r}.items() for ir in {OUTPUTS!r} for nu in range(1, most + 1)
    }},
    sys.argv[1],
)
"""


def of_mace(file: Path, **environment: str) -> dict[tuple[str, str, int], torch.Tensor]:
    subprocess.run([sys.executable, "-W", "ignore", "-c", IN_MACE, str(file)], check=True, env=os.environ | environment)
    return torch.load(file, weights_only=True)


def assert_all_equal(theirs: dict[tuple[str, str, int], torch.Tensor], signs: str) -> None:
    assert len(theirs) == len(OUTPUTS) * sum(CASES.values())
    for (irreps, ir, nu), expected in theirs.items():
        ours = u_matrix(o3.Irreps(irreps), o3.Irrep(ir), nu, signs=signs)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12, msg=lambda m, of=(irreps, ir, nu): f"{of}: {m}")


def test_u_is_that_of_mace_torch_under_the_e3nn_installed_here(tmp_path):
    pytest.importorskip("mace.tools.cg", reason="mace-torch is not installed")
    assert_all_equal(of_mace(tmp_path / "u.pt"), "0.6")


def test_u_is_that_of_mace_torch_under_the_e3nn_it_pins(tmp_path):
    pytest.importorskip("mace.tools.cg", reason="mace-torch is not installed")
    if not OLD_E3NN.is_dir():
        pytest.skip("e3nn 0.4.4 is not in .reference/e3nn-0.4.4; CONTRIBUTING.md says how to put it there")
    environment = {"PYTHONPATH": str(OLD_E3NN), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    assert_all_equal(of_mace(tmp_path / "u.pt", **environment), "0.4.4")


def test_the_conventions_differ_in_the_signs_of_34_of_the_175_couplings_up_to_degree_6():
    differ = []
    for l1, l2, l3 in ((a, b, c) for a in range(7) for b in range(7) for c in range(abs(a - b), min(a + b, 6) + 1)):
        old, new = (wigner_3j(l1, l2, l3, signs=signs) for signs in ("0.4.4", "0.6"))
        if not torch.equal(old, new):
            torch.testing.assert_close(old, -new, rtol=0, atol=0)
            differ.append((l1, l2, l3))
    assert len(differ) == 34
    assert all(sum(degrees) % 2 for degrees in differ)
    up_to_3 = [degrees for degrees in differ if max(degrees) <= 3]
    assert up_to_3 == [(1, 2, 2), (1, 3, 3), (2, 1, 2), (2, 2, 1), (3, 1, 3), (3, 3, 1)]


def test_old_signs_turn_six_columns_of_the_vector_and_seven_of_the_degree_2_tensor():
    irreps = o3.Irreps("0e+1o+2e+3o")
    for ir, columns, turned in (("0e", 23, 0), ("1o", 51, 6), ("2e", 65, 7)):
        old, new = (u_matrix(irreps, o3.Irrep(ir), 3, signs=signs).flatten(0, -2) for signs in ("0.4.4", "0.6"))
        assert new.shape[1] == columns
        same = (old == new).all(dim=0)
        torch.testing.assert_close(old[:, ~same], -new[:, ~same], rtol=0, atol=0)
        assert int((~same).sum()) == turned


@pytest.mark.parametrize("nu", [1, 2, 3, 4])
def test_every_column_is_equivariant(nu, representation):
    irreps, ir = o3.Irreps("0e+1o+2e"), o3.Irrep("1o")
    torch.manual_seed(3)
    matrix = -o3.rand_matrix(dtype=torch.float64)
    into, out = representation(irreps, matrix), representation(o3.Irreps([(1, ir)]), matrix)
    u = u_matrix(irreps, ir, nu)
    turned = u
    for axis in range(1, nu + 1):
        turned = torch.tensordot(turned, into, dims=([axis], [0])).movedim(-1, axis)
    torch.testing.assert_close(turned, torch.einsum("ij,j...->i...", out, u), rtol=0, atol=1e-10)
    assert u.flatten(0, -2).norm(dim=0).min() > 0.5


def test_what_nothing_couples_to_has_one_column_of_zeros():
    u = u_matrix(o3.Irreps("0e+1o"), o3.Irrep("3o"), 2)
    assert u.shape == (7, 4, 4, 1)
    assert not u.any()


def test_one_variable_and_five_factors_are_refused():
    with pytest.raises(ValueError, match="no U tensor of a single variable"):
        u_matrix(o3.Irreps("0e"), o3.Irrep("0e"), 2)
    with pytest.raises(ValueError, match="`correlation` must be 1 to 4, got 5"):
        u_matrix(o3.Irreps("0e+1o"), o3.Irrep("0e"), 5)
