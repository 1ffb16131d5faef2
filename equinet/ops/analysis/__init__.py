"""What a product can express, what it costs, and how exactly it is equivariant: counted and measured, not looked up."""

from .cost import Cost, cost
from .explanation import Comparison, Explanation, Part
from .expressivity import compare, explain, label, usual_methods

__all__ = ["Comparison", "Cost", "Explanation", "Part", "compare", "cost", "explain", "label", "usual_methods"]
