"""Errors: their fields, their words, and their way across the container wall."""

import json
from pathlib import Path

import pytest

from dimba.common.errors import (
    BadInput,
    DimbaError,
    HostCannot,
    Location,
    SeveralErrors,
    UnusableRow,
    from_json,
    in_words,
    raise_all,
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BadInput("no spec is named"), "no spec is named"),
        (BadInput("is not set", "set it"), "is not set\n\nhint: set it"),
        (BadInput("unknown key", key="lora.x", file="job.yaml", line=3), "job.yaml:3: lora.x: unknown key"),
        (BadInput("unknown key", key="lora.x"), "lora.x: unknown key"),
        (BadInput("no rows", file=Path("a.csv")), "a.csv: no rows"),
        (UnusableRow("is null", "fill it", column="text").at(Location("a", 7)), "a:7: `text` is null\n\nhint: fill it"),
        (UnusableRow("is null", "", column="text").at(Location("a", row=7)), "a: row 7: `text` is null"),
        (BadInput("a \x1b[31mcause", file="a\x07"), "a?: a ?[31mcause"),
    ],
)
def test_words_are_the_place_the_key_the_cause_and_the_hint(error: DimbaError, words: str):
    assert in_words(error) == str(error) == words


@pytest.mark.parametrize(
    "error",
    [
        BadInput("unknown key", "remove it", key="lora.x", file="job.yaml", line=3),
        UnusableRow("is null", column="text").at(Location("a.parquet", row=7)),
        HostCannot("no GPU works"),
    ],
)
def test_an_error_keeps_its_fields_across_the_container_wall(error: DimbaError):
    read = from_json(json.loads(json.dumps(error.as_json())))
    fields = ("cause", "hint", "key", "column", "file", "line", "row", "exit_status")
    assert [getattr(read, name) for name in fields] == [getattr(error, name) for name in fields]
    assert str(read) == str(error)


def test_the_message_of_an_older_version_is_read_as_the_cause():
    error = from_json({"message": "a.jsonl:3: no answer", "hint": "correct it", "status": 2})
    assert str(error) == "a.jsonl:3: no answer\n\nhint: correct it" and isinstance(error, BadInput)


def test_several_errors_are_raised_as_one_with_the_status_of_the_spec_mistakes():
    raise_all([])
    with pytest.raises(SeveralErrors) as raised:
        raise_all([HostCannot("no GPU"), BadInput("unknown key", "remove it", key="x")])
    assert str(raised.value) == "x: unknown key\n\nhint: remove it\n\nno GPU"
    assert raised.value.exit_status == BadInput.exit_status
