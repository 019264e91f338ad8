"""Samples: the columns of a row that ask and answer as the turns of a chat, and the checks that a chat must pass."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dimba.common.errors import CORRECT, UnusableRow
from dimba.dataset.dialogue import (
    Row,
    Turn,
    is_absent,
    is_blank,
    list_in,
    objects_in,
    plain_at,
    text_of,
    turns_in,
)
from dimba.dataset.files import kind
from dimba.options.template_table import OWN_ARGUMENTS


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row, ready for a tokenizer: a chat, or plain text (`messages` is then empty).

    A message has `role`, `content` (text) and, where an assistant calls tools, `tool_calls`, as chat templates take
    them. `trained` holds for each message whether it carries loss; only an assistant's can. `arguments` are given to
    the chat template beside the messages; `unread` are columns that nothing reads, named by the first row that
    holds something in them.
    """

    messages: tuple[dict[str, Any], ...] = ()
    trained: tuple[bool, ...] = ()
    tools: tuple[Any, ...] | None = None
    text: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The value as JSON, without `unread`."""
        names = ("messages", "trained", "tools", "text", "arguments")
        return {name: value for name in names if (value := getattr(self, name))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Sample":
        """Reads `as_json`."""
        lists = {name: tuple(value[name]) for name in ("messages", "trained", "tools") if name in value}
        return cls(**lists, text=value.get("text"), arguments=value.get("arguments", {}))


Convert = Callable[[Row], list[Turn]]


class NoAnswer(UnusableRow):
    """A row without an assistant turn."""


def turns(column: str) -> Convert:
    """Converts rows whose `column` is a list of turns; a `system` column beside it comes first."""

    def convert(row: Row) -> list[Turn]:
        return with_system(row, turns_in(row[column], column))

    return convert


def tools_of(row: Row) -> tuple[Any, ...] | None:
    """The tools of a row: a list of objects, or one as JSON text; None where it has none."""
    tools = row.get("tools")
    if is_absent(tools):
        return None
    return tuple(plain_at(objects_in(tools, "tools"), "tools")) or None


ARGUMENTS, DOCUMENTS = "chat_template_kwargs", "documents"  # columns that every format of chats reads


def arguments_of(row: Row) -> dict[str, Any]:
    """What the chat template gets beside the messages: `chat_template_kwargs`, and `documents` that are objects."""
    found = parse_arguments(row.get(ARGUMENTS), ARGUMENTS)
    if DOCUMENTS not in found and (documents := _documents(row.get(DOCUMENTS))):
        found[DOCUMENTS] = documents
    return found


def parse_arguments(value: object, column: str) -> dict[str, Any]:
    """Arguments of a chat template, an object or one written as JSON; raises UnusableRow."""
    if is_absent(value):
        return {}
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise UnusableRow(f"is text, expected an object or one written as JSON ({error})", column=column) from None
    if found == []:  # an empty map of pyarrow
        return {}
    arguments = plain_at(found, column)
    if not isinstance(arguments, dict):
        raise UnusableRow(f"is {kind(found)}, expected an object", column=column)
    if taken := [name for name in OWN_ARGUMENTS if name in arguments]:
        hint = f"leave it out; {CORRECT}"
        raise UnusableRow("is set by the trainer, not by a row", hint, column=f"{column}.{taken[0]}")
    return arguments


def _documents(value: object) -> list[dict[str, Any]] | None:
    """The documents if they are a list of objects; else None, as columns of that name hold other things too."""
    if is_absent(value):
        return None
    try:
        found = objects_in(value, DOCUMENTS)
    except UnusableRow:
        return None
    return plain_at(found, DOCUMENTS)  # type: ignore[no-any-return]


# Columns that ask and answer.


def pair(ask: str, answer: str) -> Convert:
    """Converts rows that ask in one column and answer in another; either may be text or a list of turns."""

    def convert(row: Row) -> list[Turn]:
        question, reply = side_turns(row, ask, "user"), side_turns(row, answer, "assistant")
        if (role := reply[0].message["role"]) in ("user", "system"):
            hint = f"if it is the complete chat: `dataset.columns: {{messages: {answer}}}`"
            raise UnusableRow(f"begins with a turn of the {role}, expected the assistant's answer", hint, column=answer)
        return [*with_system(row, [turn._replace(trained=False) for turn in question]), *reply]

    return convert


def instruction(row: Row) -> list[Turn]:
    """Converts rows where `instruction` and `input` ask, `output` answers, and the pairs of `history` come first."""
    return [*instruction_turns(row), *side_turns(row, "output", "assistant")]


def instruction_turns(row: Row) -> list[Turn]:
    """The question in `instruction` and `input`, behind the pairs of `history`; raises UnusableRow."""
    parts = [] if row["instruction"] is None else [text_of(row["instruction"], "instruction")]
    if row.get("input"):
        parts.append(text_of(row["input"], "input"))
    question = "\n\n".join(part for part in parts if not is_blank(part))
    return with_system(row, [*_history(row), text_turn("instruction", "user", question)])


def _history(row: Row) -> list[Turn]:
    rounds = [] if is_absent(row.get("history")) else list_in(row["history"], "history")
    found = []
    for n, each in enumerate(rounds):
        if not isinstance(each, list) or len(each) != 2:
            cause = f"is {kind(each)}, expected a list of a question and its answer"
            raise UnusableRow(cause, column=f"history[{n}]")
        for at, role in enumerate(("user", "assistant")):
            column = f"history[{n}][{at}]"
            found.append(text_turn(column, role, text_of(each[at], column)))
    return found


def side_turns(row: Row, column: str, role: str) -> list[Turn]:
    """The turns of one side of a pair: a text of `role`, one message, or a list of turns; raises UnusableRow."""
    value = row[column]
    if isinstance(value, str) and not _is_turns_as_text(value):
        return [text_turn(column, role, text_of(value, column))]
    if isinstance(value, dict) and not isinstance(value.get("role", value.get("from")), list):
        value = [value]
    if not isinstance(value, str | list | dict):
        raise UnusableRow(f"is {kind(value)}, expected text", column=column)
    return turns_in(value, column)


def _is_turns_as_text(text: str) -> bool:
    if not text.startswith("[") or not text.rstrip().endswith("}]"):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return all(isinstance(each, dict) and ("role" in each or "from" in each) for each in value)


def text_turn(column: str, role: str, content: str) -> Turn:
    """A turn of `role` whose text a column holds; an assistant's carries loss."""
    return Turn(column, {"role": role, "content": content}, role == "assistant")


