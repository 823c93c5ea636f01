"""What the source of a program says, without being run: its class, and what that takes."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.job.job import Job
from launcher.job.jobfile import JobFileError
from launcher.job.problem import MISSING
from launcher.job.source import (
    NO_ARGUMENT,
    NO_CLASS,
    NO_PYTHON,
    changes_worlds,
    disagreements,
)
from launcher.target import Wanted, load_job
from trainer.tasks.digits import Digits

IMPORTED = "from trainer import Task\n"


def said(folder: Path, text: str, task: str = "Net", **args: Any) -> list[tuple[Any, str, str]]:
    (folder / "t.py").write_text(text)
    fields = {"name": "j", "pools": ["a2-highgpu-1g"], "args": args}
    return disagreements(Job.model_validate({**fields, "task": f"{folder}/t.py:{task}"}))


def test_a_class_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    text = f"{IMPORTED}class Nets(Task):\n    pass\n"
    what = "there is no class Net in t.py; did you mean Nets?"
    assert said(tmp_path, text) == [(("task",), NO_CLASS, what)]
    what = "there is no class Zebra in t.py; it has Nets"
    assert said(tmp_path, text, task="Zebra") == [(("task",), NO_CLASS, what)]
    what = "there is no class Net in t.py; it has no class at all"
    assert said(tmp_path, "x = 1\n") == [(("task",), NO_CLASS, what)]


@pytest.mark.parametrize(
    "text",
    [
        "from other import Net\n", "from other import *\n", "import x as Net\n",
        "Net = make()\n", "def Net(): ...\n", "if 1:\n    class Net: ...\n",
        "try:\n    from a import Net\nexcept ImportError:\n    Net = None\n",
        "def __getattr__(name): ...\n", "globals()['Net'] = 1\n", "(Net, x) = make()\n",
        "for Net in x: pass\n", "with a as Net: pass\n",
        "match x:\n    case 1:\n        class Net: ...\n", "class Net: ...\nclass Net: ...\n",
        "class Net: ...\nNet = wrap(Net)\n",
    ],
)  # fmt: skip
def test_of_what_the_text_does_not_tell_nothing_is_said(tmp_path: Path, text: str) -> None:
    assert said(tmp_path, text, lr=1) == []


@pytest.mark.parametrize(
    ("text", "elastic"),
    [
        ("import horovod.torch as hvd\n@hvd.elastic.run\ndef train(state): ...\n", True),
        ("from trainer import elastic\n", True),
        ("import horovod.torch as hvd\nhvd.init()\n", False),
        ("elastic = 'trainer'\n", False),
        ("def (", None),
        (None, None),
    ],
)
def test_whether_a_program_takes_another_world_is_read_where_it_can_be(
    tmp_path: Path, text: str | None, elastic: bool | None
) -> None:
    fields = {"name": "j", "pools": ["a2-highgpu-1g"]}
    folder = tmp_path / "code" / "my" / "train"
    folder.mkdir(parents=True)
    for path in (tmp_path / "s.py", folder / "__main__.py"):
        if text is not None:
            path.write_text(text)
    script = Job.model_validate({**fields, "script": f"{tmp_path}/s.py"})
    assert changes_worlds(script) is elastic
    module = {**fields, "module": "my.train", "code": str(tmp_path / "code")}
    assert changes_worlds(Job.model_validate(module)) is elastic
    image = Job.model_validate({**fields, "module": "my.train"})
    assert changes_worlds(image) is None, "it is in the image"
    assert changes_worlds(Job.model_validate({**fields, "task": "a:B"})) is True
    assert changes_worlds(Job.model_validate({**fields, "torchrun": {"module": "a"}})) is False


BASE = "class Base(Task):\n    def __init__(self, a=1): ...\nclass Net(Base): ...\n"
INIT = "class Net(Task):\n    def __init__(self, epochs, *, lr=0.1): ...\n"


@pytest.mark.parametrize(
    ("text", "args", "wrong"),
    [
        (INIT, {"epochs": 1, "lr": 2}, []),
        (INIT, {"lr": 2}, [(("args", "epochs"), MISSING, "is missing; Net needs it (t.py:3)")]),
        (
            INIT, {"epoch": 1, "epochs": 1},
            [(("args", "epoch"), NO_ARGUMENT, "Net takes no epoch (t.py:3); did you mean epochs?")],
        ),
        (
            INIT, {"epochs": 1, "zebra": 1},
            [(("args", "zebra"), NO_ARGUMENT,
              "Net takes no zebra (t.py:3); it takes epochs, lr")],
        ),
        (
            "class Net(Task): ...\n", {"lr": 1},
            [(("args", "lr"), NO_ARGUMENT, "Net takes no lr (t.py:2); it takes none")],
        ),
        (BASE, {"a": 1}, []),
        (
            BASE, {"b": 1},
            [(("args", "b"), NO_ARGUMENT, "Net takes no b (t.py:3); it takes a")],
        ),
        ("class Net(Task):\n    def __init__(self, **all): ...\n", {"b": 1}, []),
        (
            "class Net(Task):\n    def __init__(self, a, **all): ...\n", {"b": 1},
            [(("args", "a"), MISSING, "is missing; Net needs it (t.py:3)")],
        ),
        (
            "@dataclass\nclass Net(Task):\n    a: int\n    b: int = 2\n", {"c": 1},
            [
                (("args", "c"), NO_ARGUMENT, "Net takes no c (t.py:3); it takes a, b"),
                (("args", "a"), MISSING, "is missing; Net needs it (t.py:3)"),
            ],
        ),
        # What may bring arguments of its own:
        ("@dataclass(init=False)\nclass Net(Task):\n    a: int\n", {"c": 1}, []),
        ("@dataclass\nclass Net(Task):\n    a: list = field(default_factory=list)\n", {}, []),
        ("@wrapped\nclass Net(Task): ...\n", {"c": 1}, []),
        ("class Net(Mixin, Task): ...\n", {"c": 1}, []),
        ("class Net(other.Base): ...\n", {"c": 1}, []),
        ("class Net(Task, metaclass=M): ...\n", {"c": 1}, []),
        ("class Net(Task):\n    @wrapped\n    def __init__(self): ...\n", {"c": 1}, []),
        ("class Net(Task):\n    __init__ = other\n", {"c": 1}, []),
        ("class Net(Task):\n    if x:\n        def __init__(self): ...\n", {"c": 1}, []),
        ("class Net(Task):\n    def __new__(cls, c): ...\n", {"c": 1}, []),
        ("class Net(Net): ...\n", {"c": 1}, []),
    ],
)  # fmt: skip
def test_arguments_are_those_of_the_class(
    tmp_path: Path, text: str, args: dict[str, Any], wrong: list[Any]
) -> None:
    assert said(tmp_path, IMPORTED + text, **args) == wrong


def test_a_task_of_another_package_that_is_called_task_is_not_ours(tmp_path: Path) -> None:
    assert said(tmp_path, "from mine import Task\nclass Net(Task): ...\n", lr=1) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("class Net: ...\n", 1),
        ("class Net(object): ...\n", 1),
        ("import torch\nclass Net(torch.nn.Module): ...\n", 2),
        ("from torch.nn import Module\nclass Net(Module): ...\n", 2),
        ("from torch import nn\nclass Base(nn.Module): ...\nclass Net(Base): ...\n", 3),
    ],
)
def test_a_class_that_is_no_task_is_told_before_anything_starts(
    tmp_path: Path, text: str, line: int
) -> None:
    what = f"Net is no trainer.Task (t.py:{line}); name a class that is one"
    assert said(tmp_path, text, lr=1) == [(("task",), NO_CLASS, what)]


@pytest.mark.parametrize(
    "text",
    [
        "from mine import Base\nclass Net(Base): ...\n",
        "import torch\nfrom mine import Mixin\nclass Net(torch.nn.Module, Mixin): ...\n",
        "@made_a_task\nclass Net: ...\n",
        "class Net(metaclass=Tasks): ...\n",
        "from mine import Module\nclass Net(Module): ...\n",
    ],
)
def test_a_class_that_may_be_a_task_is_let_be(tmp_path: Path, text: str) -> None:
    assert said(tmp_path, text, lr=1) == []


@given(st.sets(st.sampled_from([*inspect.signature(Digits).parameters, "depth", "lrs"])))
def test_python_itself_agrees_about_the_digits(names: set[str]) -> None:
    args = dict.fromkeys(names, 1)
    fields = {"name": "j", "pools": ["a2-highgpu-1g"], "args": args}
    found = disagreements(Job.model_validate({**fields, "task": "trainer.tasks.digits:Digits"}))
    try:
        inspect.signature(Digits).bind(**args)
    except TypeError:
        assert found
    else:
        assert found == []


@pytest.mark.parametrize(
    ("text", "line"), [("x = (\n", 1), ("\n\ndef f(:\n", 3), ("a = 'ä'\n  b\n", 2)]
)
def test_what_is_no_python_is_said_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    ((at, id, what),) = said(tmp_path, text)
    assert (at, id) == (("task",), NO_PYTHON)
    assert what.startswith(f"t.py:{line}: is not Python: ")


def test_any_bytes_are_no_traceback(tmp_path: Path) -> None:
    for data in (b"\0", b"\xff\xfe", b"# coding: nope\n", b"(" * 10_000, b"x=" + b"-" * 100_000):
        (tmp_path / "t.py").write_bytes(data)
        fields = {"name": "j", "pools": ["a2-highgpu-1g"], "script": f"{tmp_path}/t.py"}
        for _, id, _ in disagreements(Job.model_validate(fields)):
            assert id == NO_PYTHON


def test_a_module_in_the_code_folder_is_read_and_none_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("from .net import Net\n")
    (tmp_path / "pkg/net.py").write_text("class Other: ...\n")
    base = {"name": "j", "pools": ["a2-highgpu-1g"], "code": str(tmp_path)}

    def of(task: str) -> list[str]:
        return [id for _, id, _ in disagreements(Job.model_validate({**base, "task": task}))]

    assert of("pkg:Net") == []
    assert of("pkg.net:Net") == [NO_CLASS]
    assert of("elsewhere.net:Net") == []
    assert "pkg" not in sys.modules


def test_plan_and_launch_say_it_in_the_line_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text(IMPORTED + INIT)
    (tmp_path / ".gitignore").write_text("t.py\n")
    file = tmp_path / "job.yaml"
    file.write_text("name: j\ntask: t.py:Nets\ncode: .\npools: [a2-highgpu-1g]\n")
    wanted = [
        f"{file}:2: task: t.py is ignored (.gitignore:1: t.py); let it be sent with !t.py in "
        ".swellignore",
        f"{file}:2: task: there is no class Nets in t.py; did you mean Net?",
    ]
    targets: tuple[Wanted, ...] = ("any", "local")
    for target in targets:
        with pytest.raises(JobFileError) as caught:
            load_job(file, target=target)
        assert caught.value.problems == wanted


def test_another_python_may_know_what_this_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text("x = (\n")
    file = tmp_path / "job.yaml"
    file.write_text("name: j\ntask: t.py:Net\ncode: .\npools: [a2-highgpu-1g]\n")
    load_job(file, target="any")
    with pytest.raises(JobFileError, match=r":2: task: t.py:1: is not Python"):
        load_job(file, target="local")
