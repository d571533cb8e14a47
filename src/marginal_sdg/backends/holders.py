"""What several data holders have: different records, or different columns of the same records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table, encode
from marginal_sdg.errors import DataError, DomainError

Records = pd.DataFrame | Table


def split_rows(tables: Sequence[Records], domain: Domain, cap: int, holders: int) -> list[Table]:
    """Every holder's records, coded; of ``cap``, the public cap on all records, each of so many may have a part."""
    held = [coded(table, domain) for table in tables]
    if any(len(table) > cap // holders for table in held):
        each = f"max_records = {cap:,} records" + (f" / {holders} holders" if holders > 1 else "")
        raise DataError(f"fit: the table has more than {each}; raise the cap")
    return held


def split_columns(tables: Sequence[Records], domain: Domain, cap: int, *, elsewhere: bool = False) -> list[Table]:
    """Every holder's columns, coded by its part of the domain; ``DataError`` unless each has exactly one holder.

    ``elsewhere``: holders who are not here have some of them.
    """
    names = [list(table.domain if isinstance(table, Table) else getattr(table, "columns", [])) for table in tables]
    here, declared = Counter(name for own in names for name in own), Counter(domain.names)
    if not all(names) or not (here < declared if elsewhere else here == declared):
        raise DataError("fit: with split='columns', every declared column needs exactly one holder")
    held = [coded(table, domain.project(own)) for table, own in zip(tables, names, strict=True)]
    if len({len(table) for table in held}) > 1:
        raise DataError("fit: holders of columns have different numbers of rows; agree on the records and their order")
    if len(held[0]) > cap:
        raise DataError(f"fit: the table has more than max_records = {cap:,} records; raise the cap")
    return held


def joined(tables: Sequence[Table], domain: Domain) -> Table:
    """The one table that holders of rows, or of columns, have together."""
    if all(table.domain == domain for table in tables):
        return Table(domain, np.concatenate([table.codes for table in tables]))
    return Table(
        domain, np.stack([next(t.column(name) for t in tables if name in t.domain) for name in domain], axis=1)
    )


def coded(records: Records, domain: Domain) -> Table:
    """The records by the codes of a domain."""
    if isinstance(records, pd.DataFrame):
        return encode(records, domain)
    if not isinstance(records, Table):
        raise DataError(f"fit: needs a pandas DataFrame or an encoded Table, got {type(records).__name__}")
    if records.domain != domain:
        raise DomainError("fit: the table is encoded with another domain than this estimator's")
    return records
