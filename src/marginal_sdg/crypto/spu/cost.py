"""What the three servers send each other for a question, in bytes, in closed form.

SPU's part is measured: its programs send whole multiples of these constants, whatever the values. They were read off
SPU 0.9.5 (ABY3, 64 bits) at a few sizes; the tests compare others with what SPU counts, and they are equal. Which
server sends how much of it changes from run to run, so all three are counted together. Headers are not in it.
"""

from __future__ import annotations

from marginal_sdg.crypto.rss import SERVERS
from marginal_sdg.crypto.spu.server import DIGEST_BYTES

ABSOLUTE = 164  # per |x|
PAIR, CANDIDATE, PLACE = 140, 262, 24  # per comparison of two scores, of all n^2; per score; once
_WORD = 8
_AGREED = SERVERS * (SERVERS - 1) * DIGEST_BYTES  # that all were asked the same


def absolute(count: int) -> int:
    """Of ``count`` absolute values."""
    return ABSOLUTE * count


def first_largest(count: int) -> int:
    """Of the place of the largest of ``count`` scores."""
    return PAIR * count**2 + CANDIDATE * count + PLACE if count > 1 else 0


def select(candidates: int, compared: int) -> int:
    """Of a selection: absolute values of ``compared`` cells, noise, the largest score, its opened place."""
    return _AGREED + absolute(compared) + first_largest(candidates) + SERVERS * _WORD * (candidates + 1)


def measure(cells: int) -> int:
    """Of a measurement: noise, and opened cells."""
    return _AGREED + SERVERS * _WORD * 2 * cells


def admit(cells: int) -> int:
    """Of answers that join: servers 0 and 1 send a word per cell."""
    return _AGREED + 2 * _WORD * cells
