"""What a row of training data is: files read with line numbers, formats recognised, rows turned into chats.

Both sides need it: the launcher checks the data before anything starts, the trainer trains on them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.errors import BadInput

Row = Mapping[str, Any]
Message = dict[str, str]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
}
READABLE = (".jsonl", ".json")


class BadRow(BadInput):
    """A row that cannot be trained on; `where` is its file and line."""

    def __init__(self, where: str, why: str, hint: str = "correct the row or remove it") -> None:
        super().__init__(f"{where}: {why}", hint)


class UnknownFormat(BadInput):
    """No format fits the columns, or two do: naming the columns would help."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row, ready for a tokenizer: a chat, or plain text (`messages` is then empty).

    A message has `role`, `content` (text) and, where an assistant calls tools, `tool_calls`, as chat templates take
    them. `trained` says of each message whether what it says carries loss; only an assistant's can.
    """

    messages: tuple[dict[str, Any], ...] = ()
    trained: tuple[bool, ...] = ()
    tools: tuple[Any, ...] | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Format:
    """A shape of row: the columns that make it, and how they become messages or one text."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    convert: Callable[[Row], list[Message]]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the format reads."""
        return self.required + self.optional


def _text(row: Row, column: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(f"`{column}` is {_kind(value)}, expected text")
    return value


def _kind(value: object) -> str:
    names = {type(None): "null", str: "text", dict: "an object", list: "a list", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _turns(column: str, role_key: str, content_key: str) -> Callable[[Row], list[Message]]:
    def convert(row: Row) -> list[Message]:
        turns = row[column]
        if not isinstance(turns, list) or not turns:
            raise ValueError(f"`{column}` is {_kind(turns) if turns else 'empty'}, expected a list of turns")
        return [_turn(turn, f"{column}[{n}]", role_key, content_key) for n, turn in enumerate(turns)]

    return convert


def _turn(turn: object, where: str, role_key: str, content_key: str) -> Message:
    if not isinstance(turn, dict) or role_key not in turn or content_key not in turn:
        raise ValueError(f"`{where}` needs `{role_key}` and `{content_key}`")
    role = turn[role_key]
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"`{where}.{role_key}` is `{role}`, expected one of {', '.join(ROLES)}")
    content = turn[content_key]
    if isinstance(content, list):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"`{where}.{content_key}` is {_kind(content)}, expected text")
    return {"role": ROLES[role], "content": content}


