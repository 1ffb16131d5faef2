"""Nothing depends on torch's default device, and what torch.fx makes of a potential is refused in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import preloaded
import pytest
import torch
from ase import Atoms

from equinet.checkpoint import save_potential
from equinet.convert.mace import to_mace_state_dict
from equinet.convert.products import convert
from equinet.graph import from_atoms
from equinet.md import EquinetCalculator
from equinet.potential import Potential, require_potential
from equinet.verify import physics

# In a process of its own, in which nothing has been computed and kept before.
CODE = """
import sys, torch
from ase.build import molecule
import equinet
from equinet.datasets import to_graph
from equinet.md import EquinetCalculator
from equinet.models import MACE, MACEConfig
from equinet.ops import SO2, CPDecomposed, ClebschGordan, GauntFourier, GauntGrid, ManyBodySpec, MatrixProduct, SpeciesGroups
from equinet.ops import TensorProductSpec, tensor_product

if len(sys.argv) > 2:
    torch.set_default_device(sys.argv[2])
atoms = molecule("CH3CH2OH")
potential = equinet.load(sys.argv[1])
graph = to_graph(atoms, potential.cutoff)
print(potential(graph).energy.item())
loss = potential.train()(graph).forces.square().sum()
loss.backward()
print(loss.item())
for dtype in ("float64", "float32"):
    atoms.calc = EquinetCalculator(sys.argv[1], dtype=dtype, device="cpu")
    print(atoms.get_potential_energy())
torch.manual_seed(0)
print(MACE(MACEConfig(channels=2), [1, 6, 8], 8.0).embedding.sum().item())
spec, power = TensorProductSpec("4x0e+4x1o", "0e+1o", "0e+1o"), ManyBodySpec("4x0e+4x1o", "4x0e", 3, 1)
species = torch.zeros(3, dtype=torch.int64, device="cpu")
for method in (ClebschGordan(), GauntGrid(), GauntFourier(), MatrixProduct(), CPDecomposed(rank=8), SO2()):
    product = tensor_product(spec, method)
    print(product(*(torch.ones(3, *n, device="cpu") for n in ((4, 4), (4,), (product.weight_numel, 4)))).sum().item())
    if not isinstance(method, SO2):
        product = method.many_body(power)
        x, w = torch.ones(3, 4, 4, device="cpu"), torch.ones(1, product.weight_numel, 4, device="cpu")
        print(product(x, w, SpeciesGroups(species)).sum().item())
"""


@pytest.fixture
def file(potential: Potential, tmp_path: Path) -> Path:
    save_potential(potential, tmp_path / "model.eqn")
    return tmp_path / "model.eqn"


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_no_result_depends_on_the_default_device(file: Path, device: str) -> None:
    def numbers(*arguments: str) -> list[str]:
        result = preloaded.run([sys.executable, "-c", CODE, str(file), *arguments])
        assert result.returncode == 0, result.stderr
        return result.stdout.split()

    assert numbers(device) == (expected := numbers())
    assert len(expected) == 5 + 11


def test_a_potential_cannot_be_traced_symbolically(potential: Potential) -> None:
    with pytest.raises(
        TypeError, match=r"torch\.fx\.symbolic_trace cannot record a potential, as what is computed depends on"
    ):
        torch.fx.symbolic_trace(potential)
    with pytest.raises(TypeError, match="symbolic_trace cannot record a graph of atoms; make the graph outside"):
        torch.fx.symbolic_trace(lambda atoms: from_atoms(atoms, 4.0))


def test_what_torch_fx_makes_of_a_module_is_refused_by_name() -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    traced = torch.fx.symbolic_trace(Twice())
    for function in (physics.check, convert, to_mace_state_dict, require_potential):
        with pytest.raises(TypeError, match=r"must be an equinet.Potential, .* got a torch\.fx\.GraphModule \(Twice\)"):
            function(traced)
    with pytest.raises(
        TypeError, match=r"must be a model file or a Potential, got a torch\.fx\.GraphModule; pass the Potential"
    ):
        EquinetCalculator(traced)
    with pytest.raises(TypeError, match=r"must be an equinet.Potential, .* got Atoms$"):
        require_potential(Atoms("H"))


def test_a_compiled_potential_is_one(potential: Potential) -> None:
    require_potential(potential)
    require_potential(torch.compile(potential))
