"""Step 1: the training objective."""

from dimba.objectives.registry import OBJECTIVES
from dimba.options import table
from dimba.wizard.question import Choice, Question, Said, one_of
from dimba.wizard.state import State

_CHOICES = tuple(Choice(each.name, f"{each.name:<6} {each.choice}", each.name) for each in OBJECTIVES.values())


def _advice(state: State) -> list[Said]:
    return [Said(state.objective.advice, "dim")] if state.objective.advice else []


QUESTIONS = (
    Question(
        key="mode",
        step=1,
        ask=table.MODE.question,
        flag="--mode",
        metavar="|".join(OBJECTIVES),
        help=table.MODE.help,
        kind="choice",
        choices=lambda _state: _CHOICES,
        default=lambda _state: next(iter(OBJECTIVES)),
        parse=lambda text, _state: one_of(_CHOICES, text, "mode"),
        after=_advice,
    ),
)
