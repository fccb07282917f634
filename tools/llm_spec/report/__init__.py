"""The report: results of a run as one HTML file that people can read, keep and send."""

from llm_spec.report.load import ResultsError, load_results
from llm_spec.report.page import render_report, write_report

__all__ = ["ResultsError", "load_results", "render_report", "write_report"]
