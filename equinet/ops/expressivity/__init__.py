"""What a product can express, what it costs, and how exactly it is equivariant: counted and measured, not looked up."""

from .account import compare, explain, label, usual_methods
from .cost import Cost, cost
from .explanation import Comparison, Explanation, Part

__all__ = ["Comparison", "Cost", "Explanation", "Part", "compare", "cost", "explain", "label", "usual_methods"]
