"""A whole training run: from a configuration to a folder with model, metrics and pictures."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from equinet.accelerate.compilation import CompiledTraining
from equinet.checkpoint import save_potential
from equinet.datasets import GraphLoader
from equinet.graph.atomic_graph import AtomicGraph
from equinet.graph.elements import SYMBOLS
from equinet.graph.neighbors import available_memory
from equinet.models import count_weights
from equinet.potential import Potential
from equinet.verify.backends import require_backend_match

from .config import RunConfig, to_toml
from .finetune import FAR, mean_gap, with_model_of_start
from .interrupt import StopRequested
from .log import TerminalReporter, error_table, write_json
from .loop import Data, fit, make_optimizer
from .metrics import Errors, Predictions, errors, predict
from .plots import plot_history, plot_parity
from .prepare import Prepared, make_loss, make_potential, prepare
from .state import TrainingState

EVALUATION_BATCH = 32
FEW = 32  # structures that tell whether energies are far off


class Interrupted(Exception):
    """Training was stopped by the user; the message says where the state is and how to go on."""


@dataclass(frozen=True)
class Result:
    """What a run leaves behind.

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


def run(config: RunConfig, out: Path, *, resume: bool = False, console: Console | None = None) -> Result:
    """Train from a configuration and write ``model.eqn``, ``config.toml``, ``metrics.jsonl``, ``errors.json``, ``plots/``.

    Args:
        config: What to do.
        out: Folder; made if it is not there.
        resume: Go on with the unfinished (or finished and now longer) run in ``out``.
        console: Where to print; by default nowhere.

    Raises:
        FileExistsError: If ``out`` already holds a run and ``resume`` is False, so that nothing is overwritten.
        Interrupted: After Ctrl-C, when the state has been saved.
        BackendMismatchError: If the potential differs from its formulas on a few atoms of the training frames.
        ValueError, MemoryError, FloatingPointError: With file, frame and remedy.
    """
    console = console or Console(quiet=True)
    out, state_file = Path(out), Path(out) / "state.safetensors"
    _refuse_to_overwrite(out, state_file, resume)
    console.print("reading frames and finding neighbours …", style="dim")
    config = with_model_of_start(config)
    prepared = prepare(config)
    potential = make_potential(config, prepared)
    _refuse_if_too_large(prepared.graphs["train"], potential, config)
    optimizer = make_optimizer(potential, config.train)
    state = TrainingState(potential, optimizer, config.train.ema_decay)
    identity = _identity(config, prepared)
    if resume:
        state.restore(state_file, identity)
    require_backend_match(potential, _one_with_edges(prepared.graphs["train"]))
    _describe(console, config, prepared, potential, state)
    (out / "plots").mkdir(parents=True, exist_ok=True)
    (out / "config.toml").write_text(to_toml(config))
    _begin_metrics(out / "metrics.jsonl", state)
    if not resume:
        state.save(state_file, identity)  # so that there is something to go on from, whatever happens
    provenance: dict[str, Any] = {"config": config.model_dump(mode="json"), "data_sha256": prepared.digest}

    def save(improved: bool) -> None:
        state.save(state_file, identity)
        if improved:
            with state.best_weights() as best:
                save_potential(best, out / "model.eqn", training={**provenance, "epoch": state.best_epoch})

    loaders = Data(
        GraphLoader(prepared.graphs["train"], config.train.batch_size, config.train.seed),
        GraphLoader(prepared.graphs["valid"], EVALUATION_BATCH),
    )
    try:
        with TerminalReporter(console, out, config.train.epochs, save) as reporter:
            fit(
                potential,
                loaders,
                make_loss(config),
                optimizer,
                config.train,
                state=state,
                reporter=reporter,
                predict=CompiledTraining(potential) if config.train.compile else None,
            )
    except KeyboardInterrupt as interrupt:
        whole = isinstance(interrupt, StopRequested)  # not in the middle of a step, when the state in memory is not
        if whole:
            state.save(state_file, identity)
        raise Interrupted(_where_it_stopped(out, state, whole)) from None
    found = _conclude(console, out, potential, prepared, config, state)
    save_potential(
        potential,
        out / "model.eqn",
        training={**provenance, "epoch": state.best_epoch, "errors": {part: e.as_json() for part, e in found.items()}},
    )
    return Result(out, potential, found, state)


def _one_with_edges(graphs: Sequence[AtomicGraph]) -> AtomicGraph:
    return next((graph for graph in graphs if graph.num_edges), graphs[0])


def _where_it_stopped(out: Path, state: TrainingState, whole: bool) -> str:
    """What to say after Ctrl-C; ``whole``: whether the state at that moment has been saved."""
    go_on = f"To go on: equinet train {shlex.quote(str(out / 'config.toml'))} --out {shlex.quote(str(out))} --resume"
    if whole:
        return f"stopped in epoch {state.epoch + 1} after batch {state.batch}; nothing is lost. {go_on}"
    return f"stopped at once; the state after the last finished epoch is in {out}. {go_on}"


