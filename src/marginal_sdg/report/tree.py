"""A picture of a junction tree, a row for each node: what it shares with the one above, and what it adds."""

from __future__ import annotations

from collections.abc import Sequence

from marginal_sdg.page import Picture
from marginal_sdg.report.facts import Node
from marginal_sdg.report.svg import drawing, label, path, rect, short

_ROW, _INDENT, _LETTER = 28.0, 20.0, 6.2
_DEEPEST = 12  # levels that are indented
_WIDE = 330.0  # where rows of nodes that stand alone end, for a phone


def tree_picture(nodes: Sequence[Node]) -> Picture:
    """``nodes``: depth first, as ``Facts.tree`` has them. Those without neighbours share rows below the others."""
    shapes: list[str] = []
    places: dict[int, tuple[float, float]] = {}
    levels: dict[int, int] = {}
    width = 0.0
    parents = {node.parent for node in nodes}
    alone = [node for k, node in enumerate(nodes) if node.parent is None and k not in parents]
    for k, node in enumerate(nodes):
        if node in alone:
            continue
        levels[k] = 0 if node.parent is None else levels[node.parent] + 1
        x, y = 8 + _INDENT * min(levels[k], _DEEPEST), len(places) * _ROW + 4
        places[k] = x, y
        if node.parent is not None:
            above_x, above_y = places[node.parent]
            shapes.append(path(f"M{above_x + 8:.1f} {above_y + 21:.1f}V{y + 10:.1f}H{x:.1f}", "edge"))
        box, wide = _box(node, x, y)
        shapes.append(box)
        width = max(width, x + wide)
    x, y = 8.0, len(places) * _ROW + 4
    for node in alone:
        box, wide = _box(node, x, y)
        if x > 8 and x + wide > _WIDE:
            x, y = 8.0, y + _ROW
            box, wide = _box(node, x, y)
        shapes.append(box)
        x += wide + 8
        width = max(width, x)
    height = y + (_ROW if alone else 0)
    svg = drawing(width + 4, height, f"Junction tree of {len(nodes)} nodes", "".join(shapes))
    caption = (
        "Each box is a table of the model with its number of cells; dashed columns are shared with the box above it, "
        "given which the rest is independent of the other branches. Trees are independent of each other."
    )
    rows = [[", ".join(node.columns), ", ".join(node.separator), f"{node.cells:,}"] for node in nodes]
    return Picture(svg, "Junction tree", caption, ["node", "shared with the node above", "cells"], rows)


def _box(node: Node, x: float, y: float) -> tuple[str, float]:
    """One node's columns and its cells; how wide it is."""
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
    wide = at + 8 + len(cells) * 5.4 - x
    return rect(x, y, wide, 21, "node", radius=6) + "".join(chips), wide
