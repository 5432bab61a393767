"""Reports: pure functions from records to rows, statistics, tables, figures and one page. Imports no torch, ray or mlflow."""

from __future__ import annotations

from harness.report.build import build_report
from harness.report.load import load_rows

__all__ = ["build_report", "load_rows"]
