"""Sees a run through its attempts: a thin loop that carries out what ``policy`` decides.

All it knows is in the run directory, so it can be stopped at any moment, by SIGKILL too, and
another one goes on from there, on any machine. That leads neither to two CustomJobs nor to none:

- An attempt's record is created exclusively before its request is sent, and only who created it
  sends it. Of two supervisors that would submit at the same time, one watches the other's. It had
  read all records before that number, so there are never more CustomJobs than are wanted.
- A record without a CustomJob may have been sent or not. The job is looked for by its labels; if
  it is not there after the target's ``settle``, in which its sender would have given up and Vertex
  AI would show it, the attempt counts as never sent, and the next number is submitted.
- What a fleet is asked to be is read before every decision, and each version of it is created by
  one (trainer.rundir.wanted). So nobody replaces an attempt twice.
- What the run directory does not take now (it does not answer, or its disk is full) waits, for as
  long as that is so: the run itself goes on meanwhile.
- Every attempt has a token of its own, and run.json the hash of the newest: should a CustomJob that
  was given up appear after all, its agents are not let into the run, and end.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from launcher.api.apierror import ApiError
from launcher.api.retry import USUAL
from launcher.api.vertex import JobState
from launcher.job.customjob import CustomJob
from launcher.supervision.asked import Asked
from launcher.supervision.attempt import UNSENT, Attempt, read_attempts
from launcher.supervision.choices import DRY, Choice
from launcher.supervision.dates import Dates
from launcher.supervision.duty import Duty
from launcher.supervision.ending import end_run
from launcher.supervision.fleet import alive
from launcher.supervision.policy import (
    Action,
    Cancel,
    Done,
    End,
    Find,
    GoBack,
    Leave,
    Renew,
    Retire,
    Situation,
    Stop,
    Submit,
    Wait,
    decide,
)
from launcher.supervision.removal import Removal
from launcher.supervision.replacement import Inside
from launcher.supervision.silence import Silence
from launcher.supervision.verdict import verdict_of
from launcher.target import Target
from trainer.rundir import clock
from trainer.rundir.attempts import LOST, REFUSED, REPLACED, record_name
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, EventWriter
from trainer.rundir.names import RUN
from trainer.rundir.retry import may_pass
from trainer.rundir.usererror import shown

# Seconds for which a failed CustomJob may not say why; Vertex AI takes one minute.
ERROR_WAIT = 120.0
HOLD = 1.0  # seconds between two looks at a run directory that takes nothing


class Supervisor:
    """Carries out what ``decide`` says, until the run is done.

    Args:
        run_dir: the run; run.json is there already.
        asked: its terms.
        target: where its CustomJobs go.
        request: makes the CustomJob of an attempt from its number and choice; called when nobody
            else can submit that number any more.
        steps: returns how many steps the run has completed, and how many of them with a worker of
            the attempt of this number; None where that is not known.
        unreached: returns what keeps attempts out of the world, in words; see Situation.
        last_words: returns what the replicas of a failed attempt have said last, from its number,
            its CustomJob and why it failed.
        world: returns who trains, as far as the run's events tell; see Situation.
        duty: says before every decision whether this one may act; see Duty.
        listener: called with each event that this writes; see EventWriter.
        clock: returns Unix seconds; see trainer.rundir.clock.
        ticks: returns seconds that pass alike, whoever sets the clock of this machine; those in
            which it slept do not count.
        sleep: waits for so many seconds, or less.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        asked: Asked,
        target: Target,
        request: Callable[[int, Choice], CustomJob],
        *,
        steps: Callable[[int], tuple[int, int | None]] = lambda attempt: (0, None),
        unreached: Callable[[], Mapping[int, str]] = dict,
        last_words: Callable[[int, str, str], str] = lambda attempt, job, reason: "",
        world: Callable[[], Inside] = Inside,
        duty: Duty | None = None,
        listener: Callable[[Event], object] = lambda event: None,
        clock: Callable[[], float] = clock.now,
        ticks: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._run_dir = run_dir
        self._asked = asked
        self._target = target
        self._request, self._steps = request, steps
        self._unreached, self._world, self._last_words = unreached, world, last_words
        self._ticks, self._sleep = ticks, sleep
        self._dates = Dates(clock, ticks)
        self._duty = duty or Duty()
        self._patience = target.patience
        # No other writer of the run may have the name: an earlier launch, or one elsewhere.
        writer = f"launcher-{secrets.token_hex(4)}"
        self._events = EventWriter(run_dir, writer, clock, listener)
        self._attempts: dict[int, Attempt] = {}
        self._cancel_sent: set[int] = set()
        self._silences: dict[int, Silence] = {}  # by attempt
        self._unwritten: set[int] = set()  # attempts whose records lag behind
        self._held = ""  # why the run directory is waited for
        self._refusals: dict[int, ApiError] = {}  # of requests that may have arrived all the same
        self._waits: Wait | None = None
        self._removal = Removal(run_dir.url)

    def lose_patience(self) -> None:
        """From now on an attempt is lost as soon as the API gives no answer. For other threads."""
        self._patience = 0.0
        for silence in [*self._silences.values()]:
            silence.patience = 0.0

    def told(self) -> list[str]:
        """Lines about what the run waits for in vain, for whoever watches. For other threads."""
        asked, attempts = [*self._silences.items()], self._attempts
        waiting = [it for number, it in asked if not attempts[number].over]
        told = [line for silence in waiting for line in silence.told()]
        return [self._removal.told, *told] if self._removal.told else told

    def run(self) -> dict[str, Any]:
        """Sees the run through. Returns outcome.json as it counts.

        Raises ApiError when the API does not let it look at a CustomJob (``swell attach`` goes on
        from there), OSError when the run directory is gone, Relieved when another takes over.
        """
        known = False
        while True:
            try:
                if not known:
                    self._read_attempts()
                    known = True
                outcome = self._turn()
            except OSError as error:
                if not may_pass(error):
                    raise
                for silence in self._silences.values():
                    silence.answered()
                self._hold(error)
                continue
            self._held = ""
            if outcome is not None:
                return outcome

    def _turn(self) -> dict[str, Any] | None:
        """Decides once, and carries that out. Returns the outcome when there is no more to do."""
        for number in [*self._unwritten]:
            with suppress(OSError):
                self._record(self._attempts[number])
        outcome = self._run_dir.outcome()
        if outcome is None and self._removal.look(self._run_dir.store.exists(RUN), self._ticks()):
            end_run(self._run_dir, self._events, "failed", self._removal.reason)
            return None
        if wait := self._duty.turn(outcome is not None):
            self._sleep(wait)
            self._read_attempts()  # somebody else acts meanwhile
            return None
        stop = self._run_dir.stop_asked() if outcome is None and self._attempts else None
        if outcome is None:
            self._asked.read()
        terms = self._asked.terms
        situation = Situation(
            tuple(self._attempts.values()),
            outcome,
            frozenset(self._cancel_sent),
            0.0 if outcome is None else self._dates.since("outcome"),
            None if stop is None else str(stop.get("reason")),
            0.0 if stop is None else self._dates.since("stop"),
            {
                number: (why, self._dates.since(f"attempt {number} is unreached"))
                for number, why in self._unreached().items()
            },
            self._inside(terms.fleet.leave) if terms.fleet.since is not None else Inside(),
            self._duty.usd(self._dates.now()),
        )
        actions = decide(terms, situation, self._dates.now())
        if Done() in actions and self._duty.is_done:
            known = len(self._attempts)
            self._read_attempts()
            if len(self._attempts) > known:  # somebody else has sent one meanwhile
                return None
            assert outcome is not None
            with suppress(OSError):  # how the run ended is on record
                self._events.flush()
            return outcome
        if not any([self._carry_out(action) for action in actions]):
            self._rest(actions)
        return None

    def _hold(self, error: OSError) -> None:
        """Waits for a run directory that takes nothing now."""
        if self._held != str(error):
            self._held = str(error)
            self._events.emit("store_unavailable", reason=self._held)
        self._sleep(max(self._target.poll, HOLD))

    def _carry_out(self, action: Action) -> bool:
        """Returns whether that has changed anything, so that it is time to decide again."""
        match action:
            case Submit(number):
                # Where somebody else has sent one, it was decided without knowing of that.
                return number - 1 != max(self._attempts, default=0) or self._submit(action)
            case Find(number):
                return self._find(number)
            case Leave(number, reason, kind):
                left = replace(self._attempts[number], left=reason)
                self._record(replace(left, kind=kind or left.kind))
                if kind == REPLACED:
                    self._events.emit("attempt_replaced", attempt=number, reason=reason)
                else:
                    self._events.emit("attempt_left", attempt=number, reason=reason)
            case Renew() | GoBack() | Retire():
                live = frozenset(it.attempt for it in alive([*self._attempts.values()]))
                return self._asked.add(action.asks, live)
            case Cancel(number):
                return self._cancel(number)
            case Stop(reason):
                self._run_dir.ask_to_stop("limited", reason)
                self._events.emit("stop_asked", reason=reason)
            case End(state, reason):
                end_run(self._run_dir, self._events, state, reason)
            case _:
                return False
        self._events.flush()
        return True

    def _inside(self, leave: frozenset[int]) -> Inside:
        leaving = {number: self._dates.since(f"attempt {number} leaves") for number in leave}
        return replace(self._world(), leaving=leaving)

    def _rest(self, actions: Sequence[Action]) -> None:
        """Waits until there may be something new, and looks at what is alive."""
        seconds = self._target.poll
        for action in actions:
            match action:
                case Wait():
                    seconds = min(seconds, self._wait(action))
                case Find(number):
                    waited = self._dates.since(f"attempt {number}")
                    seconds = min(seconds, max(0.0, self._target.settle - waited))
        self._sleep(seconds)
        if any(isinstance(action, Find) for action in actions):
            self._read_attempts()  # its sender may live, and know by now
        for number in [it.attempt for it in alive([*self._attempts.values()]) if it.job]:
            self._look(number)

    # --- submitting -------------------------------------------------------------------

    def _submit(self, submit: Submit) -> bool:
        number, choice = submit.attempt, submit.choice
        api = self._target.api(choice.region)
        attempt = Attempt(
            number,
            choice.region,
            api.endpoint,
            choice.name,
            created=self._dates.now(),
            usd_per_hour=choice.usd_per_hour,
            beside=submit.beside,
        )
        # On record before it is sent: after a crash in between, the label finds the job.
        if not self._run_dir.create_json(record_name(number), attempt.to_json()):
            self._read_attempts()  # somebody else submits it
            return True
        self._attempts[number] = attempt
        self._waits = None
        limit = self._patience or USUAL.limit
        silence = self._asking(number, f"{api.endpoint} has not taken attempt {number}", limit)
        try:
            job = api.submit(self._request(number, choice))
        except ApiError as error:
            if error.transient:
                silence.failed(shown(error))
            else:
                self._ended(number, REFUSED, shown(error), error.code, error.kind)
            self._refusals[number] = error
            return True
        silence.answered()
        record = Attempt.from_json(self._run_dir.read_json(record_name(number)))
        if record.over:  # this took so long that somebody else has given it up
            with suppress(ApiError):  # it may have ended; and the run does not let it in
                api.cancel(job.name)
            self._read_attempts()
        else:
            self._adopt(number, job, self._dates.now())
        return True

    def _find(self, number: int) -> bool:
        """Finds out whether an attempt that is on record was sent. Returns whether it knows."""
        attempt = self._attempts[number]
        waited = self._dates.since(f"attempt {number}")
        api = self._target.api(attempt.region)
        wanted = f"{api.endpoint} has not told whether it has attempt {number}"
        silence = self._asking(number, wanted)
        try:
            jobs = api.find(self._asked.terms.run_id, number)
        except ApiError as error:
            if not error.transient:
                raise
            return self._give_up_silence(number, error)
        silence.answered()
        if jobs:
            now = self._dates.now()
            self._adopt(number, jobs[0], min(jobs[0].created or now, now))
        elif waited < self._target.settle:
            return False
        elif why := self._refusals.get(number):
            self._ended(number, REFUSED, str(why), why.code, why.kind)
        else:
            self._ended(number, REFUSED, "it was never sent: its launch had ended", kind=UNSENT)
        return True

    def _adopt(self, number: int, job: JobState, submitted: float) -> None:
        attempt = replace(self._attempts[number], job=job.name, submitted=submitted)
        told = {"job": job.name, "region": attempt.region, "choice": attempt.choice or None}
        told |= self._asked.terms.asked_for(attempt.choice)
        self._events.emit("attempt_started", attempt=number, beside=attempt.beside or None, **told)
        self._record(self._with_state(attempt, job))
        home = min(self._attempts.values(), key=lambda it: it.attempt).region
        buckets = self._asked.terms.choices[0].job.checkpoint.buckets
        away = attempt.region != home and attempt.region not in buckets
        if away and not self._run_dir.store.is_local:
            self._events.emit("moved", attempt=number, region=attempt.region, home=home)
        self._events.flush()

    def _wait(self, wait: Wait) -> float:
        """Says once what is waited for. Returns for how many seconds yet."""
        seconds = max(0.0, wait.until - self._dates.now())
        if self._waits is None or self._waits != wait:
            self._waits = wait
            self._events.emit(
                "attempt_due",
                attempt=max(self._attempts, default=0) + 1,
                choice=wait.choice.name,
                seconds=round(seconds, 1),
            )
            self._events.flush()
        return seconds

    # --- watching ---------------------------------------------------------------------

    def _look(self, number: int) -> None:
        attempt = self._attempts[number]
        assert attempt.job
        api = self._target.api(attempt.region)
        silence = self._asking(number, f"{api.endpoint} has not told how attempt {number} goes")
        try:
            job = api.get(attempt.job)
        except ApiError as error:
            if error.code == 404:
                self._ended(number, LOST, shown(error), error.code, error.kind)
            elif error.transient:
                self._give_up_silence(number, error)
            else:
                raise
            return
        silence.answered()
        if job.ended and not self._explains_itself_later(job):
            self._attempts[number] = self._with_state(attempt, job)
            finished, reason = self._dates.of(job, attempt.submitted, job.finished), job.reason
            if job.state == "CANCELLED" and number in self._cancel_sent:  # by nobody else
                reason = f"cancelled by its launch: {attempt.left or 'the run has ended'}"
            self._ended(number, job.state, reason, job.code, at=finished)
        elif job.state != attempt.state or (job.started and attempt.started is None):
            self._record(self._with_state(attempt, job))

    def _with_state(self, attempt: Attempt, job: JobState) -> Attempt:
        started = self._dates.start_of(job, attempt.submitted, attempt.started)
        state = attempt.state if job.ended else job.state  # its end is recorded by itself
        endpoint = self._target.api(attempt.region).endpoint
        return replace(attempt, state=state, started=started, endpoint=endpoint)

    def _explains_itself_later(self, job: JobState) -> bool:
        if job.state != "FAILED" or job.reason or job.code:
            return False
        return self._dates.since(f"the failure of {job.name}") < ERROR_WAIT

    def _asking(self, number: int, wanted: str, limit: float | None = None) -> Silence:
        silence = self._silences.get(number)
        if silence is None:
            silence = self._silences[number] = Silence(self._patience, self._ticks)
        silence.ask(wanted, limit)
        return silence

    def _give_up_silence(self, number: int, error: ApiError) -> bool:
        """Returns whether the attempt counts as lost."""
        lost = self._silences[number].failed(shown(error))
        if lost:
            self._ended(number, LOST, shown(error), error.code, error.kind)
        return lost

    def _cancel(self, number: int) -> bool:
        """Returns whether it was asked to end."""
        attempt = self._attempts[number]
        assert attempt.job
        api = self._target.api(attempt.region)
        silence = self._asking(number, f"{api.endpoint} has not cancelled attempt {number}")
        try:
            api.cancel(attempt.job)
        except ApiError as error:
            # A job that has ended meanwhile cannot be cancelled: looking again tells.
            if not error.transient:
                self._cancel_sent.add(number)
            return False
        silence.answered()
        self._cancel_sent.add(number)
        return True

    # --- records ----------------------------------------------------------------------

    def _ended(
        self, number: int, state: str, reason: str, code: int = 0, kind: str = "", at: float = 0.0
    ) -> None:
        with suppress(OSError, ValueError):
            seen = Attempt.from_json(self._run_dir.read_json(record_name(number)))
            if seen.over:  # somebody else who looks after the run has seen it, and said so
                self._attempts[number] = seen
                return
        (step, trained), known, told = self._steps(number), self._attempts[number], ""
        if state == "FAILED":
            with suppress(OSError, ValueError):
                told = self._last_words(number, known.job or "", reason)
        attempt = replace(
            known,
            state=state,
            reason=reason,
            told=told,
            code=code,
            kind=kind or known.kind,
            ended=at or self._dates.now(),
            step=step,
            trained=trained,
        )
        verdict, why = verdict_of(attempt), reason or None
        if verdict in DRY:
            where = {"region": attempt.region, "beside": attempt.beside or None}
            self._events.emit("stockout", attempt=number, **where, reason=why)
        self._events.emit("attempt_ended", attempt=number, state=state, verdict=verdict, reason=why)
        self._record(attempt)
        self._events.flush()

    def _record(self, attempt: Attempt) -> None:
        self._attempts[attempt.attempt] = attempt
        self._unwritten.add(attempt.attempt)
        self._run_dir.write_json(record_name(attempt.attempt), attempt.to_json())
        self._unwritten.discard(attempt.attempt)

    def _read_attempts(self) -> None:
        records = [Attempt.from_json(record) for record in read_attempts(self._run_dir)]
        # Of a directory that is away, or was removed, it keeps what is still to be cancelled.
        self._attempts |= {attempt.attempt: attempt for attempt in records}
        for it in records:
            self._dates.read(it.created, it.submitted, it.started, it.ended)
