"""Answers in the JSON forms of OpenAI's interface: complete, or in chunks."""

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dimba.common.inference import LENGTH, REASONING, Answer

_OBJECTS = {True: ("chatcmpl-", "chat.completion", "chat.completion.chunk"), False: ("cmpl-", *["text_completion"] * 2)}


@dataclass(frozen=True, kw_only=True)
class Response:
    """The forms of one response; `is_chat`: of /v1/chat/completions."""

    model: str
    is_chat: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def complete(self, answer: Answer) -> dict[str, Any]:
        """The response that is not streamed."""
        message = {"role": "assistant", **_message(answer)}
        content: dict[str, Any] = {"message": message} if self.is_chat else {"text": answer.text}
        return {**self._head(1), "choices": [_choice(content, _finish(answer))], "usage": _usage(answer)}

    def begin(self) -> Iterator[dict[str, Any]]:
        """The chunk in front of the first part."""
        if self.is_chat:
            yield self._chunk({"delta": {"role": "assistant", "content": ""}})

    def part(self, kind: str, text: str) -> dict[str, Any]:
        """The chunk of a part of the answer."""
        if not self.is_chat:
            return self._chunk({"text": text})
        return self._chunk({"delta": {"reasoning_content" if kind == REASONING else "content": text}})

    def end(self, answer: Answer, *, has_usage: bool) -> Iterator[dict[str, Any]]:
        """The chunks behind the last part: tool calls, the reason of the end, and the usage where it was asked for."""
        if self.is_chat and answer.calls:
            calls = [{"index": number, **each} for number, each in enumerate(_calls(answer))]
            yield self._chunk({"delta": {"tool_calls": calls}})
        yield self._chunk({"delta": {}} if self.is_chat else {"text": ""}, _finish(answer))
        if has_usage:
            yield {**self._head(2), "choices": [], "usage": _usage(answer)}

    def _chunk(self, content: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**self._head(2), "choices": [_choice(content, finish)]}

    def _head(self, kind: int) -> dict[str, Any]:
        names = _OBJECTS[self.is_chat]
        return {"id": f"{names[0]}{self.id}", "object": names[kind], "created": self.created, "model": self.model}


def event(value: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n\n"


END_OF_EVENTS = b"data: [DONE]\n\n"


def _choice(content: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish}


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"content": answer.text or (None if answer.calls else "")}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = _calls(answer)
    return message


def _calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": dict(each)} for each in answer.calls
    ]


def _finish(answer: Answer) -> str:
    if answer.calls:
        return "tool_calls"
    return "length" if answer.finish == LENGTH else "stop"


def _usage(answer: Answer) -> dict[str, int]:
    total = answer.prompt_tokens + answer.tokens
    return {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.tokens, "total_tokens": total}
