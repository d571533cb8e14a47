"""The command line ``marginal-sdg``: from a table in a file to a synthetic one, and what it cost.

Commands import what they need when they run, so that ``--help`` is quick.
"""

from __future__ import annotations

from marginal_sdg.cli.app import main, run

__all__ = ["main", "run"]
