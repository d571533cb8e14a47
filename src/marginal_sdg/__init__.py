"""Differentially private synthetic tabular data from marginals, wherever the private data lives.

>>> from marginal_sdg import AIM, load_dataset
>>> adult = load_dataset("adult")
>>> synthetic = AIM(adult.domain, epsilon=1.0, seed=0).fit(adult.frame).sample(1000)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names load on first use, so that importing the package costs next to nothing.
_PUBLIC = {
    "AIM": "synthesizers",
    "FHAIM": "fhaim",
    "FLAIM": "federations",
    "MWEM": "baselines.mwem",
    "Attribute": "attribute",
    "Budget": "privacy.budget",
    "DistAIM": "federations",
    "Domain": "domain",
    "GraphicalModel": "graphical.model",
    "Ledger": "privacy.ledger",
    "StoredTable": "stored",
    "Table": "encoding",
    "Workload": "workload",
    "decode": "encoding",
    "draft_domain": "draft",
    "encode": "encoding",
    "load_dataset": "datasets",
}

__all__ = [
    "AIM",
    "FHAIM",
    "FLAIM",
    "MWEM",
    "Attribute",
    "Budget",
    "DistAIM",
    "Domain",
    "GraphicalModel",
    "Ledger",
    "StoredTable",
    "Table",
    "Workload",
    "decode",
    "draft_domain",
    "encode",
    "load_dataset",
]

if TYPE_CHECKING:
    from marginal_sdg.attribute import Attribute
    from marginal_sdg.baselines.mwem import MWEM
    from marginal_sdg.datasets import load_dataset
    from marginal_sdg.domain import Domain
    from marginal_sdg.draft import draft_domain
    from marginal_sdg.encoding import Table, decode, encode
    from marginal_sdg.federations import FLAIM, DistAIM
    from marginal_sdg.fhaim import FHAIM
    from marginal_sdg.graphical.model import GraphicalModel
    from marginal_sdg.privacy.budget import Budget
    from marginal_sdg.privacy.ledger import Ledger
    from marginal_sdg.stored import StoredTable
    from marginal_sdg.synthesizers import AIM
    from marginal_sdg.workload import Workload


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
