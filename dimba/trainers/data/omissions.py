"""The parts of a chat that its template does not show: the model never sees them, and no loss mask reveals it."""

from collections.abc import Collection, Sequence

from dimba.common.errors import UnusableRow
from dimba.trainers.data import marks
from dimba.trainers.data.marks import CALLS, ENDS, STARTS, Mark
from dimba.trainers.data.render import REASONING_KEYS, Messages, Renderer
from dimba.trainers.data.turns import Chat

NAMES = {
    "system": "the system message",
    "user": "a user message",
    "tool": "a tool's answer",
    "assistant": "an assistant's content or tool call without loss",
    "tools": "the tools",
    "documents": "the documents",
    "arguments": "arguments in `chat_template_kwargs`",
    "reasoning": f"reasoning given as {' or '.join(f'`{key}`' for key in REASONING_KEYS)}",
}


def omitted_parts(
    chat: Chat, found: Sequence[Mark] | None, trained: Collection[int], render: Renderer
) -> tuple[str, ...]:
    """The keys of NAMES that the chat has and its text lacks.

    `found` are the text's markers; without any (None) the contents are looked for in the text. `trained` are the
    indices of the turns with loss, which are checked elsewhere.
    """
    shown = None if found is None else {(mark.turn, mark.kind, mark.number) for mark in found}
    missing = {
        message["role"]
        for turn, message in enumerate(chat.messages)
        if turn not in trained and not _shows_turn(chat, turn, shown)
    }
    if chat.tools and _renders_the_same(chat, render, chat.messages, with_tools=False):
        missing.add("tools")
    ignored = [name for name in chat.arguments if render.ignores(name, chat.tools)]
    missing |= {"documents" if name == "documents" else "arguments" for name in ignored}
    if _omits_reasoning(chat, render):
        missing.add("reasoning")
    return tuple(name for name in NAMES if name in missing)


def _shows_turn(chat: Chat, turn: int, shown: Collection[tuple[int, str, int]] | None) -> bool:
    message = chat.messages[turn]
    is_assistant = message["role"] == "assistant"
    if shown is None or (chat.only_answers_marked and not is_assistant):
        return _without_space(message.get("content") or "") in _without_space(chat.text)
    if not is_assistant:
        is_complete = (turn, STARTS, 0) in shown and (turn, ENDS, 0) in shown
        return is_complete or not (message.get("content") or "").strip()
    contents, calls = marks.expected_marks(message)
    # Templates drop earlier reasoning by design; it comes before the end of the content.
    return (not contents or (turn, ENDS, 0) in shown) and all((turn, CALLS, at) in shown for at in range(calls))


def _without_space(text: str) -> str:
    return "".join(text.split())


def _omits_reasoning(chat: Chat, render: Renderer) -> bool:
    values = [message[key].strip() for message in chat.messages for key in REASONING_KEYS if message.get(key)]
    if not any(values) or not all(value in chat.text for value in values):
        return any(values)
    # The reasoning may be in the text by chance, as a part of something else.
    bare = [{key: value for key, value in message.items() if key not in REASONING_KEYS} for message in chat.messages]
    return _renders_the_same(chat, render, bare)


def _renders_the_same(chat: Chat, render: Renderer, messages: Messages, *, with_tools: bool = True) -> bool:
    try:
        return chat.render(render, messages, with_tools=with_tools) == chat.text
    except UnusableRow:
        return False
