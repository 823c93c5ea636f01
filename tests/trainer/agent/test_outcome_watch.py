"""How an agent learns that the run has ended, or is to end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from trainer.agent.outcome_watch import OutcomeWatch, RunEnded
from trainer.rundir.directory import RunDirectory


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


async def watched(watch: OutcomeWatch) -> RunEnded:
    with pytest.raises(RunEnded) as ended:
        await asyncio.wait_for(watch.watch(), 600)
    return ended.value


def test_an_outcome_ends_it(run_dir: RunDirectory) -> None:
    run_dir.end("cancelled", "by somebody")
    watch = OutcomeWatch(run_dir, lambda reason: None)

    async def live() -> RunEnded:
        watch.look_now()
        return await watched(watch)

    ended = asyncio.run(live())
    assert (ended.state, str(ended)) == ("cancelled", "by somebody")


def test_a_stop_drains_it_once_and_its_checkpoint_ends_the_run(run_dir: RunDirectory) -> None:
    run_dir.ask_to_stop("limited", "limits.cost: all is spent")
    drains: list[str] = []
    watch = OutcomeWatch(run_dir, drains.append)

    async def live() -> tuple[str | None, RunEnded]:
        watching = asyncio.create_task(watched(watch))
        while not drains:
            watch.look_now()
            await asyncio.sleep(0.01)
        for _ in range(5):
            watch.look_now()
            await asyncio.sleep(0.01)
        return await watch.saved(7, ""), await watching

    why, ended = asyncio.run(live())
    assert drains == ["the run is to stop: limits.cost: all is spent"]
    assert why == "limits.cost: all is spent"
    assert ended.state == "limited"


def test_a_checkpoint_of_a_run_that_goes_on_ends_nothing(run_dir: RunDirectory) -> None:
    assert asyncio.run(OutcomeWatch(run_dir, lambda reason: None).saved(7, "")) is None
    assert run_dir.outcome() is None


def test_who_saves_last_does_not_end_it_again(run_dir: RunDirectory) -> None:
    run_dir.ask_to_stop("limited", "a limit")
    drains: list[str] = []
    watch = OutcomeWatch(run_dir, drains.append)

    async def live() -> str | None:
        watching = asyncio.create_task(watched(watch))
        while not drains:
            watch.look_now()
            await asyncio.sleep(0.01)
        run_dir.end("succeeded", "training is complete")
        said = await watch.saved(7, "")
        await watching
        return said

    assert asyncio.run(live()) is None
    assert (run_dir.outcome() or {})["state"] == "succeeded"


def test_a_stop_file_that_is_not_one_is_passed_over(run_dir: RunDirectory) -> None:
    run_dir.store.write("stop.json", b"[]")
    watch = OutcomeWatch(run_dir, lambda reason: pytest.fail("it drains"))

    async def live() -> None:
        watch.look_now()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(watch.watch(), 0.2)

    asyncio.run(live())


def test_a_stop_whose_last_state_is_not_saved_says_so(run_dir: RunDirectory) -> None:
    run_dir.ask_to_stop("limited", "limits.cost: all is spent")
    told: list[str | None] = []

    async def live() -> None:
        async def unsaved() -> None:
            told.append(await watch.saved(1207, "No space left on device"))

        watch = OutcomeWatch(run_dir, lambda reason: told.append(reason))
        watching = asyncio.create_task(watched(watch))
        while not told:
            watch.look_now()
            await asyncio.sleep(0.01)
        await unsaved()
        await watching

    asyncio.run(live())
    first, last = (told[1] or "").splitlines()
    assert first == "limits.cost: all is spent"
    assert last == (
        "the end of the run, step 1,207, is not saved: No space left on device; swell checkpoints "
        "says what there is to go on from, with --from [SW5150]"
    )
    assert (run_dir.outcome() or {})["reason"] == told[1]
