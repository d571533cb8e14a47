"""Heat maps of Cramér's V between columns, and of its difference between two tables."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from marginal_sdg.page import Picture
from marginal_sdg.report.associations import Associations
from marginal_sdg.report.svg import drawing, label, rect, short

_LEFT, _TOP, _SIDE, _RIGHT = 84.0, 66.0, 248.0, 28.0
_LARGEST = 34.0  # cell
_WITH_NUMBERS = 12  # columns at most
_IN_MARKDOWN = 15  # pairs

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Scale:
    """Colours of the style, ``letter`` and a number, and the values between them; dark ones take ``pale`` letters."""

    letter: str
    steps: tuple[float, ...]
    pale: tuple[int, ...]
    sign: str = ""

    def colour(self, value: float) -> str:
        return f"{self.letter}{bisect_right(self.steps, value)}"

    def ink(self, value: float) -> str:
        return "pale" if bisect_right(self.steps, value) in self.pale else ""

    def legend(self, y: float) -> str:
        """A strip of all colours, with the values where one gives way to the next."""
        wide = _SIDE / (len(self.steps) + 1)
        strip = [rect(_LEFT + k * wide, y, wide, 8, f"{self.letter}{k}") for k in range(len(self.steps) + 1)]
        marks = [
            label(_LEFT + (k + 1) * wide, y + 17, f"{step:g}", "middle", "mute", size=8)
            for k, step in enumerate(self.steps)
        ]
        return "".join(strip + marks)


_STRENGTH = _Scale("h", (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8), (5, 6, 7, 8, 9))
_DIFFERENCE = _Scale("d", (-0.2, -0.1, -0.03, 0.03, 0.1, 0.2), (0, 6), "+")


def heat_maps(found: Associations) -> list[Picture]:
    """Of the synthetic rows; with the real ones, theirs and the difference."""
    names = found.columns
    synthetic = np.array(found.synthetic)
    real = None if found.real is None else np.array(found.real)
    pairs = list(combinations(range(len(names)), 2))
    leading = synthetic if real is None else real
    strongest = sorted(pairs, key=lambda pair: -leading[pair])[:_IN_MARKDOWN]
    shown = [synthetic] if real is None else [synthetic, real]
    rows = [[f"{names[i]}, {names[j]}", *(f"{matrix[i, j]:.2f}" for matrix in shown)] for i, j in strongest]
    header = ["strongest pairs", "synthetic", "real"][: 1 + len(shown)]
    pictures = [Picture(_map(names, synthetic, "Synthetic rows", _STRENGTH), "Synthetic rows", "", header, rows)]
    if real is not None:
        difference = synthetic - real
        signed = _map(names, difference, "Synthetic minus real", _DIFFERENCE)
        pictures += [
            Picture(_map(names, real, "Real rows", _STRENGTH), "Real rows", "", [], []),
            Picture(signed, "Synthetic minus real", "", [], []),
        ]
    return pictures


def differences(found: Associations) -> str:
    """How far the synthetic associations are from the real ones, in words."""
    names, difference = found.columns, np.array(found.synthetic) - np.array(found.real)
    above = np.triu_indices(len(names), 1)
    i, j = (int(places[np.abs(difference[above]).argmax()]) for places in above)
    mean = np.abs(difference[above]).mean()
    return f"Mean difference {mean:.3f}; the largest is {difference[i, j]:+.2f}, of {names[i]} and {names[j]}."


def _map(names: Sequence[str], matrix: Matrix, title: str, scale: _Scale) -> str:
    side = min(_SIDE / len(names), _LARGEST)
    parts = []
    for i, name in enumerate(names):
        middle = (i + 0.5) * side
        parts.append(label(_LEFT - 4, _TOP + middle + 3.5, short(name, 14), "end"))
        parts.append(label(_LEFT + middle + 3, _TOP - 4, short(name, 13), turn=-50))
        for j, other in enumerate(names):
            if i == j:
                continue
            x, y, value = _LEFT + j * side, _TOP + i * side, float(matrix[i, j])
            tip = f"{name}, {other}: {value:{scale.sign}.2f}"
            parts.append(rect(x, y, side - 1, side - 1, scale.colour(value), tip))
            if len(names) <= _WITH_NUMBERS:
                hundredths = round(100 * value)
                digits = f"{hundredths:{scale.sign}}" if hundredths else "0"
                parts.append(label(x + side / 2 - 0.5, y + side / 2 + 3, digits, "middle", scale.ink(value), size=9))
    bottom = _TOP + len(names) * side + 8
    parts.append(scale.legend(bottom))
    return drawing(_LEFT + _SIDE + _RIGHT, bottom + 20, f"{title}: association of {len(names)} columns", "".join(parts))
