"""The library's error tree: every message says what is wrong, where, and what to do, in one line.

Messages carry public values only (names, parameters, declared bounds), never a cell count or a row.
"""

from __future__ import annotations


class MarginalSDGError(Exception):
    """Base of all errors that this library raises on purpose."""


class DomainError(MarginalSDGError, ValueError):
    """A domain declaration, attribute or clique is wrong."""


class DataError(MarginalSDGError, ValueError):
    """A table does not fit its declared domain, or a data set cannot be had."""


class BudgetError(MarginalSDGError, ValueError):
    """A privacy parameter is out of range, or a release would overspend the budget."""


class ProtocolError(MarginalSDGError, RuntimeError):
    """A party of a protocol did not do what the protocol needs."""


class ConfigError(MarginalSDGError, ValueError):
    """An estimator's parameter or an experiment's configuration is wrong."""


class NotFittedError(MarginalSDGError, ValueError, AttributeError):
    """A result was asked for before ``fit``."""
