"""The tokenizer of an export against the one of training: vocabulary, special tokens, template and end tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.common.contract import read_json_object
from dimba.common.errors import BadInput, Location, first_line
from dimba.trainers.data.render import Renderer, TemplateSettings
from dimba.trainers.export.rows import BUILT_IN, LONGER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM = {"role": "system", "content": "Answer in one sentence."}
_CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
_NUMBER = {"type": "integer", "description": "a number"}
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {"type": "object", "properties": {"a": _NUMBER, "b": _NUMBER}, "required": ["a", "b"]},
        },
    },
)
PROBES: dict[str, tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]] | None]] = {
    "one turn": (BUILT_IN[0], None),
    "two turns": (LONGER, None),
    "with a system prompt": ((_SYSTEM, *BUILT_IN[1]), None),
    "with a tool": (
        (
            {"role": "user", "content": "What is 1 + 2?"},
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "name": "add", "content": "3"},
            {"role": "assistant", "content": "3"},
        ),
        TOOLS,
    ),
    "with reasoning": (
        (BUILT_IN[2][0], {**BUILT_IN[2][1], "reasoning_content": "Eggs need heat."}),
        None,
    ),
}
_TEXTS = (
    "The quick brown fox jumps over 13 lazy dogs.",
    "Ünïcode, 12 + 345 = 357:\n\t<b>words</b> 中文 😀 <|x|>",
    "  def f(x):\n    return x**2  # two\n\n",
)


def template_problem(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, settings: TemplateSettings) -> str:
    """The first probe of which the two templates make different texts; empty if there is none."""
    if not theirs.chat_template:
        return "it has no chat template"
    settings = replace(settings, time=settings.time or datetime.now())  # both are asked within one moment
    for name in PROBES:
        for asks in (False, True):
            if rendered(ours, name, settings, asks=asks) != rendered(theirs, name, settings, asks=asks):
                prompt = ", up to the generation prompt" if asks else ""
                return f"the chat template renders another text of a conversation {name}{prompt}"
    return ""


def rendered(tokenizer: PreTrainedTokenizerBase, probe: str, settings: TemplateSettings, *, asks: bool) -> str:
    """The text of a probe, its answer left out where `asks` for it; the reason where the template refuses it."""
    messages, tools = PROBES[probe]
    try:
        render = Renderer(tokenizer, settings)
        return render.text(messages[:-1] if asks else messages, tools, Location("probe"), ask=asks)
    except BadInput as error:
        return first_line(error)


def vocabulary_problem(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> str:
    """How the vocabulary, the special tokens or the tokens of sample texts differ; empty if they do not."""
    one, two = ours.get_vocab(), theirs.get_vocab()
    if one != two:
        missing = sorted(one.items() - two.items(), key=lambda each: each[1]) or sorted(two.items() - one.items())
        token, number = missing[0]
        return (
            f"the tokenizer has {len(two):,} tokens, not {len(one):,}; the first that differs is `{token}` ({number})"
        )
    for name, token in ours.special_tokens_map.items():
        if name != "pad_token" and (found := theirs.special_tokens_map.get(name)) != token:
            return f"the tokenizer's `{name}` is {json.dumps(found)}, not {json.dumps(token)}"
    control, found = _control(ours), _control(theirs)
    if control != found:
        token = min(control.items() ^ found.items())[0]
        return f"`{token}` is {_kind(found.get(token))} of the tokenizer, not {_kind(control.get(token))}"
    for text in (*_TEXTS, "".join(control)):
        shown = json.dumps(text[:40], ensure_ascii=False)
        if _ids(ours, text) != _ids(theirs, text) or ours(text)["input_ids"] != theirs(text)["input_ids"]:
            return f"the tokenizer makes other tokens of {shown}"
        if ours.decode(_ids(ours, text)) != theirs.decode(_ids(ours, text)):
            return f"the tokenizer turns the tokens of {shown} into another text"
    return ""


def _control(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """The added tokens, each with whether it is a special one."""
    return {token.content: bool(token.special) for token in tokenizer.added_tokens_decoder.values()}


def _kind(special: bool | None) -> str:
    return "no added token" if special is None else "a special token" if special else "an ordinary added token"


def sample_tokens(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, list[int]]]:
    """Sample texts, each with its tokens, without those that the tokenizer adds around a text."""
    for text in _TEXTS:
        yield text, _ids(tokenizer, text)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def end_problem(tokenizer: PreTrainedTokenizerBase, folder: Path, ends: Sequence[int]) -> str:
    """How the tokens that end generation differ from those that end a turn; empty if they do not."""
    names = ("generation_config.json", "config.json")  # the second is read where there is no first
    place = next((folder / name for name in names if (folder / name).is_file()), folder)
    stored = read_json_object(place).get("eos_token_id")
    found = set(stored if isinstance(stored, list) else [stored]) - {None}
    if found == set(ends):
        return ""
    return f"generation ends at {named(tokenizer, found)}, and turns end at {named(tokenizer, ends)}"


def named(tokenizer: PreTrainedTokenizerBase, ids: Any) -> str:
    """Tokens by their text: `<|end|>` and `</s>`; "no token" for none."""
    names = [str(tokenizer.convert_ids_to_tokens(each)) for each in sorted(ids)]
    return " and ".join(f"`{name}`" for name in names) or "no token"
