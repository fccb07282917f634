"""The report: results of a run as one HTML file that people can read, keep and send."""

from tools.report.load import ResultsError, load_results
from tools.report.page import render_report, write_report

__all__ = ["ResultsError", "load_results", "render_report", "write_report"]
