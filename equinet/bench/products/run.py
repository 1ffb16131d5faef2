"""The measurement: everybody is built, checked, and only then timed, in turns."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from equinet.ops.protocols import Method

from .ceilings import Ceilings, measure_ceilings
from .contenders import Bound, Built, Contender, ours
from .machine import describe, load_average
from .memory import peak_memory
from .passes import ALLOWED, PASSES, check, one_line, passes
from .peers import peers
from .problems import Problem
from .record import CLOCKS, Measured, Record, Row, Settings, Table
from .timing import Timings, interleaved
from .work import index_bytes, least_bytes, of_passes, useful_flops

# Times the error of its coupling tensor: what a CP decomposition may err. That error is a mean over random inputs, and second
# derivatives of a few edges err up to four times as much.
APPROXIMATE = 10.0


def measure(
    problems: Sequence[Problem],
    settings: Settings,
    *,
    methods: Sequence[Method] | None = None,
    only: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Record:
    """Measure every contender on every problem.

    Args:
        problems: What to measure.
        settings: How.
        methods: Methods of ours; by default all usual ones.
        only: Leave out contenders whose name contains none of these; empty: nobody.
        say: Told what is being done.

    Raises:
        ValueError: If nobody is left, or ``settings.baseline`` is nobody's name.
    """
    with _threads(settings.threads), warnings.catch_warnings():
        # Other libraries warn of forms they fall back to; here each form is asked for by name.
        warnings.filterwarnings("ignore", module=r"(cuequivariance|e3nn|torch)")
        machine = describe(settings.device)
        tables = [_measure_one(problem, settings, methods, only, say) for problem in problems]
        machine["load_average_after"] = load_average()
    return Record(machine, settings, tables)


def _measure_one(
    problem: Problem,
    settings: Settings,
    methods: Sequence[Method] | None,
    only: Sequence[str],
    say: Callable[[str], None],
) -> Table:
    everybody: list[Contender] = [*ours(problem, methods, settings.reference), *peers(problem, settings.device)]
    chosen = [each for each in everybody if not only or any(text in each.name for text in only)]
    if not chosen:
        raise ValueError(
            f"no contender contains {' or '.join(only)}; there are: " + ", ".join(e.name for e in everybody)
        )
    rows, bounds, builts = [], {}, {}
    for contender in chosen:
        say(f"{problem.name}: {contender.name}, build and check")
        row, built, bound = _prepare(contender, problem, settings)
        rows.append(row)
        if built is not None and bound is not None:
            builts[row.name], bounds[row.name] = built, bound
    baseline = _baseline(list(bounds), settings.baseline, [row.name for row in rows])
    ceilings = None
    if bounds:
        say(f"{problem.name}: ceilings")
        first = next(iter(bounds.values()))
        with torch.no_grad():
            moved = least_bytes(first.leaves, first.call(*first.leaves), 0)["forward"]
        ceilings = measure_ceilings(moved, settings.dtype, settings.device, CLOCKS[settings.clock])
        _time(problem, settings, rows, builts, bounds, baseline, ceilings, say)
    return Table(problem, ceilings, baseline, rows)


def _prepare(contender: Contender, problem: Problem, settings: Settings) -> tuple[Row, Built | None, Bound | None]:
    if contender.absent:
        return Row(contender.name, absent=contender.absent), None, None
    began = time.perf_counter()
    try:
        built = contender.build(problem.spec, settings.dtype, settings.device)
        build_seconds = time.perf_counter() - began
        bound = built.bind(problem)
        began = time.perf_counter()
        with torch.no_grad():
            bound.call(*bound.leaves)
        if settings.device.type == "cuda":
            torch.cuda.synchronize(settings.device)
        first = time.perf_counter() - began
        checked = check(built, problem)
    except ValueError as error:
        return Row(contender.name, absent=one_line(error)), None, None
    except (ImportError, RuntimeError) as error:  # what cannot run here: no compiler, no memory, no such kernel
        return Row(contender.name, absent=f"cannot run: {one_line(error)}"), None, None
    approximation = built.expressivity.approximation or 0.0
    allowed = max(ALLOWED[settings.dtype], APPROXIMATE * approximation)
    wrong = {name: error for name, error in checked.errors.items() if not error <= allowed}
    row = Row(
        contender.name,
        wrong=", ".join(f"{name} off by {error:.1e}" for name, error in wrong.items()) or None,
        same_function=built.same_function,
        expressivity=built.expressivity,
        errors=checked.errors,
        checked_nodes=checked.nodes,
        passes={} if wrong else {name: Measured(None, failure=why) for name, why in checked.failures.items()},
        build_seconds=build_seconds,
        first_call_seconds=first,
    )
    return (row, None, None) if wrong else (row, built, bound)


def _baseline(running: Sequence[str], asked: str | None, everybody: Sequence[str]) -> str | None:
    if asked is not None:
        if asked not in everybody:
            raise ValueError(f"--baseline {asked!r} is nobody's name; there are: {', '.join(everybody)}")
        return asked if asked in running else None
    for prefix in ("e3nn", "cuequivariance", ""):
        for name in running:
            if name.startswith(prefix):
                return name
    return None


def _time(
    problem: Problem,
    settings: Settings,
    rows: Sequence[Row],
    builts: dict[str, Built],
    bounds: dict[str, Bound],
    baseline: str | None,
    ceilings: Ceilings,
    say: Callable[[str], None],
) -> None:
    """Fill in the passes of the rows: one after the other, all contenders in turns."""
    running = [row for row in rows if row.name in bounds]
    calls = {name: passes(bound) for name, bound in bounds.items()}
    indices = 0 if problem.kind == "product" else index_bytes(problem.edge_index())
    exact = useful_flops(problem.spec) * (problem.edges or problem.nodes)
    for name in PASSES:
        say(f"{problem.name}: timing, {name}")
        failures = {row.name: row.passes[name].failure for row in running if name in row.passes}
        for row in running:
            if name not in row.errors:
                failures.setdefault(row.name, "it could not be checked")
                continue
            try:
                calls[row.name][name]()
            except RuntimeError as error:  # a library without third derivatives, or out of memory
                failures[row.name] = one_line(error)
        able = {row.name: calls[row.name][name] for row in running if row.name not in failures}
        timings = Timings({})
        if able:
            timings = interleaved(
                able,
                rounds=settings.rounds,
                budget=settings.budget / len(PASSES),
                refresh=lambda: _draw_all(bounds),
                device=settings.device,
                clock=CLOCKS[settings.clock],
            )
        for row in running:
            if row.name in failures:
                row.passes[name] = Measured(None, failure=failures[row.name])
                continue
            built, bound = builts[row.name], bounds[row.name]
            flops = exact if built.same_function else built.flops(problem)
            with torch.no_grad():
                moved = least_bytes(bound.leaves, bound.call(*bound.leaves), indices)[name]
            counted = of_passes(flops)[name]
            timing = timings[row.name]
            row.passes[name] = Measured(
                timing,
                ratio=timings.ratio(baseline, row.name) if baseline is not None and baseline in timings else None,
                flops=counted,
                bytes=moved,
                roofline=ceilings.fraction(counted, moved, timing.median),
                peak_memory=peak_memory(able[row.name], settings.device),
            )


def _draw_all(bounds: dict[str, Bound]) -> None:
    for bound in bounds.values():
        bound.draw()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
