"""What a script may do to end, or find when it begins: under Swell as under torchrun."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.trainer.ranks import Process, world_of
from tests.trainer.worker.kept import Kept
from trainer.agent.processes import torchrun_environment
from trainer.protocol.messages import Done, Exited
from trainer.rundir.names import ENV_OUTPUT_DIR

# By what they show: a script's text.
CASES = {
    "it ends well": "print('trained')",
    "it exits with 0": "import sys; sys.exit(0)",
    "it exits with nothing": "import sys; sys.exit()",
    "it exits with a code": "import sys; sys.exit(3)",
    "it exits with a code beyond a byte": "import sys; sys.exit(256 + 7)",
    "it exits with words": "import sys; sys.exit('no data')",
    "it exits where nobody can catch it": "import os; os._exit(5)",
    "it raises": "def f():\n    raise ValueError('no: ä')\nf()",
    "it raises from something": "try:\n    {}['a']\n"
    "except KeyError as e:\n    raise OSError(5) from e",
    "it raises a group of its own": "class Own(Exception): pass\nraise Own('x', 1)",
    "it lacks a module": "import a_module_that_there_is_not",
    "it is no Python": "print('a'\nx = 1",
    "it asserts": "assert 1 == 2, 'unequal'",
    "it is interrupted": "raise KeyboardInterrupt",
    "it is killed": "import os; os.kill(os.getpid(), 9)",
    "it is terminated": "import os, time; os.kill(os.getpid(), 15); time.sleep(60)",
    "it aborts": "import os; os.abort()",
    "it violates memory": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "what it wrote last is not lost": "import os; print('last', end=''); os._exit(0)",
    "output and errors come in order": "import sys\nfor i in range(3):\n"
    "    print(i); print(-i, file=sys.stderr); sys.stdout.buffer.write(b'raw\\n')",
    "it has its own way to show errors": "import sys\n"
    "sys.excepthook = lambda kind, error, trace: print('hook', kind.__name__, error)\nint('x')",
    "it cleans up": "import atexit; atexit.register(print, 'clean'); raise SystemExit(2)",
    "a thread outlives the main one": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "a thread raises": "import threading\n"
    "one = threading.Thread(target=lambda: 1 / 0, name='t'); one.start(); one.join()",
    "it reads standard input": "import sys; print(repr(sys.stdin.read()), sys.stdin.isatty())",
    "its arguments": "import sys; print(sys.argv)",
    "its name and place": "import os, sys\n"
    "print(__name__, __file__, sys.path[0], os.getcwd(), __spec__)\n"
    "print(sys.modules['__main__'].__file__)",
    "its classes can be pickled": "import pickle\nclass A: pass\n"
    "print(type(pickle.loads(pickle.dumps(A()))) is A)",
    "it can start processes of its own": "import multiprocessing\ndef f(): print('child')\n"
    "if __name__ == '__main__':\n"
    "    one = multiprocessing.get_context('spawn').Process(target=f); one.start(); one.join()\n"
    "    print(one.exitcode)",
    "signals are as Python has them": "import signal\n"
    "print([signal.getsignal(n) for n in (2, 13, 15, 17)], signal.pthread_sigmask(0, []))",
    "it leads a session of its own": "import os\n"
    "print(os.getsid(0) == os.getpid() == os.getpgrp())",
    "how it may write": "import sys\nfor one in (sys.stdout, sys.stderr):\n"
    "    print(one.encoding, one.errors, one.write_through, one.isatty(), type(one.buffer))",
}
# Of these, what is begun afresh is tried as well where a keeper cannot be forked.
FRESH = ("it ends well", "it exits with a code", "it raises", "it is no Python", "it is killed",
         "what it wrote last is not lost", "its arguments", "its name and place")  # fmt: skip
# Those that torchrun sets, but for what it has set for itself.
NAMES = """
import os
os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)
ours = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCH", "OMP_")
print(*sorted(name for name in os.environ if name.startswith(ours)))
"""
ARGS = ["--lr", "3e-4", "a b"]

Ending = tuple[int, str, str]


def under_torchrun(
    folder: str, args: list[str], texts: list[str], variables: dict[str, str]
) -> list[Any]:
    """Exit code, output and errors of each script."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # as a VM's
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # torchrun's own
    endings = []
    for number, text in enumerate(texts):
        Path("case.py").write_text(text)
        logs = f"{folder}/torchrun-{number}"
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=1,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            max_restarts=0,
            monitor_interval=0.02,
            logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=Std.ALL),
        )
        try:
            elastic_launch(config, sys.executable)("-u", f"{folder}/case.py", *args)
            code = 0
        except ChildFailedError as error:
            code = error.failures[0].exitcode
        (out,) = Path(logs).rglob("stdout.log")
        endings.append((code, out.read_text(), out.with_name("stderr.log").read_text()))
    return endings


