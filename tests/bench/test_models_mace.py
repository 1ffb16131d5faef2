"""mace-torch beside equinet: the same function, or a reason."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from typer.testing import CliRunner

from equinet.bench.core import COMPILED, CUEQUIVARIANCE, EAGER, EQUINET, memory
from equinet.bench.core.memory import Need
from equinet.bench.core.record import Settings
from equinet.bench.models import run
from equinet.bench.models.lineup import line_up
from equinet.bench.models.problems import MODELS, Architecture, Structures
from equinet.bench.models.runners import TASKS, Prediction
from equinet.bench.peers.mace_torch import model as peer
from equinet.bench.peers.mace_torch.model import PEERS
from equinet.cli import app
from equinet.models import MACEConfig

HERE = find_spec("mace") is not None
beside_mace = pytest.mark.skipif(
    not HERE, reason="mace-torch is not installed; CONTRIBUTING.md says how to put it here"
)

TINY = Architecture("tiny", MACEConfig(channels=4, max_l=1, sh_degree=2, correlation=2, cutoff=4.0))
SILICON = bulk("Si", cubic=True)
SILICON.positions += np.random.default_rng(0).normal(scale=0.05, size=(8, 3))
QUICK = Settings(rounds=3, budget=0.3)
BOTH = Structures("both", (molecule("CH3OH"), SILICON))


@pytest.fixture
def no_processes(monkeypatch):
    def pretend(worker, batches, tasks, warm, device):
        return {(batch, task): Need(1000) for batch in batches for task in tasks}

    monkeypatch.setattr(memory, "needs", pretend)


@beside_mace
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_weights_are_the_same_function_and_the_same_gradient(dtype, tmp_path):
    lineup = line_up(TINY, [BOTH], (EAGER,), dtype, "cpu", tmp_path)
    lineup.truth.load(BOTH.frames)
    truth = lineup.truth.predict()
    assert np.abs(truth.energy).min() > 1e-2, "too small for a comparison to mean anything"
    assert np.sqrt((truth.forces**2).mean()) == pytest.approx(1.0)
    labels = Prediction(truth.energy + 1.0, 0 * truth.forces)
    lineup.truth.load(BOTH.frames, labels)
    loss, gradient = lineup.truth.gradient()
    exact = dtype == "float64"
    for contender in lineup.runners.values():
        contender.load(BOTH.frames, labels)
        assert contender.predict().error(truth) < (1e-12 if exact else 1e-5)
        their_loss, their_gradient = contender.gradient()
        assert their_loss == pytest.approx(loss, rel=1e-10 if exact else 1e-4)
        assert np.linalg.norm(their_gradient - gradient) < (1e-10 if exact else 1e-3) * np.linalg.norm(gradient)
    assert torch.get_default_dtype() == torch.float32


@beside_mace
def test_both_packages_are_timed_at_every_task(no_processes):
    plan = run.Plan([TINY], [BOTH], (EAGER,), settings=QUICK)
    (rows,) = run.measure(plan)
    assert [(row.task, row.contender) for row in rows] == [(task, name) for task in TASKS for name in (EQUINET, EAGER)]
    assert all(row.timing is not None and not row.wrong for row in rows)
    for row in rows:
        assert (row.over_equinet is None) == (row.contender == EQUINET)


@beside_mace
def test_other_weights_are_found_out(no_processes, monkeypatch):
    build = peer.MaceRecipe.build

    def another(self, weights=None):
        found = build(self, weights)
        if self.dtype == "float32":
            with torch.no_grad():
                found.model.products[0].linear.weight.mul_(1.001)
        return found

    monkeypatch.setattr(peer.MaceRecipe, "build", another)
    (rows,) = run.measure(run.Plan([TINY], [BOTH], (EAGER,), settings=QUICK))
    theirs = [row for row in rows if row.contender == EAGER]
    assert all(row.wrong and row.timing is None for row in theirs)
    assert all(row.timing is not None for row in rows if row.contender == EQUINET)


@beside_mace
def test_cuequivariance_computes_the_same_function_or_says_why_not(tmp_path):
    pytest.importorskip("cuequivariance_torch")
    lineup = line_up(TINY, [BOTH], (CUEQUIVARIANCE,), "float32", "cpu", tmp_path)
    lineup.truth.load(BOTH.frames)
    contender = lineup.runners[CUEQUIVARIANCE]
    contender.load(BOTH.frames)
    assert contender.predict().error(lineup.truth.predict()) < 1e-5
    if find_spec("cuequivariance_ops_torch") is None:
        assert "naive method" in contender.note
    alone = replace(TINY, config=TINY.config.model_copy(update={"correlation": 1}))
    refused = line_up(alone, [BOTH], (CUEQUIVARIANCE,), "float32", "cpu", tmp_path).refused
    assert "Correlation 1 not supported" in refused[CUEQUIVARIANCE]


@beside_mace
def test_a_refused_contender_keeps_its_rows(no_processes):
    alone = replace(TINY, config=TINY.config.model_copy(update={"correlation": 1}))
    (rows,) = run.measure(run.Plan([alone], [BOTH], (CUEQUIVARIANCE,), settings=QUICK))
    theirs = [row for row in rows if row.contender == CUEQUIVARIANCE]
    assert len(theirs) == len(TASKS)
    assert all(row.timing is None and not row.wrong and row.notes for row in theirs)


@beside_mace
def test_the_compiled_model_has_no_training_step(tmp_path):
    recipe = peer.MaceRecipe(COMPILED, TINY.config, (1, 6, 8), 5.0, "float32", "cpu")
    contender = recipe.build()
    assert contender.cannot("training step") == "mace-torch does not compile its training step"
    assert contender.cannot("energy + forces") == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"many_body": "gaunt_grid"}, "exact couplings"),
        ({"pseudotensors": True}, "pseudotensors are chosen differently"),
        ({"layers": 1}, "a single layer has a linear readout there"),
        ({"layers": 1, "readout_hidden": 0, "readout_layers": "last"}, "a single layer has no readout there"),
        ({"readout_hidden": 0}, "several layers have no linear last readout there"),
    ],
)
def test_what_mace_torch_has_no_form_of_is_said(change, reason):
    assert reason in peer.differs(MACEConfig(**change))
    assert all(peer.differs(config) is None for config in MODELS.values())
    if HERE:
        with pytest.raises(ValueError, match=f"mace-torch cannot be built like this model: .*{re.escape(reason)}"):
            peer.build_mace(MACEConfig(**change), {1: 0.0}, 5.0)


def test_the_default_dtype_is_put_back_after_an_error():
    def fail():
        with peer.mace_defaults("float64"):
            assert torch.get_default_dtype() == torch.float64
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_default_dtype() == torch.float32


def test_without_mace_torch_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "mace", None)
    monkeypatch.setitem(sys.modules, "mace.modules", None)
    with pytest.raises(ValueError, match=r"mace-torch cannot be imported .* pip install --no-deps mace-torch"):
        peer.require()
    result = CliRunner().invoke(app, ["bench", "model", "--against", "mace"])
    assert result.exit_code == 1
    assert "pip install --no-deps mace-torch" in result.output


def test_without_cuequivariance_its_row_says_so(monkeypatch):
    monkeypatch.setattr(peer, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="cuequivariance-torch is not installed: pip install"):
        peer.with_cuequivariance(None, "cpu")


def test_an_unknown_peer_is_refused_with_those_there_are():
    result = CliRunner().invoke(app, ["bench", "size", "--against", "nequip"])
    assert result.exit_code == 1
    assert f"`--against nequip` is unknown; there are {', '.join(PEERS)}" in " ".join(result.output.split())
