"""The sample that ships with equinet: ethanol, GFN2-xTB labels; README.md beside this file says how it was made."""

from pathlib import Path

HERE = Path(__file__).parent

SAMPLE = {part: HERE / f"ethanol_{part}.xyz" for part in ("train", "valid", "test")}
