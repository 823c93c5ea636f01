"""The steps of a run, one after another, in whatever worlds there are.

What the user's ``for`` loop sees as an iterator of steps is, underneath::

    enter a generation ─► step ─► step ─► … ─► all steps done: rank 0 goes on after the loop,
       ▲                   │ paused, or a worker was lost       the others wait until it ended
       └──── leave ◄───────┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from horovod.common.exceptions import HorovodInternalError

from trainer.engine.agreement import Loop
from trainer.engine.audit import Audit
from trainer.engine.beginning import Beginning
from trainer.engine.data import Order
from trainer.engine.device import warm_up
from trainer.engine.exchange import exchange
from trainer.engine.generations import Generations
from trainer.engine.generators import UPDATE, seed_step
from trainer.engine.learner import Learner
from trainer.engine.micro_batch import MicroBatch
from trainer.engine.nonfinite import Nonfinite, Policy
from trainer.engine.optimizer_hooks import OptimizerHooks
from trainer.engine.own_groups import losses
from trainer.engine.plan import Plan
from trainer.engine.planner import Planner
from trainer.engine.profiling import Profiling
from trainer.engine.progress import Progress
from trainer.engine.results import Results
from trainer.engine.saving import Saving
from trainer.engine.setup import Setup
from trainer.engine.state import State
from trainer.engine.step import Step
from trainer.engine.sums import Slice, Summed, Sums
from trainer.engine.supply import Supply
from trainer.engine.timing import Stopwatch
from trainer.engine.wires import join_unfused
from trainer.protocol.channel import AgentChannel, Channel
from trainer.protocol.session import Session


class Steps:
    """An iterator of steps; it ends when ``total`` steps are done, or the worker's life is over.

    Args:
        state: what survives.
        order: which samples each step takes; None for a loop without a data set.
        total: steps of the whole run.
        channel: where worlds come from.
        session: the worker's surroundings.
        metrics: names of the numbers that each step sums over the ranks.
        seed: seeds all random generators anew for each unit, or rank, and step; None leaves them
            alone.
        on_nonfinite: what becomes of a step whose loss or gradients are not finite.
        watch: whether to compute by units only from the step on that shows that it matters.
        between: called where all ranks hold the same state, before a checkpoint of it and before
            the next step: on all ranks, and again in the next world if one of them was lost.
        supply: gives steps their batches; None for a program that makes them itself.

    Attributes:
        complete: whether all steps are done and this worker, rank 0, is the one to go on.
    """

    def __init__(
        self,
        state: State,
        order: Order | None,
        total: int,
        channel: Channel,
        session: Session,
        metrics: tuple[str, ...],
        seed: int | None,
        on_nonfinite: Policy = "stop",
        watch: bool = False,
        between: Callable[[], None] = lambda: None,
        supply: Supply | None = None,
    ) -> None:
        self.complete = False
        self._state = state
        self._order = order
        self._total = total
        self._session = session
        self._metrics = metrics
        self._seed = seed
        self._between = between
        self._supply = supply or Supply()
        self._generations = Generations(channel)
        self._audit = None if order is None else Audit.open(session, self._generations.emit)
        self._saving = Saving(session, self._generations, state, self._about, self._digest)
        seconds = lambda: self._saving.seconds  # noqa: E731
        self._progress = Progress(self._generations, state, seconds, total_steps=total)
        emit, saving = self._generations.emit, self._saving
        self._profiling = Profiling(channel, session.run_dir, emit)
        self._nonfinite = Nonfinite(on_nonfinite, state, emit, saving.newest_until, saving.go_back)
        state.loop = Loop.of(order, total)
        self._learner = Learner(state, order, watch, self.exchange, emit)
        by_units, follow = lambda: self._learner.by_units, session.balance == "speed"
        self._planner = Planner(state, order, total, self._generations, by_units, follow)
        self._micro = MicroBatch(state)
        self._made_sums: Sums | None = None
        self._beginning: Beginning | None = None
        self._hooks: OptimizerHooks | None = None
        self._step: Step | None = None
        self._reported = Results()
        self._lost_after = ""  # why what followed the block of the newest step was broken off
        self._stopping = False  # as this worker's program says
        self._ready = False

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> Step:
        if not self._ready:
            self._get_ready()
        while True:
            if self._generations.inside:
                self._settle()
                self._step = None
            if not self._generations.inside and not self._enter():
                self._saving.close()
                self._supply.close()
                self._profiling.finish()
                if (why := self._generations.failed) and not self.under_agent:
                    # The one world of a process alone has failed: nobody forms another.
                    raise RuntimeError(f"training cannot go on: {why}")
                raise StopIteration
            try:
                self._learner.learn()
                self._expect()
                self._between()
                if self._state.step >= self._total or self._state.stopped:
                    self._finish()
                    if self.complete:
                        self._let_go()
                        raise StopIteration
                    continue
                self._generations.check_aborted()
                self._planner.exchange_speeds()
                if self._stopping:
                    plan = self._planner.plan()
                    none = Slice(plan.number, 0, plan.samples, plan.batch_size, plan.units)
                    with self._generations.channel.collective():
                        self._sums.end(none)
                    self._state.stopped = True
                    continue
            except HorovodInternalError as error:
                self._generations.leave(self._state, str(error))
                continue
            self._step = self._taken_step() if self._state.again else self._next_step()
            return self._step

    def report(self, metrics: dict[str, float]) -> None:
        """Takes results, such as an evaluation's; the newest are the run's final metrics.

        All that is reported of one state counts together: a checkpoint of it, and no other, has it.
        """
        state, step = self._state, self._step
        # In the block, after the update, it is the state of the step that is not counted yet.
        evaluated = state.step + (step is not None and step.running and not state.clean)
        self._reported.add(metrics, evaluated)
        between = step is not None and not step.running
        took = round(self.stopwatch.took("evaluation"), 4) if between else None
        if metrics and self._generations.rank == 0:
            self._generations.emit("evaluated", step=evaluated, metrics=metrics, seconds=took)
        if step is None or not (step.running or step.applied or step.left_out):
            self._saving.evaluated(self._own_results)  # its time to be saved has passed

    def check_aborted(self) -> None:
        """Raises HorovodInternalError when this world is no more: nobody waits for what it does."""
        self._generations.check_aborted()

    def exchange(self, value: Any, name: str) -> list[Any]:
        """What each rank has given, between two steps; see trainer.engine.exchange."""
        with self._generations.channel.collective():
            return exchange(value, self._generations.size, name)

    def stop(self) -> None:
        """No further step: training is complete, on all workers once one of them says so.

        It travels with the next step's gradients, which are nobody's then.
        """
        self._stopping = True

    @contextmanager
    def together(self) -> Iterator[None]:
        """What all ranks do together between two steps; see ``trainer.elastic.together``."""
        try:
            self._generations.check_aborted()
            with self.stopwatch.timing("evaluation"), losses():
                yield
        except HorovodInternalError as error:
            if self.complete or self._step is None or not self._step.applied:
                raise
            self._lost_after = str(error) or "a collective failed"

    def repeatable(self) -> AbstractContextManager[None]:
        """What is changed in it is put back when a worker is lost: then it comes again."""
        return self._sums.repeatable()

    def done(self) -> None:
        """Says that the run is complete, and waits for the order to exit."""
        self._send_done()
        while self._enter():
            try:
                self._finish()
            except HorovodInternalError as error:
                self._generations.leave(self._state, str(error))
                continue
            if self._generations.rank == 0:
                self._send_done()

    def abandon(self) -> None:
        """To be called when the loop's body raised: leaves the world, and says how far it is."""
        self._let_go()
        self._generations.abandon()
        self._progress.send()

    @property
    def under_agent(self) -> bool:
        """Whether this is a worker of a run, and not a process alone."""
        return isinstance(self._generations.channel, AgentChannel)

    @property
    def examines(self) -> bool:
        """Whether everything is looked at in the running step."""
        return self._sums.replicas.examine

    @property
    def results(self) -> dict[str, float]:
        """What was reported at last."""
        return self._reported.newest

    @property
    def stopwatch(self) -> Stopwatch:
        """Of this worker's time; once it is in a world."""
        return self._sums.times.own

    # --- worlds -----------------------------------------------------------------------

    def _get_ready(self) -> None:
        """Everything that can be done before a world needs this worker."""
        if not (self._session.spare and torch.cuda.is_available()):
            self._state.prepare()
        if not self._session.spare:
            self._supply.start()
        warm_up()
        self._supply.wait()
        self._state.loop = self._state.loop.over(self._supply.likeness())
        self._generations.ready()
        self._ready = True

    def _enter(self) -> bool:
        self._profiling.stop()
        if not self._generations.enter(self._state, self._saving.save_left, self._init):
            return False
        agreed = self._generations.agreed
        self._sums.enter(self._generations.rank, self._generations.size, agreed.mixed)
        self._expect()
        self._learner.enter(agreed)
        self._planner.enter(agreed)
        self._micro.enter(agreed)
        self._state.again = agreed.again
        self._progress.enter()
        self._saving.enter()
        return True

    def _init(self) -> None:
        """``hvd.init()``, and before the first one what can only be made on the device."""
        if self._made_sums is None:
            settings, emit = self._session.checkpoint, self._generations.emit
            program = self._state, self._order, self._total, self._seed
            made = Setup.of_program(*program, self._state.loop.likeness)
            wanted = made.overridden(settings.override), self._total, settings, self._saving
            self._beginning = Beginning(self._state, *wanted, emit)
            self._state.starts_from(self._beginning.start, self._beginning.begun)
            seen = self._supply.marks.seen
            self._made_sums = Sums(self._state, 0, self._generations.check_aborted, emit, seen)
            self._learner.look()
            self._hooks = OptimizerHooks(self._state, self._sums.trained, lambda: self._step)
        join_unfused()

    @property
    def _sums(self) -> Sums:
        assert self._made_sums is not None
        return self._made_sums

    def _settle(self) -> None:
        """What the step before comes to: another step, or another world."""
        step = self._step
        if step is None:
            return
        lost, self._lost_after = self._lost_after, ""
        self._state.again = bool(lost)
        if lost or step.taken:
            if not step.taken:
                self._sums.applied(step.stepped, digest=False)
            if lost:
                self._sums.undo()
                self._generations.leave(self._state, lost)
            else:  # what follows it may have been an evaluation
                self._saving.evaluated(self._own_results, self._is_last)
        elif step.again:
            self._take_smaller_parts(step)
        elif step.learning:
            self._take_back()
            self._learner.found(step.learned)
            if self._state.torn:
                why = f"{self._state.torn} cannot be put back"
                self._generations.leave(self._state, why, step.cause)
        elif step.failed:
            self._sums.undo()
            self._generations.leave(self._state, step.failed, step.cause)
        elif step.stopped:
            self._sums.undo()
            self._state.stopped = True
        elif not (step.applied or step.left_out):
            raise RuntimeError(
                f"step {step.number} was not taken: write the loop's body as `with step: …`, and "
                "let errors of the block end the run"
            )
        elif lost := self._settled(step):
            self._generations.leave(self._state, lost)
        elif step.pause:
            self._progress.send()
            self._generations.leave(self._state)

    def _take_smaller_parts(self, step: Step) -> None:
        """Memory has run out: the same step again, on all ranks with parts of the same size."""
        generations, state = self._generations, self._state
        self._take_back()
        if step.device.type == "cuda":
            torch.cuda.empty_cache()
        told = {"step": state.step, "rank": step.rank, "samples": state.cap}
        generations.emit("micro_batch_halved", **told, reason=step.failed)
        if generations.size > 1 or state.torn:
            generations.leave(state, step.failed, step.cause)

    def _take_back(self) -> None:
        """A step that nobody has applied comes again."""
        self._sums.undo()
        if self._audit is not None:
            self._audit.withdraw()

    def _finish(self) -> None:
        """All steps are done. Rank 0 goes on; the others stand by in case it is lost.

        Raises HorovodInternalError when one is lost before all have compared what they hold.
        """
        self._progress.send()
        self._profiling.stop()
        with self._generations.channel.collective():
            self._sums.compare_ends()
        self._nonfinite.require_finite(self._state.step)
        self._saving.good(self._state.step)
        self._saving.finish()
        if self._audit is not None:
            self._audit.flush()
        self.complete = self.complete or self._generations.rank == 0
        self._generations.finish()

    def _send_done(self) -> None:
        unsaved = [self._saving.unsaved(), "" if self._audit is None else self._audit.unsaved()]
        self._generations.done(self._state.step, self.results, "\n".join(filter(None, unsaved)))

    def _next_step(self) -> Step:
        plan = self._planner.plan()
        self._profiling.begins(plan.number, self._generations.number)
        if self._audit is not None:
            assert self._order is not None
            self._audit.take(self._generations.number, plan, self._order.length(self._state.step))
        self._generations.taking(self._state.step, plan.indices)
        watch = self._learner.begin(plan.number, plan.rank == 0)
        if watch is None:
            self._seed_for(UPDATE if self._learner.by_units else plan.rank)
        supplied = self._planner, self._micro, self._state.data_mark
        self._supply.begin(plan, watch is not None, *supplied)
        self._sums.grant()
        return Step(
            plan,
            self._sums,
            self._metrics,
            self._generations.channel,
            self._completed,
            lambda: self._saving.due(self._state.step + 1),
            self._judge,
            micro=self._micro,
            means=self._state.learned.means,
            seed=self._seed_for if self._learner.has_units else lambda part: None,
            watch=self._supply.watch(watch),
            supply=self._supply,
        )

    def _taken_step(self) -> Step:
        """The newest step again, for what follows its block."""
        self._sums.grant()
        return Step(
            self.newest(),
            self._sums,
            self._metrics,
            self._generations.channel,
            self._completed,
            micro=self._micro,
            taken=self._state.metrics,
        )

    def _seed_for(self, part: int) -> None:
        """Seeds for a part of the next step: a unit, a rank or the update."""
        if self._seed is not None:
            seed_step(self._seed, self._state.step, part)

    def _expect(self) -> None:
        """What a step sums: each number with how often it was added to; and means, as pairs."""
        self._sums.expect(2 * (len(self._metrics) + len(self._state.learned.means)))

    def newest(self) -> Plan:
        """What the newest step was about, for what follows it."""
        return self._planner.newest()

    def _judge(self, step: Step, summed: Summed) -> None:
        """Looks at what all ranks have summed, before anybody uses it."""
        ids_of = self._planner.ids_of
        self._nonfinite.judge(step.number, step.metrics, summed, ids_of, step.rank == 0)

    def _completed(self, step: Step) -> None:
        state = self._state
        state.step += 1
        state.left_out = state.left_out + 1 if step.left_out else 0
        if not step.left_out:
            state.last_finite = state.step
        elif self._audit is not None:
            self._audit.leave_out()
        if mark := self._supply.marks.before(state.step * step.batch_size):
            state.data_mark = mark.plain
        self._saving.good(state.last_finite - 1)
        state.clean = True
        if step.applied:
            self._sums.left()
        self._generations.step_completed()
        self._planner.measured(len(step.indices), step.computed, step.pause)
        state.metrics = dict(step.metrics)
        self._progress.completed(step.metrics, step.batch_size, step.data_wait, self._sums.times)

    def _settled(self, step: Step) -> str:
        """What follows a step that was taken, once the body is over, which may change the state.

        Returns why the world is lost, if it is.
        """
        self._state.require_portable()
        self._sums.applied(step.stepped, step.digest)
        try:
            if not step.pause:
                self._between()
            if step.save:
                with self._generations.channel.collective():
                    self._sums.align()
        except HorovodInternalError as error:
            return str(error) or "a collective failed"
        with self.stopwatch.timing("checkpoint"):
            saved = step.save and self._saving.save()
        self._saving.evaluated(self._own_results, saved or self._is_last)
        return ""

    @property
    def _is_last(self) -> bool:
        """Whether no step follows: what the state is then is saved anyway."""
        return self._state.step >= self._total or self._state.stopped or self._stopping

    def _digest(self) -> int:
        return 0 if self._made_sums is None else self._made_sums.digest()

    def _let_go(self) -> None:
        """The program's models and optimizers are its own again."""
        if self._made_sums is not None:
            self._made_sums.close()
        if self._hooks is not None:
            self._hooks.close()
        self._supply.close()
        self._profiling.finish()

    @property
    def _own_results(self) -> dict[str, float]:
        """What was reported of the state as it is."""
        return self._reported.of(self._state.step)

    def _about(self) -> dict[str, Any]:
        """What a checkpoint's manifest says of a loop's state."""
        about: dict[str, Any] = {
            **({} if self._beginning is None else self._beginning.setup.to_about()),
            "metrics": self._own_results,
        }
        if self._order is not None:
            about |= self._order.place(self._state.step) | {"order": self._state.order_version}
        return about
