"""A question as data: its label and flag, the answers it accepts, and the lines around it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dimba.options.kinds import Integer, Number, StepsOrShare
from dimba.options.param import Param
from dimba.wizard.answers import Choice, parse_number
from dimba.wizard.lines import Line
from dimba.wizard.state import MISSING, State


def _no_lines(_state: State) -> list[Line]:
    return []


def _as_text(text: str, _state: State) -> Any:
    return text


def _accept(_value: Any, _state: State) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question. Its functions get the state, so that a question can follow from the answers before it."""

    key: str
    step: int
    label: str
    flag: str | None = None
    metavar: str = "VALUE"
    help: str = ""
    several: bool = False  # the flag takes several values, one per line of the answer's text
    kind: str = "text"  # text, path, choice or many
    choices: Callable[[State], Sequence[Choice]] = lambda _state: ()
    default: Callable[[State], Any] = lambda _state: MISSING
    parse: Callable[[str, State], Any] = _as_text  # typed text → value; raises InvalidAnswer
    to_text: Callable[[Any], str] = str  # value → the text that one types for it
    check: Callable[[Any, State], None] = _accept  # may take a while; raises InvalidAnswer
    applies: Callable[[State], bool] = lambda _state: True
    is_asked: Callable[[State], bool] = lambda _state: True  # else the default is taken silently
    before: Callable[[State], list[Line]] = _no_lines
    after: Callable[[State], list[Line]] = _no_lines
    live_hint: Callable[[str, State], str] | None = None  # the line below the prompt, by the text typed so far
    only_folders: bool = False
    from_flag: Callable[[str, State], dict[str, Any]] | None = None  # for a flag that answers more than one question
    invalidates: tuple[str, ...] = ()  # answers that lose their meaning once this one changes
    optional: bool = False  # a pipe need not give its flag


def from_param(param: Param, **changes: Any) -> Question:
    """The question about a declared parameter; `changes` add to the table, or replace parts of it."""
    declared: dict[str, Any] = {
        "key": param.name.replace("-", "_") if param.flags else param.key.replace(".", "_"),
        "label": param.question,
        "flag": param.flag if param.flags else None,
        "metavar": param.metavar or param.metavar_of_words or "VALUE",
        "help": param.help_of_words,
        "several": param.several,
        "parse": _parser(param),
    }
    return Question(**{**declared, **changes})


def _parser(param: Param) -> Callable[[str, State], Any]:
    if isinstance(param.kind, Integer | Number | StepsOrShare):
        return lambda text, _state: parse_number(param, text)
    return _as_text
