"""`equinet bench model` and `equinet bench size`: whole models, alone or beside mace-torch with the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import console
from .bench import Device, Dtype, Threads, bench, command_line, finish, saying
from .outputs import OUTPUT_FOLDER
from .render import show

if TYPE_CHECKING:
    from equinet.bench.core.record import Settings
    from equinet.bench.core.report import Suite
    from equinet.bench.models.run import Plan, Row

Against = Annotated[
    list[str] | None,
    typer.Option(
        help="Measure mace-torch too, with the same weights, in turns. `mace`: as it comes and with cuEquivariance. "
        "`mace-eager`, `mace-cuequivariance`, `mace-compiled` (torch.compile, minutes for each structure): one of them. Repeatable."
    ),
]
Rounds = Annotated[
    int, typer.Option(help="Rounds of each time; slow contenders do fewer, and the table says so.", min=3)
]


@bench.command()
def model(
    against: Against = None,
    model_: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Which models: 64x0e, 64x0e+1o, 128x0e+1o+2e (by default all three) or any such size, a training configuration "
            "(*.toml), or a trained model (*.eqn). Repeatable.",
        ),
    ] = None,
    atoms: Annotated[
        list[str] | None,
        typer.Option(
            help="Which structures: molecules (ten of 15 atoms), si64, si512 (silicon; by default all three) or siN for 8 n³ atoms, or a file that "
            "ASE can read; the structures of a file are one batch. Repeatable."
        ),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
    rounds: Rounds = 11,
    seconds: Annotated[float, typer.Option(help="For all rounds of one task on one structure.", min=0.1)] = 60.0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for model.json, model.csv, model_table.md and model.png."),
        OUTPUT_FOLDER,
    ] = None,
) -> None:
    """A whole model: training step, energy + forces, step of molecular dynamics, peak memory.

    Alone, a quick look (under a minute), then beside mace-torch:

        equinet bench model --model 64x0e+1o --atoms molecules

        equinet bench model --model 64x0e+1o --atoms molecules --against mace

    The whole table, about an hour on one core, and your own model on your own structures:

        equinet bench model --against mace --out docs/benchmarks

        equinet bench model --model model.eqn --atoms frames.xyz

    Results come before times: everything is compared with float64, energies and forces to 1e-5 in float32, and what does not
    compute the same function is marked WRONG and gets no time. With --against both packages have the same random weights, large
    enough that every part of the model counts (a trained model lends its architecture). What would not fit into memory is
    left out, with the reason.
    """
    from equinet.bench.models.problems import MODELS, PROBLEMS, find_architecture, find_problem
    from equinet.bench.models.report import SUITE
    from equinet.bench.models.run import Plan

    architectures = [find_architecture(name) for name in model_ or MODELS]
    problems = [find_problem(name) for name in atoms or PROBLEMS]
    settings = _settings(dtype, device, threads, rounds, seconds)
    _run(Plan(architectures, problems, _peers(against), settings=settings), SUITE, out)


@bench.command()
def size(
    against: Against = None,
    model_: Annotated[
        str,
        typer.Option(
            "--model",
            help="64x0e, 64x0e+1o, 128x0e+1o+2e or any such size, a training configuration (*.toml), or a trained model (*.eqn).",
        ),
    ] = "64x0e+1o",
    largest: Annotated[int, typer.Option(help="Atoms of the largest structure, up to 216000.", min=1)] = 8000,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
    rounds: Rounds = 9,
    seconds: Annotated[float, typer.Option(help="For all rounds of one size.", min=0.1)] = 30.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for size.json, size_table.md and size.png."), OUTPUT_FOLDER
    ] = None,
) -> None:
    """Cost against size: time and peak memory of energy + forces for 64 to 8,000 atoms of silicon, and how they grow.

        equinet bench size --largest 1000

        equinet bench size --against mace-eager --out docs/benchmarks

    The slope is that of the logarithms: 1 is linear. What is expected not to fit into memory is not run, and the table says what
    it would take.
    """
    from equinet.bench.models.problems import find_architecture
    from equinet.bench.models.run import Plan
    from equinet.bench.models.runners import FORCES
    from equinet.bench.models.size import SUITE, problems

    settings = _settings(dtype, device, threads, rounds, seconds)
    plan = Plan([find_architecture(model_)], problems(largest), _peers(against), (FORCES,), settings)
    _run(plan, SUITE, out)


def _settings(dtype: str, device: str, threads: int, rounds: int, seconds: float) -> Settings:
    from equinet.bench.core.record import Settings
    from equinet.ops.devices import choose_device

    name = str(choose_device(device))
    return Settings(dtype=dtype, device=name, threads=threads, rounds=rounds, budget=seconds)


def _peers(against: Sequence[str] | None) -> tuple[str, ...]:
    from equinet.bench.peers.mace_torch.model import PEERS, require

    if unknown := [peer for peer in against or () if peer not in PEERS]:
        raise ValueError(f"`--against {unknown[0]}` is unknown; there are {', '.join(PEERS)}")
    if against:
        require()
    return tuple(dict.fromkeys(name for peer in against or () for name in PEERS[peer]))


def _run(plan: Plan, suite: Suite[Row], out: Path | None) -> None:
    """Measure, show each architecture's table when it is there, and keep what is there so far."""
    from equinet.bench.core.report import write
    from equinet.bench.core.timing import threads
    from equinet.bench.models.report import record_of
    from equinet.bench.models.run import measure

    with threads(plan.settings.threads):
        record = record_of(plan, command_line())
        with saying() as say:
            for rows in measure(plan, say):
                record.rows += rows
                show(console, suite.terminal(record.part(rows)))
                if out is not None:
                    write(suite, record, out)
        finish(suite, record, out)
