"""Batches by edges: every graph once, never above the limit, as many batches in every epoch, and balanced."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from equinet.datasets.batches import Batches, ByEdges, BySize

LIMIT = 1000


@pytest.fixture(params=["alike", "wide", "mostly empty", "one"])
def edges(request: pytest.FixtureRequest) -> np.ndarray:
    rng = np.random.default_rng(0)
    sizes = {
        "alike": rng.integers(90, 110, 500),
        "wide": np.exp(rng.uniform(0, np.log(LIMIT), 700)).astype(np.int64),
        "mostly empty": np.where(rng.uniform(size=3000) < 0.9, 0, 40),
        "one": np.array([7]),
    }
    return np.asarray(sizes[request.param], dtype=np.int64)


def test_an_epoch_holds_every_graph_once_and_no_batch_is_beyond_the_limit(edges: np.ndarray) -> None:
    order = ByEdges(edges, LIMIT, seed=1)
    for number in range(3):
        batches = list(order.epoch(number))
        assert Counter(n for batch in batches for n in batch) == Counter(range(len(edges)))
        assert len(batches) == len(order)
        loads = [np.maximum(edges[batch], 1).sum() for batch in batches]
        assert max(loads) <= LIMIT


def test_batches_are_balanced_and_nearly_full() -> None:
    edges = np.exp(np.random.default_rng(3).uniform(np.log(10), np.log(LIMIT / 2), 2000)).astype(np.int64)
    batches = list(ByEdges(edges, LIMIT, seed=1).epoch(0))
    loads = np.array([edges[batch].sum() for batch in batches])
    assert loads.max() < 1.12 * loads.min()
    assert len(batches) < 1.1 * edges.sum() / LIMIT


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else(edges: np.ndarray) -> None:
    first = [list(ByEdges(edges, LIMIT, seed=7).epoch(n)) for n in range(2)]
    again = ByEdges(edges, LIMIT, seed=7)
    assert [list(again.epoch(n)) for n in (1, 0)] == first[::-1]
    if len(edges) > 1:
        assert first[0] != first[1] != list(ByEdges(edges, LIMIT, seed=8).epoch(1))


def test_graphs_meet_others_in_every_epoch() -> None:
    order = ByEdges(np.full(400, 100), LIMIT, seed=0)
    together = [{frozenset(batch) for batch in order.epoch(n)} for n in range(2)]
    assert not together[0] & together[1]


def test_a_graph_beyond_the_limit_is_a_batch_of_its_own_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    edges = np.array([400, 5000, 300, 1001, 200])
    with caplog.at_level("INFO", logger="equinet"):
        batches = {frozenset(batch) for batch in ByEdges(edges, LIMIT, seed=0).epoch(0)}
    assert {frozenset({1}), frozenset({3})} < batches
    assert "2 of 5 frames have more than 1,000 edges (train.batch_edges), up to 5,000" in caplog.text


def test_without_a_seed_every_epoch_is_the_same(edges: np.ndarray) -> None:
    order = ByEdges(edges, LIMIT, seed=None)
    assert list(order.epoch(0)) == list(order.epoch(5))


@pytest.mark.parametrize("skip", range(6))
def test_the_tail_of_batches_is_cut_out(skip: int) -> None:
    batches = BySize(11, 3, seed=2).epoch(1)
    assert list(batches[skip:]) == list(batches)[skip:]
    assert len(batches[skip:]) == max(4 - skip, 0)
    assert batches[-1] == list(batches)[-1]


def test_what_makes_no_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="`batch_edges` must be 1 or more, got 0"):
        ByEdges(np.array([1]), 0, seed=0)
    batches = Batches(np.arange(4), np.array([2, 4]))
    with pytest.raises(IndexError, match="there is no batch 2 in 2"):
        batches[2]
    with pytest.raises(ValueError, match="the step must be 1, got 2"):
        batches[::2]
