"""Write the report of a replay: a self-contained HTML page and its main plots as a PNG."""

from perception_rt.replay.report.findings import findings_of
from perception_rt.replay.report.index import write_index
from perception_rt.replay.report.page import write_report

__all__ = ["findings_of", "write_index", "write_report"]
