"""The split into train and test rows that the papers use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError

Rows = npt.NDArray[np.int64]


def sample_rows(rows: int, fraction: float, seed: int) -> Rows:
    """The rows of 0..rows-1 that ``DataFrame.sample(frac=fraction, random_state=seed)`` takes, in order."""
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction must be above 0 and at most 1, got {fraction}")
    return pd.Series(np.arange(rows)).sample(frac=fraction, random_state=seed).to_numpy(dtype=np.int64)


def split_rows(rows: int, fraction: float = 0.9, seed: int = 571) -> tuple[Rows, Rows]:
    """Row numbers of the train part (sampled, in that order) and of the test part (the rest, ascending).

    Source: FLAIM (KDD 2024), released code: 90/10 with ``random_state=571``.
    """
    train = sample_rows(rows, fraction, seed)
    return train, np.setdiff1d(np.arange(rows), train)


def split(table: Table, fraction: float = 0.9, seed: int = 571) -> tuple[Table, Table]:
    """The train and test part of a table, as ``split_rows`` chooses them."""
    train, test = split_rows(len(table), fraction, seed)
    return table.take(train), table.take(test)
