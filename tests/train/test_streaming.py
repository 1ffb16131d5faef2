"""Training from stores is training from memory: the same frames, statistics, batches and numbers, resumed to the frame."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from equinet.datasets import GraphLoader
from equinet.datasets.conversion import convert
from equinet.datasets.frames import labelled
from equinet.datasets.store import StoredFrames, StoredGraphs, survey, write_store
from equinet.graph import AtomicGraph
from equinet.train import RunConfig, assemble, fit, parse_config, run
from equinet.train.prepare import prepare
from equinet.train.state import TrainingState
from equinet.train.stored import graphs_to_test, workers_of

MODEL = {
    "channels": 4,
    "max_l": 1,
    "sh_degree": 1,
    "correlation": 2,
    "cutoff": 3.0,
    "radial_hidden": [8],
    "readout_hidden": 4,
}
GRID = np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)]) * 1.6


def frame(rng: np.random.Generator, n: int) -> Atoms:
    size = int(rng.integers(3, 9))
    atoms = Atoms(
        rng.choice([1, 6, 8], size), GRID[:size] + rng.normal(0, 0.05, (size, 3)), cell=[6, 6, 6], pbc=n % 2 == 0
    )
    atoms.calc = SinglePointCalculator(atoms)
    energy = float(atoms.numbers.sum()) * -10 + rng.normal() * 0.1
    atoms.calc.results = {"energy": energy, "forces": rng.normal(0, 0.5, (size, 3))}
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames as extended XYZ and in two stores."""
    folder, rng = tmp_path_factory.mktemp("stream"), np.random.default_rng(0)
    frames = [labelled(frame(rng, n)) for n in range(40)]
    write_store(folder / "a.aselmdb", frames[:15])
    write_store(folder / "b.aselmdb", frames[15:])
    convert(folder / "*.aselmdb", folder / "all.xyz")
    return folder


def configuration(train: Path, *, data: dict[str, Any] | None = None, **settings: Any) -> RunConfig:
    tree = {
        "data": {"train": str(train), "workers": 0, **(data or {})},
        "model": MODEL,
        "train": {
            "epochs": 2,
            "dtype": "float64",
            **({} if "batch_edges" in settings else {"batch_size": 5}),
            **settings,
        },
    }
    return parse_config(tree)


def fields(batches: list[AtomicGraph]) -> list[dict[str, Any]]:
    return [
        {name: value.tolist() if torch.is_tensor(value) else value for name, value in vars(b).items()} for b in batches
    ]


def test_batches_and_statistics_are_those_of_the_same_frames_in_memory(folder: Path) -> None:
    stored, memory = (assemble(configuration(folder / name)) for name in ("*.aselmdb", "all.xyz"))
    assert isinstance(stored.graphs["train"], StoredGraphs)
    assert stored.statistics == memory.statistics
    assert {part: len(graphs) for part, graphs in stored.graphs.items()} == {"train": 36, "valid": 4}
    for epoch in range(2):
        assert str(fields(list(stored.data.train.epoch(epoch)))) == str(fields(list(memory.data.train.epoch(epoch))))
    assert str(fields(list(stored.data.valid))) == str(fields(list(memory.data.valid)))


@pytest.mark.parametrize("sizes", [{"batch_size": 5}, {"batch_edges": 150}], ids=str)
def test_workers_give_the_batches_that_one_process_gives(folder: Path, sizes: dict[str, int]) -> None:
    graphs = prepare(configuration(folder / "*.aselmdb", **sizes)).graphs["train"]
    alone, others = (GraphLoader(graphs, seed=3, workers=workers, **sizes) for workers in (0, 2))
    whole = fields(list(alone.epoch(1)))
    assert str(fields(list(others.epoch(1)))) == str(whole)
    assert str(fields(list(others.epoch(1, skip=3)))) == str(whole[3:])
    assert len(whole) == len(alone) == len(others)


class _Stop(Exception):
    pass


def losses(config: RunConfig, stop: int | None = None, folder: Path | None = None) -> list[float]:
    """Weights' sum after every step, of a run that is stopped after ``stop`` steps and goes on in a new one."""
    found: list[float] = []

    class Reporter:
        def epoch_begins(self, epoch: int, epochs: int, batches: int, done: int) -> None: ...

        def batch_done(self) -> None:
            found.append(float(sum(p.detach().abs().sum() for p in parts.potential.parameters())))
            if len(found) == stop:
                raise _Stop

        def epoch_done(self, record: dict[str, Any], state: TrainingState, improved: bool) -> None: ...

    def train() -> None:
        fit(
            parts.potential,
            parts.data,
            parts.loss,
            parts.optimizer,
            parts.settings,
            state=parts.state,
            reporter=Reporter(),
        )

    parts = assemble(config)
    if stop is None:
        train()
        return found
    assert folder is not None
    with pytest.raises(_Stop):
        train()
    parts.state.save(folder / "state", parts.identity)
    parts = assemble(config)
    parts.state.restore(folder / "state", parts.identity)
    train()
    return found


