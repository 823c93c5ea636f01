"""Where run directories may be made, and what is said of anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.job.jobfile import JobFileError, read_job
from launcher.job.place import is_bucket

JOB = "name: j\ntask: m:C\npools: [a2-highgpu-1g]\n"
NO_FORM = "is {!r}; write gs://BUCKET/FOLDER"


def refusal(folder: Path, line: str) -> str:
    file = folder / "job.yaml"
    file.write_text(JOB + line + "\n")
    with pytest.raises(JobFileError) as caught:
        read_job(file)
    (problem,) = caught.value.problems
    return problem.removeprefix(f"{file}:4: ")


@pytest.mark.parametrize(
    "text",
    ["gs://bucket", "gs://bucket/runs/", "gs://my.own-bucket_1/a b/c", "runs", "/tmp/runs",
     "~/runs", "file:///tmp/runs", "s3://bucket/runs", "a:b", "./gs"],
)  # fmt: skip
def test_a_bucket_or_a_folder_of_this_machine_is_taken(tmp_path: Path, text: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"{JOB}output: '{text}'\n")
    assert read_job(file).job.output == text


@pytest.mark.parametrize(
    "text",
    ["gs://", "gs:///x", "gs:", "gs:/bucket", "gs:bucket/x", "GS://bucket/x", "https://host/x",
     "http://x", "memory://x", "hdfs://name/x", "file://runs", "gcs://bucket/x", "C:/runs"],
)  # fmt: skip
def test_what_is_neither_is_refused_in_its_line(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, f"output: '{text}'") == f"output: {NO_FORM.format(text)}"
    line = f"checkpoint: {{buckets: {{us-central1: '{text}'}}}}"
    where = "checkpoint.buckets.us-central1"
    assert refusal(tmp_path, line) == f"{where}: {NO_FORM.format(text)}"


@pytest.mark.parametrize("text", ["gs://bucket//x", "gs://bucket/a*", "gs://bucket/a#b"])
def test_a_folder_that_stores_would_misread_is_refused(tmp_path: Path, text: str) -> None:
    assert "write a folder without" in refusal(tmp_path, f"output: '{text}'")


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        ("abc", True), ("a1_b-c.d2e", True), ("0x0", True), ("a" * 63, True),
        (".".join(["a" * 63] * 3), True), ("ab", False), ("Bad_Bucket", False), ("a" * 64, False),
        ("-ab", False), ("ab-", False), ("a..b", False), ("a.-b", False), ("10.0.0.1", False),
        ("goog-x", False), ("my-google-x", False), ("ä-x", False), ("a b", False), ("abc\n", False),
        (".".join(["a" * 63] * 4), False),
    ],
)  # fmt: skip
def test_names_of_buckets_are_googles(tmp_path: Path, name: str, possible: bool) -> None:
    assert is_bucket(name) is possible
    if not possible and name.isprintable():
        assert "which is no bucket's name; write lowercase" in refusal(
            tmp_path, f"output: 'gs://{name}/x'"
        )
