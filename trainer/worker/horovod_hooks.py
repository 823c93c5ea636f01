"""Horovod's entry points, in a worker that runs somebody's script.

A script written for (Elastic) Horovod calls ``hvd.init()``, ``hvd.shutdown()`` and
perhaps ``@hvd.elastic.run``. In a worker these are led here, so that worlds come from
the agent and not from Horovod's own driver:

- ``hvd.init()``: the worker is warm now. It says that it is ready and waits for a
  generation, and so the next time, when ``hvd.elastic.run`` resets.
- ``hvd.elastic.run`` keeps Horovod's meaning: after a lost worker the state is restored
  from the last commit and synchronised; after a notice it goes on as it is.
- ``state.commit()`` and ``state.check_host_updates()`` learn of a drain or of newcomers
  by a one-number allreduce, so that all ranks stop at the same place.
- State is synchronised from the rank that is most advanced (a fresh process may well have
  rank 0), in flat buffers; and not at all when everybody holds it.

Horovod's notification service, which would PUT a pickle to the rendezvous server and
listen on the network, is never started.

How far a script is, is counted in optimizer steps (in commits, where there are none); a
rollback counts back, too.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import horovod.common.elastic as common_elastic
import horovod.torch as hvd
import horovod.torch.elastic as torch_elastic
import torch
from horovod.common.exceptions import HorovodInternalError, HostsUpdatedInterrupt
from horovod.torch import mpi_ops
from horovod.torch.elastic import state as torch_state
from horovod.torch.elastic.sampler import ElasticSampler
from torch.optim import optimizer as torch_optimizer

from trainer.engine.device import warm_up
from trainer.engine.generations import Generations
from trainer.engine.own_groups import unalike
from trainer.engine.progress import Progress
from trainer.engine.saving import Saving
from trainer.engine.state import load_part
from trainer.engine.stay import horovod_init
from trainer.engine.transfer import broadcast_tree
from trainer.protocol.channel import Channel
from trainer.protocol.session import Session, current_session
from trainer.rundir.usererror import Unusable
from trainer.worker.script_state import ScriptState


class NoWorker(Exception):
    """This process cannot train any more: another must take its place."""


class Hooks:
    """Stands between a script and Horovod.

    Args:
        channel: where worlds come from.

    Attributes:
        used: whether the script ever called ``hvd.init()``.
        elastic: whether a function of ``hvd.elastic.run`` runs, or has raised: then the others go
            on, as in Horovod.
    """

    def __init__(self, channel: Channel) -> None:
        self.used = self.elastic = False
        self._channel = channel
        self._generations = Generations(channel)
        self._script = ScriptState()
        # Of no run, and so without effect, until a state is kept.
        self._saving = self._saving_in(Session())
        self._progress = Progress(self._generations, self._script, lambda: self._saving.seconds)
        self._stepped_at: float | None = None
        self._stepping = 0  # a DistributedOptimizer's step contains that of its base class
        self._synchronising = False
        self._failed = ""
        self._committing = False

    def keep(self, state: Any) -> None:
        """From now on ``state`` is written to checkpoints, and a cold start begins from one.

        Raises ValueError for a second state, and TypeError for what is no ObjectState.
        """
        self._script.keep(state)
        self._saving = self._saving_in(current_session())

    def _saving_in(self, session: Session) -> Saving:
        script = self._script
        return Saving(session, self._generations, script, script.about, script.digest)

    def install(self) -> None:
        """Puts the hooks in place; to be called before the script is run."""
        modules: list[Any] = [hvd, mpi_ops, torch_elastic]
        for module in modules:
            module.init = self.init
            module.shutdown = self.shutdown
        common: Any = common_elastic
        for module in (common, torch_elastic):
            module.run_fn = self.run_fn
        common.notification_manager = None  # nothing but Horovod's run_fn used it
        common.State.check_host_updates = lambda state: self._check(state)
        self._root_broadcasts(common.State)
        torch_state.set_handler_registry(
            [
                (torch.nn.Module, self._handler(torch_state.ModelStateHandler)),
                (torch.optim.Optimizer, self._handler(torch_state.OptimizerStateHandler)),
                (ElasticSampler, self._handler(torch_state.SamplerStateHandler)),
            ]
        )
        torch_optimizer.register_optimizer_step_pre_hook(self._before_step)
        torch_optimizer.register_optimizer_step_post_hook(self._after_step)

    # --- worlds -----------------------------------------------------------------------

    def init(self, *args: Any, **kwargs: Any) -> None:
        """``hvd.init()``: waits for a generation and joins it.

        Raises SystemExit when the worker's life is over: the run has ended without it; and Unusable
        when the job asks for what only a loop over ``elastic.steps`` or a task can do.
        """
        if self._generations.inside:
            return  # a second hvd.init() does nothing, as in Horovod
        if not self.used:
            if current_session().on_nonfinite:
                raise Unusable(
                    "SW5132",
                    "on_nonfinite has no effect on a script that sums its gradients by Horovod "
                    "itself: remove it, and look at the loss in the script",
                )
            self.used = True
            warm_up()
            self._generations.ready()
        self._generations.resume(self._script, self._failed)
        self._failed = ""
        self._stepping = 0
        self._stepped_at = None
        init = functools.partial(horovod_init, *args, **kwargs)
        if not self._generations.enter(self._script, self._saving.save_left, init):
            raise SystemExit(0)
        self._progress.enter()
        self._saving.enter()

    def shutdown(self) -> None:
        """``hvd.shutdown()``: leaves the world; only the next ``init`` says so."""
        if self._generations.inside:
            self._progress.send()
            self._generations.finish()

    def end(self) -> None:
        """The script has ended well. The run is complete when it has on all ranks; each waits.

        Raises NoWorker when another world is formed instead: this process cannot be in it.
        """
        if self._generations.inside:
            self._saving.finish()
        self.shutdown()
        self._generations.done(self._script.step, {}, self._saving.unsaved(), by_all=True)
        self._generations.enter(self._script, init=_no_more)

    # --- hvd.elastic ------------------------------------------------------------------

    def run_fn(self, func: Callable[..., Any], reset: Callable[[], None]) -> Callable[..., Any]:
        """What ``@hvd.elastic.run`` makes of a function: it is called in world after world."""

        @functools.wraps(func)
        def run(state: Any, *args: Any, **kwargs: Any) -> Any:
            self.elastic = True
            self._watch(state)
            unchanged = False
            while True:
                try:
                    if not unchanged:
                        self._synchronise(state)
                    found = func(state, *args, **kwargs)
                    self.elastic = False
                    return found
                except HorovodInternalError as error:
                    if unalike(error):
                        raise  # it would be so in each world
                    self._failed = str(error) or "a collective failed"
                    self._generations.break_off()  # so that everybody's fails
                    state.restore()
                    self._script.step = self._script.committed
                    noticed = False
                except HostsUpdatedInterrupt:
                    noticed = True
                reset()
                state.on_reset()
                # Horovod decides this by who came and went; we know what everybody holds.
                unchanged = noticed and self._generations.agreed.unanimous
                if unchanged:
                    _split_again(state)

        return run

    def _watch(self, state: Any) -> None:
        """Notes how far the script was whenever ``state`` is saved."""
        save, commit = state.save, state.commit

        def noted() -> None:
            save()
            self._script.committed = self._script.step

        def counted() -> None:
            if self._script.step == self._script.committed:
                self._step_completed()  # a script without optimizers makes progress, too
            self._committing = True
            try:
                commit()
            finally:
                self._committing = False

        state.save, state.commit = noted, counted

    def _synchronise(self, state: Any) -> None:
        self._synchronising = True  # Horovod may step an optimizer to fill its state
        try:
            state.sync()
        finally:
            self._synchronising = False
        if state is self._script.kept and not self._script.step:
            found = self._saving.start()
            if found is not None:
                self._script.begin(*found)
        if not self._script.clean:
            state.save()  # a newcomer must not fall back to where it began
            self._script.clean = True

    def _check(self, state: Any) -> None:
        """``state.check_host_updates()``, which ``commit()`` calls, too."""
        saves = self._committing and state is self._script.kept
        due = saves and self._saving.due(self._script.step)
        asked = torch.tensor(
            [self._channel.pause_requested(), due], dtype=torch.int32, device="cpu"
        )
        pause, write = hvd.allreduce(asked, op=hvd.Max, name="swell.pause").tolist()
        if write and saves:
            self._saving.save()
        if pause:
            raise HostsUpdatedInterrupt(skip_sync=False)

    @property
    def _root(self) -> int:
        return self._generations.agreed.root

    def _root_broadcasts(self, base: Any) -> None:
        """Lets ObjectStates broadcast from the rank that is most advanced."""
        make = base.__init__

        def made(state: Any, bcast_object: Callable[..., Any], *args: Any, **kw: Any) -> None:
            make(state, lambda value: bcast_object(value, root_rank=self._root), *args, **kw)

        base.__init__ = made

    def _handler(self, base: Any) -> Any:
        """One of Horovod's state handlers, but for how it synchronises."""
        hooks = self

        class Handler(base):  # type: ignore[misc]
            def sync(self) -> None:
                sending = hvd.rank() == hooks._root
                tree = self.value.state_dict() if sending else None
                tree, _ = broadcast_tree(tree, hooks._root, _device_of(self.value))
                # The root's, too: a sampler splits what is left anew when it loads.
                load_part(self.value, tree)

        return Handler

    # --- progress ---------------------------------------------------------------------

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._stepping += 1

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._stepping -= 1
        if not self._stepping and not self._synchronising and self._generations.inside:
            self._step_completed()

    def _step_completed(self) -> None:
        now = time.monotonic()
        self._script.step += 1
        self._generations.step_completed()
        took = {} if self._stepped_at is None else {"step_seconds": now - self._stepped_at}
        self._stepped_at = now
        self._progress.completed(took)


def _split_again(state: Any) -> None:
    """Lets samplers split what is left of the epoch over the ranks that there are now."""
    for value in vars(state).values():
        if isinstance(value, ElasticSampler):
            value.reset()


def _device_of(value: Any) -> torch.device:
    if isinstance(value, torch.nn.Module):
        tensors = [*value.parameters(), *value.buffers()]
    else:
        groups = getattr(value, "param_groups", [])
        tensors = [parameter for group in groups for parameter in group["params"]]
    return tensors[0].device if tensors else torch.device("cpu")


def _no_more() -> None:
    raise NoWorker("the script has ended in this process")