@pytest.mark.parametrize("settings", [{}, {"batch_edges": 150}], ids=str)
def test_a_run_that_stopped_in_mid_epoch_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, settings: dict[str, int]
) -> None:
    config = configuration(folder / "*.aselmdb", **settings)
    assert losses(config, stop=3, folder=tmp_path) == losses(config)


def test_a_streamed_run_writes_what_others_write(folder: Path, tmp_path: Path) -> None:
    data = {"valid": str(folder / "a.aselmdb"), "test": str(folder / "all.xyz"), "workers": 1}
    result = run(configuration(folder / "b.aselmdb", data=data, epochs=1, batch_edges=200), tmp_path / "out")
    assert {part: errors.frames for part, errors in result.errors.items()} == {"train": 25, "valid": 15, "test": 40}
    assert (tmp_path / "out" / "model.eqn").is_file()
    assert "batch_edges = 200" in (tmp_path / "out" / "config.toml").read_text()


def test_batch_size_and_batch_edges_exclude_each_other(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"`train.batch_size` \(5\) and `train.batch_edges` \(100\)"):
        configuration(folder / "all.xyz", batch_edges=100, batch_size=5)
    with pytest.raises(ValueError, match="give one of `batch_size` and `batch_edges`"):
        GraphLoader([], 3, batch_edges=100)
    with pytest.raises(ValueError, match="give one of `batch_size` and `batch_edges`"):
        GraphLoader([])


def test_a_step_that_does_not_fit_names_batch_edges(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["equinet.train.assemble"], "available_memory", lambda: 1e3)
    for name, settings, remedy in (
        ("*.aselmdb", {"batch_edges": 100}, r"on a full batch \(\d+ edges\).*`train.batch_edges`"),
        ("*.aselmdb", {}, r"on the largest 5 frames \(\d+ edges\).*`train.batch_size`"),
        ("all.xyz", {}, r"on the largest 5 frames \(\d+ edges\).*`train.batch_size`"),
    ):
        with pytest.raises(MemoryError, match=remedy):
            assemble(configuration(folder / name, **settings))


def test_other_frames_are_another_run(folder: Path) -> None:
    one, same, other = (
        prepare(configuration(folder / name, data={"valid": fraction})).digest
        for name, fraction in (("*.aselmdb", 0.1), ("*.aselmdb", 0.1), ("b.aselmdb", 0.1))
    )
    assert one == same != other != prepare(configuration(folder / "b.aselmdb", data={"valid": 0.2})).digest


def test_isolated_atoms_in_a_store_are_set_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    alone = [
        labelled(Atoms([z], [[0, 0, 0]], info={"energy": -10.0 * z, "config_type": "IsolatedAtom"})) for z in (1, 6, 8)
    ]
    write_store(tmp_path / "x.aselmdb", [alone[0], *(labelled(frame(rng, n)) for n in range(20)), *alone[1:]])
    prepared = prepare(configuration(tmp_path / "x.aselmdb"))
    assert prepared.isolated == 3
    assert prepared.statistics.reference == (-10, -60, -80)
    assert sum(map(len, prepared.graphs.values())) == 20
    write_store(tmp_path / "y.aselmdb", alone)
    with pytest.raises(ValueError, match=r"y\.aselmdb holds isolated atoms only"):
        prepare(configuration(tmp_path / "y.aselmdb"))


def write(path: Path, change: Any, count: int = 30, number: int = 17) -> Path:
    rng = np.random.default_rng(0)
    frames = [frame(rng, n) for n in range(count)]
    change(frames[number])
    write_store(path, frames)
    return path


def test_a_missing_label_is_counted_over_all_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "x.aselmdb", lambda atoms: atoms.calc.results.pop("forces"))
    with pytest.raises(ValueError, match=r"1 of 27 frames have no label `forces`, first .*x\.aselmdb, frame 17;"):
        prepare(configuration(path))
    prepare(configuration(path, data={"allow_missing": True}))


