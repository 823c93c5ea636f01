"""``${NAME}`` in a file: the environment's value, typed as if it had been written there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.job.interpolation import InterpolationError, interpolate
from launcher.job.jobfile import JobFileError
from launcher.job.yamlfile import FileError, read_yaml
from launcher.target import load_job

VARIABLES = {"A": "one", "EMPTY": "", "N": "3", "TRICK": "${A} $(A) *x: {"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("x${A}y${N}z", "xoney3z"),
        ("${EMPTY}", ""),
        ("${EMPTY:-full}", "full"),
        ("${NONE:-}", ""),
        ("${NONE:-gs://bucket-b/x y}", "gs://bucket-b/x y"),
        ("${A:-two}", "one"),
        ("$${A}", "${A}"),
        ("$${A} ${A}", "${A} one"),
        ("$A $(A) $ $$ {A}", "$A $(A) $ $$ {A}"),
        ("${TRICK}", "${A} $(A) *x: {"),
    ],
)
def test_what_a_reference_means(text: str, value: str) -> None:
    assert interpolate(text, VARIABLES) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE}", "the environment has no NONE; set it, or write ${NONE:-DEFAULT}"),
        ("${}", "${ is not a variable; write ${NAME}, or $${ for a plain ${"),
        ("${A", "${A is not a variable; write ${NAME}, or $${ for a plain ${"),
        ("${A-x}", "${A-x is not a variable; write ${NAME}, or $${ for a plain ${"),
        ("${1}", "${1 is not a variable; write ${NAME}, or $${ for a plain ${"),
        ("${BYTES}", "the variable BYTES is not text in UTF-8; set another value"),
    ],
)
def test_what_means_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(InterpolationError) as error:
        interpolate(text, {**VARIABLES, "BYTES": "\udcff"})
    assert str(error.value) == message


@given(st.text())
def test_doubling_the_dollar_keeps_any_text(text: str) -> None:
    assert interpolate(text.replace("${", "$${"), {}) == text or "$${" in text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: ${N}", {"a": 3}),
        ("a: '${N}'", {"a": "3"}),
        ('{a: "${N}"}', {"a": "3"}),
        ("a: ${EMPTY}", {"a": None}),
        ("a: x-${A}", {"a": "x-one"}),
        ("a: ${TRICK}", {"a": VARIABLES["TRICK"]}),
        ("- ${NONE:-1e-3}", [0.001]),
        ("${A}: 1", {"${A}": 1}),
    ],
)
def test_a_value_has_the_type_of_what_is_put_in_and_cannot_add_structure(
    text: str, value: object
) -> None:
    assert read_yaml(text, "f", VARIABLES)[0] == value


def test_all_missing_variables_are_named_at_once_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: ${NAME}\npools:\n  - machine: ${MACHINE:-a2-highgpu-1g}\nenv:\n  A: ${B}\n"
    )
    with pytest.raises(JobFileError) as error:
        load_job(path, variables={})
    assert error.value.problems == [
        f"{path}:1: name: the environment has no NAME; set it, or write ${{NAME:-DEFAULT}}",
        f"{path}:5: env.A: the environment has no B; set it, or write ${{B:-DEFAULT}}",
    ]


def test_a_job_is_filled_in_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: x\ntask: m:C\npools:\n  - a2-highgpu-1g\n  - ${N} x a2-highgpu-1g\n")
    monkeypatch.setenv("N", "5")
    assert load_job(path).slots == 6
    assert load_job(path, ["pools.1.replicas=${N}"]).slots == 6
    with pytest.raises(JobFileError, match=r"^--set name=\$\{NONE\}: the environment has no NONE"):
        load_job(path, ["name=${NONE}"])


def test_inside_braces_a_reference_must_be_quoted_and_the_error_says_so() -> None:
    with pytest.raises(FileError, match=r'write "\$\{NAME\}" in quotes'):
        read_yaml("a: {b: ${N}}", "f", VARIABLES)
