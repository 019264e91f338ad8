"""The reward that `auto` stands for: the one that fits the data, with the reason."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dimba.common.errors import BadInput
from dimba.dataset.prompt_examples import PromptExample, PromptFormat
from dimba.objectives.rewards import RewardSpec
from dimba.trainers.rewards.numbers import is_clear_answer
from dimba.trainers.rewards.verifiers import answer_part

ENOUGH = 0.9  # share of the references that a rule must fit
SHORT = 60  # characters that a completion can be expected to repeat exactly
_NAME_A_REWARD = (
    "name a reward: `--reward file.py:function`, or `--reward regex:PATTERN` if the form is what matters; "
    "in a spec `trainer_args: {reward: …}`"
)


@dataclass(frozen=True)
class Choice:
    """The chosen rewards, and the reason in words."""

    specs: tuple[RewardSpec, ...]
    reason: str


def choose(form: PromptFormat, examples: Sequence[PromptExample]) -> Choice:
    """A verifier if rules can check the answers, else the preference if there are pairs; else raises BadInput."""
    column, references = form.reference or "reference", [example.reference for example in examples]
    verifier = _verifier_for(column, references) if form.checkable else None
    if verifier:
        return verifier
    if form.pairs:
        texts = f" and no rule can check the texts in `{column}`" if form.checkable else ""
        reason = f"preference, because each row has a chosen and a rejected completion{texts}"
        return Choice((RewardSpec("preference"),), reason)
    if form.checkable:
        raise _uncheckable(column, references)
    raise BadInput(
        f"no reward fits rows of the form {form.name}: there is no `answer` or `solution` to check completions with, "
        "and no `chosen` and `rejected` to compare them with",
        f"add such a column, or {_NAME_A_REWARD}",
    )


def _verifier_for(column: str, references: Sequence[str | None]) -> Choice | None:
    given, total = [reference for reference in references if reference is not None], len(references)
    numeric, short = sum(map(is_clear_answer, given)), sum(map(_is_short, given))
    if total and numeric >= ENOUGH * total:
        return _choice("numeric", column, f"{numeric:,} of {total:,} rows ends in a number")
    if total and short >= ENOUGH * total:
        return _choice("exact_match", column, f"{short:,} of {total:,} rows is one line of at most {SHORT} characters")
    return None


def _choice(name: str, column: str, finding: str) -> Choice:
    return Choice((RewardSpec(name),), f"{name}, because the `{column}` of {finding}")


def _uncheckable(column: str, references: Sequence[str | None]) -> BadInput:
    sizes = [len(reference) for reference in references if reference is not None]
    size = round(statistics.median(sizes)) if sizes else 0
    return BadInput(
        f"the answers in `{column}` are texts (a median of {size:,} characters): "
        "no rule can tell which completion is right",
        _NAME_A_REWARD,
    )


def _is_short(reference: str) -> bool:
    answer = answer_part(reference)
    return 0 < len(answer) <= SHORT and "\n" not in answer
