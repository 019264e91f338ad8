"""Marks written into a chat before it is rendered: where they come out is where the template put what was said.

A render whose text without the marks is the real text proves that they changed nothing.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

# Private-use characters of the last planes: no vocabulary has them, and fonts' own icons lie elsewhere.
_OPEN, _CLOSE = "\U0010f7d1", "\U0010f7d2"
_MARK = re.compile(f"{_OPEN}(\\d+)(.)(\\d+){_CLOSE}")
# What comes before these may be dropped from history, so what comes after gets a mark of its own.
_THINK = re.compile(r"\s*</?think>\s*")

STARTS, ENDS, CALLS = "s", "e", "c"
TAG = "t"  # before a leading tag: templates that write the tag themselves drop it with nothing lost


@dataclass(frozen=True)
class Mark:
    """A mark found at a position of the text without marks."""

    turn: int
    kind: str
    number: int
    at: int


def has_marks(text: str) -> bool:
    """Whether a text has the characters that marks are made of."""
    return _OPEN in text or _CLOSE in text


def read(marked: str) -> tuple[str, list[Mark]]:
    """The text without marks, and the marks in its order."""
    pieces = _MARK.split(marked)
    marks, at = [], 0
    for text, turn, kind, number in zip(pieces[0::4], pieces[1::4], pieces[2::4], pieces[3::4], strict=False):
        at += len(text)
        marks.append(Mark(int(turn), kind, int(number), at))
    return "".join(pieces[0::4]), marks


def mark(messages: Sequence[dict[str, Any]], turns: Collection[int], *, tags: bool) -> list[dict[str, Any]]:
    """The messages with marks around what these turns say and call, and before leading tags where `tags`."""
    return [_marked(message, turn, tags) if turn in turns else message for turn, message in enumerate(messages)]


def expected(message: dict[str, Any]) -> tuple[int, int]:
    """How many marks of (what is said, its tool calls) a render that drops nothing shows, tags aside."""
    content = message.get("content") or ""
    contents = len(_piece_starts(content)) + 1 if content.strip() else 0
    return contents, 2 * len(called(message))


def said(message: dict[str, Any], mark: Mark) -> str:
    """What the message says from this mark of its own on."""
    content: str = message["content"]
    return content[0 if mark.kind == TAG else _piece_starts(content)[mark.number] :].strip()


def called(message: dict[str, Any]) -> list[str]:
    """The texts among the message's tool calls that `mark` marks: names and arguments."""
    texts: list[str] = []

    def note(text: str) -> str:
        texts.append(text)
        return text

    _each_text(message.get("tool_calls"), note)
    return texts


def _marked(message: dict[str, Any], turn: int, tags: bool) -> dict[str, Any]:
    marked = dict(message)
    content = message.get("content")
    if isinstance(content, str) and content.strip():
        marked["content"] = _marked_text(content, turn, thinks=message["role"] == "assistant", tags=tags)
    if message.get("tool_calls"):
        number = count()
        marked["tool_calls"] = _each_text(
            message["tool_calls"],
            lambda text: _mark(turn, CALLS, next(number)) + text + _mark(turn, CALLS, next(number)),
        )
    return marked


def _marked_text(content: str, turn: int, *, thinks: bool, tags: bool) -> str:
    # Inside the white space at both ends, which templates may strip.
    blank, end = len(content) - len(content.lstrip()), len(content.rstrip())
    starts = _piece_starts(content) if thinks else [blank]
    pieces = [_mark(turn, STARTS, n) + content[at:to] for n, (at, to) in enumerate(pairwise([*starts, end]))]
    tag = _mark(turn, TAG, 0) + content[blank : starts[0]] if tags and starts[0] > blank else content[blank : starts[0]]
    return "".join([content[:blank], tag, *pieces, _mark(turn, ENDS, 0), content[end:]])


def _piece_starts(content: str) -> list[int]:
    """Where the content begins, behind a leading tag, and where it goes on behind each later one."""
    first = len(content) - len(content.lstrip())
    if "think>" not in content:
        return [first]
    end = len(content.rstrip())
    starts = sorted({match.end() for match in _THINK.finditer(content) if match.end() < end})
    leading = _THINK.match(content)
    return starts if leading and starts else [first, *(start for start in starts if start > first)]


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Tool calls with the function's name and each text among its arguments changed."""
    if isinstance(value, list | tuple):
        return [_each_text(each, change) for each in value]
    if isinstance(value, dict):
        kept = ("type", "id")  # templates compare these, or check their form
        return {key: each if key in kept else _each_text(each, change) for key, each in value.items()}
    return change(value) if isinstance(value, str) else value


def _mark(turn: int, kind: str, number: int) -> str:
    return f"{_OPEN}{turn}{kind}{number}{_CLOSE}"
