"""Formats: how rows are recognised and converted, and the errors for unusable rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.files import read_rows
from dimba.dataset.formats import Sample, UnknownFormat, as_sample, recognise
from dimba.dataset.summary import samples_of, survey
from tests.conftest import SHARED_DATA, write_rows

HERE = Location("here")
SYSTEM = {"role": "system", "content": "S"}
USER = {"role": "user", "content": "Q"}
ASSISTANT = {"role": "assistant", "content": "A"}
HUMAN, GPT = {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}
CHAT = [USER, ASSISTANT]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def sample(row: dict[str, Any], columns: dict[str, str] | None = None) -> Sample:
    return as_sample(row, recognise(row, columns or {}, HERE), columns or {}, HERE)


def chat(row: dict[str, Any], columns: dict[str, str] | None = None) -> list[dict[str, Any]]:
    return list(sample(row, columns).messages)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT},
        {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]},
        {"messages": [HUMAN, GPT]},
        {"messages": [{**USER, "from": None, "value": None}, {**GPT, "role": None, "content": None}]},
        {"messages": json.dumps(CHAT)},
        {"messages": {"role": ["user", "assistant"], "content": ["Q", "A"]}},
        {"conversations": [HUMAN, GPT], "system": None},
        {"conversations": CHAT},
        {"prompt": "Q", "completion": "A"},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": [HUMAN], "response": GPT},
        {"prompt": json.dumps([USER]), "completion": json.dumps([ASSISTANT])},
        {"prompt": "Q", "response": "A", "messages": None},
        {"instruction": "Q", "input": "", "output": "A", "history": []},
        {"instruction": "", "input": "Q", "output": "A"},
        {"question": "Q", "answer": "A", "text": None},
        {"query": "Q", "answer": "A", "lang": "python"},
        {"prompt": "Q", "prompt_id": "1", "messages": CHAT},
        {"text": "Q A", "messages": CHAT},
        {"chosen": ["x"], "rejected": ["y"], "messages": CHAT},
        {"messages": [USER, {**ASSISTANT, "tool_calls": "null"}], "tools": "null", "chat_template_kwargs": "null"},
        {"instruction": "Q", "output": "A", "history": "null"},
    ],
    ids=lambda row: json.dumps(row)[:70],
)
def test_a_known_format_becomes_the_same_chat(row: dict):
    assert sample(row) == Sample(messages=(USER, ASSISTANT), trained=(False, True))


def test_the_input_of_an_instruction_follows_it():
    row = {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be brief"}
    assert [message["content"] for message in chat(row)] == ["Be brief", "Add\n\n1 2", "3"]


@pytest.mark.parametrize("history", [[["q", "a"]], '[["q", "a"]]'])
def test_the_history_of_an_instruction_comes_first_and_carries_loss(history):
    read = sample({"instruction": "Q", "output": "A", "system": "S", "history": history})
    assert [message["content"] for message in read.messages] == ["S", "q", "a", "Q", "A"]
    assert read.trained == (False, False, True, False, True)


def test_the_turns_of_a_prompt_carry_no_loss():
    read = sample({"prompt": [USER, ASSISTANT, USER], "completion": "A"})
    assert read.messages == (USER, ASSISTANT, USER, ASSISTANT) and read.trained == (False, False, False, True)


def test_a_system_column_comes_before_the_turns_unless_they_have_it():
    assert chat({"system": "S", "conversations": [HUMAN, GPT]}) == [SYSTEM, *CHAT]
    assert chat({"system": "S", "messages": [SYSTEM, *CHAT]}) == [SYSTEM, *CHAT]
    with pytest.raises(UnusableRow, match="`system` differs from the system turn"):
        sample({"system": "other", "messages": [SYSTEM, *CHAT]})


def test_tool_calls_their_results_and_the_tools_are_kept():
    tools = [{"type": "function", "function": {"name": "add"}}]
    result = {"role": "tool", "content": "", "name": "add", "tool_call_id": "1"}
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    for given in (tools, json.dumps(tools)):
        read = sample({"messages": [USER, calls, {**result, "more": 1}, ASSISTANT], "tools": given})
        assert read.messages == (USER, {**calls, "content": ""}, result, ASSISTANT)
        assert read.trained == (False, True, False, True) and read.tools == tuple(tools)
    assert sample({"messages": CHAT, "tools": None}).tools is sample({"messages": CHAT, "tools": "[]"}).tools is None


def test_a_function_call_is_a_turn_of_the_assistant():
    turns = [HUMAN, {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "3"}, GPT]
    read = sample({"conversations": turns})
    assert [message["role"] for message in read.messages] == ["user", "assistant", "tool", "assistant"]
    assert read.messages[1]["content"] == "{}" and read.trained == (False, True, False, True)


@pytest.mark.parametrize("key", ["weight", "loss_weight"])
def test_a_turn_with_the_weight_0_carries_no_loss(key: str):
    turns = [{**USER, key: 0.0}, {**ASSISTANT, key: 0}, USER, {**ASSISTANT, key: 1.0}, USER, {**ASSISTANT, key: None}]
    assert sample({"messages": turns}).trained == (False, False, False, True, False, True)


def test_plain_text_is_used_unchanged():
    assert sample({"text": " Once\n", "label": 1}) == Sample(text=" Once\n")
    assert sample({"body": "Once"}, {"text": "body"}) == Sample(text="Once")


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"ask": "Q", "reply": "A"}, {"prompt": "ask", "response": "reply"}),
        ({"prompt": "A", "response": "Q"}, {"prompt": "response", "response": "prompt"}),
        ({"chosen": CHAT, "rejected": [USER]}, {"messages": "chosen"}),
        ({"chosen": CHAT, "rejected": [USER], "messages": [USER]}, {"messages": "chosen"}),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, {"prompt": "prompt", "response": "chosen"}),
        ({"system": "Q", "output": "A"}, {"instruction": "system", "output": "output"}),
        ({"text": "Q", "answer": "A"}, {"question": "text", "answer": "answer"}),
    ],
)
def test_dataset_columns_renames_columns(row: dict, columns: dict):
    assert chat(row, columns) == CHAT


def test_a_text_column_is_plain_text_only_if_no_other_format_fits():
    assert recognise(["instruction", "input", "output", "text"], {}, HERE).name == "instruction/output"
    assert recognise(["instruction", "output", "text"], {"text": "text"}, HERE).name == "text"


@pytest.mark.parametrize(
    ("row", "first", "second", "named"),
    [
        (
            "question answer prompt response",
            "prompt/response",
            "question/answer",
            "{question: question, answer: answer}",
        ),
        ("prompt response completion", "prompt/completion", "prompt/response", "{prompt: prompt, response: response}"),
        ("query question answer", "query/answer", "question/answer", "{query: query, answer: answer}"),
        ("messages conversations", "messages", "conversations", "{messages: messages}"),
    ],
)
def test_two_formats_that_fit_are_listed_with_the_columns_that_decide(row: str, first: str, second: str, named: str):
    keys = row.split()
    with pytest.raises(UnknownFormat, match=f"the columns fit `{first}` and `{second}` equally well") as raised:
        recognise(keys, {}, HERE)
    assert f"`dataset.columns: {named}`" in raised.value.hint
    columns = dict(pair.split(": ") for pair in named.strip("{}").split(", "))
    assert recognise(keys, columns, HERE).required == tuple(columns)


@pytest.mark.parametrize(
    ("columns", "cause", "hint"),
    [
        (
            {"prompt": "Ask"},
            "beside `prompt` there is no `completion` or `response`",
            "{prompt: Ask, response: …}`; the",
        ),
        ({"prompt": "ask", "response": "reply"}, "no column `ask`", "did you mean `Ask`? the columns are: Ask, reply"),
        ({"prompt": "Ask", "response": "Ask"}, "takes `Ask` for `prompt` and `response`", "a column of its own"),
    ],
)
def test_wrong_columns_are_reported(columns: dict, cause: str, hint: str):
    with pytest.raises(BadInput) as raised:
        recognise(("Ask", "reply"), columns, HERE)
    assert cause in raised.value.message and hint in raised.value.hint


def test_the_hint_for_a_table_without_a_header_explains_its_first_line(tmp_path: Path):
    (tmp_path / "a.csv").write_text("Where is it?,Here\nWho?,I\n")
    with pytest.raises(UnknownFormat) as raised:
        survey(tmp_path / "a.csv", {})
    assert "the first line of a .csv names its columns" in raised.value.hint


def test_unknown_columns_are_listed():
    with pytest.raises(UnknownFormat, match="no known format has the columns `a`, `b`"):
        recognise({"b", "a"}, {}, HERE)
    with pytest.raises(BadInput, match="no column `ask`"):
        recognise({"a"}, {"prompt": "ask"}, HERE)


def test_a_null_column_counts_only_if_no_format_fits_without_it():
    assert recognise({"messages": None, "prompt": "Q", "response": "A"}, {}, HERE).name == "prompt/response"
    assert recognise({"question": "Q", "answer": None}, {}, HERE).name == "question/answer"


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"chosen": CHAT, "rejected": CHAT}, "{messages: chosen}"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "{prompt: prompt, response: chosen}"),
        ({"conversations": [HUMAN], "chosen": GPT, "rejected": GPT}, "{prompt: conversations, response: chosen}"),
    ],
)
def test_the_hint_for_preference_pairs_offers_dpo_grpo_and_the_chosen_answers(row: dict, hint: str):
    with pytest.raises(BadInput) as raised:
        sample(row)
    assert "`mode: dpo` or `mode: grpo`" in raised.value.hint and hint in raised.value.hint
    columns = dict(pair.split(": ") for pair in hint.strip("{}").split(", "))
    assert chat(row, columns) == CHAT


def chat_of(turns: Any) -> dict[str, Any]:
    return {"messages": turns}


BAD_ROWS = [
    ({"question": "Q"}, "`answer` is missing, unlike in the first row"),
    ({"question": "Q", "answer": None}, "`answer` is null, expected text"),
    ({"question": 5, "answer": "A"}, "`question` is a number, expected text"),
    ({"question": "Q", "answer": "  "}, "`answer` is blank, so there is nothing to train on"),
    ({"question": "\n", "answer": "A"}, "`question` is blank, so there is no question"),
    ({"question": "Q", "answer": "\ud83d"}, "`answer` holds half a character ('\\ud83d', a lone surrogate)"),
    ({"question": "Q", "answer": CHAT}, "`answer` begins with a turn of the user, expected the assistant's answer"),
    ({"question": "Q", "answer": "A", "system": 1}, "`system` is a number, expected text"),
    ({"text": " "}, "`text` is blank, so there is nothing to train on"),
    ({"text": ["a"]}, "`text` is a list, expected text"),
    ({"instruction": "Q", "output": "A", "input": 7}, "`input` is a number, expected text"),
    ({"instruction": "Q", "output": "A", "history": [["q"]]}, "`history[0]` is a list, expected a list of a question"),
    ({"instruction": "Q", "output": "A", "history": [["q", None]]}, "`history[0][1]` is null, expected text"),
    (chat_of([]), "`messages` is empty, expected a list of turns"),
    (chat_of(5), "`messages` is a number, expected a list"),
    (chat_of("Q"), "`messages` is text, expected a list or one written as JSON (Expecting value"),
    (chat_of('{"a": 1}'), "`messages` is an object, expected a list"),
    (chat_of(["Q"]), "`messages[0]` is text, expected an object with `role` and `content`"),
    (chat_of([{"content": "Q"}]), "`messages[0]` has no `role` (or `from`)"),
    (chat_of([{"role": "user"}]), "`messages[0]` has no `content` (or `value`)"),
    (chat_of([USER, {**ASSISTANT, "content": None}]), "`messages[1].content` is null, expected text"),
    (chat_of([USER, {**ASSISTANT, "content": 5}]), "`messages[1].content` is a number, expected text"),
    (chat_of([{**USER, "role": "User"}]), "`messages[0].role` is `User`, no known role; did you mean `user`?"),
    (chat_of([{**USER, "role": None}]), "`messages[0].role` is null, no known role; known roles: system, user, human"),
    (chat_of([{**USER, "role": "x" * 99}]), f"is `{'x' * 40}…`, no known role"),
    (chat_of([USER]), "no assistant turn with text, so there is nothing to train on"),
    (chat_of([ASSISTANT]), "`messages[0].content` is the assistant's, and no question precedes it"),
    (chat_of([SYSTEM, USER, ASSISTANT, USER, {**ASSISTANT, "content": ""}]), "`messages[4].content` is blank"),
    (chat_of([USER, {**ASSISTANT, "weight": 0}]), "every assistant turn has the weight 0"),
    (
        chat_of([USER, {**ASSISTANT, "weight": 0.5}]),
        "`messages[1].weight` is `0.5`: only 0 (no loss) and 1 are understood",
    ),
    (chat_of([USER, {**ASSISTANT, "weight": True}]), "`messages[1].weight` is `True`: only 0"),
    (chat_of([USER, {**ASSISTANT, "loss_weight": "1"}]), "`messages[1].loss_weight` is text: only 0"),
    (chat_of([USER, {**ASSISTANT, "tool_calls": "x"}]), "`messages[1].tool_calls` is text, expected a list"),
    (
        chat_of([{**USER, "content": [{"type": "image_url"}]}]),
        "`messages[0].content[0]` is of type `image_url`, expected",
    ),
    (chat_of([USER, {**ASSISTANT, "tool_calls": [{"\ud83d": 1}]}]), "`messages[1].tool_calls` holds half a character"),
    (
        chat_of([USER, {**ASSISTANT, "tool_calls": [{"arguments": '{"a": "\\ud83d"}'}]}]),
        "`messages[1].tool_calls` holds half a character",
    ),
    ({**chat_of(CHAT), "tools": [{"a": "\ud83d"}]}, "`tools` holds half a character ('\\ud83d', a lone surrogate)"),
    ({**chat_of(CHAT), "chat_template_kwargs": {"a": ["\ud83d"]}}, "`chat_template_kwargs` holds half a character"),
    ({**chat_of(CHAT), "tools": [json.loads('{"a": ' * 200 + "1" + "}" * 200)]}, "`tools` is nested more than 100"),
    ({**chat_of(CHAT), "tools": ["add"]}, "`tools[0]` is text, expected an object"),
    ({**chat_of(CHAT), "tools": "add"}, "`tools` is text, expected a list or one written as JSON"),
]


@pytest.mark.parametrize(("row", "why"), BAD_ROWS, ids=[why[:60] for _, why in BAD_ROWS])
def test_an_unusable_row_is_reported_and_the_others_are_counted(tmp_path: Path, row: dict[str, Any], why: str):
    good = {"text": "T"} if "text" in row else {"messages": CHAT} if "messages" in row else None
    good = good or dict.fromkeys(["instruction", "output"] if "instruction" in row else ["question", "answer"], "A")
    path = write_rows(tmp_path / "data.jsonl", [good, good, row, good])
    found = survey(path, {})
    assert (found.rows, found.unusable, found.usable) == (4, 1, 3)
    assert found.bad[0][0] == f"{path}:3" and why in found.bad[0][1]


def test_an_error_names_columns_as_the_file_does():
    columns = {"prompt": "ask", "response": "reply"}
    with pytest.raises(UnusableRow, match=r"here: `reply` is null"):
        sample({"ask": "Q", "reply": None}, columns)
    with pytest.raises(UnusableRow, match=r"here: `chosen\[0\]` has no `role`"):
        sample({"chosen": [{}]}, {"messages": "chosen"})


def test_the_hint_for_a_python_list_in_a_table_is_json_dumps():
    with pytest.raises(UnusableRow, match=r"`messages` is text") as raised:
        sample({"messages": str(CHAT)})
    assert "json.dumps" in raised.value.hint


def test_a_survey_lists_the_first_five_unusable_rows_and_counts_all(tmp_path: Path):
    lines = ['{"question": "Q", "answer": "A"}'] * 10 + ["{"] * 9
    (tmp_path / "data.jsonl").write_text("[1]\n" + "\n".join(lines), encoding="utf-8")
    counted: list[int] = []
    found = survey(tmp_path / "data.jsonl", {}, progress=counted.append)
    assert (found.format, found.rows, found.unusable, found.columns) == (
        "question/answer", 20, 10, ("question", "answer"),
    )  # fmt: skip
    assert [where.rpartition(":")[2] for where, _ in found.bad] == ["1", "12", "13", "14", "15"]
    assert found.first == Sample(messages=(USER, ASSISTANT), trained=(False, True)) and counted[-1] == 20


def test_a_file_without_a_usable_row_is_an_error(tmp_path: Path):
    path = write_rows(tmp_path / "data.jsonl", [{"question": "Q", "answer": ""}] * 3)
    with pytest.raises(BadInput, match=r"data.jsonl:1: `answer` is blank.*no other of the 3 rows read can be used"):
        survey(path, {})
    path.write_text("{,\n" * 5)
    with pytest.raises(BadInput, match=r"data.jsonl:1: not valid JSON.*no other of the 5 rows"):
        survey(path, {})
    path.write_text("{,\n" * 5000)
    with pytest.raises(BadInput, match=r"no other of the 1,000 rows read"):
        survey(path, {})


def test_a_table_holds_chats_as_json(tmp_path: Path):
    import csv

    with (tmp_path / "data.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["messages", "tools"], [json.dumps(CHAT), ""]])
    found = survey(tmp_path / "data.csv", {})
    assert found.format == "messages" and found.first and found.first.messages == (USER, ASSISTANT)


PRESETS = {
    "ultrachat_200k": ("messages", ["user", "assistant"]),
    "codefeedback_filtered_instruction": ("query/answer", ["user", "assistant"]),
    "openhermes_2_5": ("conversations", ["user", "assistant"]),
    "feedback_collection": ("instruction/output", ["user", "assistant"]),
    "preference_collection": ("instruction/output", ["user", "assistant"]),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_read_as_published(name: str):
    path = SHARED_DATA / "presets" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}")
    found = survey(path, {})
    form, roles = PRESETS[name]
    assert (found.format, found.unusable) == (form, 0) and found.first
    assert [message["role"] for message in found.first.messages][: len(roles)] == roles
    _, samples = samples_of(read_rows(path), {})
    for _, each in samples:
        assert isinstance(each, Sample)
        assert each.trained == tuple(message["role"] == "assistant" for message in each.messages)


@pytest.mark.parametrize("name", ["alpaca-en-demo.json", "gsm8k-test-400.jsonl"])
def test_real_data_have_no_unusable_row(name: str):
    if not (SHARED_DATA / name).exists():
        pytest.skip(f"no {name}")
    assert survey(SHARED_DATA / name, {}).unusable == 0


def test_a_value_that_json_cannot_hold_is_refused():
    with pytest.raises(UnusableRow, match="`documents` holds bytes, which JSON cannot hold"):
        sample({**chat_of(CHAT), "documents": [{"a": b"x"}]})


def test_a_blank_turn_without_loss_is_part_of_the_chat():
    turns = [USER, {**ASSISTANT, "content": "", "weight": 0}, USER, ASSISTANT]
    assert sample({"messages": turns}).trained == (False, False, False, True)
