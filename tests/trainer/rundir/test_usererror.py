"""Errors for users: texts without ids, and shown with them."""

from __future__ import annotations

from trainer.rundir.usererror import Message, Unusable, UserError, shown


def test_the_id_is_data_and_no_part_of_the_text() -> None:
    error = Unusable("SW0001", "it is wrong; write it right")
    assert str(error) == "it is wrong; write it right"
    assert error.id == "SW0001"
    assert isinstance(error, ValueError)


def test_a_person_sees_the_id_at_the_end_of_the_first_line() -> None:
    assert shown(UserError("SW0001", "it failed")) == "it failed [SW0001]"
    assert shown(UserError("SW0001", "it failed\nbecause\nof this")) == (
        "it failed [SW0001]\nbecause\nof this"
    )


def test_several_messages_are_a_line_each_with_ids_of_their_own() -> None:
    error = UserError.of([Message("SW0001", "a: is wrong"), Message("SW0002", "b: is missing")])
    assert str(error) == "a: is wrong\nb: is missing"
    assert error.problems == ["a: is wrong", "b: is missing"]
    assert shown(error) == "a: is wrong [SW0001]\nb: is missing [SW0002]"


def test_what_another_process_has_shown_gets_no_second_id() -> None:
    assert str(Message("", "it failed [SW0001]")) == "it failed [SW0001]"


def test_other_errors_are_shown_with_the_id_that_is_given_for_them() -> None:
    assert shown(OSError("no room")) == "no room"
    assert shown(OSError("no room"), "SW0003") == "no room [SW0003]"
    assert shown(UserError("SW0001", "it failed"), "SW0003") == "it failed [SW0001]"
