"""What a chat template leaves out is counted and told, and a template that never works is told once."""

from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import Location
from dimba.dataset.formats import Sample
from dimba.dataset.token_report import DataReport
from dimba.trainers.data.chat import ChatEncoder
from dimba.trainers.models.tiny import TEMPLATE
from tests.conftest import write_rows
from tests.trainers.test_chat import NEVER_ENDS
from tests.trainers.test_masks import ASK, CALLS, COUNTS, LOOKS_INTO

SYSTEM, USER, SAID = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "It is 2."},
)
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add"}}]}
TOOLS = ({"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}},)
THINKS = {**SAID, "reasoning_content": "One and one."}
SHOWS_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + CALLS
SHOWS_THOUGHT = TEMPLATE.replace("{{ message['content']", "{{ message.reasoning_content or '' }}{{ message['content']")


def without(role: str, template: str = TEMPLATE) -> str:
    """The template for all but what this role says."""
    return "{% set messages = messages | rejectattr('role', 'equalto', '" + role + "') | list %}" + template


def left_out(tokenizer: Any, template: str, messages: Any, tools: Any = None, **options: Any) -> tuple[str, ...]:
    tokenizer.chat_template = template
    flags = tuple(message["role"] == "assistant" for message in messages)
    encoder = ChatEncoder(tokenizer, **options)
    return encoder.render(Sample(messages=tuple(messages), trained=flags, tools=tools), Location("here")).left_out


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.mark.parametrize(
    ("template", "messages", "tools", "expected"),
    [
        (TEMPLATE, [SYSTEM, USER, SAID], None, ()),
        (without("system"), [SYSTEM, USER, SAID], None, ("system",)),
        (without("system"), [USER, SAID], None, ()),
        (without("system", LOOKS_INTO + ASK), [SYSTEM, {**USER, "content": "Hi you"}, SAID], None, ("system",)),
        (LOOKS_INTO + ASK, [SYSTEM, {**USER, "content": "Hi you"}, SAID], None, ()),
        (without("system", COUNTS), [SYSTEM, USER, SAID], None, ("system",)),
        ("{% set messages = messages[-2:] %}" + TEMPLATE, [USER, SAID, USER, SAID], None, ("user", "assistant")),
        (without("tool", CALLS), [USER, CALL, {"role": "tool", "content": "2"}, SAID], None, ("tool",)),
        (CALLS, [USER, SAID], TOOLS, ("tools",)),
        (SHOWS_TOOLS, [USER, CALL], TOOLS, ()),
        (TEMPLATE, [USER, THINKS], None, ("reasoning",)),
        (TEMPLATE, [USER, {**SAID, "thinking": "2."}], None, ("reasoning",)),
        (SHOWS_THOUGHT, [USER, THINKS], None, ()),
        (SHOWS_THOUGHT, [USER, {**SAID, "reasoning_content": " \n"}], None, ()),
    ],
)
def test_what_a_template_leaves_out_is_known(tokenizer: Any, template: str, messages: Any, tools: Any, expected: Any):
    assert left_out(tokenizer, template, messages, tools, train_on="last") == expected


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


def test_rows_of_which_something_is_left_out_are_counted(tiny_checkpoint: Path, tmp_path: Path):
    rows = [{"messages": [SYSTEM, USER, SAID]}, {"messages": [USER, SAID]}, {"messages": [SYSTEM, USER, THINKS]}]
    found = report(tiny_checkpoint, without("system"), tmp_path, rows)
    assert "2 rows: the chat template leaves out the system message" in found.notes
    assert any(note.startswith("1 rows: the chat template leaves out reasoning") for note in found.notes)


@pytest.mark.parametrize(
    ("template", "message", "why"),
    [
        ("{{ raise_exception('never') }}", SAID, "(3): never"),
        (f"\n{{% if %}}{TEMPLATE}", SAID, "(3): line 2: "),
        (NEVER_ENDS, SAID, "(3): it ends the assistant's turn with no special token"),
        (TEMPLATE, CALL, "(3): it drops what the assistant calls"),
    ],
)
def test_a_template_that_fails_on_every_row_is_told_once(
    tiny_checkpoint: Path, tmp_path: Path, template: str, message: Any, why: str
):
    rows = [{"messages": [{**USER, "content": f"Q{n}"}, message]} for n in range(3)]
    found = report(tiny_checkpoint, template, tmp_path, [*rows, {"messages": []}], "--skip-bad-rows")
    assert found.problem.startswith(f"{tmp_path / 'base' / 'chat_template.jinja'}: the chat template fails")
    assert why in found.problem and "data.jsonl:" not in found.problem
    assert "mend that template" in found.hint and "remove" not in found.hint


def test_a_template_that_works_for_some_rows_leaves_the_others_to_be_corrected(tiny_checkpoint: Path, tmp_path: Path):
    found = report(tiny_checkpoint, TEMPLATE, tmp_path, [{"messages": [USER, CALL]}, {"messages": [USER, SAID]}])
    assert "data.jsonl:1: " in found.problem and "correct or remove" in found.hint


def test_the_pieces_of_the_rows_that_are_held_out_are_told(tiny_checkpoint: Path, tmp_path: Path):
    rows = [{"messages": [{**USER, "content": f"{n}"}, {**SAID, "content": "word " * 100}]} for n in range(4)]
    flags = ("--on-long", "split", "--max-length", "64", "--validation-split", "1")
    found = report(tiny_checkpoint, TEMPLATE, tmp_path, rows, *flags)
    assert f"the {found.validation} examples held out are the pieces of 1 rows" in found.notes
