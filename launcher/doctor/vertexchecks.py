"""What a job needs of Google Cloud, each thing as a check.

Quotas: training on Vertex AI draws on quotas of aiplatform.googleapis.com, one per GPU, region and
kind of provisioning (``custom_model_training_preemptible_nvidia_a100_gpus``), not on Compute
Engine's (``PREEMPTIBLE_NVIDIA_A100_GPUS`` of ``regions.get``). Service Usage tells one by the name
of its metric (v1beta1, services.consumerQuotaMetrics.get).

What replicas may do is known by their account, not by whoever launches: Policy Troubleshooter is
the API that answers for somebody else.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

from launcher.api.apierror import LOGIN, QUOTA, UNACCEPTED, ApiError
from launcher.api.retry import Retries
from launcher.api.transport import NO_CREDENTIALS, SCOPE, is_emulator
from launcher.api.vertex import Jobs
from launcher.doctor.checkup import Check, Finding, failed, passed, refused, unknown
from launcher.doctor.cloud import Cloud
from launcher.job.job import Job
from launcher.job.pool import Container
from launcher.plan import quotas
from trainer.rundir.retry import ONCE

SUBMITTING = [f"aiplatform.customJobs.{verb}" for verb in ("create", "get", "list", "cancel")]
PROBE = ".swell-doctor"
MISPLACED = "SW6014"  # the message about a bucket that is not in the job's region
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)
_IMAGE = re.compile(r"(?P<host>[^/]+)/(?P<name>[^:@]+)(:(?P<tag>[^@]+))?(@(?P<digest>.+))?")
_GOOGLES = re.compile(r"([a-z0-9-]+-docker\.pkg\.dev|([a-z]+\.)?gcr\.io)")


def vertex_checks(job: Job, cloud: Cloud, endpoint: str | None = None) -> Iterator[Check]:
    """Yields the checks of a job that ``launcher.job.fitness`` has nothing to say against.

    Args:
        job: the job.
        cloud: where to ask.
        endpoint: base URL of Vertex AI's API, if it is not Google's.
    """
    project = job.project or ""
    apis = [Jobs(project, region, endpoint, retries=Retries(ONCE)) for region in job.regions]
    yield Check("credentials", lambda: credentials(apis[0].endpoint))
    for api in apis:
        yield Check(f"Vertex AI in {api.region}", partial(vertex_ai, api))
    yield Check("permissions", lambda: permissions(cloud))
    yield from bucket_checks(job, cloud)
    if job.service_account:
        account = job.service_account
        yield Check("service account", lambda: act_as(cloud, account))
    for image in dict.fromkeys(_images(job)):
        yield Check("image", partial(image_exists, cloud, image))
        yield Check("replicas may pull the image", partial(replicas_may_pull, cloud, job, image))
    for metric, need in quotas(job).items():
        for region in job.regions:
            yield Check(f"quota in {region}", partial(quota, cloud, metric, region, need))


def bucket_checks(job: Job, cloud: Cloud) -> Iterator[Check]:
    """Yields the checks of the buckets that a job writes to."""
    places = [("bucket", job.output or "", job.regions)]
    for region, url in job.checkpoint.buckets.items():
        places.append((f"bucket for {region}", url, [region]))
    for name, url, regions in places:
        bucket, _, folder = url.removeprefix("gs://").partition("/")
        yield Check(name, partial(regional, cloud, bucket, regions))
        yield Check(f"{name} is writable", partial(writable, cloud, bucket, folder))
        yield Check(f"replicas may use the {name}", partial(replicas_may_write, cloud, job, bucket))


def credentials(endpoint: str) -> Finding:
    """Whether there are credentials that work here."""
    if is_emulator(endpoint):
        return passed(f"none are needed by the emulator at {endpoint}")
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
    from google.auth.transport.requests import Request

    try:
        found, _ = google.auth.default(scopes=[SCOPE])
        found.refresh(Request())  # type: ignore[no-untyped-call]
    except DefaultCredentialsError:
        return failed(NO_CREDENTIALS, "there are none on this machine", f"run: {LOGIN}")
    except TransportError as error:
        return unknown(f"no answer from where tokens come from: {error}")
    except GoogleAuthError as error:
        return failed(UNACCEPTED, f"they are no longer valid: {error}", f"run: {LOGIN}")
    who = getattr(found, "service_account_email", None) or "a user's login"
    return passed(f"{who} ({type(found).__module__.split('.')[-1]})")


def vertex_ai(api: Jobs) -> Finding:
    """Whether the API is enabled, and answers this project in this region."""
    api.list(limit=1)
    return passed("enabled, and answers")


def permissions(cloud: Cloud) -> Finding:
    """Whether whoever launches may submit CustomJobs."""
    answer = cloud.post(
        "cloudresourcemanager",
        f"v1/projects/{cloud.project}:testIamPermissions",
        {"permissions": SUBMITTING},
    )
    missing = sorted(set(SUBMITTING) - set(answer.get("permissions", [])))
    if not missing:
        return passed("CustomJobs may be submitted, watched and cancelled")
    return failed(
        "SW6012",
        f"not allowed: {', '.join(missing)}",
        f"let the project's owner run: gcloud projects add-iam-policy-binding {cloud.project} "
        "--member=user:YOU --role=roles/aiplatform.user",
    )


def regional(cloud: Cloud, bucket: str, regions: list[str]) -> Finding:
    """Whether the bucket is there, and in a region of the job's."""
    create = f"gcloud storage buckets create gs://NAME --location={regions[0]}"
    try:
        found = cloud.get("storage", f"storage/v1/b/{bucket}")
    except ApiError as error:
        if error.code != 404:
            raise
        return failed(
            "SW6013", f"there is no gs://{bucket}", f"run: {create.replace('NAME', bucket)}"
        )
    location, kind = str(found.get("location", "")).lower(), str(found.get("locationType", ""))
    if kind and kind != "region":
        return failed(
            MISPLACED,
            f"gs://{bucket} is a {kind} ({location.upper()}); training needs a regional one",
            f"make one, and write it into the job: {create}",
        )
    if location == regions[0]:
        return passed(f"gs://{bucket} is in {location}")
    if location in regions:
        return passed(f"gs://{bucket} is in {location}; attempts elsewhere pay for the way there")
    return failed(
        MISPLACED,
        f"gs://{bucket} is in {location or 'an unknown region'}, the job in {', '.join(regions)}",
        f"write regions: [{location}], or make a bucket: {create}",
    )


