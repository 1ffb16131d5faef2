"""The measurement of products: every contender is built, checked, and only then timed, in turns."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from equinet.bench.core import record as core
from equinet.bench.core.machine import load_average
from equinet.bench.core.memory import peak_memory
from equinet.bench.core.record import Contender, Record, Settings, time_rows
from equinet.bench.core.timing import CLOCKS, Ratio, one_line, threads
from equinet.bench.peers import peers
from equinet.ops.protocols import Method

from .ceilings import Ceilings, measure_ceilings
from .contenders import Bound, Built, Expressivity, ours
from .passes import ALLOWED, PASSES, check, passes
from .problems import Problem
from .work import index_bytes, least_bytes, of_passes, useful_flops

# Times the error of its coupling tensor: what a CP decomposition may err. That error is a mean over random inputs, and second
# derivatives of a few edges err up to four times as much.
APPROXIMATE = 10.0


@dataclass(kw_only=True)
class Row(core.Row):
    """Result of one contender at one pass.

    Attributes:
        same_function: True if it computes what the exact couplings compute.
        expressivity: Couplings it can express.
        checked_nodes: Nodes that were checked.
        build_seconds: Time to make it, in seconds.
        times_faster: Time of the baseline over this time.
        flops: Useful operations.
        bytes: Least bytes that are moved.
        roofline: Least time, by operations and bytes, over the time it took.
    """

    same_function: bool = True
    expressivity: Expressivity | None = None
    checked_nodes: int = 0
    build_seconds: float = 0.0
    times_faster: Ratio | None = None
    flops: float | None = None
    bytes: int = 0
    roofline: float | None = None


@dataclass(frozen=True)
class Measured:
    """A problem as it was measured.

    Attributes:
        name: Name of the problem.
        kind: ``"tp"``, ``"conv"`` or ``"product"``.
        spec: Product as text.
        sizes: Numbers of nodes and edges as text.
        nodes, edges, channels: Numbers.
        baseline: Name of the contender whose time is divided by all others'; None if none ran.
        ceilings: Best rates of the machine; None if nothing ran.
    """

    name: str
    kind: str
    spec: str
    sizes: str
    nodes: int
    edges: int
    channels: int
    baseline: str | None
    ceilings: Ceilings | None


def measure(
    problems: Sequence[Problem],
    settings: Settings,
    *,
    methods: Sequence[Method] | None = None,
    only: Sequence[str] = (),
    reference: bool = False,
    baseline: str | None = None,
    command: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Record[Row]:
    """Measure every contender on every problem.

    Args:
        problems: Problems.
        settings: Settings; the budget is for one problem.
        methods: Methods of equinet; by default all usual ones.
        only: Texts of which a contender's name must contain one; empty: all take part.
        reference: True if the reference forms take part.
        baseline: Name of the contender whose time is divided by all others'; by default e3nn, else cuequivariance, else the first.
        command: Command that repeats this.
        say: Function called with a description of each step.

    Raises:
        ValueError: If no contender is left, or ``baseline`` is the name of none.
    """
    with threads(settings.threads), warnings.catch_warnings():
        # Other libraries warn of forms they fall back to; here each form is asked for by name.
        warnings.filterwarnings("ignore", module=r"(cuequivariance|e3nn|torch)")
        record: Record[Row] = Record(command, settings, about={"reference": reference})
        for problem in problems:
            everybody: list[Contender] = [*ours(problem, methods, reference), *peers(problem, settings.torch_device)]
            chosen = [each for each in everybody if not only or any(text in each.name for text in only)]
            if not chosen:
                names = ", ".join(each.name for each in everybody)
                raise ValueError(f"no contender contains {' or '.join(only)}; there are: {names}")
            bout = _Bout(problem, settings, say)
            rows, measured = bout.run(chosen, baseline)
            record.problems.append(measured)
            record.rows += rows
        record.machine["load_average_after"] = load_average()
    return record


class _Bout:
    """All contenders on one problem."""

    def __init__(self, problem: Problem, settings: Settings, say: Callable[[str], None]) -> None:
        self.problem, self.settings, self.say = problem, settings, say
        self.running: dict[str, tuple[Built, Bound]] = {}

    def run(self, chosen: Sequence[Contender], asked: str | None) -> tuple[list[Row], Measured]:
        problem, rows = self.problem, []
        for contender in chosen:
            self.say(f"{problem.name}: {contender.name}, build and check")
            rows += self._prepare(contender)
        baseline = _baseline(list(self.running), asked, list(dict.fromkeys(row.contender for row in rows)))
        ceilings = self._ceilings() if self.running else None
        for task in PASSES if ceilings is not None else ():
            self.say(f"{problem.name}: timing, {task}")
            self._time(task, baseline, ceilings, [row for row in rows if row.task == task])
        told = Measured(
            problem.name, problem.kind, str(problem.spec), problem.sizes(), problem.nodes, problem.edges,
            problem.spec.channels, baseline, ceilings,
        )  # fmt: skip
        return rows, told

    def _prepare(self, contender: Contender) -> list[Row]:
        """Build and check; a row for each pass if it is right, else one with the reason."""
        row = Row(problem=self.problem.name, contender=contender.name, absent=contender.absent)
        if contender.absent:
            return [row]
        settings, began = self.settings, time.perf_counter()
        try:
            built = contender.build(self.problem.spec, settings.torch_dtype, settings.torch_device)
            build_seconds = time.perf_counter() - began
            bound = built.bind(self.problem)
            began = time.perf_counter()
            with torch.no_grad():
                bound.call(*bound.leaves)
            if settings.torch_device.type == "cuda":
                torch.cuda.synchronize(settings.device)
            first = time.perf_counter() - began
            checked = check(built, self.problem)
        except ValueError as error:
            return [replace(row, absent=one_line(error))]
        except (ImportError, RuntimeError) as error:  # what cannot run here: no compiler, no memory, no such kernel
            return [replace(row, absent=f"cannot run: {one_line(error)}")]
        row = replace(
            row,
            same_function=built.same_function,
            expressivity=built.expressivity,
            checked_nodes=checked.nodes,
            build_seconds=build_seconds,
            first_call=first,
        )
        allowed = max(ALLOWED[settings.torch_dtype], APPROXIMATE * (built.expressivity.approximation or 0.0))
        if wrong := {name: error for name, error in checked.errors.items() if not error <= allowed}:
            text = ", ".join(f"{name} off by {error:.1e}" for name, error in wrong.items())
            return [replace(row, wrong=text, error=max(checked.errors.values()))]
        self.running[row.contender] = built, bound
        why = {
            name: checked.failures.get(name, "it could not be checked") for name in PASSES if name not in checked.errors
        }
        return [replace(row, task=name, error=checked.errors.get(name), failure=why.get(name)) for name in PASSES]

    def _ceilings(self) -> Ceilings:
        self.say(f"{self.problem.name}: ceilings")
        _, first = next(iter(self.running.values()))
        with torch.no_grad():
            moved = least_bytes(first.leaves, first.call(*first.leaves), 0)["forward"]
        settings = self.settings
        return measure_ceilings(moved, settings.torch_dtype, settings.torch_device, CLOCKS[settings.clock])

    def _time(self, task: str, baseline: str | None, ceilings: Ceilings | None, rows: list[Row]) -> None:
        """Fill in the rows of one pass: all contenders in turns."""
        problem = self.problem

        def draw() -> None:
            for _, bound in self.running.values():
                bound.draw()

        timings, calls = time_rows(
            rows,
            lambda row: passes(self.running[row.contender][1])[task],
            self.settings,
            share=1 / len(PASSES),
            refresh=draw,
        )
        indices = 0 if problem.kind == "product" else index_bytes(problem.edge_index())
        exact = useful_flops(problem.spec) * (problem.edges or problem.nodes)
        for row in rows:
            if row.timing is None or ceilings is None:
                continue
            built, bound = self.running[row.contender]
            with torch.no_grad():
                row.bytes = least_bytes(bound.leaves, bound.call(*bound.leaves), indices)[task]
            row.flops = of_passes(exact if built.same_function else built.flops(problem))[task]
            row.roofline = ceilings.fraction(row.flops, row.bytes, row.timing.median)
            row.peak = peak_memory(calls[row.contender], self.settings.device)
            if baseline in timings:
                row.times_faster = timings.ratio(str(baseline), row.contender)


def _baseline(running: Sequence[str], asked: str | None, everybody: Sequence[str]) -> str | None:
    if asked is not None:
        if asked not in everybody:
            raise ValueError(f"`baseline` {asked!r} is the name of no contender; there are: {', '.join(everybody)}")
        return asked if asked in running else None
    for prefix in ("e3nn", "cuequivariance", ""):
        for name in running:
            if name.startswith(prefix):
                return name
    return None
