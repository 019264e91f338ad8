"""Reasoning apart from the answer, by the marks that families of models write around it."""

import re
from typing import NamedTuple

_WORDS = r"think(?:ing)?(?::\w+)?|thoughts?|reason(?:ing)?|reflection|scratchpad|seed:think|longcat_think"
# (before the reasoning, behind it)
_MARKS = (
    (rf"<(?:{_WORDS})>", rf"</(?:{_WORDS})>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    ("◁think▷", "◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|channel>", r"<channel\|>"),
    ("<unused94>", "<unused95>"),
)
_OPEN, _CLOSE = (re.compile("|".join(each), re.IGNORECASE) for each in zip(*_MARKS, strict=True))
_OPEN_AT_END = re.compile(rf"(?:{_OPEN.pattern})\s*\Z", re.IGNORECASE)
# Harmony names the channel of each message; the answer is in the last one.
_CHANNEL = "<|channel|>"
_HARMONY = (_CHANNEL, "<|message|>", "<|start|>", "<|end|>")
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*<\|message\|>")
_MESSAGE_END = re.compile(r"<\|(?:end|return|start|call)\|>.*", re.DOTALL)
# Some families mark the answer too.
_ANSWER_MARKS = re.compile(r"<\|(?:begin_of_solution|end_of_solution|START_RESPONSE|END_RESPONSE)\|>")
_ABOUT_REASONING = re.compile(r"think|thought|reason|reflection|scratchpad|channel", re.IGNORECASE)


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
    return Split(_without_marks(text[:closed]), answer.strip() if closed else answer)


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
    named = {"◁think▷": "◁/think▷", "<|channel>": "<channel|>", "<unused94>": "<unused95>"}
    if mark in named:
        return named[mark]
    swapped = mark.replace("begin_of", "end_of").replace("START_", "END_")
    return swapped if swapped != mark else f"{mark[:1]}/{mark[1:]}" if mark else ""


def is_mark(token: str, tokens: frozenset[str]) -> bool:
    """Whether a special token, one of `tokens`, marks reasoning."""
    harmony = _CHANNEL in tokens and token in _HARMONY
    return harmony or bool(_OPEN.fullmatch(token) or _CLOSE.fullmatch(token))


def concerns_reasoning(pattern: str | None) -> bool:
    """Whether a reward's pattern or text is about the marks, so that it is looked for in the whole completion."""
    return bool(_ABOUT_REASONING.search(pattern or ""))
