"""Additive shares mod t, as server and key holder have them after a decryption of padded values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.fhe.layout import Ints, Layout
from marginal_sdg.errors import ProtocolError


def sum_parts(layout: Layout, values: Ints) -> Ints:
    """(candidates,) sums mod t over the parts of every candidate; ``values``: (parts,)."""
    t = layout.profile.plaintext
    totals = np.zeros(len(layout.cliques), dtype=np.int64)
    np.add.at(totals, [part.candidate for part in layout.parts], values % t)
    return totals % t


def gather(layout: Layout, opened: Callable[[int], Ints]) -> list[Ints]:
    """(cells,) of every candidate mod t, from the coefficients of the ciphertexts that marginals are shared from."""
    halves: list[Ints] = [np.zeros(layout.size(c), dtype=np.int64) for c in range(len(layout.cliques))]
    for part, (source, shift) in zip(layout.parts, layout.shared, strict=True):
        halves[part.candidate][part.cells] = opened(source)[part.places + shift] % layout.profile.plaintext
    return halves


def times(values: Ints, factors: npt.ArrayLike, t: int) -> Ints:
    """Products mod t of integers in [0, t), t below 2^32: signed words would overflow."""
    product = values.astype(np.uint64) * np.asarray(factors).astype(np.uint64)
    return (product % np.uint64(t)).astype(np.int64)


def squares(layout: Layout, halves: Sequence[Ints]) -> Ints:
    """(candidates,) the sum of squares of one party's halves, mod t."""
    t = layout.profile.plaintext
    return np.array([times(half, half, t).sum() % t for half in halves], dtype=np.int64)


def checked(layout: Layout, candidate: int, model: npt.ArrayLike) -> Ints:
    """(cells,) public counts; ``ProtocolError`` if a squared distance from them might not fit below t."""
    counts, profile = np.asarray(model).reshape(-1), layout.profile
    if counts.size != layout.size(candidate) or not np.issubdtype(counts.dtype, np.integer):
        raise ProtocolError(f"models: candidate {candidate} needs {layout.size(candidate)} integers")
    bound = float((counts.astype(np.float64) ** 2).sum()) + profile.records**2
    if counts.min() < 0 or bound >= profile.plaintext:
        raise ProtocolError(
            f"models: the squared distance of candidate {candidate} may exceed {profile.plaintext}; its counts must be "
            "0 or more and add up to about the number of records"
        )
    return counts.astype(np.int64)


def local_scores(
    layout: Layout, norms: Ints, marginals: Sequence[Ints], models: Mapping[int, npt.ArrayLike], *, constant: bool
) -> Ints:
    """One party's shares of ``||M - w||^2`` from its shares of the norms and of the marginals, without any message.

    ``norms``: (candidates,); ``marginals``: one (cells,) each; ``models``: public counts by candidate. One party, and
    only one, adds the public ``||w||^2``. Raises ``ProtocolError`` for counts whose distance might exceed t.
    """
    t = layout.profile.plaintext
    found = []
    for candidate, model in models.items():
        weights = checked(layout, candidate, model)
        cross = int(times(marginals[candidate], weights % t, t).sum())
        found.append((int(norms[candidate]) - 2 * cross + constant * int(weights @ weights)) % t)
    return np.array(found, dtype=np.int64)
