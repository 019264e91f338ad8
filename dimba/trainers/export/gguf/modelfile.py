"""An Ollama Modelfile with the model's own chat template, or the reason why it cannot have one."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from dimba.common.errors import BadInput, first_line
from dimba.trainers.export.gguf.go_template import Form, Turn, rendered

Render = Callable[[Sequence[Turn]], str]
_HINT = "use the GGUF with llama.cpp (`llama-server --jinja`), which runs the template in the file itself"
_DATES = ("%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%d %B %Y", "%m/%d/%Y")
_ASK, _ANSWER, _SYSTEM = "QuestionQ{}", "AnswerA{}", "SystemS0"

# Conversations from which the form is not derived: it has to render them as the template does.
_TALK: tuple[Turn, ...] = (
    ("user", "What is 2 + 2?\n\nPlease explain."),
    ("assistant", "It is **4**:\n\n```python\nprint(2 + 2)  # {{ braces }} {% and %} $signs\n```"),
    ("user", "Et en français, s'il vous plaît: 数学?"),
    ("assistant", "Quatre."),
    ("user", "Thanks"),
    ("assistant", "You're welcome."),
    ("user", "One more: what is 3 * 3?"),
)
_REASONING = (_TALK[0], ("assistant", "<think>\nTwo and two.\n</think>\n\nFour."), _TALK[2])
_NO_SYSTEM = "# The model's template takes no system prompt: Ollama leaves it out."
_KEEPS_REASONING = "# The model's template removes reasoning from earlier answers: Ollama leaves it in."
HELD_OUT = tuple(
    conversation
    for length in (1, 3, 5, 7)
    for conversation in (_TALK[:length], (("system", "You are a pirate.\nAnswer in rhymes."), *_TALK[:length]))
)


class NotExpressible(BadInput):
    """A chat template that Ollama's templates cannot express."""


def modelfile(tokenizer: Any, gguf_name: str, end_strings: Sequence[str], render: Render | None = None) -> str:
    """The text of a Modelfile for the GGUF beside it.

    `end_strings` are the texts of the tokens that end an answer; `render` gives a conversation as it was rendered for
    training, with the beginning of the next answer (default: the tokenizer's template).

    Raises:
        NotExpressible: Ollama's templates cannot say what this chat template does.
    """
    begin = _begin_that_is_added(tokenizer)
    plain = render or _render_with(tokenizer)

    def without_begin(turns: Sequence[Turn]) -> str:
        return _without(plain(turns), begin)

    form = _derived(without_begin)
    source = form.source()
    _require_equal(source, without_begin, takes_system=form.system is not None)
    notes = [] if form.system else [_NO_SYSTEM]
    notes += [] if rendered(source, _REASONING) == _text(without_begin, _REASONING) else [_KEEPS_REASONING]
    stops = [text for text in dict.fromkeys(end_strings) if text]
    if '"""' in source or any('"' in text or "\n" in text for text in stops):
        raise _refused("it has quotation marks that a Modelfile cannot hold")
    lines = [*notes, f"FROM ./{gguf_name}", f'TEMPLATE """{source}"""', *(f'PARAMETER stop "{text}"' for text in stops)]
    return "\n".join(lines) + "\n"


def _refused(reason: str) -> NotExpressible:
    return NotExpressible(f"no Modelfile, as Ollama's templates cannot express this chat template: {reason}", _HINT)


def _begin_that_is_added(tokenizer: Any) -> str:
    """The text of the token that Ollama, as llama.cpp, puts in front of a prompt itself; empty if there is none."""
    ids = tokenizer.encode("a")
    return str(tokenizer.bos_token) if ids[:1] == [tokenizer.bos_token_id] else ""


def _render_with(tokenizer: Any) -> Render:
    if not tokenizer.chat_template:
        raise _refused("the model has none")

    def render(turns: Sequence[Turn]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    return render


def _without(text: str, begin: str) -> str:
    if begin and not text.startswith(begin):
        raise _refused(f"Ollama puts `{begin}` in front of each prompt, and the template does not")
    return text.removeprefix(begin)


def _derived(render: Render) -> Form:
    turns = [(role, text.format(at)) for at in range(3) for role, text in (("user", _ASK), ("assistant", _ANSWER))][:5]
    texts = _between(render, turns)
    first, answer, question, end = texts[0], texts[1], texts[2], texts[5]
    if texts != [first, answer, question, answer, question, end]:
        raise _refused("the text between two messages depends on more than their roles")
    if any(f"{datetime.now():{date}}" in first for date in _DATES):
        raise _refused("it writes the date of the day")
    return Form(first=first, answer=answer, question=question, end=end, system=_system(render, turns, texts))


def _between(render: Render, turns: Sequence[Turn]) -> list[str]:
    """The texts around the contents of `turns`, in their order."""
    rest, texts = _text(render, turns), []
    for _role, content in turns:
        before, found, rest = rest.partition(content)
        if not found:
            raise _refused("it leaves out or moves a message")
        texts.append(before)
    return [*texts, rest]


def _text(render: Render, turns: Sequence[Turn]) -> str:
    try:
        return render(turns)
    except NotExpressible:
        raise
    except Exception as error:  # whatever a template raises
        raise _refused(f"it raises `{first_line(error)}` for a conversation of questions and answers") from None


def _system(render: Render, turns: Sequence[Turn], texts: Sequence[str]) -> tuple[str, str] | None:
    """The texts around a system prompt; None where the template takes none."""
    try:
        if _SYSTEM not in render([("system", _SYSTEM), *turns]):
            return None
    except NotExpressible:
        raise
    except Exception:  # a template's own words for it
        return None
    before, behind, *others = _between(render, [("system", _SYSTEM), *turns])
    if others != list(texts[1:]):
        raise _refused("a system prompt changes more than the beginning")
    return before, behind


def _require_equal(source: str, render: Render, *, takes_system: bool) -> None:
    for turns in HELD_OUT:
        if turns[0][0] == "system" and not takes_system:
            continue
        if rendered(source, turns) != _text(render, turns):
            raise _refused("it changes the text of a message")
