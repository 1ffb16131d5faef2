"""The comparison of tensor products: what it trains, what it refuses, how it goes on, and what its tables say."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import equinet.bench.swap.run
from equinet.bench.core.report import closing, markdown, write
from equinet.bench.swap.report import SUITE, record_of
from equinet.bench.swap.run import PAIRS, Pair, Row, in_words, summarise, swap, train_one
from equinet.cli.render import show
from equinet.datasets import SAMPLE
from equinet.train import RunConfig, parse_config

GOOD = Row(
    contender="cg | cg",
    seed=1,
    weights=1000,
    epochs=5,
    seconds_per_epoch=2.0,
    energy_rmse=0.9,
    forces_rmse=50.0,
    rotation_error=1e-6,
    inversion_error=1e-7,
    md_steps_per_second=100.0,
)


@pytest.fixture
def config() -> RunConfig:
    return parse_config(
        {
            "data": {"train": str(SAMPLE["valid"]), "valid": 0.5, "test": str(SAMPLE["valid"])},
            "model": {"channels": 2, "sh_degree": 1, "correlation": 2, "cutoff": 2.5, "radial_hidden": [4]},
            "train": {"device": "cpu", "max_minutes": 1e-6},
        }
    )


def printed(config: RunConfig, rows: list[Row]) -> str:
    console = Console(width=80, record=True, quiet=False, file=io.StringIO())
    record = record_of(config, 2.0, "equinet bench swap", rows)
    show(console, [*SUITE.terminal(record), *closing(SUITE, record)])
    return console.export_text()


def test_pairs_name_every_product_in_both_roles_where_it_has_both() -> None:
    for name in ("cg", "gaunt_grid", "gaunt_fourier", "matrix", "cp"):
        assert any(name in in_words(pair.convolution) for pair in PAIRS), name
        assert any(name in in_words(pair.many_body) for pair in PAIRS), name
    assert any(in_words(pair.convolution) == "so2" for pair in PAIRS)
    assert len({str(pair) for pair in PAIRS}) == len(PAIRS)


def test_a_pair_reads_as_text() -> None:
    pair = Pair({"method": "cp", "rank": 24}, {"method": "gaunt_grid", "bracket": True}, True)
    assert str(pair) == "cp rank=24 | gaunt_grid bracket + pseudotensors"


def test_a_training_is_measured(config: RunConfig) -> None:
    row = train_one(config, Pair())
    assert row.absent is None
    assert row.weights > 100
    assert row.epochs == 1
    assert row.forces_rmse > 1
    assert 0 < row.rotation_error < 1e-4
    assert row.inversion_error < 1e-4
    assert row.md_steps_per_second > 1


def test_what_cannot_be_is_a_row_with_its_reason(config: RunConfig) -> None:
    pair = Pair("bracket", "cg")
    settings = config.model_dump(mode="json")
    settings["model"]["convolution"] = "bracket"
    row = train_one(parse_config(settings), pair)
    assert row.absent is not None
    assert row.absent.startswith("0e x 0e -> 0e has even")
    text = printed(config, [GOOD, row])
    assert max(map(len, text.splitlines())) <= 80
    assert text.index("1,000") < text.index("bracket | cg: refused, 0e x 0e -> 0e")


def test_a_stopped_comparison_goes_on_and_only_good_pairs_get_more_seeds(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, int]] = []
    errors = {"cg | cg": 200.0, "so2 | cg": 100.0, "gaunt_grid | cg": 109.0, "matrix | cg": 111.0}

    class Here:  # a pool without processes, so that the test sees what is trained
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, function, *arguments):  # type: ignore[no-untyped-def]
            from concurrent.futures import Future

            future: Future[Row] = Future()
            future.set_result(function(*arguments))
            return future

    def fake(config: RunConfig, pair: Pair) -> Row:
        trained.append((str(pair), config.train.seed))
        assert config.train.max_minutes == 3
        return replace(GOOD, contender=str(pair), seed=config.train.seed, forces_rmse=errors[str(pair)])

    monkeypatch.setattr(equinet.bench.swap.run, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(equinet.bench.swap.run, "train_one", fake)
    pairs = [Pair(), Pair("so2"), Pair("gaunt_grid"), Pair("matrix")]
    rows = swap(config, tmp_path, pairs=pairs, minutes=3, seeds=3, jobs=1)
    assert sorted(trained) == [
        *(("cg | cg", seed) for seed in (1, 2, 3)),
        *(("gaunt_grid | cg", seed) for seed in (1, 2, 3)),
        ("matrix | cg", 1),
        *(("so2 | cg", seed) for seed in (1, 2, 3)),
    ]
    trained.clear()
    assert swap(config, tmp_path, pairs=pairs, minutes=3, seeds=3, jobs=1) == rows
    assert trained == []  # all there already
    file = next((tmp_path / "trainings").glob("matrix*"))
    file.unlink()
    swap(config, tmp_path, pairs=pairs, minutes=3, seeds=3, jobs=1)
    assert trained == [("matrix | cg", 1)]


def test_without_test_frames_there_is_nothing_to_compare(config: RunConfig, tmp_path: Path) -> None:
    settings = config.model_dump(mode="json")
    settings["data"]["test"] = None
    with pytest.raises(ValueError, match=r"`data\.test` is not set"):
        swap(parse_config(settings), tmp_path, minutes=1, seeds=1, jobs=1)


def test_a_model_to_start_from_has_no_place_here(config: RunConfig, tmp_path: Path) -> None:
    settings = config.model_dump(mode="json")
    settings["train"]["start_from"] = "model.eqn"
    with pytest.raises(ValueError, match=r"`train\.start_from` is set, but every product begins with fresh weights"):
        swap(parse_config(settings), tmp_path, minutes=1, seeds=1, jobs=1)


def test_summaries_have_means_spreads_and_the_best_first() -> None:
    rows = [
        GOOD,
        replace(GOOD, contender="so2 | cg", forces_rmse=40.0),
        replace(GOOD, contender="so2 | cg", seed=2, forces_rmse=44.0),
    ]
    best, second = summarise(rows)
    assert (best.pair, best.seeds, best.means["forces_rmse"]) == ("so2 | cg", 2, 42.0)
    assert best.spreads["forces_rmse"] == pytest.approx(8**0.5)
    assert (second.pair, second.spreads["forces_rmse"]) == ("cg | cg", 0.0)


def test_a_report_is_a_document_a_picture_and_numbers(config: RunConfig, tmp_path: Path) -> None:
    rows = [
        GOOD,
        replace(GOOD, contender="bracket | cg", absent="it has no even paths"),
        replace(GOOD, seed=2, forces_rmse=54.0),
    ]
    record = record_of(config, 2.0, "equinet bench swap", rows)
    write(SUITE, record, tmp_path)
    text = (tmp_path / "swap.md").read_text()
    assert text == markdown(SUITE, record)
    assert "| cg, cg | 2 | 1,000 |" in text
    assert "52.0 ± 2.8" in text
    assert "- bracket, cg: it has no even paths" in text
    assert json.loads((tmp_path / "swap.json").read_text())["rows"][0]["forces_rmse"] == 50.0
    assert (tmp_path / "swap.png").stat().st_size > 10_000
