"""What a run has saved: listed, verified, exported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher import home
from launcher.home import RunError
from launcher.records import EventRecord
from launcher.words import count, number
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events
from trainer.rundir.formats import ANOTHER_VERSION, UPDATE_LAUNCHER, FormatError
from trainer.rundir.numbers import named, numbers_in
from trainer.rundir.usererror import Message

# A Hugging Face folder's files.
MODEL, ADAPTERS = "model.safetensors", "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
DESCRIBES = ("config.json", ADAPTER_CONFIG)


def list_checkpoints(
    run_dir: RunDirectory,
    verify: bool,
    buckets: Iterable[str] = (),
    warn: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Returns ``{"step", "bytes", "age", "world_size", "metrics", "best", "valid", "reason",
    "url"}`` by step.

    ``age`` is in seconds, None where no event says when it was written. ``metrics`` are those of
    the checkpoint's own state. ``best`` is true of the one that ``keep_best`` keeps, of those that
    there are. ``valid`` is None unless ``verify`` is true or the manifest itself cannot be used:
    damaged, or of a newer format.

    Args:
        run_dir: the run.
        verify: whether to read every shard.
        buckets: see ``checkpoint_directories``.
        warn: called with a line about each place that is not looked at.
    """
    from trainer.checkpoints.manifest import folder_of, metrics_of, read_manifest
    from trainer.checkpoints.restore import read_shard
    from trainer.checkpoints.retention import Retention

    records = map(EventRecord.of, read_events(run_dir, brief=True))
    written = {one.step: one.time for one in records if one.event == "checkpoint_committed"}
    rows = []
    found, left = _found(run_dir, buckets)
    for url in left:
        warn(str(_unlooked(url)))
    for step, place, names in found:
        row: dict[str, Any] = {"step": step, "bytes": None, "age": None, "world_size": None}
        row |= {"metrics": {}, "best": False}
        if step in written:
            row["age"] = round(time.time() - written[step], 1)
        row |= {"valid": None, "reason": "", "url": f"{place.url}/{folder_of(step)}"}
        try:
            manifest = read_manifest(place, step)
            row |= {"bytes": manifest.bytes, "world_size": manifest.about.get("world_size")}
            row["metrics"] = named(numbers_in(metrics_of(place, manifest, names)))
            for shard in manifest.shards if verify else []:
                read_shard(place, step, shard)
            row["valid"] = True if verify else None
        except FormatError as error:
            row |= {"valid": False, "reason": f"{error}: {UPDATE_LAUNCHER}"}
        except (ValueError, FileNotFoundError) as error:
            row |= {"valid": False, "reason": str(error)}
        rows.append(row)
    best = home.checkpoint_in(home.read_run(run_dir)).get("keep_best")
    rule = Retention(best=best if isinstance(best, str) else "")
    usable = [(row, at) for at, row in enumerate(rows) if row["valid"] is not False]
    valued = [(rule.value(row["metrics"]), at) for row, at in usable]
    if known := [(value, at) for value, at in valued if value is not None]:
        rows[max(known)[1]]["best"] = True
    return rows


class _Found(NamedTuple):
    """A checkpoint: its step, the directory that has it, and the names in its folder."""

    step: int
    place: RunDirectory
    names: list[str]


def _found(run_dir: RunDirectory, buckets: Iterable[str]) -> tuple[list[_Found], list[str]]:
    """All checkpoints in the order of their steps, and the URLs that were not looked at."""
    from trainer.checkpoints.manifest import MANIFEST, folders

    places, left = home.checkpoint_directories(run_dir, buckets)
    found = [
        _Found(step, place, names)
        for place in places
        for step, names in folders(place).items()
        if MANIFEST in names
    ]
    return sorted(found, key=lambda one: one.step), left


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
    chosen, tree = _loaded(run_dir, step, buckets)
    _save(tree if part is None else _part(run_dir, chosen, tree, part), path)
    return chosen


