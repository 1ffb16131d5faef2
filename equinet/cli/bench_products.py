"""`equinet bench tp`, `conv` and `product`: single products, ours and other libraries', checked and then timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .app import console
from .bench import Dtype, Threads, bench, command_line, finish
from .outputs import OUTPUT_FOLDER
from .render import show

if TYPE_CHECKING:
    from equinet.bench.products.problems import Problem

Irreps1 = Annotated[
    str | None, typer.Argument(metavar="IRREPS1", help="Features with channels, e.g. 64x0e+64x1o.", show_default=False)
]
Irreps2 = Annotated[
    str | None,
    typer.Argument(
        metavar="IRREPS2",
        help="Second input, e.g. 0e+1o+2e+3o, or with as many channels as IRREPS1.",
        show_default=False,
    ),
]
IrrepsOut = Annotated[str | None, typer.Argument(metavar="IRREPS_OUT", help="Outputs, e.g. 0e+1o.", show_default=False)]
Methods = Annotated[
    list[str] | None,
    typer.Option(help="A method of ours: cg, gaunt_grid, cp:rank=24, ... By default all. Repeatable."),
]
Only = Annotated[
    list[str] | None, typer.Option(help="Only contenders whose name contains this, e.g. --only cg. Repeatable.")
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to measure.")]
Rounds = Annotated[int, typer.Option(help="Rounds in which all take turns.", min=9)]
Budget = Annotated[
    float,
    typer.Option(
        help="Seconds of timing for each problem; slow contenders do fewer rounds. Building and checking come on top."
    ),
]
Clock = Annotated[
    Literal["wall", "cpu"],
    typer.Option(help="cpu: processor time, which leaves out what other processes take. One thread only."),
]
Baseline = Annotated[
    str | None, typer.Option(help="Whose time is divided by all others', by its name in the table; by default e3nn.")
]
Reference = Annotated[
    bool, typer.Option("--reference", help="Also time the reference forms, the formulas term by term.")
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for bench.json, bench.csv, bench.md and bench.png, the roofline."),
    OUTPUT_FOLDER,
]


@bench.command()
def tp(
    irreps1: Irreps1 = None,
    irreps2: Irreps2 = None,
    irreps_out: IrrepsOut = None,
    mode: Annotated[
        Literal["siso", "simo", "mimo", "uuu"],
        typer.Option(help="Which of the papers' microbenchmarks, without irreps."),
    ] = "mimo",
    degrees: Annotated[str, typer.Option(help="Degrees L of it: 3, 1-8 or 1,2,4.")] = "1-3",
    channels: Annotated[int, typer.Option(help="Channels of it; the papers have 1.", min=1)] = 32,
    pairs: Annotated[int, typer.Option(help="Pairs that are multiplied at once.", min=1)] = 256,
    method: Methods = None,
    only: Only = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
    rounds: Rounds = 11,
    budget: Budget = 30.0,
    clock: Clock = "wall",
    baseline: Baseline = None,
    reference: Reference = False,
    out: Out = None,
) -> None:
    """Products of pairs, without a graph: all methods and libraries here, checked against the formulas, then timed in turns.

    The microbenchmarks of the papers, single (SI) and all degrees (MI) in, single (SO) and all degrees (MO) out:

        equinet bench tp --mode mimo --degrees 1-8 --out mimo

    A product of your own, only exact couplings and e3nn, ten seconds:

        equinet bench tp 64x0e+64x1o 0e+1o+2e --only cg --only e3nn --budget 10

    Both inputs with channels, channel by channel and summed over paths, as e3nn's uuu:

        equinet bench tp --mode uuu --degrees 1-4 --channels 64 --pairs 1000 --method cg --method gaunt_grid

    siso: L x L -> L. simo: L x L -> 0, 2, ..., 2L. mimo and uuu: 0..L x 0..L -> 0..L. A method that is marked ≠ is another function:
    fewer couplings, or fewer weights; the columns tell. Who cannot take part is listed with the reason.
    """
    from equinet.bench.products.problems import Problem, degrees_from_text, pair_problem

    from .questions import spec_from_text

    if irreps1 is not None:
        spec = spec_from_text(irreps1, irreps2, irreps_out)
        problems = [Problem("tp", "tp", spec, pairs, 1)]
    else:
        problems = [pair_problem(mode, degree, channels, pairs) for degree in degrees_from_text(degrees)]
    _run(problems, method, only, dtype, device, threads, rounds, budget, clock, baseline, reference, out)


@bench.command()
def conv(
    irreps1: Irreps1 = None,
    irreps2: Irreps2 = None,
    irreps_out: IrrepsOut = None,
    problem: Annotated[
        list[str] | None,
        typer.Option(help="mace-CHANNELSxL: MACE's, with features of degree 0..L. Repeatable. By default mace-64x1."),
    ] = None,
    nodes: Annotated[int, typer.Option(help="Nodes.", min=1)] = 64,
    neighbours: Annotated[int, typer.Option(help="Edges per node, from random senders.", min=1)] = 20,
    structure: Annotated[
        Path | None, typer.Option(help="The graph of the first structure in this file, in place of a random one.")
    ] = None,
    cutoff: Annotated[float, typer.Option(help="Å; of --structure.", min=0.1)] = 5.0,
    method: Methods = None,
    only: Only = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
    rounds: Rounds = 11,
    budget: Budget = 30.0,
    clock: Clock = "wall",
    baseline: Baseline = None,
    reference: Reference = False,
    out: Out = None,
) -> None:
    """The convolution on edges: gather, product with harmonics, radial weights, sum on nodes. Checked, then timed in turns.

    MACE's second interaction for several sizes, with a table, a CSV file and the roofline:

        equinet bench conv --problem mace-64x0 --problem mace-64x1 --problem mace-128x2 --out conv

    A convolution of your own on a larger graph, in float64:

        equinet bench conv 32x0e+32x1o 0e+1o+2e --nodes 500 --neighbours 40 --dtype float64
    """
    from equinet.bench.products.problems import Problem, named_problem

    from .questions import spec_from_text

    if irreps1 is not None:
        problems = [Problem("conv", "conv", spec_from_text(irreps1, irreps2, irreps_out), nodes, neighbours)]
    else:
        problems = [named_problem("conv", name, nodes, neighbours, 1) for name in problem or ["mace-64x1"]]
    if structure is not None:
        problems = [_on_graph_of(each, structure, cutoff) for each in problems]
    _run(problems, method, only, dtype, device, threads, rounds, budget, clock, baseline, reference, out)


@bench.command()
def product(
    irreps1: Irreps1 = None,
    irreps_out: Annotated[
        str | None, typer.Argument(metavar="IRREPS_OUT", help="Outputs, e.g. 0e+1o.", show_default=False)
    ] = None,
    problem: Annotated[
        list[str] | None,
        typer.Option(help="mace-CHANNELSxL: MACE's, with outputs of degree 0..L. Repeatable. By default mace-64x0."),
    ] = None,
    correlation: Annotated[int, typer.Option(help="Most factors, with irreps.", min=1, max=4)] = 3,
    nodes: Annotated[int, typer.Option(help="Nodes.", min=1)] = 64,
    species: Annotated[int, typer.Option(help="Chemical elements, with weights of their own.", min=1)] = 4,
    method: Methods = None,
    only: Only = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 1,
    rounds: Rounds = 11,
    budget: Budget = 30.0,
    clock: Clock = "wall",
    baseline: Baseline = None,
    reference: Reference = False,
    out: Out = None,
) -> None:
    """The many-body product: a node's features times themselves, weighted by species. Checked, then timed in turns.

    MACE's, up to three factors of degree 0..3, with scalars and vectors out:

        equinet bench product --problem mace-64x1 --out product

    Four factors:

        equinet bench product 32x0e+32x1o 32x0e+32x1o --correlation 4

    cuequivariance has other weights for the same functions; they are mapped to ours before the check. It takes long to build.
    """
    from dataclasses import replace

    from equinet.bench.products.problems import Problem, named_problem
    from equinet.ops import ManyBodySpec

    from .questions import spec_from_text

    if irreps1 is not None:
        spec = spec_from_text(irreps1, irreps_out, None, correlation)
        assert isinstance(spec, ManyBodySpec)
        problems = [Problem("product", "product", replace(spec, species=species), nodes, 0)]
    else:
        problems = [named_problem("product", name, nodes, 0, species) for name in problem or ["mace-64x0"]]
    _run(problems, method, only, dtype, device, threads, rounds, budget, clock, baseline, reference, out)


def _on_graph_of(problem: Problem, structure: Path, cutoff: float) -> Problem:
    from dataclasses import replace

    from equinet.datasets import read_frames
    from equinet.graph.atomic_graph import from_atoms
    from equinet.verify import physics

    frames = read_frames(structure, physics.NO_LABELS)
    graph = from_atoms(frames[0], cutoff).edge_index
    if graph.shape[1] == 0:
        raise ValueError(f"the first structure of {structure} has no neighbours within `cutoff` {cutoff:g} Å")
    return replace(problem, nodes=len(frames[0]), graph=graph[:, graph[1].argsort(stable=True)])


def _run(
    problems: Sequence[Problem],
    method: list[str] | None,
    only: list[str] | None,
    dtype: str,
    device: str,
    threads: int,
    rounds: int,
    budget: float,
    clock: str,
    baseline: str | None,
    reference: bool,
    out: Path | None,
) -> None:
    from equinet.bench.core.record import Settings
    from equinet.bench.products.report import SUITE
    from equinet.bench.products.run import measure

    from .questions import method_from_text

    settings = Settings(dtype=dtype, device=device, threads=threads, rounds=rounds, budget=budget, clock=clock)
    methods = [method_from_text(text) for text in method] if method else None
    with console.status("starting") as status:
        record = measure(
            problems,
            settings,
            methods=methods,
            only=only or [],
            reference=reference,
            baseline=baseline,
            command=command_line(),
            say=status.update,
        )
    show(console, SUITE.terminal(record))
    finish(SUITE, record, out)
