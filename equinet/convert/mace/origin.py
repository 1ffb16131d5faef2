"""Origin and licence of the weights of a converted model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equinet import __version__

from .published import Published, identify, look_alike, published_files, sha256_of


def origin_of(path: str | os.PathLike[str], head: str | None = None) -> dict[str, Any]:
    """Origin of a converted model, which is kept with its weights and everything derived from them.

    Args:
        path: The ``*.model`` file.
        head: Name of the head that was taken; None for a model with one.

    Returns:
        ``file`` (its name), ``sha256``, ``head``, ``converted_by``; ``published``, ``licence`` and ``licence_note`` of the
        published file of this content, all None if there is none; ``named_like`` a published file of another content.
    """
    name, digest = Path(path).name, sha256_of(path)
    published, like = identify(digest), look_alike(name)
    return {
        "file": name,
        "sha256": digest,
        "head": head,
        "converted_by": f"equinet {__version__}",
        "published": published.name if published else None,
        "licence": published.licence if published else None,
        "licence_note": published.warning() if published else None,
        "named_like": like.name if like and not published else None,
    }


def warning_of(origin: Mapping[str, Any]) -> str | None:
    """Warning about the licence of weights of this origin, or None."""
    if origin.get("licence_note"):
        return str(origin["licence_note"])
    like = published_as(origin.get("named_like"))
    if like is None or like.commercial:
        return None
    return (
        f"{origin['file']} is named like {like.name} but has another content. If it is that model saved again, or was fine-tuned "
        f"from it, its weights may still be under that licence: {like.warning()}"
    )


def published_as(name: str | None) -> Published | None:
    """The published file of that name."""
    return next((one for one in published_files() if one.name == name), None)
