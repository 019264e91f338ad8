"""A question as data: how it is asked, what it takes, what follows from the answer."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dimba.common.errors import BadInput
from dimba.options.param import Param
from dimba.wizard.state import MISSING, State

_MOST, _LEAST_RATE = 10**9, 1e-12


@dataclass(frozen=True)
class Choice:
    """One line of a menu."""

    value: Any
    label: str
    short: str = ""  # what is left standing once it is taken


@dataclass(frozen=True)
class Said:
    """A line on the screen and its kind: plain, dim, good, warn or title."""

    text: str
    kind: str = "plain"


class Wrong(BadInput):
    """An answer that does not go; `instead` has better ones, by question."""

    def __init__(self, message: str, hint: str = "", instead: dict[str, Any] | None = None) -> None:
        super().__init__(message, hint)
        self.instead = instead or {}


def _nothing(_state: State) -> list[Said]:
    return []


def _as_text(text: str, _state: State) -> Any:
    return text


def _accept(_value: Any, _state: State) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question. Functions get the state, so that a question can follow from the answers before it."""

    key: str
    step: int
    ask: str
    flag: str | None = None
    metavar: str = "VALUE"
    help: str = ""
    kind: str = "text"  # text, path, choice or many
    choices: Callable[[State], Sequence[Choice]] = lambda _state: ()
    default: Callable[[State], Any] = lambda _state: MISSING
    parse: Callable[[str, State], Any] = _as_text  # what was typed → value; raises Wrong
    show: Callable[[Any], str] = str  # value → what one would type
    check: Callable[[Any, State], None] = _accept  # a look that may take a while; raises Wrong
    applies: Callable[[State], bool] = lambda _state: True
    asked: Callable[[State], bool] = lambda _state: True  # else the default is taken without a word
    before: Callable[[State], list[Said]] = _nothing
    after: Callable[[State], list[Said]] = _nothing
    live: Callable[[str, State], str] | None = None  # what to say below while one types
    only_folders: bool = False
    from_flag: Callable[[str, State], dict[str, Any]] | None = None  # where a flag answers more than one question
    invalidates: tuple[str, ...] = ()  # answers that lose their meaning once this one changes
    optional: bool = False  # a pipe need not be told that it is missing


def from_param(param: Param, **about: Any) -> Question:
    """The question about a declared parameter; `about` adds to what the table says."""
    declared = {"ask": param.question, "flag": param.flag, "metavar": param.metavar or "VALUE", "help": param.help}
    return Question(key=param.name.replace("-", "_"), **{**declared, **about})


def one_of(choices: Sequence[Choice], text: str, what: str) -> Any:
    """The choice that `text` names, by its value or by what it is called once taken."""
    for choice in choices:
        if text.strip().lower() in (str(choice.value).lower(), choice.short.lower()):
            return choice.value
    known = [choice.short or str(choice.value) for choice in choices]
    close = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"one of: {', '.join(known)}"
    raise Wrong(f"{what} `{text}` is not known", hint)


def whole(text: str, what: str, least: int = 1) -> int:
    """A whole number from `least` on."""
    try:
        number = int(text.replace(",", "").replace("_", ""))
    except ValueError:
        raise Wrong(f"{what} `{text}` is not a whole number", f"for example {max(least, 8)}") from None
    if number < least:
        raise Wrong(f"{what} {number} is less than {least}", f"give {least} or more")
    if number > _MOST:
        raise Wrong(f"{what} {text} is more than anybody needs", f"for example {max(least, 8)}")
    return number


def positive(text: str, what: str, example: str) -> float:
    """A number above zero."""
    try:
        number = float(text)
    except ValueError:
        raise Wrong(f"{what} `{text}` is not a number", f"for example {example}") from None
    if not number > 0:
        raise Wrong(f"{what} {text} is not above zero", f"for example {example}")
    if not _LEAST_RATE <= number <= _MOST:
        raise Wrong(f"{what} {text} is out of all measure", f"for example {example}")
    return number


def counted(number: int, what: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
