"""A results folder as one page of HTML that opens without a network.

Path("report.html").write_text(report(load("results/quickstart"), weight=0.7), encoding="utf-8")
"""

from analysis.report.page import report

__all__ = ["report"]
