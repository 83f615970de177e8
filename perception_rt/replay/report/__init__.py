"""The report of a replay: one page that needs nothing else, and the main plots as one picture."""

from perception_rt.replay.report.index import write_index
from perception_rt.replay.report.page import write_report

__all__ = ["write_index", "write_report"]
