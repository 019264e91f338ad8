"""Markers inserted into a chat before it is rendered: they show where the template puts each content.

A render that equals the unmarked one once the markers are removed proves that they changed nothing.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

# Private-use characters of the last plane: no vocabulary has them, and fonts keep their icons in other planes.
_OPEN, _CLOSE = "\U0010f7d1", "\U0010f7d2"
_OURS = [chr(code) for code in range(ord(_OPEN), ord(_OPEN) + 5)]
_MARK = re.compile(f"{_OPEN}(\\d+)(.)(\\d+){_CLOSE}")
# A template may drop text up to one of these from history, so the text behind it gets a marker of its own.
_THINK = re.compile(r"\s*</?think>\s*")

STARTS, ENDS, CALLS = "s", "e", "c"
TAG = "t"  # before a leading tag: templates that write the tag themselves drop this one without losing text


@dataclass(frozen=True)
class Mark:
    """A marker, found at position `at` of the text without markers."""

    turn: int
    kind: str
    number: int
    at: int


def has_marks(text: str) -> bool:
    """Whether a text contains the characters of markers, or of literals.py."""
    return any(character in text for character in _OURS)


def remove_marks(marked: str) -> tuple[str, list[Mark]]:
    """The text without markers, and the markers in text order."""
    pieces = _MARK.split(marked)
    marks, at = [], 0
    for text, turn, kind, number in zip(pieces[0::4], pieces[1::4], pieces[2::4], pieces[3::4], strict=False):
        at += len(text)
        marks.append(Mark(int(turn), kind, int(number), at))
    return "".join(pieces[0::4]), marks


def add_marks(messages: Sequence[dict[str, Any]], turns: Collection[int], *, tags: bool) -> list[dict[str, Any]]:
    """The messages with markers around the contents and tool calls of `turns`, with `tags` before leading tags too."""
    return [_with_marks(message, turn, tags) if turn in turns else message for turn, message in enumerate(messages)]


def expected_marks(message: dict[str, Any]) -> tuple[int, int]:
    """How many markers of (content, tool calls) a complete render of the message shows, TAG markers not counted."""
    content = message.get("content") or ""
    contents = len(_piece_starts(content)) + 1 if content.strip() else 0
    return contents, 2 * len(call_texts(message))


def content_from(message: dict[str, Any], mark: Mark) -> str:
    """The message's content from one of its markers on."""
    content: str = message["content"]
    return content[0 if mark.kind == TAG else _piece_starts(content)[mark.number] :].strip()


def call_texts(message: dict[str, Any]) -> list[str]:
    """The texts of the message's tool calls that get markers: names and arguments."""
    texts: list[str] = []

    def collect(text: str) -> str:
        texts.append(text)
        return text

    _map_texts(message.get("tool_calls"), collect)
    return texts


def _with_marks(message: dict[str, Any], turn: int, tags: bool) -> dict[str, Any]:
    marked = dict(message)
    content = message.get("content")
    if isinstance(content, str) and content.strip():
        marked["content"] = _content_with_marks(content, turn, thinks=message["role"] == "assistant", tags=tags)
    if message.get("tool_calls"):
        number = count()
        marked["tool_calls"] = _map_texts(
            message["tool_calls"],
            lambda text: _mark(turn, CALLS, next(number)) + text + _mark(turn, CALLS, next(number)),
        )
    return marked


def _content_with_marks(content: str, turn: int, *, thinks: bool, tags: bool) -> str:
    # Inside the white space at both ends, which templates may strip.
    blank, end = len(content) - len(content.lstrip()), len(content.rstrip())
    starts = _piece_starts(content) if thinks else [blank]
    pieces = [_mark(turn, STARTS, n) + content[at:to] for n, (at, to) in enumerate(pairwise([*starts, end]))]
    tag = _mark(turn, TAG, 0) if tags and starts[0] > blank else ""
    return "".join([content[:blank], tag, content[blank : starts[0]], *pieces, _mark(turn, ENDS, 0), content[end:]])


def _piece_starts(content: str) -> list[int]:
    """The starts of the content behind a leading tag, and of the text behind each later tag."""
    first = len(content) - len(content.lstrip())
    if "think>" not in content:
        return [first]
    end = len(content.rstrip())
    starts = sorted({match.end() for match in _THINK.finditer(content) if match.end() < end})
    leading = _THINK.match(content)
    return starts if leading and starts else [first, *(start for start in starts if start > first)]


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Tool calls with the function's name and each text of its arguments changed."""
    if isinstance(value, list | tuple):
        return [_map_texts(each, change) for each in value]
    if isinstance(value, dict):
        kept = ("type", "id")  # templates compare these, or check their form
        return {key: each if key in kept else _map_texts(each, change) for key, each in value.items()}
    return change(value) if isinstance(value, str) else value


def _mark(turn: int, kind: str, number: int) -> str:
    return f"{_OPEN}{turn}{kind}{number}{_CLOSE}"
