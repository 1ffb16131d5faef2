"""A whole training run: from a configuration to a folder with model, metrics and pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from equinet.checkpoint import save_potential
from equinet.datasets import GraphLoader, Statistics
from equinet.datasets.composition import undetermined
from equinet.datasets.loader import has_label, label_counts
from equinet.datasets.properties import PROPERTIES
from equinet.datasets.store import StoredGraphs
from equinet.graph import AtomicGraph
from equinet.graph.elements import SYMBOLS
from equinet.models import count_weights
from equinet.ops.kernels.choice import slow_on
from equinet.potential import Potential
from equinet.runs.files import make_folder, remove_leftovers, replace_file
from equinet.runs.interrupt import GentleInterrupt, StopRequested, signal_of
from equinet.runs.lock import exclusive
from equinet.tables import Block, Text
from equinet.verify.backends import require_backend_match

from .assemble import EVALUATION_BATCH, Parts, assemble
from .config import RunConfig
from .finetune import FAR, mean_gap
from .loop import Reporter, Silent, fit
from .metrics import Errors, Predictions, errors, predict
from .report.plots import plot_history, plot_parity
from .report.record import append_json, write_json, write_json_lines
from .report.tables import comparisons, error_table
from .state import TrainingState
from .stored import graphs_to_test

FEW = 32  # structures that tell whether energies are far off

STATE = "state.safetensors"

# A run with long epochs loses no more than this when it is killed.
SECONDS_BETWEEN_STATES = 300.0


class Interrupted(Exception):
    """Training was stopped by Ctrl-C or another signal; the message says where the state is.

    Attributes:
        out: Folder of the run.
        signal: Number of the signal.
    """

    @property
    def has_state(self) -> bool:
        """True if ``run(config, out, resume=True)`` continues the run; False if it must begin anew."""
        return (self.out / STATE).exists()

    def __init__(self, message: str, out: Path, signal: int) -> None:
        super().__init__(message)
        self.out, self.signal = out, signal


class RunReporter(Reporter, Protocol):
    """Shows a whole run: blocks of text, then the steps of the loop."""

    def say(self, block: Block) -> None:
        """Show a line or a table."""

    def stopping(self) -> None:
        """The user asked to stop; the step under way is finished first."""


class SilentRun(Silent):
    """A reporter of whole runs that shows nothing."""

    def say(self, block: Block) -> None: ...

    def stopping(self) -> None: ...


@dataclass(frozen=True)
class Result:
    """Results of a run.

    Attributes:
        out: Folder.
        potential: The trained potential, with the weights of the best epoch.
        errors: Errors on train, valid and, if given, test frames.
        state: Final state.
    """

    out: Path
    potential: Potential
    errors: dict[str, Errors]
    state: TrainingState


def run(config: RunConfig, out: Path, *, resume: bool = False, reporter: RunReporter | None = None) -> Result:
    """Train from a configuration and write ``model.eqn``, ``config.toml``, ``metrics.jsonl``, ``errors.json``, ``plots/``.

    Args:
        config: Configuration.
        out: Folder; made if it is not there.
        resume: Continue the unfinished (or finished and now longer) run in ``out``.
        reporter: Display of the run; a context manager is entered for the training. By default nothing is shown.

    Raises:
        NotADirectoryError: If ``out`` or a folder above it is a file.
        FileExistsError: If ``out`` already holds a run and ``resume`` is False, so that nothing is overwritten.
        InUseError: If another process works in ``out``; names it.
        Interrupted: After Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, when the state has been saved; before the first step at once.
        BackendMismatchError: If the potential differs from its reference form on a few atoms of the training frames.
        ValueError, MemoryError, FloatingPointError: With file, frame and remedy.
    """
    reporter = reporter or SilentRun()
    out = Path(out)
    _require_folder(out)
    with ExitStack() as held:
        interrupt = held.enter_context(GentleInterrupt(reporter.stopping, waits=False))
        try:
            parts = _prepare(config, out, resume, reporter, held)
        except KeyboardInterrupt as stop:
            raise Interrupted("stopped before the first step; nothing is lost", out, signal_of(stop)) from None
        interrupt.wait_for_checks()
        _begin(out, parts)
        _train(out, parts, reporter, interrupt)
        found = _conclude(out, parts, reporter, interrupt)
    return Result(out, parts.potential, found, parts.state)


def _prepare(config: RunConfig, out: Path, resume: bool, reporter: RunReporter, held: ExitStack) -> Parts:
    """Everything before the first step; the folder is held for this run until ``held`` is closed."""
    if there := out.is_dir():  # so that a mistake is told before the data are read
        held.enter_context(_claim(out, resume))
    else:
        _refuse_to_overwrite(out, resume)
    reporter.say(Text("reading frames and finding neighbours …", "faint"))
    parts = assemble(config)
    if not there:
        make_folder(out)
        held.enter_context(_claim(out, resume))
    if resume:
        parts.state.restore(out / STATE, parts.identity)
    require_backend_match(parts.potential, _one_with_edges(parts.graphs["train"]))
    for block in describe(parts):
        reporter.say(block)
    return parts


@contextmanager
def _claim(out: Path, resume: bool) -> Iterator[None]:
    """Hold a folder for one run, clear of what killed processes left half written."""
    with exclusive(out / ".lock", str(out)):
        _refuse_to_overwrite(out, resume)
        for folder in (out, out / "plots"):
            remove_leftovers(folder)
        yield


def _begin(out: Path, parts: Parts) -> None:
    """Write what the run begins with."""
    make_folder(out / "plots")
    replace_file(out / "config.toml", parts.configuration)
    # Begin with the epochs that the state knows, and not with those a crash left half written.
    write_json_lines(out / "metrics.jsonl", parts.state.history)
    if not parts.state.step:
        parts.state.save(out / STATE, parts.identity)  # so that there is something to resume, whatever happens


def _train(out: Path, parts: Parts, reporter: RunReporter, interrupt: GentleInterrupt) -> None:
    state = parts.state
    try:
        with _Recorder(out, parts, reporter, interrupt) as recorder:
            fit(
                parts.potential,
                parts.data,
                parts.loss,
                parts.optimizer,
                parts.settings,
                state=state,
                reporter=recorder,
                predict=parts.predict,
            )
    except KeyboardInterrupt as stop:
        whole = isinstance(stop, StopRequested)  # not in the middle of a step, when the state in memory is not
        if whole:
            state.save(out / STATE, parts.identity)
        raise Interrupted(_where_it_stopped(out, state, whole), out, signal_of(stop)) from None


class _Recorder:
    """Reporter that keeps the run on disk, stops between two steps, and hands on to the one that shows it."""

    def __init__(self, out: Path, parts: Parts, shown: RunReporter, interrupt: GentleInterrupt) -> None:
        self.out, self.parts, self.shown, self.interrupt = out, parts, shown, interrupt
        self.display: Any = shown if hasattr(shown, "__enter__") else nullcontext()
        self.saved = time.monotonic()

    def __enter__(self) -> _Recorder:
        self.display.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self.display.__exit__(*problem)

    def epoch_begins(self, epoch: int, epochs: int, batches: int, done: int) -> None:
        self.shown.epoch_begins(epoch, epochs, batches, done)

    def batch_done(self) -> None:
        self.shown.batch_done()
        self.interrupt.check()
        if time.monotonic() - self.saved > SECONDS_BETWEEN_STATES:
            self._save_state()

    def epoch_done(self, record: dict[str, Any], state: TrainingState, improved: bool) -> None:
        append_json(self.out / "metrics.jsonl", record)
        self._save_state()
        if improved:
            with state.best_weights() as best:
                training = {**self.parts.provenance, "epoch": state.best_epoch}
                save_potential(best, self.out / "model.eqn", training=training)
        self.shown.epoch_done(record, state, improved)
        self.interrupt.check()

    def _save_state(self) -> None:
        self.parts.state.save(self.out / STATE, self.parts.identity)
        self.saved = time.monotonic()


def _one_with_edges(graphs: Sequence[AtomicGraph]) -> AtomicGraph:
    return next((graph for graph in graphs if graph.num_edges), graphs[0])


def _where_it_stopped(out: Path, state: TrainingState, whole: bool) -> str:
    """Message after a signal; ``whole``: True if the state at that moment has been saved."""
    if whole:
        return f"stopped in epoch {state.epoch + 1} after batch {state.batch}; nothing is lost"
    return f"stopped at once; the last saved state is in {out}"


def _require_folder(out: Path) -> None:
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"`out` must be a folder, but {there} is a file; choose another name")


def _refuse_to_overwrite(out: Path, resume: bool) -> None:
    if resume and not (out / STATE).exists():
        raise FileNotFoundError(f"{out} holds no run to go on with; start one without `resume=True`")
    if not resume and (out / STATE).exists():
        raise FileExistsError(f"{out} already holds a run; add `resume=True` to go on with it, or choose another `out`")


def describe(parts: Parts) -> list[Block]:
    """Lines that tell what a run is about to train on and with."""
    potential, statistics, state = parts.potential, parts.statistics, parts.state
    counts = ", ".join(f"{len(graphs)} {part}" for part, graphs in parts.graphs.items())
    e0s = ", ".join(f"{SYMBOLS[z]} {e:.4f}" for z, e in zip(potential.elements, potential.scale.reference.tolist()))
    apart = f"; {parts.isolated} isolated atoms set apart" if parts.isolated else ""
    compositions = potential.references.get("compositions")
    source = "" if parts.start is None else f" from {parts.start}"
    lines: list[Block] = [
        *parts.published.lines(),
        f"frames      {counts}{apart}",
        *_label_lines(parts),
        *parts.remarks,
        f"E0          {e0s} eV ({parts.origin_of_references}{'; not determined' if compositions else ''})",
        f"interaction {min(statistics.shift):.3f} eV/atom on average; {_forces(statistics)}; "
        f"{statistics.avg_num_neighbors:.1f} neighbours within {potential.cutoff:g} Å",
        f"model       {potential.model.headline}{source}, {count_weights(potential):,} weights, "
        f"{parts.settings.dtype} on {potential.device}, {torch.get_num_threads()} threads",
    ]
    if compositions:
        text = (
            f"E0s are not determined: {undetermined(compositions)}. Energies of other compositions will mean nothing; the model file "
            "remembers it. Isolated atoms among the training frames, or frames of other compositions, determine them"
        )
        lines.append(Text(text, "warning"))
    if slow := slow_on(potential.device, potential.dtype):
        lines.append(Text(slow, "warning"))
    gap = 0.0 if parts.start is None or state.step else mean_gap(potential, parts.graphs["train"][:FEW])
    if gap > FAR:
        text = (
            f"energies of {parts.start} are off by {gap:.3g} eV/atom: training begins with closing that gap and spoils the forces "
            'meanwhile. If the labels come from another code or functional, set train.start_e0s = "refit"'
        )
        lines.append(Text(text, "warning"))
    if state.step:
        lines.append(f"going on    from epoch {state.epoch + 1}, batch {state.batch}")
    return lines


def _label_lines(parts: Parts) -> list[Block]:
    """Numbers of labels of each kind, part by part."""
    lines: list[Block] = []
    for part, graphs in parts.graphs.items():
        counts = ", ".join(
            f"{name} {count}" if count in (0, len(graphs)) else f"{name} {count} of {len(graphs)}"
            for name, count in label_counts(graphs).items()
        )
        lines.append(f"labels      {part}: {counts}{_weights(graphs)}")
    return lines


def _weights(graphs: Sequence[AtomicGraph]) -> str:
    """Number of frames of weight 0, and the range of the weights of labels that count, if they are not all 1."""
    if isinstance(graphs, StoredGraphs):
        return ""  # every graph would have to be made
    weightless = sum(not float(graph.weight) > 0 for graph in graphs)
    weights = {
        float(graph.weight) * float(graph[f"{name}_weight"])
        for graph in graphs
        for name in PROPERTIES
        if has_label(graph, name)
    }
    left_out = f"; {weightless} of weight 0, left out" if weightless else ""
    return left_out + (f"; weights {min(weights):g} to {max(weights):g}" if weights - {1.0} else "")


def _forces(statistics: Statistics) -> str:
    if statistics.scale_origin == "forces":
        return f"forces {max(statistics.scale):.3f} eV/Å rms"
    return f"{statistics.scale_origin}, scale {max(statistics.scale):.3f} eV from the energies"


def _conclude(out: Path, parts: Parts, reporter: RunReporter, interrupt: GentleInterrupt) -> dict[str, Errors]:
    """Final errors and model file. The training is on the disk by now, so a signal need not wait."""
    try:
        interrupt.stop_at_once()
        found = _test(out, parts, reporter)
        said = {part: e.as_json() for part, e in found.items()}
        training = {**parts.provenance, "epoch": parts.state.best_epoch, "errors": said}
        save_potential(parts.potential, out / "model.eqn", training=training)
    except KeyboardInterrupt as stop:
        what = f"stopped while testing; the training is finished, and its state is in {out}"
        raise Interrupted(what, out, signal_of(stop)) from None
    return found


def _test(out: Path, parts: Parts, reporter: RunReporter) -> dict[str, Errors]:
    """Final errors, their table, errors.json and the pictures."""
    reporter.say(Text("testing …", "faint"))
    stress = any(label_counts(graphs)["stress"] for graphs in parts.graphs.values())
    chosen = {part: graphs_to_test(graphs) if part == "train" else graphs for part, graphs in parts.graphs.items()}
    if len(chosen["train"]) < len(parts.graphs["train"]):
        few, all_ = len(chosen["train"]), len(parts.graphs["train"])
        reporter.say(Text(f"errors on train are those of {few:,} of {all_:,} frames, spread evenly", "faint"))
    workers = parts.data.valid.workers
    predictions: dict[str, Predictions] = {
        part: predict(parts.potential, GraphLoader(graphs, EVALUATION_BATCH, workers=workers), stress=stress)
        for part, graphs in chosen.items()
    }
    found = {part: errors(predicted) for part, predicted in predictions.items()}
    write_json(out / "errors.json", {part: e.as_json() for part, e in found.items()})
    if parts.state.history:
        plot_history(parts.state.history, out / "plots" / "history.png")
    plot_parity(predictions, out / "plots" / "parity.png")
    reporter.say(error_table(found))
    for block in comparisons(found.get("test"), parts.published.test):
        reporter.say(block)
    return found
