"""Strangers at every port of a run that trains: nothing of it is disturbed, and nobody gets in."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import grpc
import pytest

from tests.chaos import hostile
from tests.chaos.run import Run, Undisturbed
from trainer.protocol.credentials import Credentials
from trainer.protocol.lease import newest_claim
from trainer.rundir.names import ENV_TOKEN

DISTURBED = {"loss", "drain", "paused", "leader_changed", "generation_formed", "task_failed"}


@pytest.mark.timeout(600)
def test_a_run_among_hostile_peers(folder: Path, undisturbed: Undisturbed) -> None:
    run = Run("process", folder, fresh=True)
    try:
        run.start()
        secret = run[0].environment[ENV_TOKEN]
        ours = Credentials.parse(secret)
        claim = newest_claim(run.cluster.run_dir)
        assert claim is not None
        host, _, port = claim.target.rpartition(":")
        coordinator = (host, int(port))
        run.until_steps(5)
        run.look()
        before = len(run.events)

        ports = hostile.listening(run.cluster.processes())
        workers = {pid for vm in run.everybody for pid in vm.workers()}
        mine = {address for address, pid in ports.items() if pid not in workers}
        assert coordinator in mine
        for address in ports:
            assert address[0].startswith("127."), f"{address} is open to every network"
        # Only of one's own: what belongs to gloo is protected by the network alone.
        attacks = [partial(hostile.garbage, address, seed) for seed, address in enumerate(mine)]
        attacks += [partial(hostile.slow, address, 5.0) for address in mine]
        hostile.at_once(*attacks)
        for what, credentials, token in hostile.strangers(ours):
            code = hostile.knock(coordinator, credentials, token)
            refused = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED}
            assert code in refused, what
        hostile.tls_greeting(coordinator, ours)

        # What an honest peer has sent, sent again by whoever has listened.
        recorder = hostile.Recorder(coordinator)
        hostile.knock(recorder.address, ours.for_client(), ours.token + "x")
        recorder.close()
        assert len(recorder.sent) > 500, "a whole handshake and more"
        for _ in range(20):
            hostile.replay(coordinator, recorder.sent)

        run.until_steps(5)
        noticed = {event["event"] for event in run.events[before:]}
        assert not noticed & DISTURBED, run
        assert not any("evil" in str(event) for event in run.events)
        for vm in run.everybody:
            assert ours.token not in vm.log and secret not in vm.log
        run.finish()
        run.check(undisturbed)
    finally:
        run.close()
