"""pythonPackageSpec: packages are installed for one VM alone, and their module is run."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.launcher.emulator.running import Emulator, wait_for

TASK = """
import json, os, sys
import numpy_like_dependency as dependency
print(json.dumps([__name__, sys.argv[1:], dependency.VALUE, os.environ["MINE"]]), flush=True)
"""


def wheel(folder: Path, name: str, files: dict[str, str], requires: str = "") -> Path:
    """Writes a pure-Python wheel."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    requirement = f"Requires-Dist: {requires}\n" if requires else ""
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requirement}"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    everything = {**files, f"{info}/METADATA": about, f"{info}/WHEEL": tags}
    with zipfile.ZipFile(path, "w") as archive:
        for where, text in everything.items():
            archive.writestr(where, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{where},,\n" for where in everything))
    return path


def sdist(folder: Path, name: str, files: dict[str, str]) -> Path:
    """Writes a source distribution, which has to be built."""
    path = folder / f"{name}-1.0.tar.gz"
    setup = (
        f"from setuptools import setup\nsetup(name={name!r}, version='1.0', packages=[{name!r}])\n"
    )
    with tarfile.open(path, "w:gz") as archive:
        for where, text in {**files, "setup.py": setup}.items():
            member = tarfile.TarInfo(f"{name}-1.0/{where}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def package_pool(emulator: Emulator, module: str, *uris: str, **more: Any) -> dict[str, Any]:
    name, _, value = emulator.mark.partition("=")
    env = [{"name": name, "value": value}, {"name": "MINE", "value": "$(HOSTNAME)"}]
    return {
        "machineSpec": {"machineType": "a2-highgpu-1g"},
        "replicaCount": "1",
        "pythonPackageSpec": {
            "executorImageUri": "a-prebuilt-image",
            "packageUris": list(uris),
            "pythonModule": module,
            "env": env,
            **more,
        },
    }


def create(emulator: Emulator, *pools: dict[str, Any]) -> str:
    body = {"displayName": "a job", "jobSpec": {"workerPoolSpecs": list(pools)}}
    answer = emulator.http.post("/v1/projects/local/locations/local/customJobs", json=body)
    assert answer.status_code == 200, answer.text
    return f"/v1/{answer.json()['name']}"


def test_packages_are_installed_and_the_module_is_run(emulator: Emulator, tmp_path: Path) -> None:
    dependency = wheel(
        tmp_path, "numpy_like", {"numpy_like_dependency.py": "VALUE = 7\n"}, requires="pip"
    )
    files = {"my_trainer/__init__.py": "", "my_trainer/task.py": TASK}
    trainer = sdist(tmp_path, "my_trainer", files)
    job = create(
        emulator,
        package_pool(
            emulator,
            "my_trainer.task",
            str(trainer),
            dependency.as_uri(),
            args=["--epochs=1", "$(MINE)", "--"],
        ),
    )
    ended = emulator.until(job, "SUCCEEDED", "FAILED")
    output = emulator.output(job, "workerpool0-0")
    assert ended["state"] == "JOB_STATE_SUCCEEDED", output
    host = f"cmle-training-workerpool0-{int(job.rpartition('/')[2]) % 16**10:010x}-0"
    assert output[-1] == f'["__main__", ["--epochs=1", "{host}", "--"], 7, "{host}"]'
    assert not (emulator.state / "installed" / job.rpartition("/")[2]).exists()


class Bucket(BaseHTTPRequestHandler):
    """A Cloud Storage that knows one object."""

    data = b""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if not path.endswith("/b/a-bucket/o/packages/my_task-1.0-py3-none-any.whl"):
            self.send_error(404)
            return
        about = {"name": "packages/my_task-1.0-py3-none-any.whl", "bucket": "a-bucket"}
        media = "download" in path or "alt=media" in self.path
        body = self.data if media else json.dumps({**about, "size": len(self.data)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def test_packages_come_from_cloud_storage(emulator: Emulator, tmp_path: Path) -> None:
    pytest.importorskip("gcsfs")
    Bucket.data = wheel(tmp_path, "my_task", {"my_task.py": "print('here')\n"}).read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        spec = package_pool(
            emulator, "my_task", "gs://a-bucket/packages/my_task-1.0-py3-none-any.whl"
        )
        spec["pythonPackageSpec"]["env"] += [
            {"name": "STORAGE_EMULATOR_HOST", "value": f"http://127.0.0.1:{server.server_port}"},
        ]
        job = create(emulator, spec)
        emulator.until(job, "SUCCEEDED", "FAILED")
        server.shutdown()
    assert emulator.output(job, "workerpool0-0") == ["here"]


def test_every_vm_has_an_environment_of_its_own(emulator: Emulator, tmp_path: Path) -> None:
    task = "import time, my_side\nprint(my_side.NAME, flush=True)\ntime.sleep(1000)\n"
    sides = []
    for name in ("left", "right"):
        folder = tmp_path / name
        folder.mkdir()
        files = {"my_side.py": f"NAME = {name!r}\n", "my_task.py": task}
        sides.append(str(wheel(folder, "my_side", files)))
    job = create(emulator, *(package_pool(emulator, "my_task", side) for side in sides))
    for index, name in enumerate(("left", "right")):
        lines = wait_for(partial(emulator.output, job, f"workerpool{index}-0"))
        assert lines == [name]
    emulator.http.post(f"{job}:cancel")
    emulator.until(job, "CANCELLED")
    assert emulator.processes() == []


def test_a_package_that_cannot_be_installed_fails_the_replica_and_says_why(
    emulator: Emulator, tmp_path: Path
) -> None:
    broken = tmp_path / "broken-1.0-py3-none-any.whl"
    broken.write_bytes(b"this is no wheel")
    missing = tmp_path / "missing-1.0.tar.gz"
    lonely = wheel(tmp_path, "lonely", {"lonely.py": ""}, requires="swell-no-such-package>=7")
    jobs = {
        str(broken): "pip ended with status 1 on broken-1.0-py3-none-any.whl; it says why above",
        missing.as_uri(): f"{missing.as_uri()} cannot be read: ",
        str(lonely): "pip ended with status 1 on lonely-1.0-py3-none-any.whl; it says why above",
    }
    created = {create(emulator, package_pool(emulator, "a_module", uri)): uri for uri in jobs}
    for job, uri in created.items():
        says = jobs[uri]
        ended = emulator.until(job, "FAILED", "SUCCEEDED")
        assert "workerpool0-0 exited with status 1" in ended["error"]["message"]
        lines = emulator.output(job, "workerpool0-0")
        assert lines[-1].startswith(f"cannot install the job's packages: {says}")
        assert not any("Traceback" in line for line in lines)
    assert any("swell-no-such-package" in line for line in lines)
