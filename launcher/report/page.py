"""The page that a report is: HTML in one piece, which loads nothing and runs nothing.

Everything that comes from a run is escaped here and nowhere else; the page's policy allows no
script, so what slipped through would still do nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from launcher.terminal import visible
from launcher.words import count, one_line

CELL = 400  # characters
ROWS = 500  # of a table; of a longer one the first half, and the last

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --rule: #8b949e;
  --soft: #f3f5f7; --mark: #0b5cad; --blue: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #14171b; --rule: #79818b;
  --soft: #20252b; --mark: #7cb7f5; --blue: #4ba3df; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 52rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .6rem;
  margin: 1rem 0; }
dl div { background: var(--soft); padding: .5rem .7rem; border-radius: .3rem; }
dt { font-size: .85rem; } dd { margin: 0; font-weight: 600; }
figure { margin: 0; } figure svg { width: 100%;
  max-width: 42rem; height: auto; display: block; }
figcaption { font-size: .9rem; }
.wide { overflow-x: auto; } .wide:focus-visible, summary:focus-visible, a:focus-visible {
  outline: 2px solid var(--mark); }
summary { cursor: pointer; color: var(--mark); padding: .3rem 0; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid var(--rule); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { white-space: pre-wrap; background: var(--soft); padding: .7rem; font-size: .85rem; }
footer { margin-top: 2.5rem; font-size: .85rem; }
@media print { :root { --ink: #000; --paper: #fff; --rule: #777; --soft: #fff; --mark: #000;
  --blue: #0072b2; }
  body { max-width: none; padding: 0; } figure, dl div { break-inside: avoid; }
  h2, h3 { break-after: avoid; } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, parts: Iterable[str]) -> str:
    """Returns the whole page.

    Args:
        title: as text.
        parts: as HTML.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="generator" content="swell report">\n'
        f"<title>{text_of(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def heading(level: int, text: str) -> str:
    """Returns a heading of level 1, 2 or 3."""
    return f"<h{level}>{text_of(text)}</h{level}>"


def paragraph(text: str) -> str:
    """Returns a paragraph; a text from a run has been made one line before, or is made so here."""
    return f"<p>{text_of(text, 5000)}</p>"


def verbatim(text: str, most: int = 20_000) -> str:
    """Returns a text with its lines as they are indented; of a longer one, the end."""
    lines = text[-most:].expandtabs(4).splitlines()
    return whole("\n".join(visible(line)[:1000] for line in lines))


def whole(text: str, label: str = "") -> str:
    """Returns all of a text with its lines as they are indented.

    Args:
        text: the text.
        label: what it is, where it may be wider than its place: then it can be scrolled by keys.
    """
    lines = "\n".join(map(visible, text.expandtabs(4).splitlines()))
    about = f' tabindex="0" role="region" aria-label="{text_of(label)}"' if label else ""
    return f"<pre{about}>{escape(lines)}</pre>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Returns figures with their names, beside each other as far as there is room."""
    cells = (
        f"<div><dt>{text_of(name)}</dt><dd>{text_of(value)}</dd></div>" for name, value in pairs
    )
    return f"<dl>{''.join(cells)}</dl>"


def picture(name: str, says: str, svg: str, numbers: str) -> str:
    """Returns a picture, and behind it the numbers that it is drawn from.

    Args:
        name: what it shows, as text.
        says: the same for somebody who does not see it: what can be read off it, as text.
        svg: drawn by launcher.report.charts.
        numbers: a table, as HTML.
    """
    return (
        f'<figure><div role="img" aria-label="{text_of(f"{name}: {says}", 1000)}">{svg}</div>\n'
        f"<figcaption>{text_of(says, 1000)}</figcaption>\n"
        f"<details><summary>{text_of(name)}: the numbers</summary>{numbers}</details></figure>"
    )


def table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 0) -> str:
    """Returns a table of texts, of which the last ``right`` columns hold numbers.

    Args:
        name: what is in it.
        head: the names of its columns.
        rows: of as many texts each; of more than ``ROWS`` the first half, and the last.
        right: how many columns are set to the right.
    """
    begin = len(head) - right
    kept: list[Sequence[str]] = [*rows]
    if left := max(0, len(kept) - ROWS):
        kept[ROWS // 2 : -(ROWS // 2)] = [[f"… {count(left, 'row')} left out", *[""] * begin]]
    names = "".join(f'<th scope="col"{_side(n >= begin)}>{text_of(it)}</th>' for n, it in _of(head))
    body = "".join(
        "<tr>"
        + "".join(f"<td{_side(n >= begin)}>{text_of(it)}</td>" for n, it in _of(row))
        + "</tr>"
        for row in (list(row)[: len(head)] for row in kept)
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text_of(name)}"><table>'
        f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(name: str, inner: str) -> str:
    """Returns what is shown only when it is asked for.

    Args:
        name: what that is, as text.
        inner: as HTML.
    """
    return f"<details><summary>{text_of(name)}</summary>{inner}</details>"


def footer(text: str) -> str:
    """Returns what stands at the end of a page."""
    return f"<footer>{text_of(text, 1000)}</footer>"


def _of(row: Iterable[str]) -> Iterable[tuple[int, str]]:
    return enumerate(row)


def _side(right: bool) -> str:
    return ' class="number"' if right else ""


def text_of(text: str, width: int = CELL) -> str:
    """Returns a text as HTML, in one line; of a longer one so many characters."""
    return escape(one_line(text, width)).replace(" %", "&nbsp;%")  # not the sign alone in a line
