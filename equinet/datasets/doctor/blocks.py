"""Display of findings as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from equinet.tables import Block, Text, Tone

from .base import Finding


def blocks(findings: Sequence[Finding], frames: int, accept: Sequence[str] = ()) -> list[Block]:
    """Return lines for each finding, those that refuse the data first, and what becomes of the data.

    Args:
        findings: Findings of :func:`equinet.datasets.doctor.diagnose`.
        frames: Number of frames that were looked at.
        accept: Names of findings that are let pass.
    """
    lines: list[Block] = []
    for finding in findings:
        lines += lines_of(finding, accepted=finding.name in accept)
    refused = [f.name for f in findings if f.severity == "refuse" and f.name not in accept]
    if refused:
        names = ", ".join(f'"{name}"' for name in dict.fromkeys(refused))
        verdict = f"{frames} frames: refused. If all of this is meant, set data.accept = [{names}]"
        return [*lines, Text(verdict, "bad")]
    if findings:
        return [*lines, Text(f"{frames} frames: nothing that is refused", "warning")]
    return [Text(f"{frames} frames: nothing found", "good")]


def lines_of(finding: Finding, *, accepted: bool = False) -> list[Block]:
    """Return the lines of one finding: number, what it looks like, remedy, frames."""
    word = "accepted" if accepted else {"refuse": "wrong", "warn": "perhaps"}[finding.severity]
    tone: Tone = "bad" if word == "wrong" else "warning"
    more = finding.count - len(finding.frames)
    lines: list[Block] = [
        Text(f"{word}: {finding.name}", tone),
        f"  {finding.number}; {finding.looks_like}.",
        f"  {finding.remedy}.",
    ]
    if finding.frames:
        lines.append(Text(f"  in {'; '.join(finding.frames)}{f' and {more} more' if more > 0 else ''}", "faint"))
    return lines
