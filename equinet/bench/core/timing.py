"""Timing of functions in turns: what disturbs the machine disturbs all of them, and each time comes with its spread."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

FEWEST_ROUNDS = 3  # of what is so slow that the time is up
UNSTEADY = 1.3  # median over minimum: above it the machine did something else meanwhile
WARM_UP = 3  # calls before anything is timed; TorchScript optimises in its second and third
BOOTSTRAPS = 2000

Stopwatch = Callable[[Callable[[], None], int], float]
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Timing:
    """Times of one contender.

    Attributes:
        seconds: Time of one call in each round, in seconds.
        rounds: Numbers of these rounds.
        calls: Calls in a round; ``seconds`` are means over them.
        first_call: Time of the very first call in seconds, in which code is compiled and memory is fetched.
    """

    seconds: tuple[float, ...]
    rounds: tuple[int, ...]
    calls: int
    first_call: float

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.percentile(self.seconds, [25, 75])
        return float(low), float(high)

    @property
    def iqr(self) -> float:
        """Distance between the quartiles."""
        low, high = self.quartiles
        return high - low

    @property
    def unsteady(self) -> bool:
        """True if the median is more than 1.3 times the minimum: something else took the machine, measure again."""
        return self.median > UNSTEADY * self.minimum


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


class Timings(Mapping[str, Timing]):
    """Times of contenders that took turns, by name."""

    def __init__(self, timings: Mapping[str, Timing]) -> None:
        self._timings = dict(timings)

    def __getitem__(self, name: str) -> Timing:
        return self._timings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._timings)

    def __len__(self) -> int:
        return len(self._timings)

    def ratio(self, a: str, b: str) -> Ratio:
        """Median time of ``a`` over median time of ``b``: how many times faster ``b`` is.

        Over the rounds in which both took part; for the interval whole rounds are drawn again, since the two shared what
        went on in them.

        Raises:
            KeyError: If there is no such contender.
        """
        first, second = (dict(zip(t.rounds, t.seconds)) for t in (self[a], self[b]))
        both = sorted(first.keys() & second.keys())
        times = np.array([[first[n], second[n]] for n in both])
        value = float(np.median(times[:, 0]) / np.median(times[:, 1]))
        draws = np.random.default_rng(0).integers(len(both), size=(BOOTSTRAPS, len(both)))
        medians = np.median(times[draws], axis=1)
        low, high = np.percentile(medians[:, 0] / medians[:, 1], [2.5, 97.5])
        return Ratio(value, float(low), float(high))


def interleaved(
    contenders: Mapping[str, Callable[[], None]],
    *,
    rounds: int = 11,
    budget: float = 30.0,
    shortest: float = 2e-3,
    refresh: Callable[[], None] | None = None,
    device: torch.device | str = "cpu",
    clock: Clock = time.perf_counter,
    failures: dict[str, str] | None = None,
) -> Timings:
    """Time several functions in turns: A B C, then B C A in another order, and so on.

    Every contender is called once (the first call, told apart) and a few times to warm up. In a round it is called as often
    as takes ``shortest`` seconds. If all rounds of all would take longer than ``budget``, the slow ones take part in fewer of
    them, spread over the run, and never in fewer than three: none is dropped, however slow.

    Args:
        contenders: Functions without arguments or result, by name.
        rounds: Rounds for those that are fast enough.
        budget: Seconds for all rounds together, more or less; first calls and warm-up come on top.
        shortest: Least duration of what is timed at once, in seconds.
        refresh: Called before each round, outside the timed part: draw new inputs, in place.
        device: Device; on CUDA its events are the clock.
        failures: Filled with the reasons of contenders whose first call raises RuntimeError, which are then left out; by
            default the error is raised.
        clock: Clock on the processor. ``time.process_time`` does not count what other processes take; it adds up all threads.

    Raises:
        ValueError: If there are no contenders, or ``rounds`` or ``budget`` is too small.

    >>> timings = interleaved({"a": lambda: None, "b": lambda: None}, rounds=5, shortest=1e-5)
    >>> timings["a"].median > 0
    True
    """
    if not contenders:
        raise ValueError("`contenders` is empty; give at least one function")
    if rounds < FEWEST_ROUNDS:
        raise ValueError(f"`rounds` must be {FEWEST_ROUNDS} or more, got {rounds}")
    if not budget > 0:
        raise ValueError(f"`budget` must be more than 0 seconds, got {budget}")
    watch = stopwatch(torch.device(device), clock)
    first, each = {}, {}
    for name, call in contenders.items():
        try:
            first[name], each[name] = _warm_up(call, watch, budget / len(contenders))
        except RuntimeError as error:  # a library without third derivatives, or out of memory
            if failures is None:
                raise
            failures[name] = one_line(error)
    calls = {name: max(1, math.ceil(shortest / max(seconds, 1e-9))) for name, seconds in each.items()}
    sample = {name: each[name] * calls[name] for name in calls}
    takes_part = _rounds_of_each(sample, rounds, budget)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0)
    collecting = gc.isenabled()
    gc.freeze()  # what is there already need not be looked through in every round
    gc.disable()  # a collection in the middle would be charged to whoever is measured
    try:
        for n in range(rounds):
            if refresh is not None:
                refresh()
            gc.collect()
            shuffle.shuffle(order)
            for name in order:
                if n in takes_part[name]:
                    seconds[name].append(watch(contenders[name], calls[name]))
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    return Timings({name: Timing(tuple(seconds[name]), takes_part[name], calls[name], first[name]) for name in calls})


def one_line(error: BaseException) -> str:
    """Return the first line of an error."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _warm_up(call: Callable[[], None], watch: Stopwatch, patience: float) -> tuple[float, float]:
    """Seconds of the first call, and of one when warm."""
    first = each = watch(call, 1)
    for _ in range(WARM_UP):
        if each > patience:
            break  # so slow that warming up would cost more than it tells
        each = watch(call, 1)
    return first, each


