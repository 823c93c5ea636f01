"""Where the ranks of a world are that comes to no step, in words, from their stacks. Pure.

A rank *waits in a collective*, *computes*, *waits* for something else, or *has left its loop*. Each
of the ways in which a world stands still, although all its workers live, looks different::

    what happened                     what is told
    ────────────────────────────────  ───────────────────────────────────────────────────────────
    a deadlock in a program           ranks 0-2 wait in …; rank 3 waits for a lock in f (a.py:7)
    a loop without end                ranks 0-2 wait in …; rank 3 computes in spin (a.py:9)
    a rank left its loop early        ranks 0-2 wait in …; rank 3 has ended its script
    collectives that do not match     rank 0 waits in …; rank 1 waits in …: different collectives
    the network, or a GPU that hangs  all 4 ranks wait in … (a.py:31)
    no hang, but a long evaluation    all 4 ranks compute in evaluate (a.py:90)

A place is the innermost call of the program itself, the files of which are neither Python's, nor
installed packages', nor Swell's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from trainer.protocol.stacks import Frame, Thread, parse

BUSY = 0.5  # the part of a moment that a thread wanted a processor, from which on it computes
NAMED = 6  # groups that a line tells of
RANGES = 8  # ranges of ranks that are named of a group

_SWELL = str(Path(__file__).parents[1])
_TASKS = f"{_SWELL}/tasks/"  # these are programs, too
_PACKAGES = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen ")
# What a rank is in that has one of these functions on its stack; the outermost counts. Swell's own
# first, then the libraries'; None of a file stands for all functions that have no underscore first.
_NAMES: dict[str, dict[str, str] | None] = {
    "/trainer/engine/step.py": {"_sum": "the sum of the gradients"},
    "/trainer/engine/exchange.py": {"exchange": "an exchange between two steps"},
    "/trainer/engine/agreement.py": {"agree": "the agreement on what all ranks hold"},
    "/trainer/engine/transfer.py": {"broadcast_tree": "the transfer of the state"},
    "/trainer/engine/stay.py": {"join": "hvd.init()", "leave": "hvd.shutdown()"},
    "/horovod/torch/functions.py": None,
    "/horovod/torch/mpi_ops.py": None,
    "/torch/distributed/distributed_c10d.py": None,
}
_PREFIX = {
    "/horovod/torch/functions.py": "hvd.",
    "/horovod/torch/mpi_ops.py": "hvd.",
    "/torch/distributed/distributed_c10d.py": "dist.",
}
_NO_NAMES = ("forward", "backward", "apply", "wrapper", "poll", "inner")  # of functions around them
_LEFT = ("/trainer/protocol/channel.py", "next")
_BACKWARD = ("/torch/autograd/graph.py", "_engine_run_backward")
_LOCKS = ("/threading.py", "/queue.py")  # where Python itself waits for one


@dataclass(frozen=True)
class Seen:
    """What an agent has seen of one rank; see Stack in swell.proto.

    Attributes:
        rank, replica: which.
        text: its stacks, the first thread's first.
        busy, waits_for: of that thread.
        collective: whether it says that it waits for its peers.
        ended: whether its script has ended well.
        missing: why there is no stack.
    """

    rank: int
    replica: str = ""
    text: str = ""
    busy: float = 0.0
    waits_for: str = ""
    collective: bool = False
    ended: bool = False
    missing: str = ""

    @cached_property
    def does(self) -> str:
        """What it does, as "waits in hvd.allreduce (train.py:31)"."""
        if self.ended:
            return "has ended its script"
        threads = parse(self.text)
        if self.missing or not threads:
            return f"gives no stack: {self.missing or 'nothing is known of it'}"
        thread = threads[0]
        place = _place(thread)
        at = "" if place is None else f" ({_short(place)})"
        if (name := self._collective(thread)) is not None:
            return f"waits in {name}{at}"
        if any(_is(frame, *_LEFT) for frame in thread):
            return f"has left its loop{at}"
        inside = "" if place is None else f" in {_function(place)}{at}"
        if self.busy >= BUSY:
            return f"computes{inside}"
        what = self.waits_for
        if not what and thread[0].file.endswith(_LOCKS):
            what = "a lock or another thread"
        return f"waits for {what}{inside}" if what else f"does nothing{inside}"

    @property
    def waits_for_peers(self) -> bool:
        """Whether it waits in a collective."""
        return self.does.startswith("waits in ")

    def _collective(self, thread: Thread) -> str | None:
        """The collective that it is in; None if it is in none."""
        found = None
        backward = False
        for frame in thread:  # from the innermost on
            if _is_programs(frame):
                break
            found = _name(frame) or found
            backward = backward or _is(frame, *_BACKWARD)
        if found is not None:
            return found
        if backward and self.busy < BUSY:  # DistributedDataParallel waits in there
            return "backward()"
        return "a collective" if self.collective else None


@dataclass(frozen=True)
class Group:
    """Ranks that do the same.

    Attributes:
        does: what that is.
        ranks: which, in order.
        waits: whether they wait in a collective.
    """

    does: str
    ranks: tuple[int, ...]
    waits: bool


def groups_of(all_seen: Iterable[Seen]) -> list[Group]:
    """Who does the same; those who wait in a collective come first, and then the larger groups."""
    by: dict[str, list[Seen]] = {}
    for one in sorted(all_seen, key=lambda seen: seen.rank):
        by.setdefault(one.does, []).append(one)
    groups = [
        Group(
            does,
            tuple(one.rank for one in some),
            some[0].waits_for_peers,
        )
        for does, some in by.items()
    ]
    return sorted(groups, key=lambda one: (not one.waits, -len(one.ranks), one.ranks))


def in_words(groups: Sequence[Group]) -> str:
    """Who waits in what, and who is elsewhere, in a line."""
    if not groups:
        return "nothing is known of any rank"
    said = []
    for one in groups[:NAMED]:
        alone = len(groups) == 1 and len(one.ranks) > 1
        who = f"all {len(one.ranks)} ranks" if alone else ranks_in_words(one.ranks)
        said.append(f"{who} {_of_several(one.does) if len(one.ranks) > 1 else one.does}")
    if len(groups) > NAMED:
        rest = sum(len(one.ranks) for one in groups[NAMED:])
        said.append(f"{rest} more elsewhere")
    line = "; ".join(said)
    if len(groups) > 1 and all(one.waits for one in groups):
        line += ": these are different collectives, and none of them can end"
    return line


def ranks_in_words(ranks: Sequence[int]) -> str:
    """``rank 3``, ``ranks 0-2, 5``."""
    ranges: list[list[int]] = []
    for rank in ranks:
        if ranges and rank == ranges[-1][1] + 1:
            ranges[-1][1] = rank
        else:
            ranges.append([rank, rank])
    said = [f"{first}-{last}" if last > first else f"{first}" for first, last in ranges]
    more = ", …" if len(said) > RANGES else ""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(said[:RANGES])}{more}"


def _of_several(does: str) -> str:
    verb, _, rest = does.partition(" ")
    several = {"waits": "wait", "has": "have", "does": "do", "computes": "compute", "gives": "give"}
    return f"{several.get(verb, verb)} {rest}".rstrip()


def _name(frame: Frame) -> str | None:
    for file, names in _NAMES.items():
        if not frame.file.endswith(file):
            continue
        if names is not None:
            return names.get(frame.function)
        if frame.function.startswith("_") or frame.function in _NO_NAMES:
            return None
        return f"{_PREFIX[file]}{frame.function}"
    return None


def _is(frame: Frame, file: str, function: str) -> bool:
    return frame.file.endswith(file) and frame.function == function


def _place(thread: Thread) -> Frame | None:
    """The innermost call of the program; None if it is in none of its own."""
    inside = takewhile(lambda frame: not frame.file.startswith(f"{_SWELL}/worker/"), thread)
    return next(filter(_is_programs, inside), None)


def _is_programs(frame: Frame) -> bool:
    if frame.file.startswith(_TASKS):
        return True
    swells = frame.file.startswith(f"{_SWELL}/")
    return not swells and not any(part in frame.file for part in _PACKAGES)


def _short(frame: Frame) -> str:
    return f"{frame.file.rpartition('/')[2]}:{frame.line}"


def _function(frame: Frame) -> str:
    return "its main program" if frame.function == "<module>" else frame.function
