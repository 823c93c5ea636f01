"""Data without a length, such as a generator's, as samples that have places.

    def dataset(self):
        return Stream(read_lines)  # or Stream(datasets.load_dataset(…, streaming=True))

Sample *n* is the n-th that its source gives. So a step takes the same samples in every world, as it
does of any data: the position is the number of steps, and each sample of a pass is used once,
whatever becomes of workers and loaders. When the source has ended it is read again.

Whoever makes a batch reads the source by itself, passes over what others take, and keeps what may
be asked for again. So it must give the same samples, in the same order, to all who read it, and
reading should cost little: what takes long (decoding, tokenising) belongs into what makes a batch,
which is done only for the samples of a share. Now and then the digests of what was read are
compared, so a source that differs between readers is found.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from trainer.engine.data import ENDLESS, Order, is_endless
from trainer.engine.permutation import permutation
from trainer.loaders.mark import OTHER_SAMPLES, STEADY, Mark, differ, fingerprint, passed_by
from trainer.rundir.usererror import Unusable, UserError

LOOK = 8  # samples that a mark is known by: one alone could be the same by chance

log = logging.getLogger("swell.data")


class Unsteady(UserError, RuntimeError):
    """A source has given another sample than it gave before, or to others."""


class Stream:
    """The samples of a source, by their places.

    Args:
        source: an iterable that can be read again and again, or a function that returns one; a
            torch ``IterableDataset``, or a Hugging Face one. For loaders it must be picklable. If
            it has ``set_epoch``, that is called with the number of each pass, from 0. If it, or its
            iterator, has ``state_dict`` and ``load_state_dict``, a reader goes to a place without
            reading what comes before it.
        shuffle: samples that are shuffled together, a block of so many after another; 0 for none.
            They are held in memory. Unlike a shuffle buffer, it is exact: each sample of a block
            comes once, wherever training is resumed.
        seed: fixes how they are shuffled.

    Attributes:
        every: places between two marks; whoever trains sets it to the batch.

    Raises Unusable for what can be read only once.
    """

    samples_identity = "as they are read"  # which is compared by marks

    def __init__(
        self,
        source: Iterable[Any] | Callable[[], Iterable[Any]],
        shuffle: int = 0,
        seed: int = 0,
    ) -> None:
        once = isinstance(source, Iterator) and not hasattr(source, "load_state_dict")
        if once or not (callable(source) or isinstance(source, Iterable)):
            raise Unusable(
                "SW5186",
                f"a stream of a {type(source).__name__} can be read only once, or not at all; give "
                "it what makes an iterator: a function (Stream(read), not Stream(read())), or an "
                "object with __iter__",
            )
        if shuffle < 0:
            raise Unusable("SW5186", f"shuffle={shuffle}: write how many samples, or 0 for none")
        self.every = 1
        self._source = source
        self._shuffle = shuffle
        self._seed = seed
        self._oldest = 0
        self._iterator: Iterator[Any] | None = None
        self._from: Any = None  # what the iterator is of
        self._next = 0  # the place of what it gives next
        self._passes = 0
        self._inside = 0  # samples that it has given
        # The digest of all before its next, and of those before its pass; None if not known.
        self._passed: int | None = 0
        self._begun: int | None = 0
        self._kept: dict[int, Any] = {}
        self._marks: dict[int, Mark] = {}
        self._new: list[Mark] = []
        self._pending: Mark | None = None  # the newest, until it is known by LOOK samples
        self._seen: list[int] = []  # the fingerprints of those that came since
        self._stateless = False

    def __getstate__(self) -> dict[str, Any]:
        """Another process reads by itself, from the start."""
        fresh = Stream.__new__(Stream)
        Stream.__init__(fresh, self._source, self._shuffle, self._seed)
        return {**vars(fresh), "every": self.every}

    def __getitem__(self, place: int) -> Any:
        """The sample at a place, from 0. Raises what the source raises, and Unsteady."""
        place = self._shuffled(place)
        if place not in self._kept:
            self._go_near(place)
        while self._next <= place or self._pending is not None:
            self._read()
        return self._kept[place]

    def seek(self, mark: Mark | None, oldest: int) -> None:
        """Says from where it can be read on, and that nothing before ``oldest`` is wanted."""
        if self._shuffle:
            oldest -= oldest % self._shuffle
        self._oldest = oldest
        for place in [one for one in self._kept if one < oldest]:  # in the order of reading
            del self._kept[place]
        if mark is not None:
            self._note(mark)
        usable = [one for one in self._marks if one <= oldest]
        for place in sorted(usable)[:-1]:
            del self._marks[place]

    def marks(self) -> list[Mark]:
        """The marks that reading has come to since this was called."""
        found, self._new = self._new, []
        return found

    # --- reading ------------------------------------------------------------------------

    def _shuffled(self, place: int) -> int:
        if not self._shuffle:
            return place
        block, inside = divmod(place, self._shuffle)
        order = permutation(self._shuffle, f"{self._seed}/{block}")
        return block * self._shuffle + int(order.take(inside, inside + 1))

    def _go_near(self, place: int) -> None:
        """Goes to the mark before a place, if that is nearer than where it is, or behind it."""
        first = self._oldest if self._oldest <= place else 0
        before = max((one for one in self._marks if one <= first), default=None)
        mark = None if before is None else self._marks[before]
        passed_over = self._next > place
        if passed_over or (mark is not None and mark.reach > self._next):
            self._go_to(mark)

    def _go_to(self, mark: Mark | None) -> None:
        """Goes to a mark, or as far before it as it must."""
        self._kept.clear()
        self._pending = None
        if mark is None:
            self._begin(0)
            self._next, self._passed = 0, 0
        elif mark.state is None or self._stateless:
            self._begin(mark.passes)
            self._next, self._passed = mark.place - mark.inside, mark.begun
        else:
            self._begin(mark.passes, mark.state)
            self._next, self._inside = mark.place, mark.inside
            self._passed, self._begun = mark.passed, mark.begun
            try:
                while self._next == mark.place or self._pending is not None:
                    self._read()
            except Unsteady:  # as with the shuffle buffer of Hugging Face, which it fills anew
                self._do_without("does not lead to the same samples again")
                self._go_to(mark)

    def _begin(self, passes: int, state: Any = None) -> None:
        """Begins a pass, or goes on with it where the source was in that state."""
        self._passes, self._inside = passes, 0
        if isinstance(self._source, Iterable):
            # Whatever is loaded must not show when it is read anew, nor in what a copy shares.
            copied = copy.copy if state is None else copy.deepcopy
            source: Any = copied(self._source)
        else:
            source = self._source()
        if hasattr(source, "set_epoch"):
            source.set_epoch(passes)
        loads = hasattr(source, "load_state_dict")
        if state is not None and loads:
            source.load_state_dict(state)
        self._iterator = iter(source)
        self._from = source if loads else self._iterator
        if state is not None and not loads:
            self._from.load_state_dict(state)

    def _read(self) -> None:
        if self._iterator is None:
            self._begin(0)
        due = self._next % self.every == 0
        passes, inside, passed = self._passes, self._inside, self._passed
        state = self._state() if due and self._inside else None
        sample = self._pull()
        if self._inside == 0:
            self._begun = passed
        if due:
            if self._passes != passes:  # the one that begins is where the mark is
                passes, inside, state = self._passes, 0, None
            known = passed, self._begun
            self._pending, self._seen = Mark(self._next, passes, inside, 0, state, *known), []
        if self._passed is not None:
            self._passed = passed_by(self._passed, sample)
        if self._pending is not None:
            self._seen.append(fingerprint(sample))
            if len(self._seen) == min(LOOK, self.every):
                mark = replace(self._pending, digest=fingerprint(self._seen))
                self._pending = None
                self._note(mark)
                self._new.append(mark)
        if self._next >= self._oldest:
            self._kept[self._next] = sample
        self._next += 1
        self._inside += 1

    def _pull(self) -> Any:
        assert self._iterator is not None
        for sample in self._iterator:
            return sample
        if not self._inside:
            raise Unusable(
                "SW5186",
                f"the data set has given {self._next} samples, and none when it was read again: it "
                "is empty, or can be read only once; give Stream what makes an iterator each time",
            )
        self._begin(self._passes + 1)
        for sample in self._iterator:
            return sample
        return self._pull()

    def _state(self) -> Any:
        """The source's state; None where it has none that can be kept."""
        if (
            self._stateless
            or not hasattr(self._from, "state_dict")
            or not hasattr(self._from, "load_state_dict")
        ):
            return None
        try:
            return json.loads(json.dumps(self._from.state_dict()))
        except (TypeError, ValueError) as error:
            self._do_without(f"has what is no plain value ({error})")
            return None

    def _do_without(self, why: str) -> None:
        if not self._stateless:
            self._stateless = True
            log.warning(
                "the state_dict() of the data set %s, so it is not used: to go on in its middle, "
                "its pass is read again from the start",
                why,
            )

    def _note(self, mark: Mark) -> None:
        known = self._marks.get(mark.place)
        if known is not None and differ(known.seen, mark.seen):
            raise unsteady(mark.place, at=known.digest != mark.digest)
        self._marks[mark.place] = mark if known is None else known.with_more(mark)


