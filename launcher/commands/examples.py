"""What each command's help shows of its use.

In one place, so that a command without an example is seen (tests/launcher/commands/test_help.py,
which also parses each of them).
"""

from __future__ import annotations

import typer

EXAMPLES = {
    "launch": (
        ("swell launch job.yaml", "on this machine"),
        ("swell launch job.yaml --target vertex --detach", "on Vertex AI; returns when it exists"),
        ("swell launch train.py -- --lr 3e-4", "a script that torchrun could run"),
    ),
    "attach": (("swell attach digits-1201", "the beginning of an id is enough"),),
    "plan": (
        ("swell plan job.yaml --format table", "machines, prices, quota"),
        ("swell plan job.yaml --format files", "what would be sent along"),
    ),
    "doctor": (
        ("swell doctor job.yaml --target vertex", "before the first launch"),
        ("swell doctor job.yaml --target vertex --probe", "with two small jobs, at a cost"),
    ),
    "schema": (("swell schema > job.schema.json", "for your editor"),),
    "status": (("swell status digits-1201 --json", "for other programs"),),
    "watch": (("swell watch gs://my-bucket/runs/digits-1201-0930-abcd", "from any machine"),),
    "goodput": (("swell goodput digits-1201 --since 2h --every 10min", "the last two hours"),),
    "report": (("swell report digits-1201 -o report.html", "opens without a network"),),
    "compare": (("swell compare digits-1201 digits-1202", "what differed, then the figures"),),
    "dashboard": (
        ("swell dashboard", "the runs of this machine"),
        ("swell dashboard gs://my-bucket/runs", "those below a folder of a bucket"),
    ),
    "metrics": (("swell metrics digits-1201 --port 9100", "for Prometheus on this machine"),),
    "runs": (
        ("swell runs --state running --since 2d", "those of this machine"),
        ("swell runs --project my-project --region us-central1", "those of a project, too"),
    ),
    "checkpoints": (
        ("swell checkpoints digits-1201 --verify", "compares all checksums"),
        (
            "swell checkpoints digits-1201 --export model.safetensors --part model",
            "the newest model, under its own names",
        ),
    ),
    "output": (("swell output train-1201 --to results", "the files of a torchrun script"),),
    "logs": (("swell logs digits-1201 --replica workerpool1-0 --follow", "one of its machines"),),
    "profile": (
        ("swell profile digits-1201 --steps 100:110 --rank 0", "by torch's profiler"),
        ("swell profile digits-1201 --steps 100:110 --memory", "what is allocated where"),
    ),
    "resize": (("swell resize digits-1201 --jobs 4", "a fleet, while it trains"),),
    "move": (("swell move digits-1201 --region us-east1", "a fleet, while it trains"),),
    "cancel": (("swell cancel digits-1201 digits-1202", "several at once"),),
    "preempt": (
        ("swell preempt digits-1201 workerpool1-0 --notice 5s", "as Spot does, with notice"),
        ("swell preempt digits-1201 workerpool1-0 --restore", "give it back"),
    ),
    "check": (
        ("swell check tasks.py:Digits", "a class in a file of yours"),
        ("swell check trainer.tasks.digits:Digits --args '{\"epochs\": 1}'", "with arguments"),
    ),
    "explain": (("swell explain 1009", "the number of its id is enough"),),
    "completion": (
        ('eval "$(swell completion bash)"', "in ~/.bashrc"),
        ("swell completion fish | source", "in config.fish"),
    ),
    "emulator": (
        ("swell emulator --state emulated", "for curl and Google's clients"),
        ("swell emulator stop --state emulated", "with its VMs"),
    ),
    "new task": (("swell new task my_task --from lm", "a task, its test and its job file"),),
    "new script": (("swell new script train", "a loop of your own, and its job file"),),
    "new job": (
        ("swell new job train.py", "a job file that runs it"),
        ("swell new job tasks.py:Digits", "for a task"),
    ),
    "image check": (("swell image check my-image", "before it is pushed"),),
}


def with_examples(app: typer.Typer, prefix: str = "") -> None:
    """Puts its examples at the end of each command's help, and its first sentence into a list's."""
    for command in app.registered_commands:
        callback = command.callback
        name = prefix + (command.name or (callback.__name__ if callback else ""))
        if shown := EXAMPLES.get(name):
            command.epilog = _text(shown)
        if callback is not None and callback.__doc__:  # typer would cut it at 45 characters
            command.short_help = _first_sentence(callback.__doc__)
    for group in app.registered_groups:
        if group.typer_instance:
            with_examples(group.typer_instance, f"{prefix}{group.name} ")


def _first_sentence(text: str) -> str:
    """A docstring's first sentence, on one line."""
    first, stop, _ = " ".join(text.split()).partition(". ")
    return first + stop.strip()


def _text(examples: tuple[tuple[str, str], ...]) -> str:
    """The lines as they stand: after \\b nothing is wrapped."""
    lines = [f"  {line}\n      {about}" for line, about in examples]
    return "\b\nExamples:\n" + "\n".join(lines)
