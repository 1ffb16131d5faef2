"""Records of measurements as plain data: command, machine, settings, problems, rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch

from .machine import describe
from .timing import CLOCKS, Ratio, Timing, Timings, interleaved

DTYPES = ("float32", "float64")
FEW = 9  # rounds; where there were fewer, tables say so


class Contender(Protocol):
    """A form, method or package that takes part in a bench: first listed, then built.

    Every contender is checked against float64 after it is built and before it is timed. One that is wrong is listed without
    times; one that raises ValueError, ImportError or RuntimeError in ``build`` is listed with the reason.

    Attributes:
        name: Name in tables.
        absent: Reason why it cannot take part; None if it can.
        build: Function that makes it ready to run, with arguments that the suite gives to all.
    """

    @property
    def name(self) -> str: ...

    @property
    def absent(self) -> str | None: ...

    @property
    def build(self) -> Callable[..., Any]: ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a measurement.

    Attributes:
        dtype: Name of the precision, float32 or float64.
        device: Name of the device.
        threads: Threads of the processor.
        rounds: Rounds in which contenders take turns; slow ones take part in fewer.
        budget: Time for all rounds of one problem, in seconds; building, checking and first calls come on top.
        clock: ``"wall"``, or ``"cpu"``: processor time of one thread, which leaves out what other processes take.

    Raises:
        ValueError: If a value is not one of these, or they do not go together.
    """

    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    rounds: int = 11
    budget: float = 60.0
    clock: str = "wall"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be float32 or float64, got {self.dtype}")
        kind = torch.device(self.device).type
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"`device` must be cpu or cuda, got {self.device}")
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"`device` is {self.device}, but torch finds no CUDA device here; `equinet doctor` says why"
            )
        if self.threads < 1:
            raise ValueError(f"`threads` must be 1 or more, got {self.threads}")
        if self.clock not in CLOCKS:
            raise ValueError(f"`clock` must be wall or cpu, got {self.clock!r}")
        if self.clock == "cpu" and (self.threads > 1 or kind != "cpu"):
            raise ValueError(
                "`clock` cpu adds up all threads: take `threads` 1 and `device` cpu, or `clock` wall; "
                f"got {self.threads} threads on {self.device}"
            )

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def interleave(self, calls: Mapping[str, Callable[[], None]], *, share: float = 1.0, **more: Any) -> Timings:
        """Time functions in turns, within this ``share`` of the budget; see :func:`~equinet.bench.core.timing.interleaved`."""
        how: dict[str, Any] = {"device": self.device, "clock": CLOCKS[self.clock], **more}
        return interleaved(calls, rounds=self.rounds, budget=self.budget * share, **how)


@dataclass(kw_only=True)
class Row:
    """Result of one contender at one task of one problem; suites add fields.

    Attributes:
        problem: Name of the problem.
        contender: Name of the contender.
        task: Name of the task; empty if the contender did not come that far.
        absent: Reason why the contender does not take part; None if it does.
        wrong: Error found by the check before timing; None if there is none.
        failure: Reason why this task was not measured; None if it was.
        error: Relative error against float64; None if unknown.
        first_call: Time of the first call in seconds, in which code is compiled; None if there was none.
        timing: Times of one call; None if it was not timed.
        peak: Peak memory in bytes; None if it was not measured.
        notes: Remarks.
    """

    problem: str
    contender: str
    task: str = ""
    absent: str | None = None
    wrong: str | None = None
    failure: str | None = None
    error: float | None = None
    first_call: float | None = None
    timing: Timing | None = None
    peak: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """``"measured"``, ``"WRONG"``, ``"absent"`` or ``"not measured"``."""
        if self.wrong:
            return "WRONG"
        return "measured" if self.timing else "absent" if self.absent else "not measured"

    @property
    def unsteady(self) -> bool:
        """True if the time cannot be trusted."""
        return self.timing is not None and self.timing.unsteady

    @property
    def place(self) -> str:
        """Contender, problem and task as text."""
        return ", ".join(part for part in (self.contender, self.problem, self.task) if part)


