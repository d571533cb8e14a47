"""Secure aggregation: the exact integer sum of those who stayed."""

from __future__ import annotations

import numpy as np
import pytest

from marginal_sdg.crypto.secagg import IdealSecureSum
from marginal_sdg.errors import ProtocolError

VECTORS = {k: np.array([k, 2**40 + k], dtype=np.int64) for k in range(5)}


def test_the_sum_is_exact():
    total, survivors = IdealSecureSum()(VECTORS)
    assert total.tolist() == [10, 5 * 2**40 + 10]
    assert survivors == (0, 1, 2, 3, 4)


def test_clients_that_drop_out_are_neither_summed_nor_counted():
    total, survivors = IdealSecureSum(dropout=lambda client: client in {1, 3})(VECTORS)
    assert (total[0], survivors) == (6, (0, 2, 4))


def test_nobody_left_sums_to_zero():
    total, survivors = IdealSecureSum(dropout=lambda client: True)(VECTORS)
    assert total.tolist() == [0, 0] and survivors == ()


def test_malformed_cohorts_are_refused():
    with pytest.raises(ProtocolError, match="empty"):
        IdealSecureSum()({})
    with pytest.raises(ProtocolError, match="different lengths"):
        IdealSecureSum()({0: np.zeros(2, np.int64), 1: np.zeros(3, np.int64)})
