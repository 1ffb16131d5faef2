"""Stores of frames larger than memory: ``.aselmdb`` files, written, read at random, and streamed as graphs."""

from .frames import StoredFrames, is_store, stores_of
from .graphs import StoredGraphs
from .surveys import Survey, survey
from .writer import write_store

__all__ = [
    "StoredFrames",
    "StoredGraphs",
    "Survey",
    "is_store",
    "stores_of",
    "survey",
    "write_store",
]
