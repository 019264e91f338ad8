"""Parts of chats that a template omits are counted and reported; a template that never works is reported once."""

from pathlib import Path
from typing import Any

import pytest

from dimba.dataset.formats import Sample
from dimba.dataset.token_report import DataReport
from dimba.trainers.data.chat import ChatEncoder
from dimba.trainers.tiny import TEMPLATE
from tests.conftest import write_rows
from tests.trainers.test_chat import NEVER_ENDS
from tests.trainers.test_masks import ASK, CALLS, COUNTS, LOOKS_INTO

SYSTEM, USER, ANSWER = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "It is 2."},
)
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add"}}]}
TOOLS = ({"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}},)
THINKS = {**ANSWER, "reasoning_content": "One and one."}
SHOWS_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + CALLS
SHOWS_THOUGHT = TEMPLATE.replace("{{ message['content']", "{{ message.reasoning_content or '' }}{{ message['content']")


def without(role: str, template: str = TEMPLATE) -> str:
    """The template without the messages of this role."""
    return "{% set messages = messages | rejectattr('role', 'equalto', '" + role + "') | list %}" + template


def omitted(tokenizer: Any, template: str, messages: Any, tools: Any = None, **options: Any) -> tuple[str, ...]:
    tokenizer.chat_template = template
    flags = tuple(message["role"] == "assistant" for message in messages)
    encoder = ChatEncoder(tokenizer, **options)
    return encoder.render(Sample(messages=tuple(messages), trained=flags, tools=tools), "here").omitted


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.mark.parametrize(
    ("template", "messages", "tools", "expected"),
    [
        (TEMPLATE, [SYSTEM, USER, ANSWER], None, ()),
        (without("system"), [SYSTEM, USER, ANSWER], None, ("system",)),
        (without("system"), [USER, ANSWER], None, ()),
        (without("system", LOOKS_INTO + ASK), [SYSTEM, {**USER, "content": "Hi you"}, ANSWER], None, ("system",)),
        (LOOKS_INTO + ASK, [SYSTEM, {**USER, "content": "Hi you"}, ANSWER], None, ()),
        (without("system", COUNTS), [SYSTEM, USER, ANSWER], None, ("system",)),
        ("{% set messages = messages[-2:] %}" + TEMPLATE, [USER, ANSWER, USER, ANSWER], None, ("user", "assistant")),
        (without("tool", CALLS), [USER, CALL, {"role": "tool", "content": "2"}, ANSWER], None, ("tool",)),
        (CALLS, [USER, ANSWER], TOOLS, ("tools",)),
        (SHOWS_TOOLS, [USER, CALL], TOOLS, ()),
        (TEMPLATE, [USER, THINKS], None, ("reasoning",)),
        (TEMPLATE, [USER, {**ANSWER, "thinking": "2."}], None, ("reasoning",)),
        (SHOWS_THOUGHT, [USER, THINKS], None, ()),
        (SHOWS_THOUGHT, [USER, {**ANSWER, "reasoning_content": " \n"}], None, ()),
    ],
)
def test_the_parts_that_a_template_omits_are_found(
    tokenizer: Any, template: str, messages: Any, tools: Any, expected: Any
):
    assert omitted(tokenizer, template, messages, tools, train_on="last") == expected


def report(base: Path, template: str, data: Path, rows: list[dict[str, Any]], *flags: str) -> DataReport:
    from transformers import AutoTokenizer

    from dimba.objectives.sft import SFT
    from dimba.trainers.data.loading import load_data

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(data / "base")
    (data / "base" / "config.json").write_bytes((base / "config.json").read_bytes())
    write_rows(data / "data.jsonl", rows)
    named = ["--base-checkpoint", str(data / "base"), "--dataset", str(data / "data.jsonl"), "--output-dir", "x"]
    return load_data(SFT.parse([*named, *flags]), lambda _: None).report


@pytest.fixture(autouse=True)
def _own_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: tmp_path / "tokens")


def test_rows_with_omitted_parts_are_counted_by_part(tiny_checkpoint: Path, tmp_path: Path):
    rows = [{"messages": [SYSTEM, USER, ANSWER]}, {"messages": [USER, ANSWER]}, {"messages": [SYSTEM, USER, THINKS]}]
    found = report(tiny_checkpoint, without("system"), tmp_path, rows)
    assert "2 rows: the chat template omits the system message" in found.notes
    assert any(note.startswith("1 rows: the chat template omits reasoning") for note in found.notes)


@pytest.mark.parametrize(
    ("template", "message", "why"),
    [
        ("{{ raise_exception('never') }}", ANSWER, "(3): never"),
        (f"\n{{% if %}}{TEMPLATE}", ANSWER, "(3): line 2: "),
        (NEVER_ENDS, ANSWER, "(3): it ends the assistant's turn with no special token"),
        (TEMPLATE, CALL, "(3): it drops the assistant's tool calls"),
    ],
)
def test_a_template_that_fails_on_every_row_is_reported_once(
    tiny_checkpoint: Path, tmp_path: Path, template: str, message: Any, why: str
):
    rows = [{"messages": [{**USER, "content": f"Q{n}"}, message]} for n in range(3)]
    found = report(tiny_checkpoint, template, tmp_path, [*rows, {"messages": []}], "--skip-bad-rows")
    assert found.problem.startswith(f"{tmp_path / 'base' / 'chat_template.jinja'}: the chat template fails")
    assert why in found.problem and "data.jsonl:" not in found.problem
    assert "fix that template" in found.hint and "remove" not in found.hint


def test_a_template_that_fails_on_some_rows_makes_those_rows_unusable(tiny_checkpoint: Path, tmp_path: Path):
    found = report(tiny_checkpoint, TEMPLATE, tmp_path, [{"messages": [USER, CALL]}, {"messages": [USER, ANSWER]}])
    assert "data.jsonl:1: " in found.problem and "correct or remove" in found.hint


def test_the_report_counts_the_pieces_of_held_out_rows(tiny_checkpoint: Path, tmp_path: Path):
    rows = [{"messages": [{**USER, "content": f"{n}"}, {**ANSWER, "content": "word " * 100}]} for n in range(4)]
    flags = ("--on-long", "split", "--max-length", "64", "--validation-split", "1")
    found = report(tiny_checkpoint, TEMPLATE, tmp_path, rows, *flags)
    assert f"the {found.validation} examples held out are the pieces of 1 rows" in found.notes