def _part(part: object, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise ValueError(f"`{where}` has a part that is not text")


def _pair(question: str, answer: str) -> Callable[[Row], list[Message]]:
    def convert(row: Row) -> list[Message]:
        messages = [{"role": "user", "content": _text(row, question)}]
        if row.get("system"):
            messages.insert(0, {"role": "system", "content": _text(row, "system")})
        return [*messages, {"role": "assistant", "content": _text(row, answer)}]

    return convert


def _instruction(row: Row) -> list[Message]:
    context = _text(row, "input") if row.get("input") else ""
    question = _text(row, "instruction") + (f"\n\n{context}" if context else "")
    return _pair("instruction", "output")({**row, "instruction": question})


FORMATS = (
    Format(name="messages", required=("messages",), convert=_turns("messages", "role", "content")),
    Format(name="conversations", required=("conversations",), convert=_turns("conversations", "from", "value")),
    *(
        Format(name=f"{ask}/{answer}", required=(ask, answer), optional=("system",), convert=_pair(ask, answer))
        for ask, answer in (
            ("prompt", "completion"),
            ("prompt", "response"),
            ("query", "answer"),
            ("question", "answer"),
        )
    ),
    Format(
        name="instruction/output",
        required=("instruction", "output"),
        optional=("input", "system"),
        convert=_instruction,
    ),
)


def _prompt(row: Row) -> list[Message]:
    if isinstance(row["prompt"], list):
        return _turns("prompt", "role", "content")(row)
    return [{"role": "user", "content": _text(row, "prompt")}]


# GRPO samples its own answers: a prompt is enough.
PROMPT_FORMATS = (
    Format(name="prompt", required=("prompt",), optional=("answer", "solution", "chosen", "rejected"), convert=_prompt),
    Format(name="chosen/rejected", required=("chosen", "rejected"), convert=_turns("chosen", "role", "content")),
)


def recognise(keys: Iterable[str], columns: Mapping[str, str], where: str, mode: str = "sft") -> Format:
    """The one format that a row with `keys` has, after `columns` (ours → theirs) renamed them.

    Raises:
        BadInput: no format fits, two fit equally well, or `columns` names a column that is not there.
    """
    present = set(keys)
    missing = [theirs for theirs in columns.values() if theirs not in present]
    if missing:
        raise BadInput(f"{where}: no column `{missing[0]}`", f"the columns are: {', '.join(sorted(present))}")
    named = set(columns)
    present = (present - set(columns.values())) | named
    fitting = _fitting(FORMATS, present, named)
    if not fitting and mode == "grpo":
        fitting = _fitting(PROMPT_FORMATS, present, named)[:1]
    if not fitting:
        known = FORMATS + (PROMPT_FORMATS if mode == "grpo" else ())
        raise UnknownFormat(
            f"{where}: no known format has the columns {', '.join(f'`{key}`' for key in sorted(present)) or '(none)'}",
            f"known formats: {', '.join(each.name for each in known)}; "
            "name the columns with `dataset.columns: {prompt: …, response: …}`",
        )
    # A list of turns says more than any pair of columns beside it.
    chats = [each for each in fitting if len(each.required) == 1] or fitting
    if len(chats) > 1:
        raise UnknownFormat(
            f"{where}: the columns fit {' and '.join(f'`{each.name}`' for each in chats)} equally well",
            "say which with `dataset.columns`, for example "
            + " or ".join(f"{{{', '.join(f'{c}: {c}' for c in each.required)}}}" for each in chats),
        )
    return chats[0]


def _fitting(formats: Iterable[Format], present: set[str], named: set[str]) -> list[Format]:
    return [each for each in formats if set(each.required) <= present and named <= set(each.columns)]


def as_messages(row: Row, form: Format, columns: Mapping[str, str], where: str, mode: str = "sft") -> list[Message]:
    """The row as a chat, ending where its data end; raises BadRow with `where` and the reason."""
    renamed = {**row, **{ours: row.get(theirs) for ours, theirs in columns.items()}}
    absent = [column for column in form.required if column not in renamed]
    if absent:
        raise BadRow(where, f"no `{absent[0]}` here, unlike the first row (format `{form.name}`)")
    try:
        messages = form.convert(renamed)
    except ValueError as error:
        raise BadRow(where, str(error)) from None
    if mode == "sft" and not any(message["role"] == "assistant" and message["content"].strip() for message in messages):
        pairs = {"chosen", "rejected"} <= set(row)
        hint = "these are preference pairs: they are for `mode: grpo`" if pairs else "correct the row or remove it"
        raise BadRow(where, "no assistant turn with text, so there is nothing to train on", hint)
    return messages


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a .jsonl or .json file as (`file:line`, row); of a JSON array as (`file: row n`, row).

    Raises:
        BadInput: the file is missing, unreadable, of another kind or empty; BadRow: a row is broken.
    """
    if path.suffix not in READABLE:
        raise BadInput(
            f"{path}: `{path.suffix or 'no suffix'}` is not read yet",
            "convert it to .jsonl: one JSON object a line",
        )
    try:
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", "check the path and its permissions") from None
    is_array = path.suffix == ".json" and start.startswith(b"[")
    empty = True
    for where, value in _array(path) if is_array else _lines(path):
        if not isinstance(value, dict):
            raise BadRow(where, f"is {_kind(value)}, expected an object with the row's columns")
        empty = False
        yield where, value
    if empty:
        raise BadInput(f"{path}: no rows", "an empty file cannot be trained on")


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield f"{path}:{number}", _parse(text.rstrip(), f"{path}:{number}")


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    for number, value in enumerate(_parse(path.read_bytes(), str(path)), 1):
        yield f"{path}: row {number}", value


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRow(where, f"not UTF-8 at byte {error.start + 1}", "save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise BadRow(where, f"not valid JSON: {error.msg} at {line}column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits
        raise BadRow(where, f"not readable: {error}") from None
    except RecursionError:
        raise BadRow(where, "nested too deeply to be read") from None


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """What a look through a whole file found."""

    format: str
    rows: int
    columns: tuple[str, ...]
    first: tuple[Message, ...] = ()


def survey(
    path: Path,
    columns: Mapping[str, str],
    *,
    mode: str = "sft",
    progress: Callable[[int], None] = lambda _rows: None,
) -> DataSummary:
    """Reads every row of `path` as the trainer will, and says what they are; raises at the first bad one."""
    form: Format | None = None
    keys: tuple[str, ...] = ()
    first: tuple[Message, ...] = ()
    rows = 0
    for where, row in read_rows(path):
        if form is None:
            form, keys = recognise(row, columns, where, mode), tuple(row)
        messages = as_messages(row, form, columns, where, mode)
        first = first or tuple(messages)
        rows += 1
        progress(rows)
    assert form is not None, "read_rows refuses a file without rows"
    return DataSummary(format=form.name, rows=rows, columns=keys, first=first)
