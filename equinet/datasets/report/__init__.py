"""Reports of data sets: what was read, what was not used, what lies far out."""

from .blocks import blocks, brief
from .report import DataReport, report
from .survey import Survey, survey

__all__ = ["DataReport", "Survey", "blocks", "brief", "report", "survey"]
