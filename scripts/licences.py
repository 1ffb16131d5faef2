"""Licences: a table of every pinned package that equinet runs with, from the metadata of the packages themselves.

    make licences        after `make lock`

asks the package index for the metadata of what requirements/ lists, whatever is installed here, and writes docs/licences.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
TABLE = REPOSITORY / "docs" / "licences.md"
# What the names of trove classifiers are in SPDX's words, where that is sure.
SPDX = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
TEXT = """# Licences

equinet itself is MIT and bundles none of these packages; `make demo` fetches them. Each line is what a package says of itself. Made by `make licences`.

## What it runs with

{run}
## What builds of torch for CUDA need besides

On Linux only, and not with a build of torch for CPUs. Most are NVIDIA's and proprietary.

{cuda}
## Extras

None is installed unless you ask for it. `cuda` brings cuequivariance-ops-torch-cu13 with cuequivariance-ops-cu13, NVIDIA's kernels, which are
**proprietary**; cuequivariance and cuequivariance-torch are Apache-2.0. `openequivariance` is BSD-3-Clause, and tblite (`sample`) LGPL-3.0-or-later.
"""


def pins(*files: str) -> list[str]:
    """The lines ``name==version`` of lock files, without markers and hashes."""
    texts = ((REPOSITORY / "requirements" / f"{file}.txt").read_text() for file in files)
    return [pin for text in texts for pin in re.findall(r"^\S+==\S+", text, re.MULTILINE)]


def metadata(wanted: list[str]) -> list[Mapping[str, Any]]:
    """Metadata of every package, in order; pip reads it without installing anything."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--report", "-", *wanted]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return sorted((each["metadata"] for each in report["install"]), key=lambda found: found["name"].lower())


def licence_of(found: Mapping[str, Any]) -> str:
    """SPDX expression of a package, else what it writes in one line, else its classifiers; "not said" if there is none."""
    written = found.get("license") or ""
    classes = [each.split(" :: ")[-1] for each in found.get("classifier", ()) if each.startswith("License ::")]
    if expression := found.get("license_expression"):
        return str(expression)
    if written and "\n" not in written and len(written) < 60:
        return str(written)
    return " or ".join(SPDX.get(each, each) for each in classes) or "not said"


def table(*files: str) -> str:
    """Markdown table of packages, versions and licences."""
    rows = ["| package | version | licence |", "|---|---|---|"]
    for each in metadata(pins(*files)):
        public = each["version"].partition("+")[0]  # a build for CPUs is the same version
        rows.append(f"| {each['name']} | {public} | {licence_of(each)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write docs/licences.md."""
    TABLE.write_text(TEXT.format(run=table("torch", "run"), cuda=table("cuda")))


if __name__ == "__main__":
    main()
