"""What a probe has found, as the doctor's findings: purely."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.doctor.checkup import Finding, failed, passed, unknown
from launcher.job.job import Job
from launcher.probed import Probed

NO_REPORT = "SW6109"  # the message about jobs that have not reported
APART = "SW6110"  # the message about jobs that do not reach each other
STRANGE = "SW6111"  # the message about a CLUSTER_SPEC that Swell does not read


def findings_of(job: Job, probed: Probed, why: str) -> Iterator[tuple[str, Finding]]:
    """Yields what a probe has found of where a job runs, each with its name.

    Args:
        job: which.
        probed: what is known.
        why: why not all of it is.
    """
    yield "jobs reach each other", _reach(job, probed, why)
    if probed.names is not None:
        leads = "lead to their VMs" if probed.names else "lead nowhere; addresses are used"
        yield "host names", passed(f"those of another job {leads}")
    yield "CLUSTER_SPEC", _spec(probed, why)
    yield "metadata server", _metadata(probed, why)


def _reach(job: Job, probed: Probed, why: str) -> Finding:
    if probed.reached is None:
        return unknown(why or "they have not met", "try again, or in another region", NO_REPORT)
    if probed.reached:
        assert probed.latency is not None and probed.bandwidth is not None
        return passed(
            f"{probed.latency * 1000:.2f} ms there and back, "
            f"{probed.bandwidth / 1e9:.2f} GB/s by one connection"
        )
    said = f"VMs of two jobs do not reach each other: {probed.why}"
    if not job.is_fleet:
        return passed(f"{said} (no fleet; a run of one job needs it not)")
    fix = "give all jobs one network, by psc_interface or network, and let its firewall pass all"
    return failed(APART, said, f"{fix} ports between their VMs (docs/job.md)")


def _spec(probed: Probed, why: str) -> Finding:
    if probed.spec_read is None:
        return unknown(why or "nobody has reported it", id=NO_REPORT)
    forms = ", ".join(probed.spec_forms)
    if probed.spec_read:
        return passed(f"read, though {forms}" if forms else "as documented")
    return failed(STRANGE, f"not of a form that Swell reads: {forms}", "report it, with the record")


def _metadata(probed: Probed, why: str) -> Finding:
    if probed.metadata is None:
        return unknown(why or "nobody has reported it", id=NO_REPORT)
    if not probed.metadata:
        return passed("does not answer in a container; a notice can come by SIGTERM alone")
    if not probed.notice:
        return passed("answers, but not instance/preempted; a notice can come by SIGTERM alone")
    return passed("answers, also instance/preempted")
