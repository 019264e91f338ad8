"""Rows: the formats recognised, and what a bad row is told."""

import json
from pathlib import Path

import pytest

from dimba.errors import BadInput
from dimba.formats import as_messages, read_rows, recognise, survey

USER = {"role": "user", "content": "Q"}
ASSISTANT = {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT]},
        {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"prompt": "Q", "completion": "A"},
        {"prompt": "Q", "response": "A"},
        {"instruction": "Q", "input": "", "output": "A"},
        {"question": "Q", "answer": "A"},
        {"query": "Q", "answer": "A", "lang": "python"},
        {"prompt": "Q", "prompt_id": "1", "messages": [USER, ASSISTANT]},
    ],
)
def test_a_known_format_becomes_the_same_chat(row: dict):
    form = recognise(row, {}, "here")
    assert as_messages(row, form, {}, "here") == [USER, ASSISTANT]


def test_the_input_of_an_instruction_follows_it():
    row = {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be brief"}
    messages = as_messages(row, recognise(row, {}, "here"), {}, "here")
    assert [message["content"] for message in messages] == ["Be brief", "Add\n\n1 2", "3"]


def test_columns_are_renamed_by_option():
    row = {"ask": "Q", "reply": "A"}
    columns = {"prompt": "ask", "response": "reply"}
    assert as_messages(row, recognise(row, columns, "here"), columns, "here") == [USER, ASSISTANT]


def test_columns_decide_between_two_formats():
    row = {"question": "Q", "answer": "A", "prompt": "P", "response": "R"}
    with pytest.raises(BadInput, match="equally well"):
        recognise(row, {}, "here")
    columns = {"question": "question", "answer": "answer"}
    assert recognise(row, columns, "here").name == "question/answer"


def test_unknown_columns_are_named():
    with pytest.raises(BadInput, match="no known format has the columns `a`, `b`"):
        recognise({"b", "a"}, {}, "here")
    with pytest.raises(BadInput, match="no column `ask`"):
        recognise({"a"}, {"prompt": "ask"}, "here")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"question": "Q", "answer": ', "not valid JSON"),
        ("[1, 2]", "is a list, expected an object"),
        ('{"question": "Q"}', "no `answer` here"),
        ('{"question": "Q", "answer": null}', "`answer` is null, expected text"),
        ('{"question": 5, "answer": "A"}', "`question` is a number, expected text"),
        ('{"question": "Q", "answer": "  "}', "nothing to train on"),
    ],
)
def test_a_bad_row_is_told_with_its_line(tmp_path: Path, line: str, told: str):
    path = tmp_path / "data.jsonl"
    path.write_text('{"question": "Q", "answer": "A"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(BadInput, match=told) as raised:
        survey(path, {})
    assert str(raised.value).startswith(f"{path}:3: ")


def test_a_byte_order_mark_and_empty_lines_do_no_harm(tmp_path: Path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "Q", "answer": "A"}\n\n{"question": "Q", "answer": "A"}')
    assert survey(path, {}).rows == 2


def test_a_wrong_encoding_is_told(tmp_path: Path):
    path = tmp_path / "data.jsonl"
    path.write_bytes('{"question": "Zoë", "answer": "A"}\n'.encode("latin-1"))
    with pytest.raises(BadInput, match=r"data.jsonl:1: not UTF-8"):
        survey(path, {})


def test_an_array_and_one_object_a_line_are_both_json(tmp_path: Path):
    rows = [{"question": "Q", "answer": "A"}] * 3
    array, lines = tmp_path / "array.json", tmp_path / "lines.json"
    array.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    lines.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert survey(array, {}).rows == survey(lines, {}).rows == 3


def test_a_broken_array_is_told_with_its_line(tmp_path: Path):
    path = tmp_path / "data.json"
    path.write_text('[\n{"question": "Q",\n"answer": }\n]', encoding="utf-8")
    with pytest.raises(BadInput, match=r"not valid JSON: .* at line 3"):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["empty.jsonl", "missing.jsonl", "data.xlsx"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(BadInput) as raised:
        list(read_rows(tmp_path / name))
    assert raised.value.hint