def _refuse_to_overwrite(out: Path, state_file: Path, resume: bool) -> None:
    if resume and not state_file.exists():
        raise FileNotFoundError(f"{out} holds no run to go on with; start one without --resume")
    if not resume and state_file.exists():
        raise FileExistsError(f"{out} already holds a run; add --resume to go on with it, or choose another --out")


def _identity(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """What must be the same when a run goes on. More epochs or minutes and another device may come; other numbers may not."""
    meaning = config.model_dump(mode="json", exclude={"train": {"epochs", "max_minutes", "device"}})
    return {
        "frames": prepared.digest,
        **{f"data.{key}": meaning["data"][key] for key in ("e0s", "scale_shift")},
        **{f"{section}.{key}": value for section in ("model", "train") for key, value in meaning[section].items()},
    }


def _describe(
    console: Console, config: RunConfig, prepared: Prepared, potential: Potential, state: TrainingState
) -> None:
    statistics = prepared.statistics
    counts = ", ".join(f"{len(graphs)} {part}" for part, graphs in prepared.graphs.items())
    start = config.train.start_from
    e0s = ", ".join(f"{SYMBOLS[z]} {e:.4f}" for z, e in zip(potential.elements, potential.scale.reference.tolist()))
    refit = ", refit to the labels" if config.train.start_e0s == "refit" else ""
    origin = statistics.reference_origin if start is None else f"of {start}{refit}"
    apart = f"; {prepared.isolated} isolated atoms set apart" if prepared.isolated else ""
    console.print(f"frames      {counts}{apart}", highlight=False, soft_wrap=True)
    console.print(f"E0          {e0s} eV ({origin})", highlight=False, soft_wrap=True)
    console.print(
        f"interaction {min(statistics.shift):.3f} eV/atom on average; forces {max(statistics.scale):.3f} eV/Å rms; "
        f"{statistics.avg_num_neighbors:.1f} neighbours within {config.model.cutoff:g} Å",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"model       {potential.model.headline}{'' if start is None else f' from {start}'}, {count_weights(potential):,} weights, "
        f"{config.train.dtype} on {potential.device}, {torch.get_num_threads()} threads",
        highlight=False,
        soft_wrap=True,
    )
    gap = 0.0 if start is None or state.step else mean_gap(potential, prepared.graphs["train"][:FEW])
    if gap > FAR:
        console.print(
            f"energies of {start} are off by {gap:.3g} eV/atom: training begins with closing that gap and spoils the forces meanwhile. "
            'If the labels come from another code or functional, set train.start_e0s = "refit"',
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    if state.step:
        console.print(f"going on    from epoch {state.epoch + 1}, batch {state.batch}", highlight=False, soft_wrap=True)


def _conclude(
    console: Console, out: Path, potential: Potential, prepared: Prepared, config: RunConfig, state: TrainingState
) -> dict[str, Errors]:
    """Final errors, their table, errors.json and the pictures."""
    console.print("testing …", style="dim")
    stress = any(bool(graph.stress.isfinite().any()) for graphs in prepared.graphs.values() for graph in graphs)
    predictions: dict[str, Predictions] = {
        part: predict(potential, GraphLoader(graphs, EVALUATION_BATCH), stress=stress)
        for part, graphs in prepared.graphs.items()
    }
    found = {part: errors(predicted) for part, predicted in predictions.items()}
    write_json(out / "errors.json", {part: e.as_json() for part, e in found.items()})
    if state.history:
        plot_history(state.history, out / "plots" / "history.png")
    plot_parity(predictions, out / "plots" / "parity.png")
    console.print(error_table(found))
    return found


def _begin_metrics(path: Path, state: TrainingState) -> None:
    """Begin with the epochs that the state knows, and not with those a crash left half written."""
    path.write_text("".join(json.dumps(record) + "\n" for record in state.history))


def _refuse_if_too_large(graphs: Sequence[AtomicGraph], potential: Potential, config: RunConfig) -> None:
    """Estimate the peak memory of a training step on the largest batch and compare it with what is free."""
    edges = sorted((graph.edge_index.shape[1] for graph in graphs), reverse=True)[: config.train.batch_size]
    per_edge = potential.model.numbers_per_edge
    if per_edge is None:
        return
    # Forces and their gradient keep about eight copies of messages and weights (7 to 9 measured for max_l 0 to 2).
    size = 8 * sum(edges) * per_edge * potential.dtype.itemsize
    free = available_memory() if potential.device.type == "cpu" else float(torch.cuda.mem_get_info(potential.device)[0])
    if size > free:
        raise MemoryError(
            f"a training step on the largest {config.train.batch_size} frames ({sum(edges)} edges) needs about {size / 1e9:.1f} GB "
            f"and {free / 1e9:.1f} GB are free; lower `train.batch_size`, `model.cutoff` (now {config.model.cutoff:g} Å) "
            "or the size of the model"
        )
