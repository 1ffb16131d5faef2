"""Compare tensor products by hand: what each can express, whether it is equivariant, and how fast it is here."""

import timeit

import torch
from e3nn import o3

from equinet import ops

METHODS = ["cg", "so2", "gaunt_grid", "gaunt_fourier", "matrix", {"method": "cp", "rank": 32}]
METHODS += [{"method": "gaunt_grid", "copies": 2, "weights": "degrees"}]

torch.manual_seed(0)
# MACE's second convolution: features up to degree 2, harmonics up to degree 3.
spec = ops.TensorProductSpec(ops.natural_irreps(2, channels=32), ops.natural_irreps(3), ops.natural_irreps(3))
harmonics = ops.SphericalHarmonics(3)
directions = torch.nn.functional.normalize(torch.randn(1000, 3), dim=1)
features = torch.randn(1000, 9, 32)
rotation = o3.rand_matrix()
turn = o3.Irreps("0e+1o+2e").D_from_matrix(rotation)  # acts on the components of features

print(f"{spec}\n{'method':<36}{'maps':>6}{'turned':>9}{'ms':>7}")
for config in METHODS:
    method = ops.method_from_config(config)
    product = ops.tensor_product(spec, method)
    weight = torch.randn(1000, product.weight_numel, 32)
    count = product.copies[o3.Irrep("0e")]  # the first rows of the result are scalars, which must not change
    with torch.no_grad():
        scalars = product(features, harmonics(directions), weight)[:, :count]
        turned = product(turn @ features, harmonics(directions @ rotation.T), weight)[:, :count]
        seconds = min(timeit.repeat(lambda: product(features, harmonics(directions), weight), number=1))  # noqa: B023
    error = ((turned - scalars).norm() / scalars.norm()).item()
    name = config if isinstance(config, str) else " ".join(map(str, config.values()))
    print(f"{name:<36}{ops.explain(spec, method).expressivity:>6}{error:>9.0e}{1000 * seconds:>7.1f}")
