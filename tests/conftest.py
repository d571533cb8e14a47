"""Small tables that many tests share."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one must not fail a right answer
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def domain() -> Domain:
    return Domain.from_shape({"a": 3, "b": 4, "c": 2, "d": 5})


@pytest.fixture(scope="session")
def table(domain: Domain) -> Table:
    """2,000 records with strong dependence between neighbouring attributes."""
    rng = np.random.default_rng(7)
    a = rng.integers(0, 3, 2000)
    b = (a + rng.integers(0, 2, 2000)) % 4
    c = (b > 1).astype(int) ^ (rng.random(2000) < 0.1)
    d = np.minimum(a + c + (rng.random(2000) < 0.3), 4)
    return Table(domain, np.stack([a, b, c, d], axis=1).astype(np.int32))


@pytest.fixture(scope="session")
def clients(table: Table) -> list[Table]:
    """The same records at ten clients, sorted by the first attribute: heterogeneous."""
    order = np.argsort(table.column("a"), kind="stable")
    return [table.take(part) for part in np.array_split(order, 10)]
