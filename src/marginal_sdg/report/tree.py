"""A picture of a junction tree, a row for each node: what it shares with the one above, and what it adds."""

from __future__ import annotations

from collections.abc import Sequence

from marginal_sdg.report.facts import Node
from marginal_sdg.report.page import Picture
from marginal_sdg.report.svg import drawing, label, path, rect, short

_ROW, _INDENT, _LETTER = 28.0, 20.0, 6.2
_DEEPEST = 12  # levels that are indented


def tree_picture(nodes: Sequence[Node]) -> Picture:
    """``nodes``: depth first, as ``Facts.tree`` has them."""
    edges, boxes = [], []
    places: list[tuple[float, float]] = []
    levels: list[int] = []
    width = 0.0
    for row, node in enumerate(nodes):
        levels.append(0 if node.parent is None else levels[node.parent] + 1)
        x, y = 8 + _INDENT * min(levels[-1], _DEEPEST), row * _ROW + 4
        places.append((x, y))
        if node.parent is not None:
            above_x, above_y = places[node.parent]
            edges.append(path(f"M{above_x + 8:.1f} {above_y + 21:.1f}V{y + 10:.1f}H{x:.1f}", "edge"))
        box, right = _box(node, x, y)
        boxes.append(box)
        width = max(width, right)
    rows = [[", ".join(node.columns), ", ".join(node.separator), f"{node.cells:,}"] for node in nodes]
    svg = drawing(width + 4, len(nodes) * _ROW + 4, f"Junction tree of {len(nodes)} nodes", "".join(edges + boxes))
    caption = (
        "Each row is a table of the model with its number of cells; dashed columns are shared with the table above it, "
        "given which the rest is independent of the other branches."
    )
    return Picture(svg, "Junction tree", caption, ["node", "shared with the node above", "cells"], rows)


def _box(node: Node, x: float, y: float) -> tuple[str, float]:
    """One node's columns and its cells; where it ends."""
    chips = []
    at = x + 5
    for name in sorted(node.columns, key=lambda name: name not in node.separator):
        text, old = short(name, 18), name in node.separator
        wide = len(text) * _LETTER + 10
        chips.append(rect(at, y + 3, wide, 15, "old" if old else "chip", name, 4))
        chips.append(label(at + wide / 2, y + 14, text, "middle", "" if old else "pale"))
        at += wide + 4
    cells = f"{node.cells:,}"
    chips.append(label(at + 2, y + 14, cells, kind="mute", size=9))
    right = at + 8 + len(cells) * 5.4
    return rect(x, y, right - x, 21, "node", radius=6) + "".join(chips), right
