"""`equinet bench mace`: every form of MACE, and your own model file, beside mace-torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import console
from .bench import Threads, bench, command_line, finish
from .outputs import OUTPUT_FOLDER
from .render import progress, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from equinet.bench.core.record import Settings
    from equinet.bench.mace.run import Cell


@bench.command()
def mace(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A model file of mace-torch (*.model); without it random models are made.", show_default=False
        ),
    ] = None,
    atoms: Annotated[
        list[Path] | None,
        typer.Option(
            help="Structures for MODEL, in a file that ASE can read; else some are made of its elements. Repeatable."
        ),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="The product of all axes, 1,080 models, about half an hour.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only models whose text contains this, e.g. --only gated --only L=2. Repeatable: all must occur."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of each time.", min=3)] = 5,
    seconds: Annotated[float, typer.Option(help="For all rounds of one model.", min=0.1)] = 1.0,
    threads: Threads = 1,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for mace.json, mace_table.md and mace.png."), OUTPUT_FOLDER
    ] = None,
) -> None:
    """MACE models read from their files, beside mace-torch: the same energies, forces and virials, and how much faster.

    Random models of every family, so few that each pair of properties occurs, and special forms; a few minutes:

        equinet bench mace

    One of them, with all its numbers, or the whole matrix:

        equinet bench mace --only "gated L=1" --only "edge_irreps"

        equinet bench mace --all --out docs/benchmarks

    A model file of your own, on your own structures:

        equinet bench mace 2023-12-03-mace-128-L1_epoch-199.model --atoms frames.xyz

    For this comparison mace-torch unpickles MODEL, and a pickle can run any code: give only files whose origin you trust.
    (`equinet convert-mace` never runs anything of a file.)

    Each model is written by torch.save and read back by equinet, for each of its heads; then a molecule, a bulk whose cell is
    smaller than the cutoff and a slab are compared. A text such as 'plain+residual L=1 nu=2 reduced agnesi zbl 2 heads' names
    the first interaction and the others, the highest degree of features, the correlation, the couplings, and what there is
    besides. What fails is shown with its reason, and the exit code is 1.
    """
    from equinet.bench.core import timing
    from equinet.bench.core.record import Record, Settings
    from equinet.bench.mace.report import SUITE
    from equinet.bench.peers.mace_torch.model import require

    _refuse_what_does_not_go_together(model, atoms, all_, only)
    require()
    settings = Settings(rounds=rounds, budget=seconds, threads=threads)
    jobs = _jobs_of_file(model, atoms or [], settings) if model else _jobs(all_, only or [], settings, seed)
    with timing.threads(threads):
        record: Record[Cell] = Record(command_line(), settings, about={"planned": len(jobs), "seed": seed})
        try:
            for cell in _with_progress(jobs):
                record.rows.append(cell)
        finally:  # what was done is kept if it is stopped
            if record.rows:
                show(console, SUITE.terminal(record))
                finish(SUITE, record, out)
    if any(cell.failures for cell in record.rows):
        raise typer.Exit(1)


Job = tuple[str, "Callable[[], Cell]"]


def _refuse_what_does_not_go_together(
    model: Path | None, atoms: Sequence[Path] | None, all_: bool, only: Sequence[str] | None
) -> None:
    if model is None and atoms:
        raise ValueError(
            "`--atoms` are structures for a MODEL, but none is given; random models have structures of their own"
        )
    if model is not None and (all_ or only):
        raise ValueError("`--all` and `--only` choose among random models, but a MODEL is given; leave out one of them")
    for path in (*([model] if model is not None else []), *(atoms or [])):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")


def _jobs(all_: bool, only: Sequence[str], settings: Settings, seed: int) -> list[Job]:
    """Random models, each compared when its turn comes."""
    from equinet.bench.mace import run
    from equinet.bench.mace.cases import Case, every_case, extras, pairwise, select

    def job(case: Case) -> Job:
        def compare() -> Cell:
            with tempfile.TemporaryDirectory() as folder:
                return run.compare_case(case, Path(folder), settings, seed)

        return str(case), compare

    return [job(case) for case in select([*(every_case() if all_ else pairwise()), *extras()], only)]


def _jobs_of_file(path: Path, files: Sequence[Path], settings: Settings) -> list[Job]:
    """One model, on the structures of all files."""
    from equinet.bench.mace.run import compare_file
    from equinet.bench.mace.structures import read_structures

    frames = read_structures(files)
    return [(path.name, lambda: compare_file(path, frames, settings))]


def _with_progress(jobs: Sequence[Job]) -> Iterator[Cell]:
    """Cells, as they are done: with a bar in a terminal, a line each in a log."""
    # Models differ in what they cost: an estimate of the last half minute would jump.
    with progress(console, period=600) as move:
        for n, (name, compare) in enumerate(jobs):
            move(n, len(jobs), name)
            cell = compare()
            if not console.is_terminal:
                line = f"{cell.seconds:5.1f} s  {cell.problem}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            for reason in cell.failures:
                line = f"FAILED {cell.problem}: {reason}"
                console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
            yield cell
