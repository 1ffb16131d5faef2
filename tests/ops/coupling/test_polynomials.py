"""Equivariant polynomials: how many, equivariant, independent, the same space as cuequivariance's, the same every time."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
import torch
from e3nn import o3
from numpy.typing import NDArray
from torch import Tensor

from equinet.ops import natural_irreps
from equinet.ops.cache import cached
from equinet.ops.coupling.counts import count_covariants, count_terms
from equinet.ops.coupling.polynomials import Covariants, _parts, covariants, monomials, multiplicities


def evaluate(basis: Covariants, x: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """``(samples, polynomials, 2l + 1)``: the values at ``x (samples, variables)``."""
    terms = x[:, monomials(x.shape[1], degree)].prod(axis=2)
    return np.einsum("pkm,nm->npk", basis.coefficients, terms)


def count_by_characters(irreps: o3.Irreps, degree: int, out: o3.Irrep) -> int:
    r"""Copies of ``out`` in the symmetric power: the mean over O(3) of its character times that of the power.

    The character of Sym^n follows from those of the powers of the group element (Newton):
    n h_n(g) = sum_k chi(g^k) h_{n-k}(g).
    """
    nodes, weights = np.polynomial.legendre.leggauss(60)
    angle = (nodes + 1) * math.pi / 2
    measure = weights * math.pi / 2 * (1 - np.cos(angle)) / math.pi  # rotation angles of SO(3), 0 to pi
    total = 0.0
    for inversion in (1, -1):

        def character(ir: o3.Irrep, k: int, inversion: int = inversion) -> NDArray[np.float64]:
            turned = sum(np.cos(m * k * angle) for m in range(-ir.l, ir.l + 1))
            return turned * (ir.p if inversion == -1 and k % 2 else 1)

        powers = [np.ones_like(angle)]
        for n in range(1, degree + 1):
            powers.append(sum(sum(character(ir, k) for _, ir in irreps) * powers[n - k] for k in range(1, n + 1)) / n)
        total += 0.5 * float(measure @ (powers[degree] * character(out, 1)))
    assert abs(total - round(total)) < 1e-8
    return round(total)


@pytest.mark.parametrize(("l_out", "counts"), [(0, (1, 4, 8)), (1, (1, 3, 12)), (2, (1, 5, 14))])
def test_mace_has_its_published_number_of_products(l_out: int, counts: tuple[int, ...]) -> None:
    out = o3.Irrep(l_out, (-1) ** l_out)
    found = tuple(len(covariants(natural_irreps(3), nu, l_out)[out].contents) for nu in (1, 2, 3))
    assert found == counts


@pytest.mark.parametrize(
    ("irreps", "degree", "max_l"),
    [
        ("0e", 4, 0),
        ("0e+1o", 4, 3),
        ("0e+1o+2e", 2, 2),
        ("0e+1o+2e", 3, 3),
        ("0e+1o+2e", 4, 1),
        ("0e+1o+2e+3o", 2, 3),
        ("0e+1o+2e+3o", 3, 2),
        ("1o", 4, 4),
        ("2e", 4, 2),
        ("1o+3o", 3, 2),
        ("0o+1e", 3, 2),
        ("1e+1o", 3, 1),
        ("0e+0o+1o+1e", 2, 2),
        ("2e+1o+0e", 3, 1),
    ],
)
def test_there_are_as_many_as_group_theory_counts(irreps: str, degree: int, max_l: int) -> None:
    found = covariants(o3.Irreps(irreps), degree, max_l)
    for l in range(max_l + 1):
        for p in (1, -1):
            ir = o3.Irrep(l, p)
            expected = count_by_characters(o3.Irreps(irreps), degree, ir)
            assert (len(found[ir].contents) if ir in found else 0) == expected, ir
    assert all(ir.l <= max_l for ir in found)


@pytest.mark.parametrize("irreps", ["0e+1o+2e+3o", "0e+0o+1o+1e", "2e+5o+6e"])
@pytest.mark.parametrize("degree", [1, 2, 3, 5, 7])
def test_polynomials_are_counted_without_being_made(irreps: str, degree: int) -> None:
    for ir in ("0e", "0o", "1e", "2e", "3o"):
        expected = count_by_characters(o3.Irreps(irreps), degree, o3.Irrep(ir))
        assert count_covariants(o3.Irreps(irreps), degree, o3.Irrep(ir)) == expected


def test_terms_are_counted_without_being_written_out() -> None:
    irreps, ir = natural_irreps(3), o3.Irrep("1o")
    basis = covariants(irreps, 3, 1)[ir]
    written = {(component, monomial) for _, component, monomial, _ in basis.terms()}
    counted = count_terms(irreps, 3, ir)
    assert counted <= len(written) <= 2 * counted
    components = [(l, m) for l in range(4) for m in range(-l, l + 1)]
    triples = combinations_with_replacement(components, 3)
    assert counted == sum(sum(l for l, _ in each) % 2 == 1 and abs(sum(m for _, m in each)) <= 1 for each in triples)


CASES = [("0e+1o+2e+3o", 2, 2), ("0e+1o+2e+3o", 3, 1), ("0e+1o", 4, 2), ("0e+0o+1o+1e", 3, 1)]


@pytest.mark.parametrize(("irreps", "degree", "max_l"), CASES)
def test_polynomials_turn_with_their_argument(
    irreps: str,
    degree: int,
    max_l: int,
    orthogonal: Tensor,
    representation: Callable[[o3.Irreps | str, Tensor], Tensor],
) -> None:
    x = np.random.default_rng(0).normal(size=(5, o3.Irreps(irreps).dim))
    turned = x @ representation(irreps, orthogonal).numpy().T
    for ir, basis in covariants(o3.Irreps(irreps), degree, max_l).items():
        expected = evaluate(basis, x, degree) @ representation(str(ir), orthogonal).numpy().T
        np.testing.assert_allclose(evaluate(basis, turned, degree), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("irreps", "degree", "max_l"), CASES)
def test_polynomials_are_orthogonal_as_symmetric_tensors_with_the_norm_promised(
    irreps: str, degree: int, max_l: int
) -> None:
    variables = o3.Irreps(irreps).dim
    for ir, basis in covariants(o3.Irreps(irreps), degree, max_l).items():
        tensors = basis.coefficients / np.sqrt(multiplicities(variables, degree))
        gram = np.einsum("pkm,qkm->pq", tensors, tensors)
        expected = np.eye(len(basis.contents)) * ir.dim / math.factorial(degree)
        np.testing.assert_allclose(gram, expected, rtol=0, atol=1e-12)


def test_a_product_of_different_degrees_has_unit_variance_per_component() -> None:
    x = np.random.default_rng(3).normal(size=(40000, 9))
    basis = covariants(o3.Irreps("0e+1o+2e"), 2, 2)[o3.Irrep("1o")]
    sizes = (evaluate(basis, x, 2) ** 2).sum(2).mean(0)
    assert basis.contents == ((0, 1), (1, 2))  # nothing is contracted with itself
    np.testing.assert_allclose(sizes, [3, 3], rtol=0.05)


@pytest.mark.parametrize(
    ("irreps", "degree", "out"),
    [
        ("0e+1o+2e+3o", 1, "2e"),
        ("0e+1o+2e+3o", 2, "0e"),
        ("0e+1o+2e+3o", 2, "1o"),
        ("0e+1o+2e+3o", 3, "0e"),
        ("0e+1o+2e+3o", 3, "1o"),
        ("0e+1o+2e+3o", 3, "2e"),
        ("0e+1o+2e", 4, "0e"),
        ("0e+1o", 4, "1o"),
        ("0e+1o", 3, "3o"),
    ],
)
def test_they_span_the_same_space_as_those_of_cuequivariance(irreps: str, degree: int, out: str) -> None:
    cue = pytest.importorskip("cuequivariance", reason="the independent symmetric contraction is not installed")
    theirs = cue.descriptors.symmetric_contraction(
        cue.Irreps("O3", irreps), cue.Irreps("O3", out), (degree,)
    ).polynomial
    paths = theirs.inputs[0].size
    basis = covariants(o3.Irreps(irreps), degree, o3.Irrep(out).l)[o3.Irrep(out)]
    assert len(basis.contents) == paths

    x = np.random.default_rng(4).normal(size=(4 * paths + 4, o3.Irreps(irreps).dim))
    (values,) = theirs(np.eye(paths)[:, None, :], x[None])  # (paths, samples, 2l + 1): one weight at a time
    b = values.reshape(paths, -1).T
    a = np.moveaxis(evaluate(basis, x, degree), 1, 2).reshape(-1, paths)
    solution, _, rank, singular = np.linalg.lstsq(a, b, rcond=None)
    assert rank == paths
    assert singular[-1] > 1e-3 * singular[0]
    assert np.abs(a @ solution - b).max() < 1e-11 * np.abs(b).max()
    assert np.linalg.matrix_rank(solution) == paths


@pytest.mark.parametrize(("irreps", "degree", "max_l"), CASES)
def test_contents_tell_the_degrees_that_are_multiplied(irreps: str, degree: int, max_l: int) -> None:
    parts = o3.Irreps(irreps)
    degree_of = np.concatenate([np.full(ir.dim, ir.l) for _, ir in parts])
    rows = np.sort(degree_of[monomials(parts.dim, degree)], axis=1)
    for basis in covariants(parts, degree, max_l).values():
        assert list(basis.contents) == sorted(basis.contents)
        for content, coefficients in zip(basis.contents, basis.coefficients):
            used = rows[np.abs(coefficients).max(axis=0) > 1e-12]
            assert {tuple(row) for row in used.tolist()} == {content}


def test_the_basis_is_the_same_when_it_is_made_again() -> None:
    # Saved weights name the polynomials by their place, so not even a sign may differ.
    before = covariants(natural_irreps(3), 3, 2)
    _parts.cache_clear()
    after = covariants(natural_irreps(3), 3, 2)
    assert before is not after
    assert list(before) == list(after)
    for ir in before:
        assert before[ir].contents == after[ir].contents
        assert np.array_equal(before[ir].coefficients, after[ir].coefficients)


def test_multiplicities_of_the_argument_do_not_matter() -> None:
    ours, theirs = (covariants(o3.Irreps(irreps), 2, 1) for irreps in ("0e+1o", "7x0e+7x1o"))
    for ir in ours:
        assert np.array_equal(ours[ir].coefficients, theirs[ir].coefficients)


def test_a_vector_times_itself_is_its_square() -> None:
    basis = covariants(o3.Irreps("1o"), 2, 0)[o3.Irrep("0e")]
    x = np.random.default_rng(5).normal(size=(6, 3))
    # symmetric tensor: c * identity with norm c sqrt(3) = sqrt(1 / 2!)
    np.testing.assert_allclose(evaluate(basis, x, 2)[:, 0, 0], (x**2).sum(1) / math.sqrt(6), rtol=1e-13)


def test_three_vectors_that_are_one_have_no_triple_product() -> None:
    assert o3.Irrep("0o") not in covariants(o3.Irreps("1o"), 3, 0)
    assert o3.Irrep("1e") not in covariants(o3.Irreps("1o"), 2, 1)


def test_monomials_are_ascending_tuples_in_lexicographic_order() -> None:
    assert monomials(3, 2).tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]]
    assert monomials(3, 0).tolist() == [[]]
    assert monomials(16, 3).shape == (math.comb(18, 3), 3)


def test_multiplicities_count_ordered_tuples() -> None:
    assert multiplicities(2, 3).tolist() == [1, 3, 3, 1]
    assert multiplicities(5, 4).sum() == 5**4


def test_polynomials_are_real_numbers_not_rounded_ones() -> None:
    basis = covariants(natural_irreps(2), 3, 0)[o3.Irrep("0e")]
    assert basis.coefficients.dtype == np.float64
    exact = torch.from_numpy(basis.coefficients)
    assert not torch.equal(exact.float().double(), exact)


def test_a_basis_from_the_disk_is_the_one_that_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = covariants(natural_irreps(2), 3, 1)
    monkeypatch.setenv("EQUINET_CACHE", str(tmp_path))
    monkeypatch.setattr(cached, "__defaults__", (0.0,))
    _parts.cache_clear()
    covariants(natural_irreps(2), 3, 1)
    assert list(tmp_path.glob("covariants-*"))
    _parts.cache_clear()
    monkeypatch.setattr("equinet.ops.coupling.polynomials._made", None)  # not asked for
    read = covariants(natural_irreps(2), 3, 1)
    assert list(read) == list(made)
    for ir, basis in made.items():
        assert read[ir].contents == basis.contents
        assert np.array_equal(read[ir].coefficients, basis.coefficients)
    _parts.cache_clear()