def test_a_force_out_of_proportion_is_found_among_all_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equinet.datasets.store.surveys.MEASURED", 3)
    monkeypatch.setattr("equinet.datasets.store.surveys.OF_EACH_ELEMENT", 1)
    path = write(tmp_path / "x.aselmdb", lambda atoms: atoms.calc.results["forces"].__setitem__((0, 0), 9e3))
    with pytest.raises(ValueError, match=r"forces-outlier: 9000 eV/Å on atom 0.*x\.aselmdb, frame 17"):
        prepare(configuration(path))


def test_it_is_said_if_statistics_are_those_of_a_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("equinet.datasets.store.surveys.MEASURED", 3)
    monkeypatch.setattr("equinet.datasets.store.surveys.OF_EACH_ELEMENT", 1)
    with caplog.at_level(logging.INFO, logger="equinet"):
        prepare(configuration(folder / "*.aselmdb"))
    assert re.search(r"neighbours are those of \d of 36 training frames", caplog.text)


def test_an_element_of_validation_frames_alone_is_refused(folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "x.aselmdb", lambda atoms: atoms.numbers.__setitem__(0, 26))
    with pytest.raises(ValueError, match=r"x\.aselmdb, frame 17: holds Fe, which the model does not know"):
        prepare(configuration(folder / "*.aselmdb", data={"valid": str(path), "accept": ["repeated-labels"]}))


def test_a_frame_without_atoms_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "x.aselmdb", [Atoms()])
    with pytest.raises(ValueError, match=r"x\.aselmdb, frame 0: the frame has no atoms; remove it"):
        survey(StoredFrames(tmp_path / "x.aselmdb"))


def test_of_many_frames_a_part_is_measured_that_has_all_elements_and_compositions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = survey(StoredFrames(folder / "*.aselmdb"), cutoff=3.0)
    chosen = np.arange(2, 38)
    assert found.measured(chosen).tolist() == chosen.tolist()
    monkeypatch.setattr("equinet.datasets.store.surveys.MEASURED", 6)
    monkeypatch.setattr("equinet.datasets.store.surveys.OF_EACH_ELEMENT", 2)
    few = found.measured(chosen)
    assert 6 <= len(few) < 25
    assert set(few) <= set(chosen.tolist())
    assert found.elements(few) == found.elements(chosen) == [1, 6, 8]


def test_a_survey_by_workers_is_that_of_one_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("equinet.datasets.store.surveys.PART", 7)
    monkeypatch.setattr("equinet.datasets.store.surveys.SECONDS_BETWEEN_NEWS", -1.0)
    frames = StoredFrames(folder / "*.aselmdb")
    with caplog.at_level(logging.INFO, logger="equinet"):
        alone, others = survey(frames, cutoff=3.0), survey(frames, cutoff=3.0, workers=2)
    assert alone.digest == others.digest
    assert alone.edges is not None
    for name in ("atoms", "edges", "largest_force", "of_element", "compositions"):
        assert (getattr(alone, name) == getattr(others, name)).all()
    assert "looked through 17% of 40 frames, " in caplog.text


def test_graphs_of_a_store_are_made_when_asked_for(folder: Path) -> None:
    graphs = prepare(configuration(folder / "*.aselmdb", batch_edges=200)).graphs["train"]
    assert isinstance(graphs, StoredGraphs)
    assert [graph.num_edges for graph in graphs] == graphs.edges.tolist()
    assert isinstance(graphs[3:9:2], StoredGraphs)
    assert torch.equal(graphs[3:9:2][1].positions, graphs[5].positions)
    assert graphs[-1].num_nodes == list(graphs)[-1].num_nodes
    assert graphs.largest(1)[0].num_edges == graphs.edges.max()
    assert graphs.label_counts["forces"] == len(graphs)
    assert graphs.label_counts["stress"] == 0


def test_only_stores_have_workers_unless_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(folder / "all.xyz", data={"workers": None})
    assert workers_of(config, []) == 0
    assert 1 <= workers_of(config, StoredFrames(folder / "a.aselmdb")) <= 4
    assert workers_of(configuration(folder / "all.xyz", data={"workers": 7}), []) == 7


def test_final_errors_of_a_large_store_are_those_of_a_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = prepare(configuration(folder / "*.aselmdb")).graphs["train"]
    assert len(graphs_to_test(graphs)) == 36
    monkeypatch.setattr("equinet.train.stored.TESTED", 10)
    assert len(graphs_to_test(graphs)) == 9
    assert len(graphs_to_test(list(graphs))) == 36
