"""Commands about published data sets: list them, show a card, fetch files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import console, errors_to
from .data import data
from .render import progress, show

if TYPE_CHECKING:
    from equinet.datasets.published import DataFile


@data.command("list")
def list_sets() -> None:
    """List the published data sets that equinet knows by name, and which of them are on this machine.

    A set is looked for in the folders of the environment variable EQUINET_DATA (SET/FILE.xyz or .xyz.gz), then in the cache
    (~/.cache/equinet/data), and verified by SHA-256. A configuration takes it by name:

        data.train = "acac/train_300K"
    """
    from equinet.datasets.published import cards
    from equinet.datasets.published.tables import list_table

    show(console, [list_table(cards().values())])


@data.command("show")
def show_set(
    name: Annotated[str, typer.Argument(help="Set, such as acac, or one of its files, acac/train_300K.")],
) -> None:
    """Show the card of a published data set: contents, units, split, licence, citation, checksums, published errors.

    Example:  equinet data show acac
    """
    from equinet.datasets.published import find_card, find_file
    from equinet.datasets.published.tables import card_blocks

    card = find_card(find_file(name).set if "/" in name else name)
    show(console, card_blocks(card))


@data.command()
def get(
    name: Annotated[str | None, typer.Argument(help="Set, such as acac, or one of its files, acac/train_300K.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every set that equinet knows.")] = False,
) -> None:
    """Fetch published data sets into the cache, unless they are on this machine; verified by SHA-256, resumed where it broke off.

    Sets that are only published in another format cannot be fetched; the message says what they are made from and where to
    put them. The exit code is 1 if any file is missing in the end.

    Example:  equinet data get acac
    """
    from equinet.datasets.published import cards, find_card, find_file, with_isolated_atoms

    if (name is None) != all_:
        raise ValueError(
            "name a set or one of its files, as in `equinet data get acac`, or say `all=True`; `equinet data list` has the names"
        )
    if name is None:
        files = [file for card in cards().values() for file in card.files]
    else:
        files = with_isolated_atoms(find_file(name)) if "/" in name else list(find_card(name).files)
    missing = 0
    with progress(console, "bytes") as move:
        for file in files:
            try:
                path, fetched = _get(file, move)
            except (OSError, ValueError) as error:
                missing += 1
                errors_to.print(str(error), style="yellow", highlight=False, soft_wrap=True, markup=False)
                continue
            told = "fetched to" if fetched else "is here:"
            console.print(f"{file.full_name}  {told} {path}", highlight=False, soft_wrap=True)
    if missing:
        raise OSError(f"{missing} of {len(files)} files are missing")


def _get(file: DataFile, move: Callable[[int, int | None, str], None]) -> tuple[Path, bool]:
    """The verified file and True if it was fetched just now."""
    from equinet.datasets.published import fetch, find_local

    if found := find_local(file):
        return found, False
    return fetch(file, advance=lambda done, total: move(done, total, file.full_name)), True
