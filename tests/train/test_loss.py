"""The loss: its formula, its weights, and labels that are not there."""

import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from equinet.datasets import to_graph
from equinet.graph import collate
from equinet.train import Loss

TERMS = ("energy", "forces", "stress")


def labelled(atoms, seed, *, stress, weight=1.0):
    """The structure with random labels."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    labels = {"energy": 10 * rng.normal(), "forces": rng.normal(size=(len(atoms), 3))}
    if stress:
        labels["stress"] = rng.normal(size=6)
    atoms.calc = SinglePointCalculator(atoms, **labels)
    atoms.info["weight"] = weight
    return to_graph(atoms, 4.0)


def predictions_of(graph, seed=0):
    """Random predictions for a batch, as leaves."""
    generator = torch.Generator().manual_seed(seed)
    return {
        term: torch.randn(getattr(graph, term).shape, generator=generator, dtype=torch.float64).requires_grad_()
        for term in TERMS
    }


def without(graph, *terms):
    graph = graph.clone()
    for term in terms:
        setattr(graph, term, torch.full_like(getattr(graph, term), torch.nan))
    return graph


def gradients_of(value, potential):
    potential.zero_grad(set_to_none=True)
    value.backward()
    return {name: parameter.grad.clone() for name, parameter in potential.named_parameters()}


@pytest.fixture
def frames(ethanol, triclinic, one_atom):
    """A molecule, a crystal and a crystal of one atom: 9, 6 and 1 atoms, the last two with stress."""
    return [
        labelled(ethanol, 1, stress=False, weight=1.0),
        labelled(triclinic, 2, stress=True, weight=3.0),
        labelled(one_atom, 3, stress=True, weight=0.5),
    ]


@pytest.fixture
def batch(frames):
    return collate(frames)


# Formula


def test_the_loss_is_its_formula(batch):
    predictions = predictions_of(batch)
    found = Loss(energy=2.0, forces=30.0, stress=5.0)(predictions, batch)
    energy, forces, stress = ((predictions[term].detach() - getattr(batch, term)).numpy() for term in TERMS)
    weights, atoms = np.array([1.0, 3.0, 0.5]), np.array([9, 6, 1])
    weight_of_atom = np.repeat(weights, atoms)
    expected = (
        2.0 * np.sum(weights * (energy / atoms) ** 2) / 3
        + 30.0 * np.sum(weight_of_atom[:, None] * forces**2) / (16 * 3)
        + 5.0 * np.sum(weights[1:, None, None] * stress[1:] ** 2) / (2 * 9)
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_perfect_predictions_have_no_loss(batch):
    predictions = {term: getattr(batch, term) for term in TERMS}
    assert Loss(energy=1.0, forces=1.0, stress=1.0)(predictions, batch).item() == 0


@pytest.mark.parametrize("term", TERMS)
def test_each_term_goes_with_its_own_weight(batch, term):
    predictions = predictions_of(batch)
    weights = dict.fromkeys(TERMS, 0.0)
    once = Loss(**{**weights, term: 1.0})(predictions, batch)
    assert once > 0
    torch.testing.assert_close(Loss(**{**weights, term: 7.0})(predictions, batch), 7 * once)


def test_terms_without_weight_need_no_prediction(batch):
    predictions = {"forces": predictions_of(batch)["forces"]}
    loss = Loss(energy=0.0, forces=1.0, stress=0.0)
    assert loss.terms == ("forces",)
    assert loss(predictions, batch) > 0


def test_small_differences_of_large_energies_are_not_rounded(batch):
    batch.energy = torch.tensor([-4e5, -3e5, -1e5], dtype=torch.float64)
    prediction = batch.energy + 1e-5 * torch.tensor([9.0, 6.0, 1.0], dtype=torch.float64)
    batch.weight = torch.ones(3, dtype=torch.float64)
    found = Loss(energy=1.0, forces=0.0)({"energy": prediction}, batch)
    assert found.item() == pytest.approx(1e-10, rel=1e-4)


@pytest.mark.parametrize("term", TERMS)
def test_the_loss_is_intensive(frames, term):
    """Every frame twice in the batch changes nothing, so weights of terms mean the same for every batch size."""
    once, twice = collate(frames), collate([*frames, *frames])
    predictions = predictions_of(once)
    doubled = {name: torch.cat([value, value]) for name, value in predictions.items()}
    loss = Loss(**{**dict.fromkeys(TERMS, 0.0), term: 1.0})
    torch.testing.assert_close(loss(doubled, twice), loss(predictions, once))


# Weights of frames


@pytest.mark.parametrize("term", TERMS)
def test_the_weight_of_a_frame_multiplies_every_term(triclinic, term):
    light, heavy = (labelled(triclinic, 2, stress=True, weight=weight) for weight in (1.0, 2.5))
    predictions = predictions_of(light)
    loss = Loss(**{**dict.fromkeys(TERMS, 0.0), term: 1.0})
    torch.testing.assert_close(loss(predictions, heavy), 2.5 * loss(predictions, light))


@pytest.mark.parametrize("term", TERMS)
def test_a_frame_of_weight_zero_pulls_at_nothing(ethanol, triclinic, one_atom, term):
    batch = collate(
        [
            labelled(ethanol, 1, stress=False),
            labelled(triclinic, 2, stress=True, weight=0.0),
            labelled(one_atom, 3, stress=True),
        ]
    )
    predictions = predictions_of(batch)
    Loss(energy=1.0, forces=1.0, stress=1.0)(predictions, batch).backward()
    gradient = predictions[term].grad
    second = slice(9, 15) if term == "forces" else slice(1, 2)
    assert not gradient[second].any()
    assert gradient[-1].abs().min() > 0


# Labels that are not there


@pytest.mark.parametrize("term", TERMS)
def test_a_frame_without_a_label_counts_as_if_it_were_not_there(frames, term):
    molecule, crystal, single = frames
    whole = collate([molecule, without(crystal, term), single])
    predictions = predictions_of(whole)
    first = {name: value[:9] if name == "forces" else value[:1] for name, value in predictions.items()}
    last = {name: value[-1:] for name, value in predictions.items()}
    rest = {name: torch.cat([first[name], last[name]]) for name in TERMS}
    loss = Loss(**{**dict.fromkeys(TERMS, 0.0), term: 1.0})
    torch.testing.assert_close(loss(predictions, whole), loss(rest, collate([molecule, single])))


@pytest.mark.parametrize("term", TERMS)
def test_a_prediction_without_a_label_gets_no_gradient(frames, term):
    molecule, crystal, single = frames
    batch = collate([molecule, without(crystal, term), single])
    predictions = predictions_of(batch)
    Loss(energy=1.0, forces=1.0, stress=1.0)(predictions, batch).backward()
    for name in TERMS:
        gradient = predictions[name].grad
        assert gradient.isfinite().all()
        second = slice(9, 15) if name == "forces" else slice(1, 2)
        assert bool(gradient[second].any()) == (name != term)


def test_a_batch_without_any_label_of_a_term_leaves_the_term_out(frames):
    batch = collate([without(frame, "energy", "stress") for frame in frames])
    predictions = predictions_of(batch)
    found = Loss(energy=1.0, forces=2.0, stress=1.0)(predictions, batch)
    torch.testing.assert_close(found, Loss(energy=0.0, forces=2.0)(predictions, batch))
    found.backward()
    assert not predictions["energy"].grad.any()
    assert not predictions["stress"].grad.any()


def test_stress_of_a_crystal_trains_beside_a_molecule(potential, ethanol, triclinic):
    """A molecule has no stress, neither label nor prediction, and must not spoil the gradient of the weights."""
    molecule, crystal = labelled(ethanol, 1, stress=False), labelled(triclinic, 2, stress=True)
    potential.train()
    loss = Loss(energy=0.0, forces=0.0, stress=1.0)
    mixed, alone = collate([molecule, crystal]), collate([crystal])
    gradients = gradients_of(loss(potential(mixed, stress=True), mixed), potential)
    expected = gradients_of(loss(potential(alone, stress=True), alone), potential)
    assert sum(gradient.abs().sum() for gradient in expected.values()) > 0
    torch.testing.assert_close(gradients, expected)


def test_all_terms_train_on_a_mixed_batch(potential, batch):
    potential.train()
    value = Loss(energy=1.0, forces=1.0, stress=1.0)(potential(batch, stress=True), batch)
    gradients = gradients_of(value, potential)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_the_gradient_is_that_of_a_finite_difference(potential, batch):
    """Through forces and stress, which are derivatives themselves."""
    potential.train()
    loss = Loss(energy=1.0, forces=1.0, stress=1.0)
    gradient = gradients_of(loss(potential(batch, stress=True), batch), potential)["model.embedding"]
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0), dtype=gradient.dtype)
    values, step = [], 1e-5
    for sign in (1, -1):
        with torch.no_grad():
            potential.model.embedding += sign * step * direction
        values.append(loss(potential(batch, stress=True), batch).item())
        with torch.no_grad():
            potential.model.embedding -= sign * step * direction
    assert (values[0] - values[1]) / (2 * step) == pytest.approx((gradient * direction).sum().item(), rel=1e-6)


# Refusals


@pytest.mark.parametrize("term", TERMS)
def test_a_negative_weight_is_refused(term):
    with pytest.raises(ValueError, match="loss weights must not be negative"):
        Loss(**{term: -1.0})


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nor all zero"):
        Loss(energy=0.0, forces=0.0, stress=0.0)


def test_terms_are_those_with_a_weight():
    assert Loss().terms == ("energy", "forces")
    assert Loss(energy=0.0, stress=0.1).terms == ("forces", "stress")
