"""Published data sets by name: a card for each, files found locally or fetched, both checked by SHA-256."""

from .card import Card, DataFile, PublishedErrors, cards, find_card, find_file, is_set_name
from .fetch import fetch
from .local import State, cache_folder, find_local, folders, state_of
from .names import Located, locate, with_isolated_atoms

__all__ = [
    "Card",
    "DataFile",
    "Located",
    "PublishedErrors",
    "State",
    "cache_folder",
    "cards",
    "fetch",
    "find_card",
    "find_file",
    "find_local",
    "folders",
    "is_set_name",
    "locate",
    "state_of",
    "with_isolated_atoms",
]
