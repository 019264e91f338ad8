"""The Go templates that Ollama's Modelfile gets: one form, and what Go makes of it.

The text in front of a message depends on its role, on whether it is the first, and on whether there is a system prompt.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKENS = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_BRACES = '{{ "{{" }}'
Turn = tuple[str, str]  # role and content


@dataclass(frozen=True, kw_only=True)
class Form:
    """The texts between the messages of a conversation, and behind the last one."""

    first: str  # in front of the first question, without a system prompt
    answer: str
    question: str  # in front of the later questions
    end: str
    system: tuple[str, str] | None  # in front of a system prompt, and between it and the first question

    def source(self) -> str:
        """The template."""
        texts = {name: _escaped(getattr(self, name)) for name in ("first", "answer", "question", "end")}
        beginning = texts["first"]
        if self.system:
            before, behind = map(_escaped, self.system)
            beginning = f"{{{{ if $.System }}}}{before}{{{{ $.System }}}}{behind}{{{{ else }}}}{beginning}{{{{ end }}}}"
        return (
            '{{ $first := true }}{{ range .Messages }}{{ if eq .Role "user" }}'
            f"{{{{ if $first }}}}{{{{ $first = false }}}}{beginning}{{{{ else }}}}{texts['question']}{{{{ end }}}}"
            f'{{{{ .Content }}}}{{{{ else if eq .Role "assistant" }}}}{texts["answer"]}{{{{ .Content }}}}{{{{ end }}}}'
            f"{{{{ end }}}}{texts['end']}"
        )


def _escaped(text: str) -> str:
    return text.replace("{{", _BRACES)


def rendered(source: str, turns: Sequence[Turn]) -> str:
    """What Go makes of a template of this form: `Form.source` uses no other action."""
    return "".join(_run(_tokens(source), turns))


def _tokens(source: str) -> list[tuple[str, str]]:
    parts = _TOKENS.split(source)
    kinds = ("text", "action")
    return [(kinds[at % 2], part.strip() if at % 2 else part) for at, part in enumerate(parts)]


def _run(tokens: list[tuple[str, str]], turns: Sequence[Turn]) -> Iterator[str]:
    system = "\n\n".join(content for role, content in turns if role == "system")
    state: dict[str, bool] = {}
    yield from _block(tokens, 0, len(tokens), ("", ""), (turns, system, state))


_Data = tuple[Sequence[Turn], str, dict[str, bool]]


def _block(tokens: list[tuple[str, str]], at: int, stop: int, turn: Turn, data: _Data) -> Iterator[str]:
    turns, system, state = data
    while at < stop:
        kind, text = tokens[at]
        if kind == "text":
            yield text
        elif text.startswith("range"):
            end = _end(tokens, at, stop)
            for each in turns:
                yield from _block(tokens, at + 1, end, each, data)
            at = end
        elif text.startswith("if"):
            end = _end(tokens, at, stop)
            begin, behind = _branch(tokens, at, end, turn, data)
            yield from _block(tokens, begin, behind, turn, data)
            at = end
        elif text.startswith("$first"):
            state["first"] = text.endswith("true")
        else:
            yield {".Content": turn[1], "$.System": system, '"{{"': "{{"}[text]
        at += 1


def _end(tokens: list[tuple[str, str]], at: int, stop: int) -> int:
    """The index of the `end` that closes the block at `at`."""
    depth = 0
    for index in range(at, stop):
        kind, text = tokens[index]
        if kind == "action":
            depth += text.startswith(("if", "range")) - (text == "end")
            if depth == 0:
                return index
    raise ValueError("a block without its end")


def _branch(tokens: list[tuple[str, str]], at: int, end: int, turn: Turn, data: _Data) -> tuple[int, int]:
    """The range of the branch that is taken, an empty one if none is."""
    starts, depth = [at], 0
    for index in range(at, end):
        kind, text = tokens[index]
        if kind == "action":
            depth += text.startswith(("if", "range")) - (text == "end")
            starts += [index] if depth == 1 and text.startswith("else") else []
    for begin, behind in zip(starts, [*starts[1:], end], strict=True):
        if _holds(tokens[begin][1].removeprefix("else").strip(), turn, data):
            return begin + 1, behind
    return end, end


def _holds(condition: str, turn: Turn, data: _Data) -> bool:
    _turns, system, state = data
    if condition.startswith("if eq .Role"):
        return turn[0] == condition.split('"')[1]
    return {"if $first": state.get("first", False), "if $.System": bool(system), "": True}[condition]
