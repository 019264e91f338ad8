"""Requests of OpenAI's interface as prompts and sampling; what would be ignored is refused."""

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimba.commands.serve.api_errors import ApiError
from dimba.common.errors import UnusableRow
from dimba.common.inference import Prompt, Sampling
from dimba.dataset.dialogue import turns_in
from dimba.dataset.samples import parse_arguments, tools_of

_NO_LIMIT = 1 << 30  # tokens: the model's context limits an answer
_COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions
_MAX_STOPS, _MAX_STOP_CHARACTERS = 16, 1000

# They change no answer.
_IGNORED = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
)
_READ = frozenset(
    ("model", "stream", "stream_options", "temperature", "top_p", "top_k", "seed", "stop", "max_tokens", "n")
)
_CHAT = _READ | {"messages", "tools", "tool_choice", "max_completion_tokens", "chat_template_kwargs"}
_COMPLETION = _READ | {"prompt"}
# Accepted with the value that changes nothing, as some clients always send them.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "response_format": ({"type": "text"},),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that can be answered: the prompt, and the form of the response."""

    prompt: Prompt
    sampling: Sampling
    stop: tuple[str, ...] = ()
    stream: bool = False
    has_usage_chunk: bool = False
    is_chat: bool = True


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a request's body; raises ApiError."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body is not a JSON object")
    return value


def read_chat(body: Mapping[str, Any], model: str) -> Request:
    """A request to /v1/chat/completions; raises ApiError."""
    _check_keys(body, _CHAT, model)
    if "messages" not in body:
        raise ApiError(400, "`messages` is missing", param="messages")
    try:
        messages = tuple(turn.message for turn in turns_in(_with_known_roles(body["messages"]), "messages"))
        tools = tools_of({"tools": body.get("tools")})
        arguments = parse_arguments(body.get("chat_template_kwargs"), "chat_template_kwargs")
    except UnusableRow as error:
        raise ApiError(400, error.finding, param=error.column) from None
    if _choice(body) == "none":
        tools = None
    return Request(
        prompt=Prompt(messages=messages, tools=tools, arguments=arguments, splits_calls=True),
        is_chat=True,
        **_how(body, _NO_LIMIT),
    )


def read_completion(body: Mapping[str, Any], model: str) -> Request:
    """A request to /v1/completions, whose prompt is text that no template is applied to; raises ApiError."""
    _check_keys(body, _COMPLETION, model)
    text = body.get("prompt")
    if isinstance(text, list) and len(text) == 1:
        text = text[0]
    if not isinstance(text, str) or not text:
        raise ApiError(400, "`prompt` must be one text that is not empty", param="prompt")
    return Request(prompt=Prompt(messages=(), text=text), is_chat=False, **_how(body, _COMPLETION_TOKENS))


def _with_known_roles(messages: object) -> object:
    """The messages with `developer`, OpenAI's newer name, as `system`."""
    if not isinstance(messages, list):
        return messages
    return [
        {**each, "role": "system"} if isinstance(each, dict) and each.get("role") == "developer" else each
        for each in messages
    ]


def _check_keys(body: Mapping[str, Any], known: frozenset[str], model: str) -> None:
    named = body.get("model", model)
    if named != model:
        cause = f"the model `{str(named)[:100]}` does not exist; this server has `{model}`"
        raise ApiError(404, cause, param="model", code="model_not_found")
    for key, value in body.items():
        if key in known or key in _IGNORED or value is None or value in _NEUTRAL.get(key, ()):
            continue
        raise ApiError(400, f"`{key[:100]}` is not supported", param=key[:100], code="unsupported_parameter")
    if body.get("n") not in (None, 1):
        raise ApiError(400, "`n` must be 1", param="n")


def _choice(body: Mapping[str, Any]) -> str:
    choice = body.get("tool_choice") or "auto"
    if choice not in ("auto", "none"):
        raise ApiError(400, "`tool_choice` must be `auto` or `none`", param="tool_choice", code="unsupported_parameter")
    return str(choice)


def _how(body: Mapping[str, Any], default_tokens: int) -> dict[str, Any]:
    limit = _integer(body, "max_completion_tokens", least=1)
    limit = _integer(body, "max_tokens", least=1, default=default_tokens) if limit is None else limit
    seed = _integer(body, "seed", least=-(1 << 63))
    sampling = Sampling(
        temperature=_number(body, "temperature", 1.0, most=100),
        top_p=_number(body, "top_p", 1.0, most=1) or 1e-9,  # 0: the likeliest token alone
        top_k=max(_integer(body, "top_k", least=-1, default=0) or 0, 0),
        seed=secrets.randbits(62) if seed is None else seed % (1 << 62),
        max_new_tokens=min(limit or 1, _NO_LIMIT),
    )
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ApiError(400, "`stream_options` must be an object", param="stream_options")
    return {
        "sampling": sampling,
        "stop": _stops(body.get("stop")),
        "stream": _flag(body, "stream"),
        "has_usage_chunk": _flag(options, "include_usage"),
    }


def _stops(value: object) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value or []
    if not isinstance(words, list) or len(words) > _MAX_STOPS or not all(_is_stop(word) for word in words):
        cause = (
            f"`stop` must be text, or a list of at most {_MAX_STOPS} texts of 1 to {_MAX_STOP_CHARACTERS:,} characters"
        )
        raise ApiError(400, cause, param="stop")
    return tuple(words)


def _is_stop(word: object) -> bool:
    return isinstance(word, str) and 0 < len(word) <= _MAX_STOP_CHARACTERS


def _number(body: Mapping[str, Any], key: str, default: float, *, most: float) -> float:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ApiError(400, f"`{key}` must be a number", param=key)
    if not 0 <= value <= most:
        raise ApiError(400, f"`{key}` must be from 0 to {most:g}", param=key)
    return float(value)


def _integer(body: Mapping[str, Any], key: str, *, least: int, default: int | None = None) -> int | None:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ApiError(400, f"`{key}` must be an integer of at least {least}", param=key)
    return value


def _flag(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"`{key}` must be true or false", param=key)
    return bool(value)
