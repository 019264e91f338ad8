"""Step 2, of a few bases: whether their own code may run, and which token stands for a masked one."""

from typing import Any

from dimba.common.checkpoint import absent_tokens
from dimba.common.contract import absolute
from dimba.options import table
from dimba.options.diffusion_table import MASK_TOKEN
from dimba.wizard.answers import Choice, InvalidAnswer, one_of
from dimba.wizard.facts import base_facts, base_is_local
from dimba.wizard.lines import Line
from dimba.wizard.question import from_param
from dimba.wizard.state import MISSING, State

_CHOICES = (Choice(False, "no", "no"), Choice(True, "yes: I have read it", "yes"))


def _brings_code(state: State) -> bool:
    facts = base_facts(state)
    return bool(facts and facts.own_code)


def _on_code(state: State) -> list[Line]:
    facts = base_facts(state)
    where = facts.own_code if facts else ""
    return [Line(f"{where} asks for code that lies beside the weights. It would run with your rights.", "warn")]


def _without_code(state: State) -> list[Line]:
    if state.value(TRUST):
        return []
    return [Line("Without its code this base cannot be trained: go back for another, or answer yes.", "warn")]


def _lacks_mask(state: State) -> bool:
    facts = base_facts(state)
    is_taken = MASK_TOKEN.flag in {param.flag for param in state.objective.params.values()}
    return bool(is_taken and facts and facts.lifted and facts.lifted.by is MASK_TOKEN)


def _check_token(value: Any, state: State) -> None:
    folder = absolute(state.value("base_checkpoint"), state.folder)
    if base_is_local(state) and absent_tokens(folder, [str(value)]):
        raise InvalidAnswer(f"the tokenizer has no token `{value}`", "name one of its tokens")


TRUST = table.TRUST_REMOTE_CODE.name.replace("-", "_")
MASK = MASK_TOKEN.name.replace("-", "_")
QUESTIONS = (
    from_param(
        table.TRUST_REMOTE_CODE,
        step=2,
        kind="choice",
        metavar="yes|no",
        choices=lambda _state: _CHOICES,
        parse=lambda text, _state: one_of(_CHOICES, text, "answer"),
        to_text=lambda value: "yes" if value else "no",
        default=lambda _state: False,
        applies=_brings_code,
        before=_on_code,
        after=_without_code,
        optional=True,
    ),
    from_param(
        MASK_TOKEN,
        step=2,
        default=lambda _state: MISSING,
        applies=_lacks_mask,
        check=_check_token,
        live_hint=lambda _text, _state: "the token that stands for a masked one: this base names none",
    ),
)
