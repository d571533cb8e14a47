"""One column's distribution: vertical bars for what has an order, horizontal ones with labels for what has none."""

from __future__ import annotations

from marginal_sdg.page import Picture
from marginal_sdg.report.columns import Column
from marginal_sdg.report.svg import drawing, label, path, rect, short

_WIDTH = 300.0


def histogram(column: Column) -> Picture:
    """Shares of the synthetic rows, their privacy noise as whiskers, and the real shares where they are known."""
    svg = _horizontal(column) if column.ends is None else _vertical(column, column.ends)
    header = ["value", "synthetic", *(["real"] if _compared(column) else [])]
    rows = [
        [bar.label, f"{bar.synthetic:.1%}", *([f"{bar.real:.1%}"] if bar.real is not None else [])]
        for bar in column.bars
    ]
    error = "" if column.error is None else f"error {column.error:.4f}"
    notes = [text for text in (error, column.note) if text]
    return Picture(svg, column.name, "; ".join(notes), header, rows)


def _tip(column: Column, place: int) -> str:
    bar = column.bars[place]
    real = "" if bar.real is None else f", real {bar.real:.1%}"
    noise = "" if bar.noise is None else f" (noise ± {bar.noise:.1%})"
    return f"{bar.label}: synthetic {bar.synthetic:.1%}{noise}{real}"


def _compared(column: Column) -> bool:
    return column.bars[0].real is not None


def _top(column: Column) -> float:
    return max(max(bar.synthetic, bar.real or 0.0) for bar in column.bars) or 1.0


def _vertical(column: Column, ends: tuple[str, str]) -> str:
    height, base, top = 118.0, 100.0, _top(column)
    apart = 0.6 if column.missing and len(column.bars) > 1 else 0.0
    side = _WIDTH / (len(column.bars) + apart)
    scale = (base - 12) / top
    parts = [label(0, 8, f"{top:.1%}", kind="mute", size=9), path(f"M0 {base}H{_WIDTH}", "axis")]
    steps = ""
    for place, bar in enumerate(column.bars):
        last = bool(column.missing and place == len(column.bars) - 1)
        x = (place + (apart if last else 0.0)) * side
        tall = bar.synthetic * scale
        gap = min(1.0, side / 6)
        parts.append(rect(x + gap / 2, base - tall, side - gap, tall, "s", _tip(column, place)))
        if bar.noise is not None:
            parts.append(_whisker(x + side / 2, base - tall, bar.noise * scale, base))
        if bar.real is not None:
            y = base - bar.real * scale
            steps += f"{'M' if last or not place else 'L'}{x:.1f} {y:.1f}H{x + side:.1f}"
    if steps:
        parts.append(path(steps, "step"))
    parts.append(label(0, height - 5, short(ends[0], 20)))
    parts.append(label(_WIDTH - (45 if apart else 0), height - 5, short(ends[1], 20), "end"))
    if apart:
        parts.append(label(_WIDTH, height - 5, "missing", "end"))
    return drawing(_WIDTH, height, f"Histogram of {column.name}", "".join(parts))


def _whisker(x: float, y: float, size: float, base: float) -> str:
    return path(f"M{x:.1f} {max(y - size, 0.0):.1f}V{min(y + size, base):.1f}", "noise")


def _horizontal(column: Column) -> str:
    compared = _compared(column)
    row, left = (21.0, 96.0) if compared else (16.0, 96.0)
    scale = (_WIDTH - left - 66) / _top(column)
    parts = []
    for place, bar in enumerate(column.bars):
        y = place * row + 2
        thick = (row - 5) / (2 if compared else 1)
        long = bar.synthetic * scale
        parts.append(label(left - 5, y + row / 2 + 1, short(bar.label, 15), "end"))
        parts.append(rect(left, y, max(long, 0.5), thick, "s", _tip(column, place), 1))
        if bar.noise is not None:
            middle, low = y + thick / 2, max(left + long - bar.noise * scale, left)
            parts.append(path(f"M{low:.1f} {middle:.1f}H{min(left + long + bar.noise * scale, _WIDTH):.1f}", "noise"))
        shown = f"{bar.synthetic:.1%}"
        end = max(long + (bar.noise or 0.0) * scale, (bar.real or 0.0) * scale)
        if bar.real is not None:
            parts.append(rect(left, y + thick + 0.5, max(bar.real * scale, 0.5), thick, "r", _tip(column, place), 1))
            shown = f"{_percent(bar.synthetic)} | {_percent(bar.real)}"
        parts.append(label(min(left + end + 4, _WIDTH - 62), y + row / 2 + 1, shown, kind="mute", size=9))
    return drawing(_WIDTH, len(column.bars) * row + 4, f"Shares of {column.name}", "".join(parts))


def _percent(share: float) -> str:
    return f"{share:.{1 if share < 0.0995 else 0}%}"
