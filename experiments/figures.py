"""Redraw the figures of the FLAIM paper from the committed runs: ``python experiments/figures.py``.

Every folder ``results/figure*`` has the runs of the config of its name; its figure is drawn anew, as PNG and PDF.
"""

from __future__ import annotations

from tables import RESULTS

from marginal_sdg.experiment.config import load_config
from marginal_sdg.experiment.figure import draw
from marginal_sdg.experiment.store import read_rows, write_atomically
from marginal_sdg.experiment.summary import summarise
from marginal_sdg.experiment.targets import Targets


def main() -> None:
    """Draw every figure that has runs."""
    for file in sorted(RESULTS.glob("figure*/runs.csv")):
        folder = file.parent
        config = load_config(folder / "config.yaml")
        for kind, content in draw(config.title, summarise(read_rows(file), Targets()), config.figure).items():
            write_atomically(folder / f"{folder.name}.{kind}", content)
        print(f"{folder.name}: {config.title}")


if __name__ == "__main__":
    main()
