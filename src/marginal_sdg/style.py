"""How a page looks: in light and dark, on a phone and on a desk. Colours are told apart by the colour-blind.

Synthetic is blue and real is vermilion (Okabe, Ito); heat maps are one hue whose lightness rises with the value, and
differences run from blue over grey to orange.
"""

from __future__ import annotations

_HEAT = ["f1f8f4", "d6efe0", "aadfc2", "74cfae", "45b8ad", "349aaa", "357ba3", "3b5c97", "403b78", "2b1c35"]
_HEAT_DARK = ["22272e", "2b2c4c", "383770", "3a5590", "3578a1", "349aaa", "40b7ad", "6fd0ac", "a5dfbb", "def5e5"]
_DIFFERENCE = ["0072b2", "5fa8d3", "bcd9ec", "f3f3f3", "f8d3b0", "ee9b56", "d55e00"]
_DIFFERENCE_DARK = ["56b4e9", "3a7ba1", "2a4a60", "272c33", "5a4126", "a5702a", "e69f00"]


def _steps(letter: str, colours: list[str]) -> str:
    return "; ".join(f"--{letter}{step}: #{colour}" for step, colour in enumerate(colours))


DOCUMENT = """
html { color-scheme: light dark; -webkit-text-size-adjust: 100% } body { margin: 0; background: #fff }
main.msdg { padding-bottom: 3rem }
@media (prefers-color-scheme: dark) { body { background: #14171b } }
"""
"""Of a whole document; the rest is confined to the element ``.msdg``, which may stand in a notebook."""

STYLE = f"""
.msdg {{ --paper: #fff; --ink: #1b1f24; --mute: #59636e; --line: #d8dee4; --soft: #f4f6f8;
  --good: #00735a; --bad: #b3261e; --warn: #8a5a00; --synthetic: #0072b2; --real: #d55e00;
  {_steps("h", _HEAT)}; {_steps("d", _DIFFERENCE)};
  font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 70rem; margin: 0 auto; padding: 1rem; box-sizing: border-box }}
@media (prefers-color-scheme: dark) {{ .msdg {{ --paper: #14171b; --ink: #e6e9ec; --mute: #9aa4af; --line: #343b43;
  --soft: #1d2228; --good: #4fd1ae; --bad: #ff8a80; --warn: #f3c15f; --synthetic: #56b4e9; --real: #e69f00;
  {_steps("h", _HEAT_DARK)}; {_steps("d", _DIFFERENCE_DARK)} }} }}
"""
STYLE += """
.msdg h1 { font-size: 1.6rem; line-height: 1.2; margin: .6rem 0; overflow-wrap: anywhere }
.msdg h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line) }
.msdg h3 { font-size: 1rem; margin: 1.4rem 0 .3rem }
.msdg p, .msdg li { max-width: 46rem; overflow-wrap: anywhere } .msdg ul { padding-left: 1.2rem }
.msdg nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .6rem 0 }
.msdg a { color: var(--synthetic) }
.msdg .scroll { overflow-x: auto }
.msdg table { min-width: min(100%, 36rem); margin: .6rem 0; color: inherit; border-collapse: collapse;
  font-variant-numeric: tabular-nums }
.msdg caption { text-align: left; color: var(--mute); font-size: .87rem; padding-bottom: .2rem }
.msdg th, .msdg td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; unicode-bidi: isolate; min-width: 2.5rem }
.msdg th { font-weight: 600; font-size: .87rem }
.msdg .number { text-align: right; white-space: nowrap } .msdg th.number { white-space: normal }
.msdg tbody tr:hover td { background: var(--soft) }
.msdg pre { background: var(--soft); padding: .8rem; border-radius: .4rem; overflow-x: auto; font-size: .87rem }
.msdg img { max-width: 100%; background: white; padding: .5rem; box-sizing: border-box }
.msdg details { margin: .6rem 0; border: 1px solid var(--line); border-radius: .4rem; padding: .3rem .8rem }
.msdg summary { cursor: pointer; padding: .2rem 0; font-weight: 600; overflow-wrap: anywhere }
.msdg .badge { border: 1px solid; border-radius: .3rem; padding: 0 .4rem; font-weight: 600; white-space: nowrap }
.msdg .good { color: var(--good) } .msdg .bad { color: var(--bad) } .msdg .warn { color: var(--warn) }
.msdg .notice { border-left: 4px solid; padding: .5rem .8rem; background: var(--soft); max-width: 46rem;
  border-radius: .2rem } .msdg .notice span { color: var(--ink) }
.msdg dl.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.2rem, 1fr));
  gap: .6rem; margin: 1rem 0 }
.msdg dl.cards div { background: var(--soft); border-radius: .5rem; padding: .6rem .8rem }
.msdg dl.cards dt { color: var(--mute); font-size: .82rem }
.msdg dl.cards dd { margin: 0; font-size: 1.25rem; font-weight: 600; overflow-wrap: anywhere }
.msdg .bars { white-space: nowrap; --full: 9rem } @media (max-width: 480px) { .msdg .bars { --full: 3.6rem } }
.msdg .bars i { display: inline-block; height: .6em; margin-right: .5em; border-radius: .15em;
  width: calc(var(--full) * var(--share)) }
.msdg i.s { background: var(--synthetic) } .msdg i.r { background: var(--real) }
.msdg .gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr));
  gap: 1rem 1.6rem; margin: .8rem 0 }
.msdg figure { margin: 0; min-width: 0 } .msdg figure.wide { overflow-x: auto; margin: .8rem 0 }
.msdg figcaption { font-size: .87rem; color: var(--mute); margin-bottom: .3rem; overflow-wrap: anywhere }
.msdg figcaption b { color: var(--ink) }
.msdg svg { display: block; font-size: 10px } .msdg .gallery svg { width: 100%; height: auto; max-width: 27rem }
.msdg svg text { fill: var(--ink) } .msdg svg text.mute { fill: var(--mute) } .msdg svg text.pale { fill: var(--paper) }
.msdg svg .s { fill: var(--synthetic) } .msdg svg .r { fill: var(--real) }
.msdg svg .step { fill: none; stroke: var(--real); stroke-width: 1.6 }
.msdg svg .noise { stroke: var(--ink); stroke-width: 1; opacity: .65 }
.msdg svg .axis, .msdg svg .edge { stroke: var(--mute); stroke-width: 1; fill: none; opacity: .7 }
.msdg svg .node { fill: var(--soft); stroke: var(--line) } .msdg svg .chip { fill: var(--synthetic) }
.msdg svg .old { fill: none; stroke: var(--mute); stroke-dasharray: 3 2 }
.msdg .key i { display: inline-block; width: .8em; height: .8em; border-radius: .15em; margin: 0 .3em 0 .8em }
"""
STYLE += "\n".join(
    f".msdg svg .{letter}{step} {{ fill: var(--{letter}{step}) }}"
    for letter, steps in (("h", _HEAT), ("d", _DIFFERENCE))
    for step in range(len(steps))
)