def writable(cloud: Cloud, bucket: str, folder: str) -> Finding:
    """Whether a small object can be made, and removed, where run directories will be."""
    name = "/".join(filter(None, [folder.rstrip("/"), f"{PROBE}-{secrets.token_hex(4)}"]))
    cloud.upload(
        f"upload/storage/v1/b/{bucket}/o", b"", uploadType="media", name=name, ifGenerationMatch="0"
    )
    try:
        cloud.delete("storage", f"storage/v1/b/{bucket}/o/{quote(name, safe='')}")
    except ApiError as error:
        return failed(
            "SW6015",
            f"objects can be made but not removed: {error}",
            f"remove gs://{bucket}/{name} by hand",
        )
    return passed("an object was made and removed")


def act_as(cloud: Cloud, account: str) -> Finding:
    """Whether the service account is there, and whoever launches may let replicas be it."""
    permission = "iam.serviceAccounts.actAs"
    try:
        answer = cloud.post(
            "iam",
            f"v1/projects/-/serviceAccounts/{account}:testIamPermissions",
            {"permissions": [permission]},
        )
    except ApiError as error:
        if error.code != 404:
            raise
        name = account.partition("@")[0]
        return failed(
            "SW6016",
            f"there is no {account}",
            f"run: gcloud iam service-accounts create {name} --project {cloud.project}",
        )
    if permission in answer.get("permissions", []):
        return passed(f"{account} is there, and may be used")
    return failed(
        "SW6017",
        f"you may not use {account}",
        f"let its owner run: gcloud iam service-accounts add-iam-policy-binding {account} "
        f"--project {cloud.project} --member=user:YOU --role=roles/iam.serviceAccountUser",
    )


def replicas_may_write(cloud: Cloud, job: Job, bucket: str) -> Finding:
    """Whether the replicas' account may write into the bucket."""
    account = replicas_account(cloud, job)
    where = f"storage.googleapis.com/projects/_/buckets/{bucket}"
    if granted(cloud, account, "storage.objects.create", where):
        return passed(account)
    return failed(
        "SW6018",
        f"{account} may not write to gs://{bucket}",
        f"run: gcloud storage buckets add-iam-policy-binding gs://{bucket} "
        f"--member=serviceAccount:{account} --role=roles/storage.objectAdmin",
    )


def image_exists(cloud: Cloud, image: str) -> Finding:
    """Whether the image is in its registry, under this tag or digest."""
    host, name, reference = _parts(image)
    if not _GOOGLES.fullmatch(host):
        return unknown(
            f"{image} is at {host}, which is not asked", f"try: docker manifest inspect {image}"
        )
    try:
        cloud.head(host, f"v2/{name}/manifests/{reference}", {"Accept": MANIFESTS})
    except ApiError as error:
        if error.code != 404:
            raise
        return failed(
            "SW6019",
            f"there is no {image}",
            f"push it, or see what there is: gcloud artifacts docker images list {host}/{name}",
        )
    return passed(image)


