"""Description of a MACE model file for the terminal, and the table of published files for the documentation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equinet.graph.elements import SYMBOLS
from equinet.tables import Column, Table

from .architecture import Architecture
from .origin import published_as
from .published import published_files
from .records import Record

UNKNOWN_LICENCE = "not known: no published file has this content; ask whoever trained it"
DISTANCES = {
    "none": "the distance",
    "agnesi": "the distance by Agnesi's transform",
    "soft": "the distance by the Soft transform",
}


def describe(
    mace: Record, architecture: Architecture, path: str | os.PathLike[str], origin: Mapping[str, Any]
) -> Table:
    """Describe a model file in the words of mace-torch and of equinet.

    Args:
        mace: The model as it was read.
        architecture: Architecture of the model.
        path: Its file.
        origin: Its :func:`equinet.convert.mace.origin.origin_of`.
    """
    c = architecture.config
    kinds = [interaction.kind for interaction in mace["interactions"].children()]
    size = f"{Path(path).stat().st_size / 1e6:.1f} MB"
    rows = {
        "file": f"{origin['file']}, {size}, SHA-256 {origin['sha256'][:16]}…",
        "published as": _published_as(origin),
        "licence": origin["licence"] or UNKNOWN_LICENCE,
        "model": f"{mace.kind}, {c.layers} layers, {_count_weights(mace):,} weights in {str(architecture.dtype).removeprefix('torch.')}",
        "elements": _elements(architecture.elements),
        "heads": ", ".join(architecture.heads),
        "first interaction": f'{kinds[0]}, here "{c.first_interaction}"',
        "interaction": f'{kinds[-1]}, here "{c.interaction}"',
        "features": f"{c.channels} channels, max_l {c.max_l}, harmonics up to {c.sh_degree} (max_ell), correlation {c.correlation}",
        "edges": f"{c.edge_channels} channels, {'in' if c.edge_channels_first else 'but not in'} the first layer too"
        if c.edge_channels
        else "",
        "cutoff": f"{c.cutoff:g} Å (r_max), envelope power {c.envelope_power}, on the {c.envelope_on}",
        "radial basis": f"{c.bessel_functions} Bessel functions of {DISTANCES[c.distance_transform]}, network {list(c.radial_hidden)}",
        "neighbours": f"{architecture.avg_num_neighbors:.4g} on average (avg_num_neighbors)",
        "readout": f"{c.readout_hidden or 'no'} hidden channels{', biases' if c.readout_biases else ''}, "
        + ("of the last layer alone" if c.readout_layers == "last" else "in the last layer; linear in the others"),
        "pair repulsion": "ZBL" if c.zbl else "",
    }
    return Table("", [Column("", tone="faint"), Column("", fold=True)], [(k, v) for k, v in rows.items() if v])


def table_of_published() -> str:
    """The published files as a table in Markdown, for ``docs/mace.md``."""
    lines = ["| model | file | licence | SHA-256 | size | |", "|---|---|---|---|---|---|"]
    for one in published_files():
        digest = f"`{one.sha256[:12]}…`" if one.sha256 else "not known"
        size = f"{one.size / 1e6:.1f} MB" if one.size else ""
        lines.append(f"| {one.name} | [`{one.file}`]({one.url}) | {one.licence} | {digest} | {size} | {one.note} |")
    return "\n".join(lines) + "\n"


def _published_as(origin: Mapping[str, Any]) -> str:
    published = published_as(origin["published"])
    if published is not None:
        return f"{published.name}: {published.note}"
    return f"nothing known, but it is named like {origin['named_like']}" if origin["named_like"] else ""


def _elements(numbers: tuple[int, ...]) -> str:
    symbols = " ".join(SYMBOLS[z] for z in numbers)
    return symbols if len(numbers) < 8 else f"{len(numbers)}: {symbols}"


def _count_weights(mace: Record) -> int:
    """Parameters of all heads; buffers such as the U matrices are none."""
    return sum(tensor.numel() for tensor in mace.parameters().values())