def _rounds_of_each(sample: Mapping[str, float], rounds: int, budget: float) -> dict[str, tuple[int, ...]]:
    """The rounds each takes part in: all get the same time, and what the fast do not need goes to the slow."""
    left, found, spread = budget, {}, _spread(rounds)
    for n, name in enumerate(sorted(sample, key=lambda name: sample[name])):
        share = left / (len(sample) - n)
        count = min(rounds, max(FEWEST_ROUNDS, int(share / max(sample[name], 1e-9))))
        left = max(0.0, left - count * sample[name])
        # Whoever takes part in fewer does so in rounds of all that take part in more: ratios need common ones.
        found[name] = tuple(sorted(spread[:count]))
    return found


def _spread(rounds: int) -> list[int]:
    """Numbers of rounds in an order whose beginnings are spread evenly: first, middle, quarters, ..."""
    halves = [sum(((n >> bit) & 1) / 2 ** (bit + 1) for bit in range(16)) for n in range(2 * rounds + 2)]
    return list(dict.fromkeys(int(part * rounds) for part in halves + [n / rounds for n in range(rounds)]))


def stopwatch(device: torch.device, clock: Clock = time.perf_counter) -> Stopwatch:
    """A function that makes so many calls and gives the seconds of one: by CUDA's events, or by the processor's clock."""

    def on_cpu(call: Callable[[], None], calls: int) -> float:
        began = clock()
        for _ in range(calls):
            call()
        return (clock() - began) / calls

    def on_cuda(call: Callable[[], None], calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        with torch.cuda.device(device):
            start.record()
            for _ in range(calls):
                call()
            end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls

    return on_cuda if device.type == "cuda" else on_cpu


@dataclass(frozen=True)
class Epoch:
    """Times of an epoch of training: wall and processor seconds (of all threads), and the mean loss of its steps."""

    seconds: float
    cpu_seconds: float
    loss: float


def timed_epoch(steps: Iterable[float]) -> Epoch:
    """Do all steps of an epoch; ``steps`` does one for each item, collation included, and gives its loss."""
    start, cpu_start = time.perf_counter(), time.process_time()
    losses = list(steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Epoch(time.perf_counter() - start, time.process_time() - cpu_start, float(np.mean(losses)))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
