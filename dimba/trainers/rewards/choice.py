"""`auto`: which reward fits the data, and why."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dimba.common.errors import BadInput
from dimba.dataset.prompt_examples import PromptExample, PromptFormat
from dimba.objectives.rewards import RewardSpec
from dimba.trainers.rewards.numbers import clear_answer
from dimba.trainers.rewards.verifiers import answer_part

ENOUGH = 0.9  # of the references, that a rule must fit
SHORT = 60  # characters that a completion may be asked to repeat exactly
_WAYS = (
    "name a reward: `--reward file.py:function`, or `--reward regex:PATTERN` where the form is what counts; "
    "in a spec `trainer_args: {reward: …}`"
)


@dataclass(frozen=True)
class Choice:
    """The rewards chosen, and the reason in words."""

    specs: tuple[RewardSpec, ...]
    why: str


def choose(form: PromptFormat, tasks: Sequence[PromptExample]) -> Choice:
    """A verifier where answers can be checked, else the preference where there are pairs, else a refusal."""
    column, references = form.reference or "reference", [task.reference for task in tasks]
    verifier = _by_reference(column, references) if form.checkable else None
    if verifier:
        return verifier
    if form.pairs:
        texts = f" and no rule can check the texts in `{column}`" if form.checkable else ""
        why = f"preference, because each row has a chosen and a rejected completion{texts}"
        return Choice((RewardSpec("preference"),), why)
    if form.checkable:
        raise _unchecked(column, references)
    raise BadInput(
        f"no reward fits rows of the form {form.name}: there is no `answer` or `solution` to check completions with, "
        "and no `chosen` and `rejected` to compare them with",
        f"add such a column, or {_WAYS}",
    )


def _by_reference(column: str, references: Sequence[str | None]) -> Choice | None:
    given = [reference for reference in references if reference is not None]
    numeric = sum(map(clear_answer, given))
    short = sum(map(_is_short, given))
    total = len(references)
    if total and numeric >= ENOUGH * total:
        return _choice("numeric", column, numeric, total, "ends in a number")
    if total and short >= ENOUGH * total:
        return _choice("exact_match", column, short, total, f"is one line of at most {SHORT} characters")
    return None


def _unchecked(column: str, references: Sequence[str | None]) -> BadInput:
    sizes = [len(reference) for reference in references if reference is not None]
    size = round(statistics.median(sizes)) if sizes else 0
    return BadInput(
        f"the answers in `{column}` are texts (a median of {size:,} characters): "
        "no rule can tell which completion is right",
        _WAYS,
    )


def _is_short(reference: str) -> bool:
    answer = answer_part(reference)
    return 0 < len(answer) <= SHORT and "\n" not in answer


def _choice(name: str, column: str, count: int, total: int, what: str) -> Choice:
    why = f"{name}, because the `{column}` of {count:,} of {total:,} rows {what}"
    return Choice((RewardSpec(name),), why)