def unsteady(place: int, at: bool = True) -> Unsteady:
    """The error of a sample that is another one when it is read again, at a place or before it."""
    what = "the data set gives other samples when it is read again"
    where = f"{'at' if at else 'somewhere before'} sample {place}"
    return Unsteady(OTHER_SAMPLES, f"{where}, {what}; {STEADY}")


def by_place(data: Any) -> Any:
    """What a program has given as data, as samples by their places: a Stream, if it is iterable.

    Raises Unusable for what is neither map-style nor can be read again.
    """
    if isinstance(data, DataLoader):
        raise Unusable(
            "SW5186",
            "a DataLoader is no data set: it makes batches by itself, in an order of its own; give "
            "its dataset, and set global_batch and workers instead",
        )
    indexed = hasattr(type(data), "__getitem__") and not isinstance(data, IterableDataset)
    return data if indexed else Stream(data)


def mark_every(data: Any, batch: int) -> None:
    """Has data without a length note where each batch begins."""
    if hasattr(data, "seek") and hasattr(data, "every"):
        data.every = batch


def require_length(data: Any) -> None:
    """Raises Unusable for data without a length that is to be evaluated; None is none."""
    if data is not None and is_endless(data):
        raise Unusable(
            "SW5191",
            "validation() has no length, and an evaluation is of all of it: give what is to be "
            "evaluated a length, as list(itertools.islice(source, 1000)) has one",
        )


def require_own(order: Order, data: Any) -> None:
    """Raises Unusable for batches of more or fewer samples than the data that they take."""
    if not is_endless(data) and not isinstance(data, Sized):
        return
    samples = ENDLESS if is_endless(data) else len(data)
    if order.samples != samples:
        told = ["no length" if one == ENDLESS else str(one) for one in (order.samples, samples)]
        raise Unusable(
            "SW5211",
            f"batches() is of {told[0]}, and the samples of data= are {told[1]}: give both the "
            "same data set; a torch.utils.data.Subset is a part of one",
        )


def require_steps(order: Order, steps: int | None) -> None:
    """Raises Unusable for a run over data without a length that does not say how long it is."""
    if order.endless and steps is None:
        raise Unusable(
            "SW5187",
            "the data set has no length, so there are no epochs to count: write how many steps are "
            "to be taken (steps = 10_000 in a task, elastic.steps(…, total=10_000))",
        )
