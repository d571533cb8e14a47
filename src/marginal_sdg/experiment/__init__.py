"""Experiments: a strict configuration, a sweep over it, and a store that survives being killed.

``main`` is the command line behind ``experiments/run.py``.
"""

from __future__ import annotations

from marginal_sdg.experiment.runner import main

__all__ = ["main"]