def replicas_may_pull(cloud: Cloud, job: Job, image: str) -> Finding:
    """Whether the replicas' account may read the repository that the image is in."""
    host, name, _ = _parts(image)
    parts = name.split("/")
    if not host.endswith("-docker.pkg.dev") or len(parts) < 3:
        return unknown(f"{host} is not Artifact Registry")
    location, (project, repository) = host.removesuffix("-docker.pkg.dev"), parts[:2]
    account = replicas_account(cloud, job)
    where = f"projects/{project}/locations/{location}/repositories/{repository}"
    permission = "artifactregistry.repositories.downloadArtifacts"
    if granted(cloud, account, permission, f"artifactregistry.googleapis.com/{where}"):
        return passed(account)
    return failed(
        "SW6020",
        f"{account} may not read {repository}",
        f"run: gcloud artifacts repositories add-iam-policy-binding {repository} "
        f"--project {project} --location {location} --member=serviceAccount:{account} "
        "--role=roles/artifactregistry.reader",
    )


def replicas_account(cloud: Cloud, job: Job) -> str:
    """Returns who the replicas are: the job's account, or Vertex AI's for custom code."""
    if job.service_account:
        return job.service_account
    number = cloud.get("cloudresourcemanager", f"v1/projects/{cloud.project}").get("projectNumber")
    return f"service-{number}@gcp-sa-aiplatform-cc.iam.gserviceaccount.com"


def quota(cloud: Cloud, metric: str, region: str, need: int) -> Finding:
    """Whether the project's quota in ``region`` is as large as the job."""
    name = quote(f"aiplatform.googleapis.com/{metric}", safe="")
    service = f"projects/{cloud.project}/services/aiplatform.googleapis.com"
    try:
        answer = cloud.get(
            "serviceusage", f"v1beta1/{service}/consumerQuotaMetrics/{name}", view="FULL"
        )
    except ApiError as error:
        return refused(error) if error.code != 404 else unknown(f"{metric} is not known")
    limit = _limit(answer, region)
    if limit is None:
        return unknown(f"{metric}: there is no limit on record for {region}")
    if limit == -1 or limit >= need:
        known = "unlimited" if limit == -1 else str(limit)
        return passed(f"{metric} is {known}, the job needs {need} (others' use is not counted)")
    return failed(
        QUOTA,
        f"{metric} is {limit}, the job needs {need}",
        "ask for more at https://console.cloud.google.com/iam-admin/quotas"
        f"?project={cloud.project}, use fewer replicas or another region",
    )


def _limit(answer: object, region: str) -> int | None:
    """Returns the limit that counts in ``region``: its own, or the one of all; -1 for none."""
    limits = answer.get("consumerQuotaLimits") if isinstance(answer, dict) else None
    found: dict[str, int] = {}
    for one in limits if isinstance(limits, list) else []:
        buckets = one.get("quotaBuckets") if isinstance(one, dict) else None
        for bucket in buckets if isinstance(buckets, list) else []:
            where = (bucket.get("dimensions") or {}).get("region", "")
            value = str(bucket.get("effectiveLimit", ""))
            if re.fullmatch(r"-?\d+", value):
                found[str(where)] = int(value)
    return found.get(region, found.get(""))


def granted(cloud: Cloud, account: str, permission: str, resource: str) -> bool:
    """Whether an account has a permission on a resource. Raises ApiError, also when unknown."""
    access = {
        "principal": account,
        "fullResourceName": f"//{resource}",
        "permission": permission,
    }
    answer = cloud.post("policytroubleshooter", "v1/iam:troubleshoot", {"accessTuple": access})
    said = answer.get("access")
    if said not in ("GRANTED", "NOT_GRANTED"):
        raise ApiError("SW3019", f"Policy Troubleshooter does not know: {said}", kind="silent")
    return bool(said == "GRANTED")


def _images(job: Job) -> Iterator[str]:
    for pool in job.pools:
        runtime = job.runtime(pool)
        yield runtime.image if isinstance(runtime, Container) else runtime.executor


def _parts(image: str) -> tuple[str, str, str]:
    """Returns host, name and tag or digest of an image."""
    match = _IMAGE.fullmatch(image)
    if match is None or not re.search(r"[.:]", match["host"]):
        return "docker.io", image, "latest"
    return match["host"], match["name"], match["digest"] or match["tag"] or "latest"