R = TypeVar("R", bound=Row)
Call = Callable[[], None]


def time_rows(
    rows: Sequence[Row],
    call_of: Callable[[Any], Call],
    settings: Settings,
    *,
    share: float = 1.0,
    refresh: Callable[[], None] | None = None,
) -> tuple[Timings, dict[str, Call]]:
    """Time in turns the rows of one task that are right, and fill in ``timing``, or ``failure`` where the first call fails.

    Args:
        rows: Checked rows, one for each contender; one that is absent, wrong or failed gets no time.
        call_of: Function that gives the call to time of a row.
        settings: Settings.
        share: Part of the budget for these rows.
        refresh: Function called before each round, outside the timed part.

    Returns:
        Times and calls of the rows that were timed, by contender.
    """
    able = [row for row in rows if not (row.absent or row.wrong or row.failure)]
    calls, failures = {row.contender: call_of(row) for row in able}, dict[str, str]()
    timings = settings.interleave(calls, share=share, refresh=refresh, failures=failures) if calls else Timings({})
    for row in able:
        row.timing, row.failure = timings.get(row.contender), failures.get(row.contender)
    return timings, calls


@dataclass
class Record(Generic[R]):
    """Rows of a run with all that is needed to judge and to repeat it.

    Attributes:
        command: Command that repeats the run.
        settings: Settings of all rows.
        problems: Descriptions of what was measured.
        rows: Results so far.
        about: Further facts, by name.
        machine: Device, threads, load, versions and time.
    """

    command: str
    settings: Settings
    problems: list[Any] = field(default_factory=list)
    rows: list[R] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.machine = self.machine or describe(self.settings.torch_device)

    def part(self, rows: list[R]) -> Record[R]:
        """Return the run with some of its rows."""
        return replace(self, rows=rows)

    @property
    def unsteady(self) -> list[str]:
        """Places whose times cannot be trusted."""
        return [row.place for row in self.rows if row.unsteady]

    def of(self, **values: Any) -> list[R]:
        """Rows whose fields have these values, as ``record.of(contender="e3nn")``."""
        return [row for row in self.rows if all(getattr(row, name) == value for name, value in values.items())]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and words, every single time too."""
        rows = [{**plain(row), "state": row.state} for row in self.rows]
        head = {"command": self.command, "machine": self.machine, "settings": plain(self.settings)}
        return {**head, **plain(self.about), "unsteady": self.unsteady, "problems": plain(self.problems), "rows": rows}


def numbers(timing: Timing) -> dict[str, Any]:
    """Median, quartiles and the like of a time, in seconds."""
    low, high = timing.quartiles
    return {
        "median": timing.median,
        "quartile_low": low,
        "quartile_high": high,
        "minimum": timing.minimum,
        "rounds": len(timing.seconds),
        "calls_per_round": timing.calls,
        "unsteady": timing.unsteady,
    }


def plain(value: Any) -> Any:
    """A value as JSON can hold it; floats with six digits."""
    if isinstance(value, Timing):
        return plain({**numbers(value), "seconds": value.seconds})
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def flat(row: Row) -> dict[str, Any]:
    """A row as columns of a table of numbers: parts of a field are called after it; lists of parts are left out."""
    return {"state": row.state, **dict(_columns(row, ""))}


def _columns(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for one in fields(value):
        name, found = prefix + one.name, getattr(value, one.name)
        if isinstance(found, Timing):
            before = "" if one.name == "timing" else f"{name}_"
            yield from ((f"{before}{key}", number) for key, number in numbers(found).items())
        elif isinstance(found, Ratio):
            yield from ((name, found.value), (f"{name}_low", found.low), (f"{name}_high", found.high))
        elif is_dataclass(found):
            yield from _columns(found, f"{name}_")
        elif isinstance(found, (tuple, list)):
            if not any(map(is_dataclass, found)):
                yield name, "; ".join(map(str, found))
        elif isinstance(found, Mapping):
            yield from ((key, value) for key, value in found.items() if isinstance(value, float))
        else:
            yield name, found
