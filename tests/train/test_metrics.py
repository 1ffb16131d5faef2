"""Errors: their definitions, their units, and that measuring changes nothing."""

import json
import math

import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from equinet.datasets import GraphLoader, to_graph
from equinet.graph import from_atoms
from equinet.train import Errors, Predictions, errors, predict

JSON_KEYS = {
    "energy_mae_mev_per_atom",
    "energy_rmse_mev_per_atom",
    "forces_mae_mev_per_ang",
    "forces_rmse_mev_per_ang",
    "stress_mae_mev_per_ang3",
    "stress_rmse_mev_per_ang3",
}


def with_own_labels(potential, atoms, change=None):
    """The structure's graph, labelled by the potential itself, so that all errors are zero until something is changed."""
    output = potential(from_atoms(atoms, potential.cutoff), stress=True)
    labels = {"energy": output["energy"].item(), "forces": output["forces"].numpy()}
    if atoms.pbc.any():
        labels["stress"] = output["stress"][0].numpy().ravel()[[0, 4, 8, 5, 2, 1]]
    for name, value in (change or {}).items():
        if name in labels:
            labels[name] = labels[name] + value
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return to_graph(atoms, potential.cutoff)


@pytest.fixture
def random_predictions():
    """Labels and predictions of 40 structures or atoms each, a quarter of the labels missing."""
    rng = np.random.default_rng(0)
    pairs = {}
    for name, width in (("energy", 1), ("forces", 3), ("stress", 9)):
        label, prediction = 3 + 2 * rng.normal(size=(40, width)), rng.normal(size=(40, width))
        label[::4] = np.nan
        pairs[name] = (torch.from_numpy(label.ravel()), torch.from_numpy(prediction.ravel()))
    return Predictions(pairs)


@pytest.fixture
def graphs(potential, ethanol, triclinic, one_atom):
    """Two molecules and two crystals with labels that differ at random from what the potential says."""
    rng = np.random.default_rng(5)
    moved = ethanol.copy()
    moved.rattle(0.05, seed=3)
    return [
        with_own_labels(
            potential,
            atoms,
            {"energy": rng.normal(), "forces": rng.normal(size=(len(atoms), 3)), "stress": rng.normal(size=6)},
        )
        for atoms in (ethanol, triclinic, moved, one_atom)
    ]


# Definitions


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_errors_are_those_of_numpy_in_mev(random_predictions, name):
    found = errors(random_predictions)
    label, prediction = (values.numpy() for values in random_predictions.pairs[name])
    there = np.isfinite(label)
    difference = 1e3 * (prediction - label)[there]
    assert found.mae[name] == pytest.approx(np.abs(difference).mean(), rel=1e-12)
    assert found.rmse[name] == pytest.approx(np.sqrt(np.mean(difference**2)), rel=1e-12)


def test_the_spread_is_what_the_mean_alone_would_score(random_predictions):
    found = errors(random_predictions)
    for name in ("energy", "stress"):
        label = random_predictions.pairs[name][0].numpy()
        assert found.spread[name] == pytest.approx(1e3 * np.nanstd(label), rel=1e-12)
    forces = random_predictions.pairs["forces"][0].numpy()
    assert found.spread["forces"] == pytest.approx(1e3 * np.sqrt(np.nanmean(forces**2)), rel=1e-12)


def test_predictions_of_the_mean_score_the_spread(random_predictions):
    label = random_predictions.pairs["energy"][0]
    constant = torch.full_like(label, label[~label.isnan()].mean().item())
    found = errors(Predictions({"energy": (label, constant)}))
    assert found.rmse["energy"] == pytest.approx(found.spread["energy"], rel=1e-12)


def test_errors_count_frames(potential, graphs):
    assert errors(predict(potential, GraphLoader(graphs, 3), stress=False)).frames == 4


def test_nothing_to_measure_gives_no_error_and_no_exception(potential):
    found = errors(predict(potential, [], stress=True))
    assert found.frames == 0
    assert all(value is None for value in found.as_json().values())


# JSON


def test_json_has_the_agreed_names(random_predictions):
    found = errors(random_predictions)
    record = found.as_json()
    assert set(record) == JSON_KEYS
    assert record["energy_mae_mev_per_atom"] == found.mae["energy"]
    assert record["forces_rmse_mev_per_ang"] == found.rmse["forces"]
    assert record["stress_mae_mev_per_ang3"] == found.mae["stress"]


def test_json_says_none_where_there_are_no_labels(potential, ethanol):
    found = errors(predict(potential, [with_own_labels(potential, ethanol)], stress=True))
    record = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert {key for key, value in record.items() if value is None} == {
        "stress_mae_mev_per_ang3",
        "stress_rmse_mev_per_ang3",
    }


def test_errors_without_labels_are_not_numbers():
    label = torch.full((3,), torch.nan, dtype=torch.float64)
    found = errors(Predictions({"energy": (label, torch.zeros_like(label))}))
    assert found.frames == 3
    assert math.isnan(found.mae["energy"])
    assert math.isnan(found.rmse["energy"])
    assert math.isnan(found.spread["energy"])


