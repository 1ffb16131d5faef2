"""Expressivity, cost and equivariance error of tensor products, counted and measured on their executors."""

from .cost import Cost, cost
from .explanation import Comparison, Explanation, Part
from .expressivity import compare, explain, label, usual_methods

__all__ = ["Comparison", "Cost", "Explanation", "Part", "compare", "cost", "explain", "label", "usual_methods"]
