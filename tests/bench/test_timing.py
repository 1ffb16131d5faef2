"""Taking turns: who takes part when, what is told of the times, and how much memory a call needs. No claim about speed."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from equinet.bench.core import memory, timing
from equinet.bench.core.memory import peak_memory
from equinet.bench.core.record import Row, Settings, plain, time_rows
from equinet.bench.core.timing import Timing, Timings, interleaved


class Clock:
    """A clock that says what each function takes, and writes down who was called when."""

    def __init__(self, seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.functions = {name: self.function(name) for name in seconds}
        names = {function: name for name, function in self.functions.items()}

        def watch(call, calls):
            for _ in range(calls):
                call()
            return seconds[names[call]]

        monkeypatch.setattr(timing, "stopwatch", lambda device, clock: watch)

    def function(self, name):
        return lambda: self.log.append(name)


def timing_of(seconds, rounds=None):
    return Timing(tuple(seconds), tuple(rounds or range(len(seconds))), 1, 0.5)


def test_everybody_takes_a_turn_in_every_round_in_changing_order(monkeypatch):
    clock = Clock({"a": 0.01, "b": 0.02, "c": 0.03}, monkeypatch)
    timings = interleaved(clock.functions, rounds=9, budget=100.0, refresh=lambda: clock.log.append("-"))
    rounds = "".join(clock.log).split("-")[1:]
    assert len(rounds) == 9
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 2
    assert [len(timings[name].seconds) for name in "abc"] == [9, 9, 9]
    assert timings["b"].median == 0.02


def test_what_is_fast_is_called_often_enough_to_be_timed(monkeypatch):
    timings = interleaved(Clock({"a": 1e-4, "b": 0.5}, monkeypatch).functions, shortest=1e-3, budget=100.0)
    assert timings["a"].calls == 10
    assert timings["b"].calls == 1


def test_the_slow_do_fewer_rounds_and_nobody_is_dropped(monkeypatch):
    clock = Clock({"fast": 0.01, "slow": 1.0, "slower": 3.0, "endless": 1000.0}, monkeypatch)
    timings = interleaved(clock.functions, rounds=11, budget=40.0)
    assert {name: len(found.seconds) for name, found in timings.items()} == {
        "fast": 11,
        "slow": 11,
        "slower": 4,
        "endless": 3,
    }
    # so that ratios always have common rounds
    assert set(timings["endless"].rounds) < set(timings["slower"].rounds) < set(timings["slow"].rounds)
    assert max(timings["slower"].rounds) - min(timings["slower"].rounds) > 5
    assert clock.log.count("endless") == 1 + 3  # first call, and no warm-up


def test_collection_of_garbage_waits_and_comes_back(monkeypatch):
    seen = []
    clock = Clock({"a": 1.0}, monkeypatch)
    clock.functions["a"] = lambda: None
    monkeypatch.setattr(
        timing, "stopwatch", lambda device, clock: lambda call, calls: seen.append(gc.isenabled()) or 1.0
    )
    interleaved(clock.functions, rounds=3, budget=1.0)
    assert seen[-3:] == [False] * 3
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contenders": {}}, "`contenders` is empty"),
        ({"rounds": 2}, "`rounds` must be 3 or more, got 2"),
        ({"budget": 0.0}, "`budget` must be more than 0 seconds"),
    ],
)
def test_what_cannot_be_timed_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        interleaved(**{"contenders": {"a": lambda: None}, **arguments})


def test_a_contender_whose_first_call_fails_is_left_out_with_the_reason():
    def broken():
        raise RuntimeError("no third derivative\nat line 5")

    failures = {}
    timings = interleaved({"a": lambda: None, "b": broken}, rounds=3, shortest=1e-5, failures=failures)
    assert list(timings) == ["a"]
    assert failures == {"b": "no third derivative"}
    with pytest.raises(RuntimeError, match="no third derivative"):
        interleaved({"a": lambda: None, "b": broken}, rounds=3, shortest=1e-5)


def test_only_rows_that_are_right_are_timed():
    rows = [
        Row(problem="p", contender="right"),
        Row(problem="p", contender="wrong", wrong="off by 1"),
        Row(problem="p", contender="absent", absent="not installed"),
        Row(problem="p", contender="failed", failure="not checked"),
    ]
    called = []
    timings, calls = time_rows(rows, lambda row: lambda: called.append(row.contender), Settings(rounds=3, budget=0.01))
    assert set(called) == set(timings) == set(calls) == {"right"}
    assert [row.timing is not None for row in rows] == [True, False, False, False]
    assert [row.state for row in rows] == ["measured", "WRONG", "absent", "not measured"]
    assert rows[3].failure == "not checked"


def test_a_real_clock_gives_positive_times():
    x = torch.randn(20, 20)
    timings = interleaved({"once": lambda: None, "product": lambda: (x @ x, None)[1]}, rounds=3, shortest=1e-5)
    assert all(min(found.seconds) > 0 and found.first_call > 0 for found in timings.values())


def test_median_quartiles_and_unsteadiness():
    steady, disturbed = timing_of([1.0, 1.1, 1.2, 1.3, 9.0]), timing_of([1.0, 1.4, 1.5])
    assert steady.median == 1.2
    assert steady.iqr == pytest.approx(0.2)
    assert not steady.unsteady
    assert disturbed.unsteady
    assert plain(disturbed)["unsteady"] is True


def test_ratio_is_of_medians_over_common_rounds():
    timings = Timings({"a": timing_of([4.0, 4.0, 4.0, 100.0]), "b": timing_of([2.0, 2.0, 2.0], [0, 1, 2])})
    found = timings.ratio("a", "b")
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    assert timings.ratio("b", "a").value == 0.5


def test_interval_holds_the_ratio_and_is_narrow_where_rounds_disturb_both():
    draw = np.random.default_rng(1)
    common = draw.uniform(1, 3, 15)  # what disturbs a round disturbs both
    paired = Timings({"a": timing_of(3 * common), "b": timing_of(common)}).ratio("a", "b")
    alone = Timings({"a": timing_of(3 * common), "b": timing_of(draw.permutation(common))}).ratio("a", "b")
    assert paired.low == pytest.approx(3) == paired.high
    assert alone.low < alone.value < alone.high


def test_peak_memory_of_a_call_is_what_it_takes_at_once():
    def call():
        for _ in range(3):
            torch.ones(10_000_000).add_(1)  # 40 MB each, given back each time

    found = peak_memory(call)
    if found is None:
        pytest.skip("this system does not let a process forget its peak")
    assert 38e6 < found < 60e6


def test_memory_that_cannot_be_measured_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "missing" / "clear_refs")
    called = []
    assert peak_memory(lambda: called.append(1)) is None