def test_fresh_errors_share_nothing():
    first, second = Errors(), Errors()
    first.mae["energy"] = 1.0
    assert second.mae == {}


# Units


def test_a_shift_of_one_mev_is_an_energy_error_of_one_mev_per_atom(potential, ethanol, triclinic):
    batches = [with_own_labels(potential, atoms) for atoms in (ethanol, triclinic)]
    assert errors(predict(potential, batches, stress=True)).rmse["energy"] < 1e-9
    potential.scale.shift += 1e-3
    found = errors(predict(potential, batches, stress=True))
    # the gate tanh(n) of an atom in a bond is one to some per mille
    assert found.mae["energy"] == pytest.approx(1.0, abs=0.01)
    assert found.rmse["energy"] == pytest.approx(1.0, abs=0.01)
    # as the gate is not quite one, it has a gradient too, and forces follow a little
    assert found.rmse["forces"] < 0.05


def test_a_reference_of_one_mev_more_is_an_energy_error_of_one_mev_per_atom(potential, ethanol, triclinic):
    batches = [with_own_labels(potential, atoms) for atoms in (ethanol, triclinic)]
    before = predict(potential, batches, stress=False).pairs["energy"][1]
    for graph in batches:
        graph.energy = graph.energy - 1e-3 * graph.num_nodes
    found = errors(predict(potential, batches, stress=False))
    assert found.mae["energy"] == pytest.approx(1.0, rel=1e-6)
    torch.testing.assert_close(predict(potential, batches, stress=False).pairs["energy"][1], before)


def test_force_and_stress_errors_are_per_component_in_mev(potential, triclinic):
    batch = with_own_labels(potential, triclinic, {"forces": 2e-3, "stress": -3e-3})
    found = errors(predict(potential, [batch], stress=True))
    assert found.mae["forces"] == pytest.approx(2.0, rel=1e-9)
    assert found.rmse["forces"] == pytest.approx(2.0, rel=1e-9)
    assert found.mae["stress"] == pytest.approx(3.0, rel=1e-9)
    assert found.mae["energy"] < 1e-9


def test_energies_are_per_atom_and_relative_to_the_references(potential, graphs):
    label, prediction = predict(potential, GraphLoader(graphs, 4), stress=False).pairs["energy"]
    reference = dict(zip(potential.elements, potential.scale.reference.tolist()))
    for n, graph in enumerate(graphs):
        e0 = sum(reference[z] for z in graph.atomic_numbers.tolist())
        assert label[n].item() == pytest.approx((graph.energy.item() - e0) / graph.num_nodes, abs=1e-10)
        energy = potential(graph)["energy"].item()
        assert prediction[n].item() == pytest.approx((energy - e0) / graph.num_nodes, abs=1e-10)


# Measuring


def test_the_batch_size_does_not_change_errors(potential, graphs):
    found = [errors(predict(potential, GraphLoader(graphs, size), stress=True)) for size in (1, 3, 4)]
    for kind in ("mae", "rmse", "spread"):
        for other in found[1:]:
            assert getattr(other, kind) == pytest.approx(getattr(found[0], kind), rel=1e-9)


def test_forces_and_stress_come_in_the_order_of_the_frames(potential, graphs):
    pairs = predict(potential, GraphLoader(graphs, 3), stress=True).pairs
    assert torch.equal(pairs["forces"][0], torch.cat([graph.forces.flatten() for graph in graphs]))
    expected = torch.cat([potential(graph)["forces"].flatten() for graph in graphs])
    torch.testing.assert_close(pairs["forces"][1], expected)
    expected = torch.cat([potential(graph, stress=True)["stress"].flatten() for graph in graphs])
    torch.testing.assert_close(pairs["stress"][1], expected, equal_nan=True)


def test_without_stress_no_stress_is_measured(potential, graphs):
    found = errors(predict(potential, graphs, stress=False))
    assert math.isnan(found.mae["stress"])
    assert math.isfinite(found.mae["forces"])


@pytest.mark.parametrize("training", [True, False])
def test_predict_puts_the_mode_back(potential, graphs, training):
    potential.train(training)
    modes = []
    potential.register_forward_hook(lambda module, *_: modes.append(module.training))
    predict(potential, graphs, stress=False)
    assert modes == [False] * 4
    assert potential.training == training


def test_predict_puts_the_mode_back_after_an_error(potential, graphs):
    potential.train()
    graphs[1].atomic_numbers = torch.full_like(graphs[1].atomic_numbers, 9)
    with pytest.raises(ValueError, match="does not know F"):
        predict(potential, graphs, stress=False)
    assert potential.training


def test_predictions_hold_on_to_no_computation(potential, graphs):
    potential.train()
    pairs = predict(potential, graphs, stress=True).pairs
    assert not any(values.requires_grad for pair in pairs.values() for values in pair)


def test_progress_is_told_after_every_batch(potential, graphs):
    calls = []
    predict(potential, GraphLoader(graphs, 3), stress=False, advance=lambda: calls.append(1))
    assert len(calls) == 2
