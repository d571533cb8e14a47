"""Elements of inline SVG. Colours are classes of the page's style, so that pictures follow light and dark."""

from __future__ import annotations

import html


def drawing(width: float, height: float, label: str, body: str) -> str:
    """A picture with a name for those who do not see it."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{html.escape(label)}">{body}</svg>'
    )


def rect(x: float, y: float, width: float, height: float, kind: str, tip: str = "", radius: float = 0) -> str:
    """A rectangle; ``tip`` is shown where the pointer rests on it."""
    round_ = f' rx="{radius:g}"' if radius else ""
    inner = f"><title>{html.escape(tip)}</title></rect>" if tip else "></rect>"
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"{round_}{inner}'


def label(
    x: float, y: float, text: str, anchor: str = "start", kind: str = "", turn: float = 0, size: float = 0
) -> str:
    """A line of text; ``anchor``: start, middle or end; ``turn`` in degrees; ``size`` in pixels, 10 by default."""
    style = f' class="{kind}"' if kind else ""
    style += f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    style += f' font-size="{size:g}"' if size else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{html.escape(text)}</text>'


def path(steps: str, kind: str) -> str:
    """A line along an SVG path."""
    return f'<path d="{steps}" class="{kind}"></path>'


def short(text: str, most: int) -> str:
    """At most ``most`` characters, cut at the end."""
    return text if len(text) <= most else text[: most - 1] + "…"
