"""The pages of a dashboard: HTML whose parts the script of the page renews."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from urllib.parse import quote, urlencode

from launcher.report import page
from launcher.words import count

WAITING = "<p>Being read…</p>"
LIVE = ("trouble", "asof")  # parts that every page has


class Link:
    """A text that leads somewhere.

    Args:
        text: the text.
        to: an address, as ``Pages`` makes it.
    """

    def __init__(self, text: str, to: str) -> None:
        self.html = f'<a href="{escape(to)}">{page.text_of(text)}</a>'


Cell = str | Link


class Pages:
    """What all pages share.

    Args:
        base: the path of the dashboard, which ends with its token.
        place: what it shows.
    """

    def __init__(self, base: str, place: str) -> None:
        self._base = base
        self._place = place

    def to(self, *path: str, **query: str) -> str:
        """Returns the address of a page."""
        where = "/".join([self._base, *(quote(part, safe="") for part in path)])
        return f"{where}?{urlencode(query)}" if query else where if path else f"{where}/"

    def document(
        self, title: str, body: str, trail: Iterable[Link] = (), live: str | None = None
    ) -> str:
        """Returns a whole page.

        Args:
            title: as text.
            body: as HTML, without its first heading.
            trail: what it is part of.
            live: from where its parts are renewed; None for a page that stays as it is.
        """
        source = "" if live is None else f' data-live="{escape(live)}"'
        steps = "".join(f"<li>{one.html}</li>" for one in [Link("Runs", self.to()), *trail])
        status = (
            '<p class="live"><span id="connection" role="status"></span> '
            '<span id="asof"></span></p>'
            '<noscript><p class="alert">Without JavaScript this page stays as it is; reload it.</p>'
            "</noscript>"
        )
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{page.text_of(title)} - Swell</title>\n"
            f'<link rel="icon" href="{self.to("static", "icon.svg")}">\n'
            f'<link rel="stylesheet" href="{self.to("static", "dashboard.css")}">\n'
            f'<script src="{self.to("static", "dashboard.js")}" defer></script>\n'
            f"</head><body{source}>\n"
            '<a class="skip" href="#main">Skip to the content</a>\n'
            f'<header><nav aria-label="Dashboard"><ul>{steps}</ul>'
            f"<ul><li>{Link('Plan a job', self.to('new')).html}</li></ul></nav></header>\n"
            f'<main id="main" tabindex="-1"><h1>{page.text_of(title)}</h1>\n'
            f"{status if live is not None else ''}"
            f"{body}</main>\n<footer>swell dashboard: {page.text_of(self._place, 1000)}</footer>"
            "</body></html>\n"
        )

    def problem(self, title: str, says: str) -> str:
        """Returns a page about what is not there."""
        return self.document(title, f'<p role="alert" class="alert">{page.text_of(says, 1000)}</p>')


def parts(names: Sequence[str], known: Mapping[str, str], first: str = "") -> str:
    """Returns the elements whose content is renewed, with what is known of it by now.

    Args:
        names: their ids, in order.
        known: their HTML, by id.
        first: which of them says that the rest is to come, until anything is known.
    """
    waiting = {first: WAITING} if first and not known.get(first) else {}
    shown = {**known, **waiting}
    return "".join(f'<div id="{name}">{shown.get(name, "")}</div>\n' for name in names)


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Returns a table that may have links in it; see launcher.report.page for one of texts."""
    names = "".join(f'<th scope="col">{page.text_of(one)}</th>' for one in head)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{one.html if isinstance(one, Link) else page.text_of(one)}</td>" for one in row
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{page.text_of(name)}"><table>'
        f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def blocks(states: Mapping[str, tuple[str, str]]) -> str:
    """Returns a sign for each replica that leads to its page.

    Args:
        states: by the replica's name, its state and the address of its page.
    """
    from launcher.views.live import SIGNS

    if not states:
        return ""
    tally: dict[str, int] = {}
    for state, _ in states.values():
        tally[state] = tally.get(state, 0) + 1
    legend = ", ".join(f"{SIGNS[it][0]} {number:,} {it}" for it, number in sorted(tally.items()))
    signs = "".join(
        f'<li><a class="{state}" href="{escape(to)}" aria-label="{page.text_of(name)}: {state}" '
        f'title="{page.text_of(name)}: {state}">{SIGNS[state][0]}</a></li>'
        for name, (state, to) in states.items()
    )
    skip = f'<a class="skip" href="#events">Skip {count(len(states), "replica")}</a>'
    return f'<p>{page.text_of(legend)}</p>{skip}<ul class="blocks">{signs}</ul>'
