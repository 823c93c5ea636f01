"""The token of a state directory: made once, for one user's eyes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.emulator.token import Token, TokenError, keep_token, read_token, shows


def test_a_token_lives_as_long_as_the_state_and_is_its_users_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        made = keep_token(tmp_path)
    finally:
        os.umask(old)
    assert keep_token(tmp_path).text == read_token(tmp_path).text == made.text
    assert len(made.text) >= 43, "256 random bits"
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_two_states_have_one_token(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    assert keep_token(tmp_path / "a").text != keep_token(tmp_path / "b").text


@pytest.mark.parametrize(
    "spoil", [lambda path: path.chmod(0o640), lambda path: path.write_text("")]
)
def test_a_token_that_others_may_know_counts_for_nothing(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    keep_token(tmp_path)
    spoil(tmp_path / "token")
    with pytest.raises(TokenError, match="is not the token of this user alone; remove it"):
        keep_token(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_token_counts_for_nothing(tmp_path: Path) -> None:
    keep_token(tmp_path)
    os.chown(tmp_path / "token", 65534, 65534)
    with pytest.raises(TokenError):
        keep_token(tmp_path)


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "right", "bearer right", "Bearer right ", "Bearer ü"]
)
def test_only_the_whole_token_is_let_in(authorization: str) -> None:
    assert not Token("right").admits(authorization)
    assert Token("right").admits("Bearer right")


def test_each_job_has_an_access_token_of_its_own() -> None:
    token = Token("right")
    of_jobs = {token.of_job(f"projects/p/locations/l/customJobs/{n}") for n in range(3)}
    assert len(of_jobs) == 3 and "right" not in of_jobs
    assert of_jobs == {
        Token("right").of_job(f"projects/p/locations/l/customJobs/{n}") for n in range(3)
    }
    assert not any(shows(f"Bearer {one}", "right") for one in of_jobs)
