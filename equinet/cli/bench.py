"""`equinet bench`: measurements, each with its correctness first; what its commands share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .app import App, app, console
from .render import show

if TYPE_CHECKING:
    from equinet.bench.core.record import R, Record
    from equinet.bench.core.report import Suite

bench = App(help="Measure: which tensor product to choose.", no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(bench, name="bench")

Dtype = Annotated[Literal["float32", "float64"], typer.Option(help="Precision of weights and arithmetic.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ..., or auto.")]
Threads = Annotated[int, typer.Option(help="Threads of the processor.", min=1)]


def command_line() -> str:
    """The command without folders, which depend on the machine."""
    words = [word for n, word in enumerate(sys.argv[1:]) if word != "--out" and sys.argv[n] != "--out"]
    return shlex.join(["equinet", *(Path(word).name if Path(word).is_file() else word for word in words)])


@contextmanager
def saying() -> Iterator[Callable[[str], None]]:
    """Give a function that tells what is being done: in a terminal a line that changes, in a log lines."""
    with console.status("starting") as status:

        def say(text: str) -> None:
            if console.is_terminal:
                status.update(text)
            else:
                console.print(text, style="dim", highlight=False, soft_wrap=True)

        yield say


def finish(suite: Suite[R], record: Record[R], out: Path | None) -> None:
    """Print machine, legend and warnings, and write files if there is a folder for them."""
    from equinet.bench.core.report import closing, write

    show(console, closing(suite, record))
    if out is not None:
        console.print(f"written to {out}: {', '.join(write(suite, record, out))}", highlight=False, soft_wrap=True)
