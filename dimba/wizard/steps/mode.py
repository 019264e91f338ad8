"""Step 1: the training objective."""

from dimba.objectives.registry import OBJECTIVES
from dimba.options import table
from dimba.wizard.answers import Choice, one_of
from dimba.wizard.lines import Line
from dimba.wizard.question import from_param
from dimba.wizard.state import State

_CHOICES = tuple(Choice(each.name, f"{each.name:<6} {each.choice}", each.name) for each in OBJECTIVES.values())


def _advice(state: State) -> list[Line]:
    return [Line(state.objective.advice, "dim")] if state.objective.advice else []


QUESTIONS = (
    from_param(
        table.MODE,
        step=1,
        metavar="|".join(OBJECTIVES),
        kind="choice",
        choices=lambda _state: _CHOICES,
        default=lambda _state: next(iter(OBJECTIVES)),
        parse=lambda text, _state: one_of(_CHOICES, text, "mode"),
        after=_advice,
    ),
)
