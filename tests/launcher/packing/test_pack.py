"""What is packed of a folder, what stays behind, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.job.code import Code
from launcher.job.sizes import Size
from launcher.packing.ignore import PackingError
from launcher.packing.pack import pack
from trainer.rundir import bundle

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEAtu7qkQ\n-----END RSA PRIVATE KEY-----\n"


def made(folder: Path, **files: str) -> Path:
    """Writes files; in their names _ stands for . and __ for /."""
    for name, text in files.items():
        put(folder, name.replace("__", "/").replace("_", "."), text)
    return folder


def put(folder: Path, name: str, text: str = "x\n") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names(folder: Path, **fields: Any) -> list[str]:
    return [file.name for file in pack(Code(folder=str(folder), **fields)).files]


def refusal(folder: Path, **fields: Any) -> str:
    with pytest.raises(PackingError) as caught:
        pack(Code(folder=str(folder), **fields))
    return str(caught.value)


def test_everything_that_is_code_is_packed(tmp_path: Path) -> None:
    for name in ("train.py", "conf/a.yaml", "pkg/__init__.py", "Ünïcode.txt", ".hidden"):
        put(tmp_path, name)
    assert names(tmp_path) == sorted(
        ["train.py", "conf/a.yaml", "pkg/__init__.py", "Ünïcode.txt", ".hidden"]
    )


def test_the_same_content_has_the_same_hash_anywhere(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    made(one, b_py="b", a__c_py="c")
    shutil.copytree(one, other)
    os.utime(other / "b.py", (1, 1))
    (other / "b.py").chmod(0o600)  # who may read it is not content; whether it runs is
    put(other, ".git/HEAD")
    put(other, "__pycache__/b.pyc")
    assert pack(Code(folder=str(one))).sha256 == pack(Code(folder=str(other))).sha256
    (other / "b.py").chmod(0o700)
    assert pack(Code(folder=str(one))).sha256 != pack(Code(folder=str(other))).sha256


def test_gits_ignore_files_hold_in_their_folders(tmp_path: Path) -> None:
    put(tmp_path, ".gitignore", "data/\n*.ckpt\n!keep.ckpt\n/only_here.txt\n")
    put(tmp_path, "pkg/.gitignore", "!b.ckpt\nlocal.txt\n")
    for name in (
        "train.py", "data/x", "a.ckpt", "keep.ckpt", "only_here.txt", "pkg/only_here.txt",
        "pkg/a.ckpt", "pkg/b.ckpt", "pkg/local.txt", "pkg/data/y", "local.txt",
    ):  # fmt: skip
        put(tmp_path, name)
    assert names(tmp_path) == [
        "keep.ckpt", "local.txt", "pkg/b.ckpt", "pkg/only_here.txt", "train.py",
    ]  # fmt: skip


def test_swells_ignore_file_and_the_job_have_the_last_word(tmp_path: Path) -> None:
    put(tmp_path, ".gitignore", "*.bin\nbuilt.py\n")
    put(tmp_path, ".swellignore", "!built.py\nnotes/\n")
    for name in ("train.py", "built.py", "a.bin", "notes/x.md", "extra.py"):
        put(tmp_path, name)
    assert names(tmp_path) == ["built.py", "extra.py", "train.py"]
    assert names(tmp_path, exclude=["/extra.py", "!a.bin"]) == ["a.bin", "built.py", "train.py"]


def test_the_repository_above_is_heard(tmp_path: Path) -> None:
    put(tmp_path, ".gitignore", "/src/data/\n*.log\n")
    for name in ("src/train.py", "src/data/x", "src/a.log", "outside.py"):
        put(tmp_path, name)
    assert "a.log" in names(tmp_path / "src"), "it is no repository yet"
    (tmp_path / ".git").mkdir()
    assert names(tmp_path / "src") == ["train.py"]


def test_virtual_environments_stay_behind(tmp_path: Path) -> None:
    put(tmp_path, "train.py")
    put(tmp_path, "my-env/pyvenv.cfg")
    put(tmp_path, "my-env/lib/x.py")
    assert names(tmp_path) == ["train.py"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        (".env", "A=1", "has the name of a secret"),
        ("conf/prod.env", "A=1", "has the name of a secret"),
        ("deploy.PEM", "x", "has the name of a secret"),
        ("id_rsa", "x", "has the name of a secret"),
        ("my/service-account-prod.json", "{}", "has the name of a secret"),
        (".aws/config", "x", "is in a folder of logins and keys"),
        ("notes.txt", "see below\n" + KEY, "holds a private key"),
        ("key.json", '{"private_key": "' + KEY.replace("\n", "\\n") + '"}', "holds a private key"),
        ("a.json", '{"refresh_token": "1//0abcdefghijkl"}', "holds a login of Google Cloud"),
        ("a.py", "K = 'AKIA" + "A" * 16 + "'", "holds an access key of Amazon's"),
        ("b.py", "K = 'hf_" + "a" * 34 + "'", "holds a token of Hugging Face's"),
        ("c.py", "K = 'ghp_" + "a" * 36 + "'", "holds a token of GitHub's"),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_refused(
    tmp_path: Path, name: str, text: str, why: str
) -> None:
    put(tmp_path, "train.py")
    put(tmp_path, name, text)
    said = refusal(tmp_path)
    assert said == (
        f"code: {name} {why}, and is not sent; leave it out (a line /{name} in .swellignore), "
        f"or, if it is no secret, write code.allow: [{name}]"
    )
    assert text not in said
    assert name in names(tmp_path, allow=[name])
    put(tmp_path, ".swellignore", f"/{name}\n")
    assert names(tmp_path) == ["train.py"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env.example", "A="),
        ("id_rsa.pub", "ssh-rsa AAAA"),
        ("keys.py", "if '-----BEGIN PRIVATE KEY-----' in text: pass"),
        ("tokenizer.json", '{"token": "abc"}'),
        ("environment.yaml", "x"),
    ],
)
def test_what_only_speaks_of_secrets_is_packed(tmp_path: Path, name: str, text: str) -> None:
    put(tmp_path, name, text)
    assert names(tmp_path) == [name]


def test_a_secret_behind_a_link_is_one(tmp_path: Path) -> None:
    put(tmp_path, ".env", "A=1")
    put(tmp_path, ".swellignore", "/.env\n")
    (tmp_path / "settings.txt").symlink_to(".env")
    assert "settings.txt has the name of a secret" in refusal(tmp_path)


def test_links_inside_are_followed(tmp_path: Path) -> None:
    put(tmp_path, "real/a.py", "a")
    (tmp_path / "link.py").symlink_to("real/a.py")
    (tmp_path / "again").symlink_to("real")
    assert names(tmp_path) == ["again/a.py", "link.py", "real/a.py"]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../secret.txt", "leads out of the folder"),
        ("/etc/hostname", "leads out of the folder"),
        ("..", "leads out of the folder"),
        ("nowhere", "is a link to nothing"),
        (".", "is a link to a folder that holds it"),
    ],
)
def test_other_links_are_refused(tmp_path: Path, target: str, why: str) -> None:
    put(tmp_path, "secret.txt")
    folder = made(tmp_path / "code", train_py="x")
    (folder / "link").symlink_to(target)
    assert why in refusal(folder)
    assert names(folder, exclude=["link"]) == ["train.py"]


def test_a_link_out_of_a_linked_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "secret.txt")
    folder = made(tmp_path / "code", a__b_py="x")
    (folder / "a/up").symlink_to("../../secret.txt")
    (folder / "again").symlink_to("a")
    assert refusal(folder).count("leads out of the folder") == 2


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is neither file nor folder" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["trainer/__init__.py", "launcher/x.py", "trainer.py"])
def test_swells_own_packages_cannot_be_replaced(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)
    assert "has the name of a package of Swell's own" in refusal(tmp_path)
    put(tmp_path / "other", f"deep/{name}")
    assert names(tmp_path / "other") == [f"deep/{name}"], "deeper down it hides nothing"


def test_of_too_much_the_largest_are_named(tmp_path: Path) -> None:
    for number in range(8):
        put(tmp_path, f"{number}.bin", "x" * (number + 1) * 1024)
    said = refusal(tmp_path, max_size=Size(20 * 1024))
    assert said == (
        "code: has 36.0 KiB, more than 20KiB; the largest are 7.bin (8.0 KiB), 6.bin (7.0 KiB), "
        "5.bin (6.0 KiB), 4.bin (5.0 KiB), 3.bin (4.0 KiB); leave them out with .swellignore, or "
        "write code.max_size"
    )
    assert len(names(tmp_path, max_size=Size(36 * 1024))) == 8


def test_there_is_a_limit_to_the_number_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MAX_FILES", 3)
    for number in range(5):
        put(tmp_path, f"{number}.py")
    assert "more than 3 files" in refusal(tmp_path)


def test_problems_are_told_together_but_not_all_of_thousands(tmp_path: Path) -> None:
    for number in range(30):
        put(tmp_path, f"{number}.pem")
    lines = refusal(tmp_path).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "code: and 10 more of these"


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    assert "there is nothing to send" in refusal(tmp_path)
    put(tmp_path, "train.py")
    assert "old.pem is not among the code" in refusal(tmp_path, allow=["old.pem"])
    assert "there is no folder" in refusal(tmp_path / "no")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "train.py")
    (tmp_path / os.fsdecode(b"bad\xff")).write_text("x")
    (tmp_path / "line\nbreak").write_text("x")
    assert refusal(tmp_path).count("is no name to send") == 2
