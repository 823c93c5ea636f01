"""What a run's controller may do: it submits CustomJobs, as who launches does, as its own account.

That account is the job's ``service_account``, or Vertex AI's own for custom code, as for replicas.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from launcher.doctor.checkup import Check, Finding, failed, passed
from launcher.doctor.cloud import Cloud
from launcher.doctor.vertexchecks import (
    SUBMITTING,
    granted,
    image_exists,
    replicas_account,
    replicas_may_pull,
)
from launcher.job.job import Job


def controller_checks(job: Job, cloud: Cloud) -> Iterator[Check]:
    """Yields the checks of a job's controller; none for a job without."""
    if job.controller is None:
        return
    image = job.controller.image
    yield Check("controller's image", partial(image_exists, cloud, image))
    yield Check("controller's image may be pulled", partial(replicas_may_pull, cloud, job, image))
    yield Check("controller may submit jobs", partial(may_submit, cloud, job))
    if job.service_account:
        account = job.service_account
        yield Check("controller may use the service account", partial(may_act_as, cloud, account))
    if job.token_secret:
        secret = job.token_secret
        yield Check("controller may use the secret", partial(may_use_secret, cloud, job, secret))


def may_submit(cloud: Cloud, job: Job) -> Finding:
    """Whether the controller's account may do with CustomJobs what a launch does."""
    account = replicas_account(cloud, job)
    project = f"cloudresourcemanager.googleapis.com/projects/{cloud.project}"
    missing = [one for one in SUBMITTING if not granted(cloud, account, one, project)]
    if not missing:
        return passed(f"{account} may submit, watch and cancel CustomJobs")
    return failed(
        "SW2038",
        f"{account} is not allowed: {', '.join(missing)}",
        f"run: gcloud projects add-iam-policy-binding {cloud.project} "
        f"--member=serviceAccount:{account} --role=roles/aiplatform.user",
    )


def may_act_as(cloud: Cloud, account: str) -> Finding:
    """Whether the controller, which is the service account, may submit jobs that are it."""
    where = f"iam.googleapis.com/projects/{cloud.project}/serviceAccounts/{account}"
    if granted(cloud, account, "iam.serviceAccounts.actAs", where):
        return passed(f"{account} may submit jobs as itself")
    return failed(
        "SW2039",
        f"{account} may not submit jobs as itself",
        f"run: gcloud iam service-accounts add-iam-policy-binding {account} "
        f"--project {cloud.project} --member=serviceAccount:{account} "
        "--role=roles/iam.serviceAccountUser",
    )


def may_use_secret(cloud: Cloud, job: Job, secret: str) -> Finding:
    """Whether the controller may add the run's secrets, and destroy them."""
    account = replicas_account(cloud, job)
    verbs = [f"secretmanager.versions.{verb}" for verb in ("add", "access", "destroy")]
    where = f"secretmanager.googleapis.com/{secret}"
    missing = [one for one in verbs if not granted(cloud, account, one, where)]
    if not missing:
        return passed(f"{account} may add, read and destroy versions")
    name = secret.rpartition("/")[2]
    roles = ("secretVersionManager", "secretAccessor")
    run = [
        f"gcloud secrets add-iam-policy-binding {name} --project {secret.split('/')[1]} "
        f"--member=serviceAccount:{account} --role=roles/secretmanager.{role}"
        for role in roles
    ]
    return failed(
        "SW2038", f"{account} is not allowed: {', '.join(missing)}", f"run: {'; '.join(run)}"
    )
