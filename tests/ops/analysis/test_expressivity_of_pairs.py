"""What pair products reach: the dimensions of the families of maps, from executors."""

from __future__ import annotations

import pytest

from equinet.ops import (
    SO2,
    Bracket,
    ClebschGordan,
    GauntFourier,
    GauntGrid,
    MatrixProduct,
    Method,
    TensorProductSpec,
    explain,
    natural_irreps,
)
from equinet.ops.analysis import compare


def both_parities(degree: int) -> str:
    """All degrees, true tensors and pseudotensors."""
    return "+".join(f"{l}e+{l}o" for l in range(degree + 1))


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize(
    ("method", "dimension"),
    [
        (ClebschGordan(), lambda degree: [5, 15, 34][degree - 1]),
        (GauntGrid(backend="torch"), lambda degree: 3 * degree + 1),
        (GauntFourier(weights="degrees", backend="torch"), lambda degree: 3 * degree + 1),
        (GauntGrid(bracket=True, backend="torch"), lambda degree: 5 * degree),
        (Bracket(backend="torch"), lambda degree: 3 * degree - 2),
        (MatrixProduct(backend="torch"), lambda degree: 4 * degree + 1),
    ],
)
def test_the_families_have_their_dimensions(method: Method, dimension, degree: int) -> None:
    """3 L + 1, 5 L, 3 L - 2, 4 L + 1, and all paths: those of the same products of one channel."""
    true = natural_irreps(degree, 2)
    found = explain(TensorProductSpec(true, true, both_parities(degree)), method)
    assert found.pair
    assert found.expressivity == dimension(degree)
    assert found.equivariance_error["float64"] < 1e-13


@pytest.mark.parametrize(
    "method",
    [ClebschGordan(), ClebschGordan("reference"), GauntGrid(copies=2, weights="degrees"), GauntGrid(bracket=True)],
)
def test_squares_of_the_strengths_into_an_output_add_to_one(method: Method) -> None:
    found = explain(TensorProductSpec("2x0e+2x1o", "2x0e+2x1o", "0e+1o+2e"), method)
    for out in {part.out for part in found.parts}:
        assert sum(part.strength**2 for part in found.parts if part.out == out) == pytest.approx(1)


def test_an_explanation_speaks_of_rows() -> None:
    spec = TensorProductSpec("2x0e+2x1o", "2x0e+2x1o", "0e+1o")
    printed = str(explain(spec, ClebschGordan()))
    assert "kFLOP and 0.1 kB per row" in printed
    assert "4 per channel, 4 of them independent" in printed
    table = str(compare(spec, [ClebschGordan(), GauntGrid(), SO2()]))
    assert "/ row" in table
    assert "/ node" not in table
    assert "weights: per channel" in table
    assert "refused, so2: a frame needs a direction" in table


def test_a_method_without_pairs_is_explained_as_one_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SO2, "pair")
    spec = TensorProductSpec(natural_irreps(1, 2), natural_irreps(1, 2), natural_irreps(1))
    assert "it has no pair product" in str(explain(spec, SO2()).refusal)
