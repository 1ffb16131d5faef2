"""Tables of published data sets: all of them, and everything on one card."""

from __future__ import annotations

from collections.abc import Iterable

from equinet.tables import Block, Column, Table, Text, Tone

from .card import Card, DataFile
from .local import State, state_of

KINDS = {"mae": "MAE", "rmse": "RMSE", "norm": "mean norm"}
TONES: dict[State, Tone] = {"here": "good", "missing": "faint", "wrong checksum": "bad"}
MOST_ELEMENTS = 6


def list_table(cards: Iterable[Card]) -> Table:
    """One row per published set: frames, elements, purpose, licence, and the state of its files on this machine."""
    columns = [
        Column("set"),
        Column("frames", number=True),
        Column("elements", fold=True),
        Column("what for", fold=True),
        Column("licence", fold=True),
        Column("here"),
    ]
    rows = [
        (card.name, str(card.frames), _elements(card.elements), card.use, card.licence, _summary(card))
        for card in cards
    ]
    caption = 'equinet data show SET: the whole card; equinet data get SET: fetch it. In a configuration: data.train = "acac/train_300K"'
    return Table("Published data sets", columns, rows, caption)


def _elements(symbols: tuple[str, ...]) -> str:
    return " ".join(symbols) if len(symbols) <= MOST_ELEMENTS else f"{len(symbols)} elements"


def _summary(card: Card) -> Text:
    states = [state_of(file) for file in card.files]
    here = states.count("here")
    if "wrong checksum" in states:
        return Text("wrong checksum", "bad")
    return Text("yes", "good") if here == len(states) else Text(f"{here} of {len(states)}" if here else "no", "faint")


def card_blocks(card: Card) -> list[Block]:
    """Everything on a card: contents, labels, split, licence, citation, files with checksums, published errors."""
    facts = [
        ("contents", card.about),
        ("labels", card.level_of_theory),
        ("units", ", ".join(f"{name} {unit}" for name, unit in card.units.items())),
        ("keys", ", ".join(f"{name}: {key}" for name, key in card.keys.items())),
        ("E0", ", ".join(f"{symbol} {energy} eV" for symbol, energy in card.e0s.items())),
        ("split", card.split),
        ("licence", card.licence),
        *(("cite", text) for text in card.cite),
        ("origin", card.origin),
        ("made", next((file.made for file in card.files if file.made), "")),
        *(("note", text) for text in card.notes),
    ]
    columns = [Column("", tone="faint"), Column("", fold=True)]
    return [
        Table(f"{card.name}   {card.title}", columns, [fact for fact in facts if fact[1]]),
        _files(card),
        _checksums(card),
        *([published_table(card)] if card.published else []),
    ]


def _files(card: Card) -> Table:
    columns = [
        Column("file"),
        Column("part", fold=True),
        Column("frames", number=True),
        Column("atoms", number=True),
        Column("labels", fold=True),
        Column("here"),
    ]
    rows = []
    for file in card.files:
        low, high = file.atoms
        state = state_of(file)
        shown = Text("yes" if state == "here" else "no" if state == "missing" else state, TONES[state])
        sizes = str(low) if low == high else f"{low}-{high}"
        rows.append((file.full_name, _part(file), str(file.frames), sizes, " ".join(file.labels), shown))
    return Table("Files", columns, rows)


def _part(file: DataFile) -> str:
    return f"{file.role}, with {file.isolated_atoms}" if file.isolated_atoms else file.role


def _checksums(card: Card) -> Table:
    columns = [Column("", tone="faint"), Column("", fold=True)]
    rows: list[tuple[str, ...]] = []
    for file in card.files:
        rows += [("file", file.full_name), ("", file.sha256), ("gzip", file.sha256_gz)]
        if file.url:
            rows.append(("at", file.url))
    return Table("SHA-256 of each file, and of its gzipped copy in circulation", columns, rows)


def published_table(card: Card) -> Table:
    """Errors as published, in the units of the publication; a section for each file they were measured on."""
    shown = card.published[0].columns
    columns = [
        Column("on", fold=True),
        Column("trained on", fold=True),
        Column("model"),
        *(Column(f"{c.property}\n{KINDS[c.kind]}\n{c.unit}", number=True) for c in shown),
    ]
    rows: list[tuple[str, ...]] = []
    for table in card.published:
        heads = [(table.file, table.trained_on), *[("", "")] * (len(table.errors) - 1)]
        rows += [(*head, model, *map(str, values)) for head, (model, *values) in zip(heads, table.errors)]
        rows.append(())
    return Table("Published errors", columns, rows[:-1], "; ".join(dict.fromkeys(t.source for t in card.published)))
