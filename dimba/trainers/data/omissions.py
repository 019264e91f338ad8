"""What a chat template leaves out of a chat besides what is trained: the model never sees it, and no mask shows it."""

from collections.abc import Collection, Sequence

from dimba.common.errors import UnusableRow
from dimba.trainers.data import marks
from dimba.trainers.data.marks import CALLS, ENDS, STARTS, Mark
from dimba.trainers.data.render import ASIDE, Message, Renderer
from dimba.trainers.data.turns import Chat

NAMES = {
    "system": "the system message",
    "user": "what the user says in some turn",
    "tool": "what a tool answers",
    "assistant": "what the assistant says or calls in some turn without loss",
    "tools": "the tools",
    "reasoning": f"reasoning given as {' or '.join(f'`{key}`' for key in ASIDE)}",
}


def left_out(chat: Chat, found: Sequence[Mark] | None, trained: Collection[int], render: Renderer) -> tuple[str, ...]:
    """Keys of NAMES: of what the chat holds and its text does not; without marks (None), of what can be seen so."""
    shown = {(mark.turn, mark.kind, mark.number) for mark in found or ()}
    lost = {
        message["role"]
        for turn, message in enumerate(chat.messages)
        if turn not in trained and not _shows(chat, turn, None if found is None else shown)
    }
    if chat.tools and _is_same(chat, render, chat.messages, with_tools=False):
        lost.add("tools")
    if _loses_reasoning(chat, render):
        lost.add("reasoning")
    return tuple(name for name in NAMES if name in lost)


def _shows(chat: Chat, turn: int, shown: Collection[tuple[int, str, int]] | None) -> bool:
    message = chat.messages[turn]
    is_assistant = message["role"] == "assistant"
    if shown is None or (chat.unmarked and not is_assistant):
        return _squeezed(message.get("content") or "") in _squeezed(chat.text)
    if not is_assistant:
        whole = (turn, STARTS, 0) in shown and (turn, ENDS, 0) in shown
        return whole or not (message.get("content") or "").strip()
    contents, calls = marks.expected(message)
    # Earlier reasoning comes before the end of what an assistant says, and is left out by design.
    return (not contents or (turn, ENDS, 0) in shown) and all((turn, CALLS, at) in shown for at in range(calls))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _loses_reasoning(chat: Chat, render: Renderer) -> bool:
    values = [message[key].strip() for message in chat.messages for key in ASIDE if message.get(key)]
    if not any(values) or not all(value in chat.text for value in values):
        return any(values)
    # It may be there by chance, as a part of something else.
    bare = [{key: value for key, value in message.items() if key not in ASIDE} for message in chat.messages]
    return _is_same(chat, render, bare)


def _is_same(chat: Chat, render: Renderer, messages: Sequence[Message], *, with_tools: bool = True) -> bool:
    """Whether the template writes the same of these messages, or without the tools."""
    try:
        return render.text(messages, chat.tools, chat.where, with_tools=with_tools) == chat.text
    except UnusableRow:
        return False
