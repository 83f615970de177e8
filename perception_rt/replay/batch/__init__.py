"""Replay many bags, each in its own process, locally or on Ray, and merge the results."""

from perception_rt.replay.batch.bags import find_bags, name_bags
from perception_rt.replay.batch.merge import merge_runs
from perception_rt.replay.batch.progress import ProgressLines, read_progress
from perception_rt.replay.batch.run import BatchPlan, batch_table, exit_code, run_batch
from perception_rt.replay.batch.unit import Unit, UnitResult

__all__ = [
    "BatchPlan",
    "ProgressLines",
    "Unit",
    "UnitResult",
    "batch_table",
    "exit_code",
    "find_bags",
    "merge_runs",
    "name_bags",
    "read_progress",
    "run_batch",
]
