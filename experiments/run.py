"""Run an experiment: ``python experiments/run.py --config adult_flaim.yaml``; ``--help`` tells the rest."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    # Before numpy is imported: runs go side by side, and threads inside each would only get in the way.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    sys.path.insert(0, str(ROOT / "src"))  # this checkout's code, installed or not

    from marginal_sdg.experiment import main

    sys.exit(main(root=ROOT))
