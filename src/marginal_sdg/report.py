"""Reports for people: one self-contained HTML file, no network, no scripts.

``Page`` is the building block; ``ledger_section`` says what was spent and what weakens the guarantee;
``synthesis_report`` describes one fitted synthesizer, and compares it with the real table only for those who
may see that table.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from marginal_sdg.encoding import Table
    from marginal_sdg.release import Measurement

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881;
  --good: #00735a; --bad: #b3261e; --warn: #8a5a00 }
@media (prefers-color-scheme: dark) { :root { --good: #4fd1ae; --bad: #ff8a80; --warn: #f3c15f } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
h3 { font-size: 1rem; margin-bottom: .3rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
td.number { text-align: right } tr:hover td { background: var(--soft) }
img { max-width: 100%; background: white; padding: .5rem } pre { background: var(--soft); padding: .8rem }
.badge { border: 1px solid; border-radius: .3rem; padding: 0 .4rem; font-weight: 600; white-space: nowrap }
.good { color: var(--good) } .bad { color: var(--bad) } .warn { color: var(--warn) }
.bar { display: inline-block; height: .8em; background: #0072b2 } .bar.real { background: #d55e00 }
pre { overflow-x: auto } details { margin: .4rem 0 }
"""


class Page:
    """An HTML page built from top to bottom; every text given is escaped."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str, level: int = 2) -> Page:
        """A heading."""
        return self.raw(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, text: str) -> Page:
        """A paragraph."""
        return self.raw(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> Page:
        """A block of code or commands."""
        return self.raw(f"<pre>{html.escape(text)}</pre>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Page:
        """A table; numbers are aligned to the right, privacy labels become badges."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
        return self.raw(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def image(self, png: bytes, description: str) -> Page:
        """A PNG, embedded."""
        data = base64.b64encode(png).decode()
        return self.raw(f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">')

    def caveats(self, caveats: Sequence[str]) -> Page:
        """What weakens or voids the guarantee, loud; a plain statement where nothing does."""
        if not caveats:
            return self.raw('<p><span class="badge good">no caveats</span></p>')
        items = "".join(f'<li class="{_colour(text)}">{html.escape(text)}</li>' for text in caveats)
        return self.raw(f"<ul>{items}</ul>")

    def details(self, summary: str, inner: Page) -> Page:
        """A part that the reader may unfold; ``inner``'s title is not shown."""
        return self.raw(f"<details><summary>{html.escape(summary)}</summary>{''.join(inner._parts[1:])}</details>")

    def raw(self, markup: str) -> Page:
        """Markup that is safe already."""
        self._parts.append(markup)
        return self

    def html(self) -> str:
        """The whole document."""
        head = f'<meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{STYLE}</style>'
        return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(self._parts)}</body></html>\n'

    def save(self, path: str | Path) -> Path:
        """Write the document."""
        path = Path(path)
        path.write_text(self.html(), encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>" + "".join(self._parts)


def ledger_section(page: Page, ledger: Mapping[str, Any]) -> Page:
    """What was promised, spent and warned about; ``ledger`` as ``Ledger.to_dict`` gives it."""
    from marginal_sdg.privacy.ledger import Ledger
    from marginal_sdg.privacy.noise import Source

    restored = Ledger.from_dict(ledger, Source.seeded(0))  # for reading only: nothing is drawn from it
    budget = restored.budget
    if budget is not None and restored.private:
        spent = f"rho {float(restored.spent):.6g} of {float(budget.rho):.6g} (zCDP)"
        page.text(
            f"Promised: ({budget.epsilon:g}, {budget.delta:g})-differential privacy; adjacency: "
            f"{restored.adjacency}. Spent: {spent}, epsilon {restored.epsilon():.4g} at that delta, in "
            f"{len(restored.charges)} charges."
        )
    page.caveats(ledger["caveats"])
    header = ["what", "mechanism", "noise", "per record", "rho", "of budget", "by"]
    rows = []
    for charge in restored.to_frame().to_dict("records"):
        noise = {"gaussian": f"sigma {charge['sigma']:.4g}", "exponential": f"eps {charge['epsilon']:.4g}"}.get(
            charge["mechanism"], ""
        )
        share = "" if math.isnan(charge["share"]) else f"{charge['share']:.1%}"
        rows.append(
            [
                charge["what"],
                charge["mechanism"],
                noise,
                charge["per_record"],
                f"{charge['rho']:.4g}",
                share,
                charge["by"],
            ]
        )
    inner = Page("").table(header, rows)
    return page.details(f"All {len(rows)} charges, oldest first ('of budget' is cumulative)", inner)


def synthesis_report(synthesizer: Any, real: Table | None = None) -> Page:
    """A page on one fitted synthesizer: settings, privacy, what was measured, and its 1-way marginals.

    ``real`` adds a comparison with the real rows. That part is not private: keep such a page with the data.
    """
    page = Page(f"Synthetic data by {type(synthesizer).__name__}")
    if real is not None:
        page.raw('<p><span class="badge bad">NOT PRIVATE</span> This page shows exact facts of the real table.</p>')
    page.heading("Privacy")
    ledger_section(page, synthesizer.ledger.to_dict())
    page.heading("Settings")
    apart = ("domain", "on_event", "known")
    settings = {name: value for name, value in synthesizer.get_params().items() if name not in apart}
    page.table(["parameter", "value"], [[name, str(value)[:200]] for name, value in settings.items()])
    page.heading("Measured marginals")
    measured = [(", ".join(m.clique), len(m.counts), _noise(m)) for m in synthesizer.measurements_]
    page.table(["marginal", "cells", "sigma (records)"], measured)
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in synthesizer.timings_.items())
    page.text(f"Time: {seconds}.")
    page.heading("1-way marginals" + (": model and real" if real is not None else ""))
    for name in synthesizer.domain.names:
        _attribute_section(page, synthesizer, name, real)
    return page


def _noise(measurement: Measurement) -> str:
    if not measurement.public:
        return f"{measurement.sigma:.4g}"
    return f"known: {measurement.scaled(1.0)[1]:.3g} of all records" if measurement.sigma else "known exactly"


def _attribute_section(page: Page, synthesizer: Any, name: str, real: Table | None, most: int = 20) -> None:
    """Bars of one attribute's commonest codes (model), the real ones beside them, and the L1 distance."""
    model = np.asarray(synthesizer.model_.marginal((name,)), dtype=float)
    shares = [model / max(model.sum(), 1e-12)]
    title = name
    if real is not None:
        exact = np.bincount(real.column(name), minlength=len(model)).astype(float)
        shares.append(exact / max(exact.sum(), 1e-12))
        title += f": L1 distance {np.abs(shares[0] - shares[1]).sum():.3f}"
    shown = np.sort(np.argsort(-shares[0], kind="stable")[:most])
    rows = []
    for code in shown:
        bars = [
            f'<span class="bar{" real" if index else ""}" style="width:{12 * share[code]:.2f}rem"></span> '
            f"{share[code]:.1%}"
            for index, share in enumerate(shares)
        ]
        rows.append(f"<tr><td>{code}</td>" + "".join(f"<td>{bar}</td>" for bar in bars) + "</tr>")
    heads = "".join(f"<th>{text}</th>" for text in ("code", "model", "real")[: 1 + len(shares)])
    inner = Page("").raw(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>")
    more = "" if len(shown) == len(model) else f" ({len(shown)} commonest of {len(model)} codes)"
    page.details(title + more, inner)


def _colour(text: str) -> str:
    lowered = text.lower()
    if lowered.startswith("not private"):
        return "bad"
    if lowered.startswith(("paper calibration", "simulation")):
        return "warn"
    return "good" if lowered in ("yes", "sound") else ""


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    colour = _colour(text)
    if colour:
        return f'<td><span class="badge {colour}">{html.escape(text)}</span></td>'
    number = text[:1].isdigit() or (text[:1] in "-+" and text[1:2].isdigit())
    return f'<td class="number">{html.escape(text)}</td>' if number else f"<td>{html.escape(text)}</td>"
