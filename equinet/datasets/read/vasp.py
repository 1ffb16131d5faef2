"""Electronic steps of VASP that did not converge, from the text of OUTCAR and vasprun.xml."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

UNCONVERGED = "equinet_unconverged"  # in atoms.info, True
ITERATION = re.compile(r"-+ *Iteration *([0-9]+)\( *([0-9]+)\)")
MOST_STEPS = re.compile(r"\bNELM *= *([0-9]+)")


def unconverged_outcar(path: Path) -> list[bool]:
    """For each ionic step, whether its electronic steps ended without convergence.

    They did if VASP says so, or if it took all ``NELM`` of them and never said that it stops because EDIFF is reached.
    """
    most: int | None = None
    steps: dict[int, int] = {}
    reached: set[int] = set()
    said: set[int] = set()
    step = 0
    with path.open(errors="replace") as file:
        for line in file:
            if found := ITERATION.search(line):
                step = int(found[1])
                steps[step] = int(found[2])
            elif most is None and (limit := MOST_STEPS.search(line)):
                most = int(limit[1])
            elif "EDIFF is reached" in line:
                reached.add(step)
            elif "EDIFF was not reached" in line or "unconverged" in line:
                said.add(step)
    return [n in said or (n not in reached and most is not None and steps[n] >= most) for n in sorted(steps)]


def unconverged_xml(path: Path) -> list[bool]:
    """For each ionic step, whether it took all ``NELM`` electronic steps."""
    most: int | None = None
    counts: list[int] = []
    try:
        for _, element in ElementTree.iterparse(path):
            if element.tag == "i" and element.get("name") == "NELM" and most is None:
                most = int(element.text or 0)
            elif element.tag == "calculation":
                counts.append(len(element.findall("scstep")))
                element.clear()
    except ElementTree.ParseError:
        pass  # it breaks off; the reader of the structures says so
    return [most is not None and count >= most for count in counts]
