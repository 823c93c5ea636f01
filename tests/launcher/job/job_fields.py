"""Hypothesis strategies for whole job files that are right, in short and in long forms."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from launcher.job.machines import MACHINES, Machine

Fields = dict[str, Any]

_NAME = st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True)
_VARIABLE = st.from_regex(r"[A-RT-Z_][A-Za-z0-9_]{0,12}", fullmatch=True).filter(
    lambda name: not name.startswith(("AIP_", "CLOUD_ML_", "CLUSTER_SPEC", "GCE_METADATA_"))
)
_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
_DURATION = st.sampled_from(["1s", "90min", "1h30min", "1.5s", "2d", "1s 250ms", "0.000001h"])
_LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-éñ", min_size=1, max_size=63)
_IMAGE = st.sampled_from(["us-docker.pkg.dev/p/r/i:1", "host:5000/i@sha256:" + "0a" * 32])
_PACKAGE_URI = st.sampled_from(["gs://bucket-b/p.tar.gz", "file:///tmp/p.whl", "/tmp/p.whl"])
_ENV = st.dictionaries(_VARIABLE, _TEXT, max_size=4)
_WORDS = st.lists(_TEXT, max_size=3)


def _some(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Fields]:
    return st.fixed_dictionaries(required, optional=optional)


_CONTAINER = st.one_of(
    _IMAGE,
    _some({"image": _IMAGE}, {"args": _WORDS}),
    st.just({"image": "i", "command": ["sh", "-c", "mount-data && exec swell-agent"]}),
)
_PACKAGE = _some(
    {
        "executor": _IMAGE,
        "uris": st.lists(_PACKAGE_URI, min_size=1, max_size=100),
    },
    {"args": _WORDS, "module": st.just("trainer.agent")},
)
RUNTIMES = {"container": _CONTAINER, "package": _PACKAGE}
_DISK = st.one_of(
    st.sampled_from(["100GiB", "64000GiB", "1.5TiB"]),
    _some(
        {},
        {
            "type": st.sampled_from(["pd-ssd", "pd-standard", "hyperdisk-balanced"]),
            "size": st.integers(100, 64_000).map(lambda gib: f"{gib}GiB"),
        },
    ),
)
_NFS = st.lists(
    st.sampled_from(
        ["10.0.0.2:/:data", {"server": "10.0.0.3", "path": "/home", "mount_point": "home"}]
    ),
    max_size=2,
)
_RESERVATION = st.sampled_from(
    [
        "none",
        "any",
        {"affinity": "any"},
        "projects/p/zones/us-central1-a/reservations/r",
        {"affinity": "specific", "name": "projects/p/zones/us-central1-a/reservations/r"},
    ]
)


def pools(machine: Machine, replicas: int, strategy: str) -> st.SearchStrategy[Any]:
    """Pools of one machine type that a job of this scheduling strategy may have."""
    gpu = {"type": machine.accelerator.name, "count": machine.gpus}
    optional = {
        "slots": st.integers(1, 16),
        "accelerators": st.sampled_from([gpu, f"{machine.gpus} x {machine.accelerator.name}"]),
        "disk": _DISK,
        "nfs": _NFS,
        "env": _ENV,
        "reservation": _RESERVATION if strategy == "standard" else st.just("none"),
    }
    long = _some({"machine": st.just(machine.name), "replicas": st.just(replicas)}, optional)
    runtime = st.sampled_from([None, *RUNTIMES])
    beside = runtime.flatmap(
        lambda kind: st.just({}) if kind is None else st.fixed_dictionaries({kind: RUNTIMES[kind]})
    )
    both = st.tuples(long, beside).map(lambda pair: {**pair[0], **pair[1]})
    short = st.sampled_from([f"{replicas} x {machine.name}", {"machine": machine.name}])
    return st.one_of(both, short) if replicas > 1 else st.one_of(both, st.just(machine.name))


@st.composite
def jobs(draw: st.DrawFn, machine: str | None = None, runtime: str | None = None) -> Fields:
    """Job files that are right for the local target, with every field now and then.

    Args:
        machine: the type of all machines; any by default.
        runtime: ``container`` or ``package``, which the job says for all pools then.
    """
    strategy = draw(st.sampled_from(["spot", "standard", "flex_start"]))
    known = [m for m in MACHINES.values() if m.standard or strategy != "standard"]
    if machine is not None:
        known = [MACHINES[machine]]
        strategy = strategy if known[0].standard else "spot"
    chosen = [draw(st.sampled_from(known)) for _ in range(draw(st.integers(1, 4)))]
    if strategy == "flex_start":
        chosen = chosen[:1] * len(chosen)
    common = set.intersection(*(set(m.accelerator.regions) for m in chosen))
    counts = [1] + [draw(st.integers(1, 9)) for _ in chosen[1:]]
    pairs = zip(chosen, counts, strict=True)
    job: Fields = {
        "name": draw(_NAME),
        "pools": [draw(pools(m, count, strategy)) for m, count in pairs],
        "scheduling": draw(_scheduling(strategy)),
    }
    job.update(draw(st.sampled_from(_PROGRAMS)))
    kind = runtime or draw(st.sampled_from(["", *RUNTIMES]))
    if kind:
        job[kind] = draw(RUNTIMES[kind])
    regions = sorted(common)[:2] if draw(st.booleans()) else sorted(common)[:1]
    if regions:
        job["regions"] = regions if len(regions) > 1 or draw(st.booleans()) else regions[0]
    job.update(draw(_OPTIONAL))
    if "torchrun" in job:  # which knows nothing of these
        job = {name: value for name, value in job.items() if name not in ("audit", "checkpoint")}
    if len(regions) == 1:
        job.update(draw(_regional(regions[0])))
    return job


def _scheduling(strategy: str) -> st.SearchStrategy[Any]:
    long = _some(
        {"strategy": st.just(strategy)},
        {
            "restart_job_on_worker_restart": st.booleans(),
            **({"max_wait_duration": _DURATION} if strategy == "flex_start" else {}),
        },
    )
    never = st.just({"strategy": strategy, "disable_retries": True})
    return st.one_of(st.just(strategy), long, never)


_PROGRAMS: list[Fields] = [
    {"task": "my.tasks:Llama"},
    {"task": "my.tasks:Llama", "args": {"lr": 1e-3, "layers": [1, 2], "name": None}},
    {"module": "my.train", "args": ["--epochs", "3"]},
    {"script": "/app/train.py", "args": []},
    {"torchrun": "/app/train.py"},
    {"torchrun": {"module": "my.train", "args": ["--lr", "3e-4"], "nproc_per_node": "auto"}},
    {"torchrun": {"script": "/app/train.py", "max_restarts": 0, "grace": "5s"}},
]
_OPTIONAL = _some(
    {},
    {
        "env": _ENV,
        "labels": st.dictionaries(_LABEL.map(lambda name: f"l{name}"), _LABEL, max_size=3),
        "timeout": _DURATION.filter(lambda text: text != "0.000001h"),
        "audit": st.booleans(),
        "on_nonfinite": st.sampled_from(["stop", "skip", "rollback"]),
        "project": st.just("my-project"),
        "output": st.sampled_from(["gs://bucket-b/runs", "gs://bucket-b/$(HOME)/"]),
        "service_account": st.just("a@p.iam.gserviceaccount.com"),
        "network": st.just("projects/1/global/networks/n"),
        "controller": st.sampled_from(
            [True, {"machine": "n1-standard-4", "image": "h/i", "timeout": "1d"}]
        ),
        "telemetry": st.sampled_from(
            [
                {"wandb": "me/digits", "port": 9400, "machines": False},
                {"mlflow": "https://h:5000/x", "traces": "http://h:4318", "tensorboard": False},
            ]
        ),
        "web_access": st.booleans(),
        "dashboard_access": st.booleans(),
        "elastic": st.just({"min_workers": 1, "hold_off": "2s"}),
        "checkpoint": st.just({"every": "10min", "keep": 3}),
        "notify": st.sampled_from([{"url_env": "HOOK"}, {"url_file": "hook", "on": ["end"]}]),
        "local": st.just({"market": [{"at": "5 steps", "vanish": "workerpool0-0"}]}),
    },
)


@st.composite
def _regional(draw: st.DrawFn, region: str) -> Fields:
    place = f"projects/p/locations/{region}"
    account = {"service_account": "a@p.iam.gserviceaccount.com"}
    attachment = f"projects/p/regions/{region}/networkAttachments/a"
    peering = {"domain": "my.internal.", "project": "p", "network": "n"}
    found: Fields = {}
    choices: list[Fields] = [
        {"encryption_key": f"{place}/keyRings/r/cryptoKeys/k"},
        draw(
            st.sampled_from(
                [
                    {"tensorboard": f"{place}/tensorboards/1", **account},
                    {"experiment": "e", **account},
                    {"experiment": {"name": "e", "run": "r"}, **account},
                ]
            )
        ),
        draw(
            st.sampled_from(
                [
                    {"network": "projects/1/global/networks/n", "reserved_ip_ranges": ["range"]},
                    {"network": None, "psc_interface": attachment},
                    {
                        "network": None,
                        "psc_interface": {"attachment": attachment, "dns_peerings": [peering]},
                    },
                ]
            )
        ),
    ]
    for more in choices:
        if draw(st.booleans()):
            found.update(more)
    return found
