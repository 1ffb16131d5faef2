"""Every architecture that can be built is equivariant; what cannot work is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase import Atoms
from e3nn import o3

from equinet.graph import displacements, from_atoms
from equinet.graph.elements import COVALENT_RADII
from equinet.models import MACE, MACEConfig
from equinet.nn import TRANSFORMS, GatedInteraction
from equinet.potential import Potential

MakePotential = Callable[..., Potential]

# (max_l, sh_degree, correlation, layers): every value of each and every pair (max_l, sh_degree) that can be built.
ARCHITECTURES = [
    (0, 0, 1, 1),
    (0, 0, 4, 2),
    (0, 1, 3, 3),
    (0, 2, 4, 2),
    (0, 3, 2, 1),
    (0, 4, 2, 2),
    (1, 1, 4, 2),
    (1, 2, 3, 1),
    (1, 2, 4, 2),
    (1, 3, 1, 3),
    (1, 4, 2, 2),
    (2, 1, 2, 2),
    (2, 2, 3, 3),
    (2, 3, 3, 2),
    (2, 4, 1, 2),
    (3, 1, 3, 2),
    (3, 2, 2, 2),
    (3, 2, 4, 2),
    (3, 3, 3, 2),
    (3, 4, 2, 2),
]


@pytest.mark.parametrize(("max_l", "sh_degree", "correlation", "layers"), ARCHITECTURES)
def test_every_architecture_is_equivariant(
    make_potential: MakePotential, triclinic: Atoms, max_l: int, sh_degree: int, correlation: int, layers: int
) -> None:
    potential = make_potential(max_l=max_l, sh_degree=sh_degree, correlation=correlation, layers=layers, channels=3)
    before = potential(from_atoms(triclinic, potential.cutoff), stress=True)
    assert before["forces"].abs().max() > 1e-3
    torch.manual_seed(1)
    rotation = o3.rand_matrix(dtype=torch.float64)
    for matrix in (rotation, -rotation):
        turned = triclinic.copy()
        turned.set_cell(triclinic.cell[:] @ matrix.numpy().T)
        turned.positions = triclinic.positions @ matrix.numpy().T
        after = potential(from_atoms(turned, potential.cutoff), stress=True)
        torch.testing.assert_close(after["node_energy"], before["node_energy"], rtol=0, atol=1e-9)
        torch.testing.assert_close(after["forces"], before["forces"] @ matrix.T, rtol=0, atol=1e-9)
        torch.testing.assert_close(after["stress"], matrix @ before["stress"] @ matrix.T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("overrides", [{"max_l": 1, "sh_degree": 0}, {"max_l": 3, "sh_degree": 1, "correlation": 2}])
def test_an_architecture_whose_features_nothing_reaches_is_refused(
    make_potential: MakePotential, overrides: dict
) -> None:
    with pytest.raises(ValueError, match=r"no product of up to \d factors of .* reaches \do"):
        make_potential(**overrides)


@pytest.mark.parametrize("elements", [(6, 1, 8), (1, 1, 8), (0, 6, 8), (1, 6, 200), (1, 119), ()])
def test_elements_that_are_not_ascending_atomic_numbers_are_refused(
    elements: tuple[int, ...],
) -> None:
    with pytest.raises(ValueError, match="`elements` must be distinct atomic numbers from 1 to 118 in ascending order"):
        MACE(MACEConfig(channels=2), elements, 8.0)


def test_a_model_without_neighbours_is_refused() -> None:
    with pytest.raises(ValueError, match="`avg_num_neighbors` must be positive, got 0"):
        MACE(MACEConfig(channels=2), [1], 0.0)


def test_a_method_that_no_file_could_name_is_refused() -> None:
    class Other:
        pass

    with pytest.raises(ValueError, match=r"a tensor product is a name or a table"):
        MACEConfig(convolution=Other())


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("channels", 0),
        ("max_l", 7),
        ("sh_degree", -1),
        ("correlation", 8),
        ("layers", 0),
        ("cutoff", 0.0),
        ("convolution", "fft"),
        ("many_body", "fft"),
        ("chanels", 64),
        ("residual_first", True),
        ("first_interaction", "dense"),
        ("interaction", "none"),
        ("distance_transform", "hard"),
        ("envelope_on", "energy"),
        ("edge_channels", 0),
        ("readout_hidden", -1),
        ("readout_layers", "first"),
    ],
)
def test_a_config_that_cannot_work_is_refused(field: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=field):
        MACEConfig(**{field: bad})


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="there is no tensor product called 'fft'; choose one of: cg"):
        MACEConfig(convolution="fft")


@pytest.mark.parametrize("kind", ["plain", "residual", "density", "density_residual", "gated"])
@pytest.mark.parametrize("where", ["first_interaction", "interaction"])
def test_each_layer_is_of_the_kind_that_its_name_says(where: str, kind: str) -> None:
    model = MACE(MACEConfig(channels=2, layers=3, **{where: kind}), [1, 8], 8.0)
    layers = {"first_interaction": model.interactions[:1], "interaction": model.interactions[1:]}[where]
    for layer in layers:
        assert isinstance(layer, GatedInteraction) == (kind == "gated")
        assert layer.residual == (kind in ("residual", "density_residual", "gated"))
        assert (layer.density is not None) == (kind in ("density", "density_residual", "gated"))
        assert layer.normalization == (8.0 if kind in ("plain", "residual") else 1.0)
    others = [layer for layer in model.interactions if layer not in list(layers)]
    assert [layer.residual for layer in others] == [where == "first_interaction"] * len(others)
    assert model.directed == (kind == "gated")


@pytest.mark.parametrize(
    ("overrides", "widths"),
    [
        ({}, [4, 4, 4]),
        ({"edge_channels": 3}, [4, 3, 3]),
        ({"edge_channels": 3, "edge_channels_first": True}, [3, 3, 3]),
        ({"edge_channels_first": True}, [4, 4, 4]),
    ],
)
@pytest.mark.parametrize("kind", ["residual", "gated"])
def test_layers_send_as_many_channels_as_asked_for(overrides: dict, widths: list[int], kind: str) -> None:
    config = MACEConfig(channels=4, layers=3, first_interaction=kind, interaction=kind, **overrides)
    model = MACE(config, [1, 8], 8.0)
    assert [layer.channels for layer in model.interactions] == widths
    assert [layer.convolution.spec.channels for layer in model.interactions] == widths


@pytest.mark.parametrize("envelope_on", ["basis", "weights"])
@pytest.mark.parametrize("transform", ["none", "agnesi", "soft"])
def test_the_basis_sees_the_transformed_distance_and_the_envelope_the_distance(
    make_potential: MakePotential, ethanol: Atoms, transform: str, envelope_on: str
) -> None:
    potential = make_potential(distance_transform=transform, envelope_on=envelope_on)
    graph, found = from_atoms(ethanol, potential.cutoff), []
    potential.model.interactions[0].register_forward_pre_hook(lambda _, arguments: found.append(arguments[1]))
    potential.model(displacements(graph), potential.species(graph.atomic_numbers), graph.edge_index)
    lengths = displacements(graph).norm(dim=1, keepdim=True)
    radii = torch.tensor([COVALENT_RADII[z] for z in graph.atomic_numbers.tolist()], dtype=torch.float64)
    contact = radii[graph.edge_index].sum(0)[:, None]
    seen = lengths if transform == "none" else TRANSFORMS[transform]([1.0]).of(lengths, contact)
    functions = potential.model.edge_functions
    basis, envelope = functions.basis(seen), functions.envelope(lengths)
    expected = {"basis": (basis * envelope, None), "weights": (basis, envelope)}[envelope_on]
    torch.testing.assert_close(found[0].feats, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0].lengths, lengths)
    assert (found[0].factor is None) == (expected[1] is None)
    torch.testing.assert_close(found[0].envelope, envelope, rtol=1e-12, atol=1e-12)
