"""Comparison of two outputs: a new version of a model, or another server, against what is there.

`compare_outputs` reads both files side by side, in blocks (`tables`), brings rows of the same id or position together
(`matching`), and counts the values that differ (`values`).
"""

from fanout.compare.comparison import Comparison, compare_outputs
from fanout.compare.values import ColumnComparison, LargestDifference

__all__ = ["ColumnComparison", "Comparison", "LargestDifference", "compare_outputs"]
