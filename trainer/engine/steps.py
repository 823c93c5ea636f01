"""The steps of a run, one after another, in whatever worlds there are.

What the user's ``for`` loop sees as an iterator of steps is, underneath::

    enter a generation ─► step ─► step ─► … ─► all steps done: rank 0 goes on after the loop,
       ▲                   │ paused, or a worker was lost       the others wait until it ended
       └──── leave ◄───────┘
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from horovod.common.exceptions import HorovodInternalError
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from trainer.engine.agreement import Loop
from trainer.engine.audit import Audit
from trainer.engine.balance import Balance, Speed
from trainer.engine.beginning import Beginning
from trainer.engine.data import Order, share
from trainer.engine.device import warm_up
from trainer.engine.digest import Prefixes
from trainer.engine.generations import Generations
from trainer.engine.generators import seed_step
from trainer.engine.micro_batch import MicroBatch
from trainer.engine.nonfinite import LeftOut, Nonfinite, Policy, loss_scale, what_is_not_finite
from trainer.engine.progress import Progress
from trainer.engine.saving import Saving
from trainer.engine.setup import Setup
from trainer.engine.state import State
from trainer.engine.stay import horovod_init
from trainer.engine.step import Plan, Step
from trainer.engine.sums import Slice, Summed, Sums
from trainer.protocol.channel import AgentChannel, Channel
from trainer.protocol.messages import Taking
from trainer.protocol.session import Session

TOLD = 64  # sample ids


class Steps:
    """An iterator of steps; it ends when ``total`` steps are done, or the worker's life is over.

    Args:
        state: what survives.
        order: which samples each step takes; None for a loop without a data set.
        total: steps of the whole run.
        channel: where worlds come from.
        session: the worker's surroundings.
        metrics: names of the numbers that each step sums over the ranks.
        seed: seeds all random generators anew for each rank and step; None leaves them alone.
        on_nonfinite: what becomes of a step whose loss or gradients are not finite.

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
    ) -> None:
        self.complete = False
        self._state = state
        self._order = order
        self._total = total
        self._session = session
        self._metrics = metrics
        self._seed = seed
        self._generations = Generations(channel)
        self._audit = None if order is None else Audit.open(session, self._generations.emit)
        self._saving = Saving(session, self._generations, state, self._about, self._digest)
        self._progress = Progress(
            self._generations, state, lambda: self._saving.seconds, total_steps=total
        )
        self._nonfinite = Nonfinite(
            on_nonfinite,
            state,
            self._generations.emit,
            self._saving.newest_until,
            self._saving.go_back,
        )
        state.starts_from(self._start, self._begun)
        state.loop = Loop.of(order, total)
        self._micro = MicroBatch(state)
        self._sums: Sums | None = None
        self._beginning: Beginning | None = None
        self._hooks: list[Any] = []
        self._step: Step | None = None
        self._speed = Speed()
        self._balance = Balance([0.0], follow=False)
        self._tell_speed = False
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64, device="cpu")
        self._prefixes = Prefixes(self._permutation)
        self._results: dict[str, float] = {}
        self._lost_after = ""  # why what followed the block of the newest step was broken off
        self._stopping = False  # as this worker's program says
        self._evaluated = -1  # the step whose state they are of
        self._ready = False

    # --- the iterator -----------------------------------------------------------------

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> Step:
        if not self._ready:
            self._get_ready()
        while True:
            if self._generations.inside:
                self._settle()
            if not self._generations.inside and not self._enter():
                self._saving.close()
                if (why := self._generations.failed) and not self.under_agent:
                    # The one world of a process alone has failed: nobody forms another.
                    raise RuntimeError(f"training cannot go on: {why}")
                raise StopIteration
            try:
                if self._state.step >= self._total or self._state.stopped:
                    self._finish()
                    if self.complete:
                        self._let_go()
                        raise StopIteration
                    continue
                self._generations.check_aborted()
                self._exchange_speeds()
                if self._stopping:
                    plan = self._plan()
                    assert self._sums is not None
                    with self._generations.channel.collective():
                        self._sums.end(Slice(plan.number, 0, plan.samples, plan.batch_size))
                    self._state.stopped = True
                    continue
            except HorovodInternalError as error:
                self._generations.leave(self._state, str(error))
                continue
            self._step = self._taken_step() if self._state.again else self._next_step()
            return self._step

    def report(self, metrics: dict[str, float]) -> None:
        """Takes results, such as an evaluation's; the newest are the run's final metrics.

        They are of the state as it is: a checkpoint of it, and no other, has them.
        """
        state, step = self._state, self._step
        self._results = dict(metrics)
        # In the block, after the update, it is the state of the step that is not counted yet.
        self._evaluated = state.step + (step is not None and step.running and not state.clean)
        if metrics and self._generations.rank == 0:
            self._generations.emit("evaluated", step=self._evaluated, metrics=metrics)
        if step is None or not (step.running or step.applied or step.left_out):
            self._saving.evaluated(self._own_results)  # its time to be saved has passed

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
            yield
        except HorovodInternalError as error:
            if self.complete or self._step is None or not self._step.applied:
                raise
            self._lost_after = str(error) or "a collective failed"

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
    def results(self) -> dict[str, float]:
        """What was reported at last."""
        return self._results

    # --- worlds -----------------------------------------------------------------------

    def _get_ready(self) -> None:
        """Everything that can be done before a world needs this worker."""
        if not (self._session.spare and torch.cuda.is_available()):
            self._state.prepare()
        warm_up()
        self._generations.ready()
        self._ready = True

    def _enter(self) -> bool:
        if not self._generations.enter(self._state, self._saving.save_left, self._init):
            return False
        agreed = self._generations.agreed
        agreed.require_alike()
        assert self._sums is not None
        self._sums.enter(self._generations.rank, self._generations.size, agreed.mixed)
        speeds = [one.speed for one in agreed.holdings]
        self._micro.enter(agreed)
        self._state.again = agreed.again
        self._balance = Balance(speeds, follow=self._session.balance == "speed")
        self._tell_speed = False
        self._progress.enter()
        self._saving.enter()
        return True

    def _init(self) -> None:
        """``hvd.init()``, and before the first one what can only be made on the device."""
        if self._sums is None:
            override = self._session.checkpoint.override
            setup = Setup.of_program(self._state, self._order, self._total).overridden(override)
            emit = self._generations.emit
            self._beginning = Beginning(self._state, setup, self._total, override, emit)
            self._sums = Sums(
                self._state,
                2 * len(self._metrics),  # each with how often it was added to
                self._generations.check_aborted,
                self._generations.emit,
            )
            self._hooks = [
                register_optimizer_step_pre_hook(self._before_optimizer),
                register_optimizer_step_post_hook(self._after_optimizer),
            ]
        horovod_init()

    def _settle(self) -> None:
        """What the step before comes to: another step, or another world."""
        step, self._step = self._step, None
        if step is None:
            return
        lost, self._lost_after = self._lost_after, ""
        self._state.again = bool(lost)
        if lost or step.taken:
            if not step.taken:
                assert self._sums is not None
                self._sums.applied(step.stepped, digest=False)
            if lost:
                self._put_back()
                self._generations.leave(self._state, lost)
        elif step.again:
            self._take_smaller_parts(step)
        elif step.failed:
            self._put_back()
            self._generations.leave(self._state, step.failed)
        elif step.stopped:
            self._put_back()
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
        self._put_back()
        if step.device.type == "cuda":
            torch.cuda.empty_cache()
        generations.emit(
            "micro_batch_halved",
            step=state.step,
            rank=step.rank,
            samples=state.cap,
            reason=step.failed,
        )
        if generations.size > 1 or state.torn:
            generations.leave(state, step.failed)

    def _put_back(self) -> None:
        """What the program has done after a block as if its step had been taken."""
        assert self._sums is not None
        self._sums.undo()

    def _finish(self) -> None:
        """All steps are done. Rank 0 goes on; the others stand by in case it is lost.

        Raises HorovodInternalError when one is lost before all have compared what they hold.
        """
        assert self._sums is not None
        self._progress.send()
        with self._generations.channel.collective():
            self._sums.compare_ends()
        self._nonfinite.require_finite(self._state.step)
        self._saving.good(self._state.step)
        self._saving.finish()
        if self._audit is not None:
            self._audit.flush()
        if self._generations.rank == 0:
            self.complete = True
        self._generations.finish()

    def _start(self) -> tuple[Any, int] | None:
        """The tree that a world without any state begins with, and its step. A collective."""
        found = self._saving.start()
        if found is None:
            return None
        tree, step = found
        assert self._beginning is not None
        self._beginning.require_usable(tree)
        return {**tree, "avoided": [*tree.get("avoided", ()), *self._saving.avoided()]}, step

    def _send_done(self) -> None:
        unsaved = [self._saving.unsaved(), "" if self._audit is None else self._audit.unsaved()]
        said = "\n".join(filter(None, unsaved))
        self._generations.done(self._state.step, self._results, said)

    def _begun(self, tree: dict[str, Any]) -> None:
        assert self._beginning is not None
        self._beginning.begun(tree, self._generations.rank == 0)

    # --- steps ------------------------------------------------------------------------

    def _next_step(self) -> Step:
        assert self._sums is not None
        plan = self._plan()
        if self._audit is not None:
            assert self._order is not None
            self._audit.contribute(
                generation=self._generations.number,
                step=plan.number,
                epoch=plan.epoch,
                rank=plan.rank,
                ids=plan.indices.tolist(),
                dataset_size=self._order.samples,
            )
        if self._generations.careful:  # it may be the last that is heard of this worker
            first = plan.indices[:TOLD].tolist()
            self._generations.channel.send(Taking(self._state.step, first, len(plan.indices)))
        if self._seed is not None:
            seed_step(self._seed, self._state.step, plan.rank)
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
        )

    def _taken_step(self) -> Step:
        """The newest step again, for what follows its block."""
        assert self._sums is not None
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

    def newest(self) -> Plan:
        """What the newest step was about, for what follows it."""
        return dataclasses.replace(
            self._plan(max(0, self._state.step - 1)), number=self._state.step
        )

    def _plan(self, before: int | None = None) -> Plan:
        """Which samples this rank takes in the step after so many; without a number the next."""
        state, order = self._state, self._order
        before = state.step if before is None else before
        epoch, batch_size, ends_epoch = 0, 0, False
        indices, samples = torch.empty(0, dtype=torch.int64, device="cpu"), 0
        if order is not None:
            epoch = order.epoch_of(before)
            if epoch != self._epoch:
                self._permutation = order.permutation(epoch)
                self._prefixes = Prefixes(self._permutation)
                self._epoch = epoch
            start, stop = order.bounds(before)
            low, high = share(start, stop, self._generations.rank, self._balance.weights)
            indices = self._permutation[low:high]
            samples = self._prefixes.digest(start, stop)
            batch_size = stop - start
            ends_epoch = order.epoch_of(before + 1) != epoch
        return Plan(
            number=before + 1,
            total=self._total,
            epoch=epoch,
            indices=indices,
            samples=samples,
            batch_size=batch_size,
            ends_epoch=ends_epoch,
            rank=self._generations.rank,
            size=self._generations.size,
            device=state.device or state.prepare(),
        )

    def _exchange_speeds(self) -> None:
        """Every now and then, after the same step on all ranks: new weights for the shares."""
        if self._tell_speed:
            self._tell_speed = False
            self._state.speed = self._speed.settle()
            agreed = self._generations.agree(self._state)
            self._balance.told([one.speed for one in agreed.holdings])

    def _before_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """A hook of all optimizers of this process, before those that the program has set."""
        step, sums = self._step, self._sums
        if step is None or sums is None or not sums.trained.owner(optimizer, step.running):
            return None
        changed = step.before_update(optimizer, args[1:], kwargs)
        self._state.clean = False  # in the middle of an update it is nobody's to copy
        self._state.updates_taken += 1
        return None if changed is None else ((optimizer, *changed[0]), changed[1])

    def _after_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._step is not None:
            self._step.after_update(optimizer)

    def _judge(self, step: Step, summed: Summed) -> None:
        """Looks at what all ranks have summed, before anybody uses it."""
        if step.number in self._state.avoided:
            raise LeftOut
        parts = self._state.stateful()
        what = what_is_not_finite(step.metrics, summed.norm, lambda: loss_scale(parts))
        if what:
            ids = {rank: self._ids_of(rank) for rank in summed.nonfinite}
            self._nonfinite.judge(step.number, what, step.metrics, ids, step.rank == 0)

    def _ids_of(self, rank: int) -> list[int]:
        """The samples of a rank in the running step."""
        if self._order is None:
            return []
        start, stop = self._order.bounds(self._state.step)
        low, high = share(start, stop, rank, self._balance.weights)
        ids: list[int] = self._permutation[low:high].tolist()
        return ids

    def _completed(self, step: Step) -> None:
        state = self._state
        state.step += 1
        state.left_out = state.left_out + 1 if step.left_out else 0
        if not step.left_out:
            state.last_finite = state.step
        elif self._audit is not None:
            self._audit.leave_out()
        self._saving.good(state.last_finite - 1)
        state.clean = True
        if self._sums is not None and step.applied:
            self._sums.left()
        self._generations.step_completed()
        self._speed.measured(len(step.indices), step.computed)
        state.metrics = dict(step.metrics)
        self._progress.completed(step.metrics)
        self._tell_speed = self._balance.due() and not step.pause

    def _settled(self, step: Step) -> str:
        """What follows a step that was taken, once the loop's body is over.

        It may go on after the block, and change the state there. Returns why the world is lost, if
        it is.
        """
        assert self._sums is not None
        self._state.require_portable()
        self._sums.applied(step.stepped, step.digest)
        saved = self._state.step >= self._total or self._state.stopped  # the last one is anyway
        if step.save:
            try:
                with self._generations.channel.collective():
                    self._sums.align()
            except HorovodInternalError as error:
                return str(error) or "a collective failed"
            saved = self._saving.save() or saved
        self._saving.evaluated(self._own_results, saved)
        return ""

    def _digest(self) -> int:
        return 0 if self._sums is None else self._sums.digest()

    def _let_go(self) -> None:
        """The program's models and optimizers are its own again."""
        if self._sums is not None:
            self._sums.close()
        while self._hooks:
            self._hooks.pop().remove()

    @property
    def _own_results(self) -> dict[str, float]:
        """What was reported of the state as it is; {} if that was not evaluated."""
        return self._results if self._evaluated == self._state.step else {}

    def _about(self) -> dict[str, Any]:
        """What a checkpoint's manifest says of a loop's state."""
        about: dict[str, Any] = {
            **({} if self._beginning is None else self._beginning.setup.to_about()),
            "seed": self._seed,
            "metrics": self._own_results,
        }
        if self._order is not None:
            # Where in the data the next step begins.
            about["epoch"] = self._order.epoch_of(self._state.step)
            about["data_position"] = self._order.bounds(self._state.step)[0]
        return about
