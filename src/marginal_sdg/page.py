"""A page, built from top to bottom: the same words, tables and pictures as HTML and as Markdown."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from marginal_sdg.style import DOCUMENT, STYLE

_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|~!$&]")
_NUMBER = re.compile(r"[-+]?\d[-+\d.,eE%±/()–\s]*")
# Nothing is loaded and nothing runs, whatever a column is called.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Bar:
    """A cell of a table: a number as text, and as a bar that is full at ``share`` 1."""

    text: str
    share: float
    real: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Picture:
    """An SVG with its ``title`` and ``caption``, and the table that stands for it where there are no pictures."""

    svg: str
    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Page:
    """Every text given is escaped."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._sections: list[str] = []
        self._html: list[str] = []
        self._markdown: list[str] = []

    def heading(self, text: str, level: int = 2) -> Page:
        """A heading; those of level 2 are listed at the top."""
        if level == 2:
            self._sections.append(text)
        mark = f' id="part-{len(self._sections)}"' if level == 2 else ""
        return self._add(f"<h{level}{mark}>{html.escape(text)}</h{level}>", f"{'#' * level} {_plain(text)}")

    def text(self, text: str) -> Page:
        """A paragraph."""
        return self._add(f"<p>{html.escape(text)}</p>", _plain(text))

    def items(self, texts: Sequence[str]) -> Page:
        """A list."""
        return self._list([("", text) for text in texts])

    def notice(self, label: str, text: str, colour: str) -> Page:
        """What nobody may miss; ``colour``: good, warn or bad."""
        return self._add(
            f'<p class="notice {colour}"><b>{html.escape(label)}</b> <span>{html.escape(text)}</span></p>',
            f"> **{_plain(label)}** {_plain(text)}",
        )

    def cards(self, cards: Sequence[tuple[str, str]]) -> Page:
        """The few numbers to remember: (what, value)."""
        inner = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in cards)
        return self._add(f'<dl class="cards">{inner}</dl>', _markdown_table(["what", "value"], cards))

    def code(self, text: str) -> Page:
        """A block of code or commands."""
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
        return self._add(f"<pre>{html.escape(text)}</pre>", f"{fence}\n{text}\n{fence}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> Page:
        """A table; columns of numbers are aligned to the right, labels under ``private?`` become badges."""
        numbers = [all(map(_is_number, column)) for column in zip(*rows, strict=True)] or [False] * len(header)
        head = "".join(
            f'<th scope="col"{_NUMERIC if number else ""}>{html.escape(name)}</th>'
            for name, number in zip(header, numbers, strict=True)
        )
        body = "".join(f"<tr>{''.join(map(_cell, row, header, numbers))}</tr>" for row in rows)
        title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        return self._add(
            f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>',
            (f"{_plain(caption)}\n\n" if caption else "") + _markdown_table(header, rows),
        )

    def image(self, png: bytes, description: str) -> Page:
        """A PNG, embedded."""
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        return self._add(
            f'<img alt="{html.escape(description)}" src="{source}">', f"![{_plain(description)}]({source})"
        )

    def gallery(self, pictures: Sequence[Picture]) -> Page:
        """Pictures side by side where there is room; in Markdown their tables."""
        shown = "".join(f"<figure>{_captioned(picture)}</figure>" for picture in pictures)
        return self._add(f'<div class="gallery">{shown}</div>', "\n\n".join(map(_described, pictures)))

    def wide(self, picture: Picture) -> Page:
        """A picture of its own width, which scrolls on a narrow screen."""
        return self._add(f'<figure class="wide">{_captioned(picture)}</figure>', _described(picture))

    def key(self, marks: Sequence[tuple[str, str]]) -> Page:
        """What colours mean: (CSS variable, meaning). Markdown has no colours."""
        shown = "".join(f'<i style="background:var(--{name})"></i>{html.escape(what)}' for name, what in marks)
        self._html.append(f'<p class="key">{shown}</p>')
        return self

    def caveats(self, caveats: Sequence[str]) -> Page:
        """What weakens or voids the guarantee, loud; a plain statement where nothing does."""
        if not caveats:
            return self._add('<p><span class="badge good">no caveats</span></p>', "No caveats.")
        return self._list([(_colour(text), text) for text in caveats])

    def details(self, summary: str, inner: Page, *, unfolded: bool = False) -> Page:
        """A part that the reader may unfold; ``inner``'s title is not shown."""
        mark = " open" if unfolded else ""
        return self._add(
            f"<details{mark}><summary>{html.escape(summary)}</summary>{''.join(inner._html)}</details>",
            "\n\n".join([f"**{_plain(summary)}**", *inner._markdown]),
        )

    def html(self) -> str:
        """The whole document."""
        links = "".join(f'<a href="#part-{k}">{html.escape(s)}</a>' for k, s in enumerate(self._sections, start=1))
        head = (
            f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}{DOCUMENT}</style>"
        )
        body = f'<main class="msdg">{self._heading}<nav aria-label="sections">{links}</nav>{"".join(self._html)}</main>'
        return _encodable(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n')

    def markdown(self) -> str:
        """The same as Markdown, with tables for pictures."""
        return _encodable("\n\n".join([f"# {_plain(self.title)}", *self._markdown]) + "\n")

    def _repr_html_(self) -> str:
        heading = self._heading if self.title else ""
        return f'<div class="msdg"><style>{STYLE}</style>{heading}{"".join(self._html)}</div>'

    @property
    def _heading(self) -> str:
        return f"<h1>{html.escape(self.title)}</h1>"

    def _list(self, items: Sequence[tuple[str, str]]) -> Page:
        listed = "".join(
            f'<li class="{colour}">{html.escape(text)}</li>' if colour else f"<li>{html.escape(text)}</li>"
            for colour, text in items
        )
        return self._add(f"<ul>{listed}</ul>", "\n".join(f"- {_plain(text)}" for _, text in items))

    def _add(self, markup: str, markdown: str) -> Page:
        self._html.append(markup)
        self._markdown.append(markdown)
        return self


_NUMERIC = ' class="number"'


def _captioned(picture: Picture) -> str:
    caption = f"<b>{html.escape(picture.title)}</b> {html.escape(picture.caption)}"
    return f"<figcaption>{caption}</figcaption>{picture.svg}"


def _described(picture: Picture) -> str:
    told = f"**{_plain(picture.title)}** {_plain(picture.caption)}".rstrip()
    return f"{told}\n\n{_markdown_table(picture.header, picture.rows)}" if picture.rows else told


def _cell(value: Any, heading: str, number: bool) -> str:
    text = html.escape(_shown(value))
    if isinstance(value, Bar):
        share = min(max(0.0, value.share), 1.0)  # 0 for NaN
        return f'<td class="bars"><i class="{"r" if value.real else "s"}" style="--share:{share:.3f}"></i>{text}</td>'
    if heading == "private?" and _colour(text):
        text = f'<span class="badge {_colour(text)}">{text}</span>'
    return f"<td{_NUMERIC if number else ''}>{text}</td>"


def _is_number(value: Any) -> bool:
    return not isinstance(value, Bar) and (not _shown(value) or _NUMBER.fullmatch(_shown(value)) is not None)


def _colour(text: str) -> str:
    lowered = text.lower()
    if lowered.startswith("not private"):
        return "bad"
    if lowered.startswith(("paper calibration", "simulation")):
        return "warn"
    return "good" if lowered == "yes" else ""


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[_plain(_shown(value)) for value in row] for row in (header, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], ["---"] * len(header), *cells[1:]))


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _plain(text: str) -> str:
    """Text as Markdown that says just that."""
    return " ".join(_MARKDOWN.sub(lambda found: "\\" + found[0], text).split())


def _encodable(text: str) -> str:
    """Without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
