"""Reports for people: one self-contained HTML file, no network, no scripts; the same as Markdown and as JSON."""

from __future__ import annotations

from marginal_sdg.report.spending import Spending, ledger_section
from marginal_sdg.report.synthesis import Report, check_suffix, synthesis_report

__all__ = ["Report", "Spending", "check_suffix", "ledger_section", "synthesis_report"]