def export_folder(
    run_dir: RunDirectory,
    step: int | None,
    folder: Path,
    buckets: Iterable[str] = (),
    part: str | None = None,
) -> int:
    """Writes a folder that Hugging Face's ``from_pretrained`` loads. Returns the step.

    It has the files that the task has given along (``files``, see trainer.tasks.pretrained), and
    the weights. What is there is replaced; the model's description comes last, so a folder that has
    one is whole.

    Args:
        run_dir, step, buckets: as for ``export_checkpoint``, which says what is raised.
        folder: the folder; it is made if it is not there.
        part: whose weights: None for ``model``.

    Raises RunError when the checkpoint is of a task that gives no files along.
    """
    chosen, tree = _loaded(run_dir, step, buckets)
    files = _files(tree["parts"].get("files"))
    if not any(name in files for name in DESCRIBES):
        raise RunError(
            "SW5204",
            f"{run_dir.url}: the checkpoint of step {chosen} is of no Hugging Face model: only "
            "trainer.tasks.finetune gives along what makes such a folder; name a file to export to",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in DESCRIBES:
        (folder / name).unlink(missing_ok=True)
    weights = ADAPTERS if ADAPTER_CONFIG in files else MODEL
    _save(_part(run_dir, chosen, tree, part or "model"), folder / weights)
    for name in sorted(files, key=lambda one: (one in DESCRIBES, one)):
        (folder / name).write_bytes(files[name])
    return chosen


def _files(part: Any) -> dict[str, bytes]:
    """The files in a part of a state, but for what has a name that leads elsewhere."""
    files = part.get("files") if isinstance(part, dict) else None
    return {
        name: data.numpy().tobytes()
        for name, data in (files if isinstance(files, dict) else {}).items()
        if name == Path(name).name and not name.startswith(".")
    }


def _loaded(
    run_dir: RunDirectory, step: int | None, buckets: Iterable[str]
) -> tuple[int, dict[str, Any]]:
    """A checkpoint's step and tree."""
    import torch

    from trainer.checkpoints.restore import Alone, load

    there, left = _found(run_dir, buckets)
    if left and step not in [one.step for one in there]:
        raise RunError.of([_unlooked(url) for url in left])
    chosen_from = [one for one in there if step in (None, one.step)]
    if step is not None and not chosen_from:
        steps = [one.step for one in there]
        raise RunError("SW2015", f"{run_dir.url}: has no checkpoint of step {step}; it has {steps}")
    wrong: list[str] = []
    for chosen, place, _ in reversed(chosen_from):
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
            return chosen, tree
    raise RunError(
        "SW2016", f"{run_dir.url}: has no valid checkpoint to export; {'; '.join(wrong)}"
    )


def _part(run_dir: RunDirectory, step: int, tree: dict[str, Any], part: str) -> Any:
    parts = tree["parts"]
    if part not in parts:
        raise RunError(
            "SW2030",
            f"{run_dir.url}: the checkpoint of step {step} has no part {part!r}; it "
            f"has {', '.join(parts)}",
        )
    return parts[part]


def _save(tree: Any, path: Path) -> None:
    """Writes a tree's tensors to a safetensors file, by their names."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from trainer.checkpoints.tree import flatten, names_in

    skeleton, tensors = flatten(tree)
    named = dict(zip(names_in(skeleton), tensors, strict=True))
    aside = path.with_name(f".{path.name}.new")
    try:
        save_file(named, aside, {"format": "pt"})
        aside.replace(path)
    except SafetensorError as error:  # of a full disk, or a folder that is not there
        raise OSError(f"{path} cannot be written: {error}") from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def print_checkpoints(console: Console, rows: list[dict[str, Any]]) -> None:
    """Prints the rows of ``list_checkpoints`` as a table, or one for each place that has some."""
    by_place: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_place.setdefault(row["url"].rpartition("/checkpoints/")[0], []).append(row)
    for place, there in by_place.items():
        if len(by_place) > 1:
            console.print(Text(place), soft_wrap=True)
        console.print(_table(there))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("step", "size", "age", "written by", "valid"):
        table.add_column(name, justify="left" if name == "valid" else "right", no_wrap=True)
    measured = any(row["metrics"] for row in rows)
    if measured:
        table.add_column("metrics", overflow="fold")
    for row in rows:
        why = f"no: {row.get('reason')}"
        table.add_row(
            f"{row['step']:,}",
            "?" if row["bytes"] is None else f"{row['bytes'] / 2**20:,.1f} MiB",
            "?" if row["age"] is None else f"{row['age']:,.0f} s",
            count(row["world_size"], "rank") if row["world_size"] else "? ranks",
            {None: "not checked", True: "yes", False: why}[row["valid"]],
            *([_measured(row)] if measured else []),
        )
    return table


def _measured(row: dict[str, Any]) -> str:
    """The metrics of a checkpoint in few digits, and whether it is the best."""
    said = ", ".join(f"{name} {number(value)}" for name, value in row["metrics"].items())
    return f"{said} (the best)" if row["best"] else said
