"""From frames to batches: labels on graphs, an order that only seed and epoch decide, and splits."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from equinet.datasets import GraphLoader, Labels, random_split, read_frames, to_graph, to_graphs, with_labels
from equinet.datasets.batches import BySize
from equinet.graph import AtomicGraph

CUTOFF = 4.0


@pytest.fixture
def frames() -> list[Atoms]:
    """Eleven frames that are told apart by their energy."""
    molecules = [molecule(name) for name in ("H2O", "CH4", "CO2") * 4][:11]
    return [
        with_labels(a, Labels({"energy": float(n), "forces": np.full((len(a), 3), float(n))}))
        for n, a in enumerate(molecules)
    ]


@pytest.fixture
def graphs(frames: list[Atoms]) -> list[AtomicGraph]:
    return to_graphs(frames, CUTOFF)


def energies(batches: Iterable[AtomicGraph]) -> list[list[float]]:
    return [batch.energy.tolist() for batch in batches]


def test_labels_are_on_the_graph_and_missing_ones_are_nan(frames: list[Atoms]) -> None:
    graph = to_graph(frames[3], CUTOFF)
    assert graph.energy.tolist() == [3]
    assert graph.forces.tolist() == [[3, 3, 3]] * 3
    assert graph.stress.shape == (1, 3, 3)
    assert graph.stress.isnan().all()
    assert graph.weight.tolist() == [1]
    bare = to_graph(Atoms("H2", [[0, 0, 0], [0, 0, 1]]), CUTOFF)
    assert bare.energy.isnan().all()
    assert bare.forces.isnan().all()
    assert bare.forces.shape == (2, 3)
    dtypes = {graph[name].dtype for name in ("energy", "forces", "stress", "weight", "positions", "cell")}
    assert dtypes == {torch.float64}


def test_labels_of_the_graph_are_not_those_of_the_frame_in_memory(frames: list[Atoms]) -> None:
    graph = to_graph(frames[1], CUTOFF)
    graph.forces += 1
    assert frames[1].calc.results["forces"][0, 0] == 1


def test_batches_carry_the_labels_of_their_graphs(graphs: list[AtomicGraph]) -> None:
    (batch,) = GraphLoader(graphs, batch_size=20)
    assert batch.energy.tolist() == list(range(11))
    assert batch.stress.shape == (11, 3, 3)
    assert batch.weight.shape == (11,)
    torch.testing.assert_close(batch.forces[:, 0], batch.energy[batch.graph_of_node])


def test_without_a_seed_the_order_is_that_of_the_data(graphs: list[AtomicGraph]) -> None:
    loader = GraphLoader(graphs, batch_size=4)
    assert energies(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert energies(loader.epoch(5)) == energies(loader)
    assert len(loader) == 3


def test_an_epoch_holds_every_graph_once(graphs: list[AtomicGraph]) -> None:
    for epoch in range(3):
        batches = energies(GraphLoader(graphs, 4, seed=1).epoch(epoch))
        assert [len(batch) for batch in batches] == [4, 4, 3]
        assert Counter(e for batch in batches for e in batch) == Counter(range(11))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else(graphs: list[AtomicGraph]) -> None:
    loader = GraphLoader(graphs, 3, seed=7)
    expected = [energies(loader.epoch(n)) for n in range(3)]
    assert expected[0] != expected[1] != expected[2]
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    again = GraphLoader(graphs, 3, seed=7)
    assert [energies(again.epoch(n)) for n in (2, 0, 1)] == [expected[n] for n in (2, 0, 1)]
    assert energies(GraphLoader(graphs, 3, seed=8).epoch(0)) != expected[0]


@pytest.mark.parametrize("skip", range(6))
def test_an_interrupted_epoch_goes_on_with_its_own_tail(graphs: list[AtomicGraph], skip: int) -> None:
    loader = GraphLoader(graphs, 2, seed=3)
    whole = energies(loader.epoch(4))
    assert energies(loader.epoch(4, skip=skip)) == whole[skip:]
    assert energies(loader.epoch(4)) == whole
    assert len(loader) == 6


def test_an_epoch_that_was_left_early_does_not_shorten_the_next(graphs: list[AtomicGraph]) -> None:
    loader = GraphLoader(graphs, 2, seed=3)
    epoch = loader.epoch(0, skip=2)
    next(epoch)
    epoch.close()
    assert len(loader) == 6
    assert len(energies(loader.epoch(1))) == 6


def test_a_batch_larger_than_the_set_is_the_set(graphs: list[AtomicGraph]) -> None:
    assert len(GraphLoader(graphs, 100, seed=0)) == 1


@pytest.mark.parametrize(("size", "batch", "batches"), [(10, 5, 2), (11, 5, 3), (1, 1, 1), (0, 4, 0)])
def test_the_number_of_batches_is_known_beforehand(size: int, batch: int, batches: int) -> None:
    order = BySize(size, batch, seed=0)
    assert len(order) == batches == len(list(order.epoch(0)))


def test_an_empty_batch_is_refused(graphs: list[AtomicGraph]) -> None:
    with pytest.raises(ValueError, match="`batch_size` must be 1 or more, got 0"):
        GraphLoader(graphs, 0)


def test_a_split_loses_nothing_and_shares_nothing(frames: list[Atoms]) -> None:
    rest, held = random_split(frames, 0.25, seed=0)
    assert (len(rest), len(held)) == (8, 3)
    assert {id(a) for a in rest} | {id(a) for a in held} == {id(a) for a in frames}


def test_a_split_depends_on_its_seed_alone(frames: list[Atoms]) -> None:
    def held(seed: int) -> list[float]:
        return [a.calc.results["energy"] for a in random_split(frames, 0.3, seed)[1]]

    assert held(1) == held(1)
    assert len({tuple(held(seed)) for seed in range(10)}) > 5


@pytest.mark.parametrize(
    ("count", "fraction", "sizes"), [(2, 0.01, (1, 1)), (2, 0.99, (1, 1)), (10, 0.01, (9, 1)), (10, 0.5, (5, 5))]
)
def test_both_parts_of_a_split_hold_something(
    frames: list[Atoms], count: int, fraction: float, sizes: tuple[int, int]
) -> None:
    rest, held = random_split(frames[:count], fraction, seed=0)
    assert (len(rest), len(held)) == sizes


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
def test_a_fraction_that_leaves_nothing_is_refused(frames: list[Atoms], fraction: float) -> None:
    with pytest.raises(ValueError, match="the fraction to hold out must be between 0 and 1"):
        random_split(frames, fraction, seed=0)


def test_a_single_frame_cannot_be_split(frames: list[Atoms]) -> None:
    with pytest.raises(ValueError, match=r"cannot hold out a part of 1 frame"):
        random_split(frames[:1], 0.5, seed=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "all.xyz"
    file.write_text("2\nenergy=-1\nH 0 0 0\nH 0 0 1\n2\nenergy=-1\nC 0 0 0\nO 0 0 0.00001\n")
    return file


def test_what_is_wrong_with_a_frame_is_said_with_its_place(path: Path) -> None:
    frames = read_frames(path)
    with pytest.raises(ValueError, match=r"all\.xyz, frame 1: atoms 0 and 1 are on one spot"):
        to_graphs(frames, CUTOFF)
    with pytest.raises(
        ValueError, match=r"all\.xyz, frame 1: holds C, O, which the model does not know \(it was made for H\)"
    ):
        to_graphs(frames, CUTOFF, elements=[1])
    assert len(to_graphs(frames[:1], CUTOFF, elements=[1])) == 1


def test_a_frame_without_atoms_is_refused() -> None:
    with pytest.raises(ValueError, match="the frame has no atoms; remove it"):
        to_graphs([Atoms()], CUTOFF)


def test_a_cutoff_too_long_for_the_memory_keeps_its_kind_of_error() -> None:
    crystal = Atoms("Cu", cell=[2, 2, 2], pbc=True, info={"equinet_source": "bulk.xyz, frame 0"})
    with pytest.raises(MemoryError, match=r"bulk\.xyz, frame 0: a cutoff of 50000 Å"):
        to_graph(crystal, 50000.0)