def with_system(row: Row, chat: list[Turn]) -> list[Turn]:
    """The chat behind the row's `system` column; raises UnusableRow where the chat has another system turn."""
    value = row.get("system")
    if not value:
        return chat
    system = text_turn("system", "system", text_of(value, "system"))
    if is_blank(value) or (chat[0].message["role"] == "system" and chat[0].message["content"] == value):
        return chat
    if chat[0].message["role"] == "system":
        raise UnusableRow(f"differs from the system turn `{chat[0].column}`", column="system")
    return [system, *chat]


# The checks that a chat must pass to be trained on.


def check_chat(chat: list[Turn]) -> None:
    """Raises UnusableRow where no turn of a chat can be trained on, or where a turn is blank."""
    for column, message, trained in chat:
        asks_or_trains = message["role"] == "user" or trained
        if asks_or_trains and is_blank(message["content"]) and "tool_calls" not in message:
            lacks = "nothing to train on" if message["role"] == "assistant" else "no question"
            raise UnusableRow(f"is blank, so there is {lacks}", column=column)
    roles = [turn.message["role"] for turn in chat]
    if "assistant" not in roles:
        raise NoAnswer("no assistant turn with text, so there is nothing to train on")
    opening = next(n for n, role in enumerate(roles) if role != "system")
    if roles[opening] == "assistant":
        raise UnusableRow("is the assistant's, and no question precedes it", column=chat[opening].column)
    if not any(turn.trained for turn in chat):
        raise UnusableRow("every assistant turn has the weight 0, so there is nothing to train on")