def ending_of(kept: Kept, variables: Mapping[str, str] = MappingProxyType({})) -> Ending:
    """How its script ends, once it is started with these variables."""
    kept.start(variables)
    end = kept.receive()
    assert isinstance(end, Done | Exited), end
    return (0 if isinstance(end, Done) else end.code, *kept.said())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scripts")


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Ending]:
    """How each case ends under torchrun."""
    texts = {**CASES, "variables": NAMES}
    variables = {"PATH": os.environ["PATH"]}
    process = Process(under_torchrun, str(folder), ARGS, list(texts.values()), variables)
    try:
        return dict(zip(texts, process.result(), strict=True))
    finally:
        process.close()


@pytest.fixture(scope="module")
def forking(folder: Path) -> Iterator[Kept]:
    """A keeper that forks its processes."""
    kept = Kept(folder, ARGS)
    yield kept
    kept.close()


@pytest.fixture(scope="module")
def starting(folder: Path) -> Iterator[Kept]:
    """A keeper that cannot be forked: something has started a thread in it."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    kept = Kept(folder, ARGS, site=site)
    yield kept
    kept.close()


@pytest.mark.parametrize("case", CASES)
def test_a_script_ends_as_under_torchrun(
    case: str, forking: Kept, expected: dict[str, Ending]
) -> None:
    (forking.folder / "case.py").write_text(CASES[case])
    assert ending_of(forking) == expected[case]
    forking.leave()


@pytest.mark.parametrize("case", FRESH)
def test_one_that_is_started_ends_so_too(
    case: str, starting: Kept, expected: dict[str, Ending]
) -> None:
    (starting.folder / "case.py").write_text(CASES[case])
    assert ending_of(starting) == expected[case]
    starting.leave()


def test_it_finds_the_variables_that_torchrun_sets(
    forking: Kept, expected: dict[str, Ending]
) -> None:
    world = world_of(1)
    variables = torchrun_environment(
        world.places[0], world, run_id="run", max_restarts=3, interface="", env={}
    )
    (forking.folder / "case.py").write_text(NAMES)
    assert ending_of(forking, variables) == expected["variables"]
    forking.leave()


def test_a_script_that_is_not_there_ends_with_pythons_code(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    try:
        code, out, errors = ending_of(kept)
        assert (code, out) == (2, "")
        assert f"can't open file '{tmp_path}/case.py'" in errors
    finally:
        kept.close()


def test_an_argument_may_name_the_output_folder(tmp_path: Path) -> None:
    """For a script that is told where to write, and knows nothing of SWELL_OUTPUT_DIR."""
    (tmp_path / "case.py").write_text("import sys; print(sys.argv[1:])")
    args = ["--output_dir=$SWELL_OUTPUT_DIR/a", "$HOME"]
    folder = tmp_path / "vm" / "output"
    folder.mkdir(parents=True)
    kept = Kept(tmp_path, args, variables={ENV_OUTPUT_DIR: str(folder)})
    try:
        assert ending_of(kept) == (0, f"{[f'--output_dir={folder}/a', '$HOME']}\n", "")
    finally:
        kept.close()


def test_a_module_runs_as_with_minus_m(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/other.py").write_text("word = 'other'\n")
    (tmp_path / "pack/train.py").write_text(
        "import sys\nfrom . import other\nprint(other.word, __name__, __package__, sys.argv[1:])\n"
    )
    kept = Kept(tmp_path, ["--x"], module="pack.train")
    try:
        assert ending_of(kept) == (0, "other __main__ pack ['--x']\n", "")
    finally:
        kept.close()
