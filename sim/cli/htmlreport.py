"""The report of a run as one HTML file without scripts, fonts or pictures from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from sim.report import PHASES, Hit, cells, summary

_COLOURS = {"delivery": "#c0504d", "stub": "#4f81bd", "return": "#9bbb59", "step": "#8064a2"}

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .2em .8em .2em 0; text-align: left }
th { border-bottom: 1px solid #888 } td.n { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f4f4f4; padding: .6em 1em; overflow-x: auto } .bar { display: flex; height: 1.1em; min-width: 20em }
.bar span { height: 100% } .key span { display: inline-block; width: 1em; height: 1em; margin: 0 .3em 0 1em }
@media (prefers-color-scheme: dark) { body { background: #1c1c1c; color: #ddd } pre { background: #2a2a2a } }
"""


def page(title: str, facts: Iterable[tuple[str, object]], console: str, found: list[Hit]) -> str:
    """Return the report: the facts of the run, every hit with its phases as a bar, and the guest's console."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>\n" for name, value in facts)
    longest = max((hit.total or 0 for hit in found), default=0) or 1
    body = [f"<h1>{escape(title)}</h1>", f"<table>{rows}</table>"]
    if found:
        key = "".join(f'<span style="background:{_COLOURS[name]}"></span>{name}' for name in PHASES)
        body += ["<h2>Probe hits</h2>", f'<p class="key">cycles in:{key}</p>', "<table>"]
        body.append("<tr><th>cycle</th><th>at</th><th>handlers</th>" + "".join(f"<th>{p}</th>" for p in PHASES))
        body.append("<th>total</th><th></th></tr>")
        body += [_row(hit, longest) for hit in found]
        body += ["</table>", "<h2>Trap by trap</h2>"]
        text = "\n\n".join("\n  ".join((head, *lines)) for head, lines in summary(found))
        body.append(f"<pre>{escape(text)}</pre>")
    body += ["<h2>The guest's console</h2>", f"<pre>{escape(console) or '(nothing)'}</pre>"]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _row(hit: Hit, longest: int) -> str:
    bars = []
    for leg in hit.legs:
        for name, cycles in leg.phases().items():
            if cycles:
                what = f"{leg.name}: {name} {cycles}"
                bars.append(
                    f'<span title="{what}" style="background:{_COLOURS[name]};width:{100 * cycles / longest:.2f}%"></span>'
                )
    numbers = "".join(f'<td class="n">{n}</td>' for n in cells(hit))
    handlers = ", ".join((hit.kind, *hit.results))
    return (
        f'<tr><td class="n">{hit.cycle}</td><td><code>{escape(hit.symbol)}</code></td><td>{escape(handlers)}</td>'
        f'{numbers}<td><div class="bar">{"".join(bars)}</div></td></tr>'
    )
