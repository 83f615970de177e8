"""Regression tests by replay: compare outputs, outcomes and scores with those of a golden run."""

from perception_rt.replay.compare.difference import VOLATILE, Comparison, Difference, comparison_table
from perception_rt.replay.compare.leaves import Tolerance
from perception_rt.replay.compare.runs import compare_runs, differences

__all__ = [
    "VOLATILE",
    "Comparison",
    "Difference",
    "Tolerance",
    "compare_runs",
    "comparison_table",
    "differences",
]
