"""The report: results of a run as one HTML file that people can read, keep and send."""
