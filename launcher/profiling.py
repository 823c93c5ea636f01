"""``swell profile``: have a run that trains profile some of its steps, and wait for what is seen.

What is wanted is written into the run directory (trainer.rundir.profiles), from where the run's
leader has it, so whoever can read and write that can ask, on any machine.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence

from launcher import home
from launcher.records import EventRecord
from launcher.status.history import History
from launcher.words import count
from trainer.rundir import clock, formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader
from trainer.rundir.names import RUN
from trainer.rundir.profiles import MOST_RANKS, MOST_STEPS, Wish, create_wish

NO_STEPS, NO_RANK, SCRIPT, PAST, UNSEEN = "SW6262", "SW6263", "SW6264", "SW6265", "SW6266"
SOME_UNSEEN = "SW6270"
LOOK_EVERY = 1.0  # seconds
MOST_AHEAD = 10**12  # a step that no run reaches
GRACE = 60.0  # seconds after the last of the steps, or the run's end, in which files may come

_STEPS = re.compile(r"([0-9]{1,12})(?::([0-9]{1,12}))?")


def steps_in(text: str) -> tuple[int, int]:
    """Returns the first and the last of the steps that an option names. Raises RunError."""
    found = _STEPS.fullmatch(text)
    first = int(found[1]) if found else 0
    last = int(found[2] or found[1]) if found else 0
    if not 1 <= first <= last:
        raise home.RunError(
            NO_STEPS,
            f"--steps {text}: are no steps; write the first and the last, such as 100:110",
        )
    if last - first >= MOST_STEPS:
        raise home.RunError(
            NO_STEPS,
            f"--steps {text}: are {count(last - first + 1, 'step')}, and a profile has at most "
            f"{MOST_STEPS}: each makes thousands of entries",
        )
    return first, last


def ask(
    directory: RunDirectory, steps: tuple[int, int], ranks: Sequence[int], memory: bool
) -> Wish:
    """Asks a run to profile steps. Returns the wish.

    Args:
        directory: the run.
        steps: the first and the last.
        ranks: whose.
        memory: whether what they allocate is looked at, too.

    Raises RunError where nothing can be seen, FormatError for another version's run, and OSError.
    """
    record = home.read_run(directory)
    run_id = home.id_of(record, directory)
    formats.require_usable(record, f"{directory.url}/{RUN}")
    wanted = tuple(sorted({*ranks})) or (0,)
    if len(wanted) > MOST_RANKS or wanted[0] < 0:
        raise home.RunError(
            NO_RANK, f"--rank: give at most {MOST_RANKS} ranks; they count from 0, which is default"
        )
    if (record.get("spec") or {}).get("torchrun"):
        raise home.RunError(
            SCRIPT,
            f"{run_id}: runs a torchrun script, whose steps are its own: put torch.profiler into "
            "the script, and write into SWELL_OUTPUT_DIR",
        )
    if outcome := directory.outcome():
        raise home.RunError(home.OVER, f"{run_id}: has ended: {outcome.get('state')}")
    history = History(EventReader(directory, brief=True).read_new())
    _require_future(run_id, history, steps)
    size = history.current.world_size if history.current is not None else None
    if size is not None and wanted[-1] >= size:
        raise home.RunError(
            NO_RANK, f"{run_id}: has no rank {wanted[-1]}: its world has {count(size, 'worker')}"
        )
    return create_wish(directory, Wish(1, *steps, wanted, memory, by=home.whoami(), at=clock.now()))


def _require_future(run_id: str, history: History, steps: tuple[int, int]) -> None:
    first, last = steps
    if first <= history.step:
        raise home.RunError(
            PAST, f"{run_id}: is at step {history.step:,} already: --steps must be later ones"
        )
    if (total := history.total_steps) is not None and last > total:
        raise home.RunError(PAST, f"{run_id}: has {count(total, 'step')} in all, and not {last:,}")


def results(
    directory: RunDirectory,
    wish: Wish,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[EventRecord]:
    """Yields what the ranks say that were asked, until all have, or none can any more.

    Args:
        directory: the run.
        wish: what it was asked.
        clock: monotonic seconds.
        sleep: waits for so many seconds.

    Raises RunError at the end if one of the ranks has said nothing, and OSError.
    """
    reader, history = EventReader(directory, brief=True), History()
    missing, silent, over = {*wish.ranks}, {*wish.ranks}, None
    while missing:
        ended = directory.outcome() is not None  # before the look: what is said last is seen then
        for event in reader.read_new():
            history.add(event)
            record = EventRecord.of(event)
            if record.event == "profiled" and record.profile == wish.number:
                missing -= {record.rank} if (record.step or 0) >= wish.last else set()
                silent -= {record.rank}
                yield record
        if ended or history.step > wish.last:
            over = clock() if over is None else over
            if clock() - over >= (LOOK_EVERY if ended else GRACE):
                break
        sleep(LOOK_EVERY)
    if silent == {*wish.ranks}:
        raise home.RunError(
            UNSEEN,
            f"steps {wish.first:,} to {wish.last:,} have passed, and nobody has seen them: a "
            "script that is written for Elastic Horovod has no steps of its own, the rank may have "
            "been in no world, or the leader may be of an older image",
        )
    if silent:
        raise home.RunError(
            SOME_UNSEEN,
            f"steps {wish.first:,} to {wish.last:,} have passed, and of the ranks these have seen "
            f"none of them: {', '.join(map(str, sorted(silent)))}; the world had no such rank "
            "then, or its worker was lost before it had written what it had seen",
        )
