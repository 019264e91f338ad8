"""Reasoning apart from the answer, by the marks that families of models write around it."""

import re
from typing import NamedTuple

_WORDS = "think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis|monologue|rationale|deliberation|cot"
# Tags such as <think>, <seed:think>, <inner_thoughts> and <chain-of-thought>.
_NAME = rf"(?:[a-z0-9]{{1,20}}[:_-]){{0,3}}(?:{_WORDS})(?:[:_-][a-z0-9]{{1,20}}){{0,3}}"
# (before the reasoning, behind it)
_MARKS = (
    (rf"<{_NAME}(?:\s[^<>/]{{0,80}})?>", rf"</{_NAME}>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    ("◁think▷", "◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    (r"<\|think\|>", r"<\|content\|>"),
    (r"<\|channel>", r"<channel\|>"),
    ("<unused94>", "<unused95>"),
    (r"Here(?: i|')s my thought process:", r"Here(?: i|')s my response:"),
)
_OPEN, _CLOSE = (re.compile("|".join(each), re.IGNORECASE) for each in zip(*_MARKS, strict=True))
# A prompt may name the channel too.
_OPEN_AT_END = re.compile(
    rf"(?:<\|channel\|>\s*analysis\s*<\|message\|>|<\|channel>thought|{_OPEN.pattern})\s*\Z", re.IGNORECASE
)
_CLOSING = {
    "◁think▷": "◁/think▷",
    "<unused94>": "<unused95>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "<|think|>": "<|end|><|begin|>assistant<|content|>",
    "<|channel>": "<channel|>",
    "<|channel>thought": "<channel|>",
    "<|channel|>analysis<|message|>": "<|end|><|start|>assistant<|channel|>final<|message|>",
}
# Harmony names the channel of each message; the answer is in the last one.
_CHANNEL = "<|channel|>"
_HARMONY = (_CHANNEL, "<|message|>", "<|start|>", "<|end|>")
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*<\|message\|>")
_MESSAGE_END = re.compile(r"<\|(?:end|return|start|call)\|>.*", re.DOTALL)
# Some families mark the answer too.
_ANSWER_MARKS = re.compile(r"<\|(?:begin_of_solution|end_of_solution|START_RESPONSE|END_RESPONSE)\|>")
_ANSWER_TAG = re.compile(r"\s*<(answer|final_answer|response)>", re.IGNORECASE)
_ABOUT_REASONING = re.compile(
    r"think|thought|reason|reflection|scratchpad|channel|inner_prefix"
    r"|</?(?:analysis|cot|monologue|rationale|deliberation|answer|final_answer|response)",
    re.IGNORECASE,
)


class Split(NamedTuple):
    """A completion in two; the answer of one whose reasoning does not end (`finished` is False) is empty."""

    reasoning: str
    answer: str
    finished: bool = True


def split_reasoning(text: str) -> Split:
    """The reasoning and the answer: the text behind the last mark, all of it if there is none."""
    if _CHANNEL in text:
        return _split_channels(text)
    opened = max((match.end() for match in _OPEN.finditer(text)), default=0)
    closed = max((match.end() for match in _CLOSE.finditer(text)), default=0)
    if opened > closed:
        return Split(_without_marks(text), "", finished=False)
    answer = _ANSWER_MARKS.sub("", text[closed:])
    return Split(_without_marks(text[:closed]), _without_tags(answer.strip() if closed else answer))


def _without_tags(answer: str) -> str:
    """The answer without a tag such as `<answer>` around all of it."""
    tag = _ANSWER_TAG.match(answer)
    if not tag:
        return answer
    inside = answer[tag.end() :].strip()
    end = f"</{tag[1]}>"
    if inside.endswith(end):
        return inside.removesuffix(end).strip()
    return answer if end in inside else inside


def _split_channels(text: str) -> Split:
    *_, final = [None, *_FINAL.finditer(text)]
    if final is None:
        return Split(text.strip(), "", finished=False)
    return Split(text[: final.start()].strip(), _MESSAGE_END.sub("", text[final.end() :]).strip())


def _without_marks(text: str) -> str:
    return _CLOSE.sub("", _OPEN.sub("", text)).strip()


def opening_of(prompt: str) -> str:
    """The mark at the end of a prompt that opens the reasoning of its completion; empty without one."""
    match = _OPEN_AT_END.search(prompt)
    return match[0] if match else ""


def closing_of(opening: str) -> str:
    """The mark that ends what an opening mark begins; empty for none."""
    mark = opening.strip()
    if mark in _CLOSING:
        return _CLOSING[mark]
    swapped = mark.replace("begin_of", "end_of").replace("START_", "END_").replace("thought process", "response")
    if swapped != mark or not mark:
        return swapped
    name, _, attributes = mark.partition(" ")
    return f"{name[:1]}/{name[1:]}{'>' if attributes else ''}"


def is_mark(token: str, tokens: frozenset[str]) -> bool:
    """Whether a special token, one of `tokens`, marks reasoning."""
    harmony = _CHANNEL in tokens and token in _HARMONY
    return harmony or bool(_OPEN.fullmatch(token) or _CLOSE.fullmatch(token))


def concerns_reasoning(pattern: str | None) -> bool:
    """Whether a reward's pattern or text is about the marks, so that it is looked for in the whole completion."""
    return bool(_ABOUT_REASONING.search(pattern or ""))
