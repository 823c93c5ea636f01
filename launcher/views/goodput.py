"""What ``swell goodput`` prints: where the time of a run's VMs went, and their money."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.status.accounts import ACCOUNTS, Account, Ledger
from launcher.views.output import unpadded
from launcher.words import (
    CENT,
    LOSSES,
    dollars,
    losses_in_words,
    part,
    saving_in_words,
    span,
    usd_in_words,
)

NONE = (
    "There is nothing to tell of yet: no VM was asked for, or the script does not say which step "
    "it is at (report(step=…), or torchrun.progress)."
)
UNPRICED = "not known: a machine has no price (docs/job.md, prices)"


def print_goodput(console: Console, ledger: Ledger) -> None:
    """Prints a ledger as a table, and what follows from it."""
    with unpadded(console):
        console.print(_accounts(ledger))
        console.print()
        console.print(_figures(ledger))


def print_intervals(console: Console, ledgers: Iterable[Ledger]) -> None:
    """Prints one line for each ledger: how much of it was training, and the largest losses."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("from")
    table.add_column("VMs there", justify="right")
    table.add_column("of wanted", justify="right")
    table.add_column("goodput", justify="right")
    table.add_column("lost to")
    for ledger in ledgers:
        took = max(ledger.until - ledger.since, 1e-9)
        table.add_row(
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ledger.since)),
            f"{ledger.there / took:.1f}",
            f"{ledger.wanted / took:.1f}",
            "-" if ledger.goodput is None else part(ledger.goodput),
            losses_in_words(ledger.seconds),
        )
    with unpadded(console):
        console.print(table)


def _accounts(ledger: Ledger) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("account")
    table.add_column("VM time", justify="right")
    table.add_column("of wanted", justify="right")
    table.add_column("of there", justify="right")
    if ledger.usd is not None and ledger.spent:
        table.add_column("USD", justify="right")
    for name in ACCOUNTS:
        table.add_row(*_row(ledger, name))
    return table


def _row(ledger: Ledger, name: Account) -> Iterable[Text]:
    seconds = ledger.seconds[name]
    yield Text(LOSSES[name], style="" if seconds else "dim")
    yield Text(span(seconds))
    yield Text(part(seconds / ledger.wanted) if ledger.wanted else "-")
    there = name != "absent" and ledger.there
    yield Text(part(seconds / ledger.there) if there else "")
    if ledger.usd is not None and ledger.spent:
        yield Text(dollars(ledger.usd[name]) if name != "absent" else "")


def _figures(ledger: Ledger) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    goodput, wanted = ledger.goodput, ledger.goodput_of_wanted
    if goodput is not None:
        table.add_row("goodput", f"{part(goodput)} of the time of the VMs that were there")
    if wanted is not None:
        table.add_row("", f"{part(wanted)} of the time of those that were wanted")
    spent, of_usd = ledger.spent, ledger.goodput_of_usd
    if spent is None:
        table.add_row("cost", UNPRICED)
    elif 0 < spent < CENT:
        table.add_row("cost", usd_in_words(spent))
    elif spent and of_usd is not None:
        table.add_row("cost", f"about {dollars(spent)} USD, {part(of_usd)} of it for training")
        if saving := saving_in_words(spent, ledger.saving):
            table.add_row(
                "",
                f"that is {saving} than the {dollars(ledger.on_demand or 0.0)} USD "
                "of the same training on demand, with nothing lost",
            )
    return table
