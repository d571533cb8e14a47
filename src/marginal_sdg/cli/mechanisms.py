"""The mechanisms that ``synthesize`` and ``plan`` offer: estimators of one table, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marginal_sdg.domain import Domain
    from marginal_sdg.synthesizers import AIM

MECHANISMS = {"aim": "AIM", "mwem": "MWEM"}
"""Name on the command line -> public name in ``marginal_sdg``."""


def make_mechanism(
    name: str,
    domain: Domain,
    *,
    known: Sequence[Path] = (),
    adaptive_bins: Sequence[tuple[str, int]] = (),
    **params: Any,
) -> AIM:
    """The estimator behind a name; parameters that are None keep their defaults. ``known``: files with marginals."""
    import marginal_sdg
    from marginal_sdg.table_files import read_frame

    params["adaptive_bins"] = dict(adaptive_bins) or None
    params["known"] = [read_frame(path, text=True) for path in known]
    given = {key: value for key, value in params.items() if value is not None}
    made: AIM = getattr(marginal_sdg, MECHANISMS[name])(domain, **given)
    return made
