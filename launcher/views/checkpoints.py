"""What a run has saved: listed, verified, exported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from launcher.home import RunError, checkpoint_directories
from launcher.records import EventRecord
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.rundir.formats import ANOTHER_VERSION, UPDATE_LAUNCHER, FormatError
from trainer.rundir.usererror import Message


def list_checkpoints(
    run_dir: RunDirectory,
    verify: bool,
    buckets: Iterable[str] = (),
    warn: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Returns ``{"step", "bytes", "age", "world_size", "valid", "reason", "url"}`` by step.

    ``age`` is in seconds, None where no event says when it was written. ``valid`` is None unless
    ``verify`` is true or the manifest itself cannot be used: damaged, or of a newer format.

    Args:
        run_dir: the run.
        verify: whether to read every shard.
        buckets: see ``checkpoint_directories``.
        warn: called with a line about each place that is not looked at.
    """
    from trainer.checkpoints.manifest import folder_of, read_manifest
    from trainer.checkpoints.restore import read_shard

    records = map(EventRecord.of, read_events(run_dir, brief=True))
    written = {one.step: one.time for one in records if one.event == "checkpoint_committed"}
    rows = []
    found, left = _found(run_dir, buckets)
    for url in left:
        warn(str(_unlooked(url)))
    for step, place in found:
        row: dict[str, Any] = {"step": step, "bytes": None, "age": None, "world_size": None}
        if step in written:
            row["age"] = round(time.time() - written[step], 1)
        row |= {"valid": None, "reason": "", "url": f"{place.url}/{folder_of(step)}"}
        try:
            manifest = read_manifest(place, step)
            row |= {"bytes": manifest.bytes, "world_size": manifest.about.get("world_size")}
            for shard in manifest.shards if verify else []:
                read_shard(place, step, shard)
            row["valid"] = True if verify else None
        except FormatError as error:
            row |= {"valid": False, "reason": f"{error}: {UPDATE_LAUNCHER}"}
        except (ValueError, FileNotFoundError) as error:
            row |= {"valid": False, "reason": str(error)}
        rows.append(row)
    return rows


def _found(
    run_dir: RunDirectory, buckets: Iterable[str]
) -> tuple[list[tuple[int, RunDirectory]], list[str]]:
    """The steps of all checkpoints in order, and the directory that each is in; and the URLs that
    were not looked at."""
    from trainer.checkpoints.manifest import committed_steps

    places, left = checkpoint_directories(run_dir, buckets)
    found = [(step, place) for place in places for step in committed_steps(place)]
    return sorted(found, key=lambda one: one[0]), left


def _unlooked(url: str) -> Message:
    return Message(
        "SW2027",
        f"{url}: is not looked at, for only the run directory names it; if it is yours, give the "
        "job file, too: --job FILE",
    )


def export_checkpoint(
    run_dir: RunDirectory,
    step: int | None,
    path: Path,
    buckets: Iterable[str] = (),
    part: str | None = None,
) -> int:
    """Writes a checkpoint's tensors to one safetensors file. Returns the step.

    Args:
        run_dir: the run.
        step: which one; None for the newest that is valid.
        path: the file to make; what is there is replaced once the new one is whole.
        buckets: see ``checkpoint_directories``.
        part: the one part of the state, such as ``model``, that is written, under its own names.

    Raises RunError when there is no such valid checkpoint, or it has no such part; and when the
    newest is of a newer format, or may be in a place that is not looked at: an older one in its
    stead would pass for it.
    """
    import torch
    from safetensors.torch import save_file

    from trainer.checkpoints.restore import Alone, load
    from trainer.checkpoints.tree import flatten, names_in

    there, left = _found(run_dir, buckets)
    if left and step not in [one for one, _ in there]:
        raise RunError.of([_unlooked(url) for url in left])
    chosen_from = [one for one in there if step in (None, one[0])]
    if step is not None and not chosen_from:
        steps = [one for one, _ in there]
        raise RunError("SW2015", f"{run_dir.url}: has no checkpoint of step {step}; it has {steps}")
    wrong: list[str] = []
    for chosen, place in reversed(chosen_from):
        try:
            tree = load(
                place,
                chosen,
                lambda event, **fields: wrong.append(str(fields.get("reason"))),
                Alone(),
                torch.device("cpu"),
            )
        except FormatError as error:
            raise RunError(ANOTHER_VERSION, f"{place.url}: {error}: {UPDATE_LAUNCHER}") from None
        if tree is not None:
            if part is not None:
                parts = tree["parts"]
                if part not in parts:
                    raise RunError(
                        "SW2030",
                        f"{run_dir.url}: the checkpoint of step {chosen} has no part {part!r}; it "
                        f"has {', '.join(parts)}",
                    )
                tree = parts[part]
            skeleton, tensors = flatten(tree)
            named = dict(zip(names_in(skeleton), tensors, strict=True))
            aside = path.with_name(f".{path.name}.new")
            try:
                save_file(named, aside, {"format": "pt"})
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)
            return chosen
    raise RunError(
        "SW2016", f"{run_dir.url}: has no valid checkpoint to export; {'; '.join(wrong)}"
    )


def print_checkpoints(console: Console, rows: list[dict[str, Any]]) -> None:
    """Prints the rows of ``list_checkpoints`` as a table."""
    places = [row["url"].rpartition("/checkpoints/")[0] for row in rows]
    several = len({*places}) > 1
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("step", "size", "age", "written by", "valid"):
        table.add_column(name, justify="left" if name == "valid" else "right", no_wrap=True)
    if several:
        table.add_column("in", overflow="fold")
    for row, place in zip(rows, places, strict=True):
        valid = {None: "not checked", True: "yes", False: f"no: {row['reason']}"}[row["valid"]]
        table.add_row(
            f"{row['step']:,}",
            "?" if row["bytes"] is None else f"{row['bytes'] / 2**20:,.1f} MiB",
            "?" if row["age"] is None else f"{row['age']:,.0f} s",
            f"{row['world_size'] or '?'} ranks",
            valid,
            *([place] if several else []),
        )
    console.print(table)
