"""FLAIM on Flower: the server's loop as a ServerApp, every client with its own table as a ClientApp (extra ``flower``).

    python -m marginal_sdg.flower demo --out synthetic.csv    # ten clients of Adult, simulated
    python -m marginal_sdg.flower app FOLDER                  # a Flower app, for `flwr run FOLDER`

``messages``, ``node`` and ``remote_clients`` know nothing of Flower but that questions go out and answers come back.
"""

from __future__ import annotations

import os

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def quiet() -> None:
    """Switch off what Flower and Ray report to their makers: both read it when they are imported or started."""
    os.environ.update(QUIET)
