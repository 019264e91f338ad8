"""Step 5, behind "change them one by one": further settings of adapter and optimiser, from their declarations."""

from collections.abc import Callable, Sequence
from typing import Any

from dimba.options import lora_table, optimiser_table, tracking_table
from dimba.options.kinds import OneOf, Switch
from dimba.options.param import Param
from dimba.wizard.answers import Choice, InvalidAnswer, in_sentence, one_of, parse_number
from dimba.wizard.facts import base_facts
from dimba.wizard.question import Question, from_param
from dimba.wizard.state import State
from dimba.wizard.steps.training import is_adapter, is_tuned, takes

_KEEP, _CHANGE = "keep", "change"
_SWITCH = (Choice(False, "no", "no"), Choice(True, "yes", "yes"))


def key_of(param: Param) -> str:
    """The key of a parameter's question."""
    return param.name.replace("-", "_")


def default_of(param: Param, state: State) -> Any:
    """The default of the chosen objective."""
    ours = next(each for each in state.objective.params.values() if each.flags == param.flags)
    return tuple(ours.default) if ours.several else ours.default


def _is_asked(state: State) -> bool:
    return is_tuned(state) and bool(state.value("further") == _CHANGE)


def _choices(param: Param) -> Sequence[Choice]:
    return _SWITCH if isinstance(param.kind, Switch) else [Choice(word, word, word) for word in param.words]


def _or_none(param: Param) -> Callable[[str, State], Any]:
    return lambda text, _state: None if text.strip().lower() in ("none", "") else parse_number(param, text)


def _check_modules(param: Param) -> Callable[[Any, State], None]:
    """Refuses names of modules that the base does not have, as far as its files tell."""

    def check(value: tuple[str, ...], state: State) -> None:
        from dimba.plan.adapter import name_problems
        from dimba.spec.training import Lora

        base = base_facts(state)
        if not value or base is None or not base.modules or base.quantization:
            return
        if param is lora_table.TARGET_MODULES and (problem := lora_table.target_problem(value)):
            raise InvalidAnswer(*problem)
        for found in name_problems(Lora.model_validate({param.key.partition(".")[2]: list(value)}), base):
            raise InvalidAnswer(found.detail, found.hint)

    return check


def _question(param: Param, applies: Callable[[State], bool]) -> Question:
    shape: dict[str, Any] = {}
    if isinstance(param.kind, OneOf | Switch):
        shape = {
            "kind": "choice",
            "choices": lambda _state: _choices(param),
            "parse": lambda text, _state: one_of(_choices(param), text, in_sentence(param.question)),
            "to_text": lambda value: next(each.short for each in _choices(param) if each.value == value),
            "metavar": param.metavar_of_words or "yes|no",
            "several": False,  # a list of words is written into the spec by hand
        }
    elif param.default is None and not param.several:
        shape = {"parse": _or_none(param), "to_text": lambda value: "none" if value is None else str(value)}
    elif param.several:
        shape = {"parse": lambda text, _state: tuple(text.split()), "to_text": " ".join}
        if param in (lora_table.TARGET_MODULES, lora_table.MODULES_TO_SAVE):
            shape["check"] = _check_modules(param)
    return from_param(
        param,
        step=5,
        optional=True,
        default=lambda state: default_of(param, state),
        applies=applies,
        is_asked=_is_asked,
        live_hint=lambda _text, _state: param.help,
        **shape,
    )


FURTHER = Question(
    key="further",
    step=5,
    label="Further settings",
    kind="choice",
    optional=True,
    choices=lambda _state: [
        Choice(_KEEP, "keep the defaults of adapter and optimiser", "defaults"),
        Choice(_CHANGE, "change them too: dropout, target modules, scheduler, optimiser …", "one by one"),
    ],
    default=lambda _state: _KEEP,
    is_asked=is_tuned,
)
QUESTIONS = (
    FURTHER,
    *(_question(param, is_adapter) for param in lora_table.PARAMS),
    *(_question(param, takes(param)) for param in (*optimiser_table.PARAMS, *tracking_table.PARAMS)),
)
