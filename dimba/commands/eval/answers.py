"""The answers of models to the rows' questions, and what rewards and a judge find in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dimba.commands.eval.judge import Judge, Pair
from dimba.commands.eval.request import EvalRequest
from dimba.commands.eval.result import Measure
from dimba.commands.eval.rows import EvalRow
from dimba.commands.eval.statistics import LEAST, compare, count_wins
from dimba.commands.talk.session import ModelSession
from dimba.common.errors import BadInput
from dimba.common.inference import Answer, Prompt
from dimba.jobs.lifecycle import Reporter
from dimba.objectives.rewards import needs_reference

_WINDOW = 256  # questions that are sent at once, and sorted by length together
_MODEL = "reward model"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A model's answers by the number of their row, and their scores by the name of the reward."""

    answers: Mapping[int, Answer]
    scores: Mapping[str, Mapping[int, float]]


def require_references(rows: Sequence[EvalRow], request: EvalRequest) -> None:
    """Raises BadInput if a reward compares with references that the rows do not have."""
    asked = sum(row.example is not None for row in rows)
    if request.asks and asked < LEAST:
        raise BadInput(f"{asked} rows have a question", f"give {LEAST} rows or more that end with a question")
    known = sum(bool(row.example and row.example.reference) for row in rows)
    needing = next((spec for spec in request.rewards if needs_reference(spec)), None)
    if needing and known < LEAST:
        problem = f"{known} of {len(rows)} rows have a reference to compare answers with, as `{needing}` does"
        raise BadInput(problem, f"give {LEAST} rows or more with a column `answer`, or name it with --columns")


def answer_rows(
    session: ModelSession, rows: Sequence[EvalRow], request: EvalRequest, reporter: Reporter, *, models: int
) -> list[Answers]:
    """The answers of each loaded model, with their scores."""
    asked = [row for row in rows if row.example]
    found = []
    for model in range(models):
        answers: dict[int, Answer] = {}
        for start in range(0, len(asked), _WINDOW):
            prompts = [_prompt(row) for row in asked[start : start + _WINDOW]]
            for answer in session.answers(prompts, request.sampling, request.batch_size, model):
                answers[answer.number] = answer
                reporter.progress("answering", model * len(asked) + len(answers), models * len(asked))
        found.append(Answers(answers=answers, scores=_scores(session, asked, answers, request)))
    reporter.ended()
    return found


def _prompt(row: EvalRow) -> Prompt:
    example = row.example
    assert example is not None, "`answer_rows` keeps rows with a question"
    return Prompt(messages=example.messages, tools=example.tools, arguments=example.arguments, number=row.number)


def _scores(
    session: ModelSession, rows: Sequence[EvalRow], answers: Mapping[int, Answer], request: EvalRequest
) -> dict[str, dict[int, float]]:
    names = [spec.logged for spec in request.rewards] + [_MODEL] * bool(request.reward_model)
    scores: dict[str, dict[int, float]] = {name: {} for name in names}
    answered = [row for row in rows if row.number in answers and not answers[row.number].error]
    if not names:
        return scores
    asked = {
        "rewards": [str(spec) for spec in request.rewards],
        "reward_model": str(request.reward_model) if request.reward_model else None,
        "rows": [_scored(row, answers[row.number]) for row in answered],
        "limit": request.sampling.max_new_tokens,
    }
    for number, values in session.rewards(asked):
        for name, value in zip(names, values, strict=True):
            if value is not None:
                scores[name][number] = value
    return scores


def _scored(row: EvalRow, answer: Answer) -> dict[str, Any]:
    example = row.example
    assert example is not None
    return {
        "number": row.number,
        "messages": example.messages,
        "reference": example.reference,
        "chosen": example.chosen,
        "rejected": example.rejected,
        "text": complete_text(answer),
        "tokens": answer.tokens,
    }


def complete_text(answer: Answer) -> str:
    """The answer with its reasoning in front, as rewards read a completion."""
    if not answer.reasoning:
        return answer.text
    return f"<think>{answer.reasoning}</think>{answer.text}" if answer.text else f"<think>{answer.reasoning}"


def reward_measures(ours: Answers, theirs: Answers, comparisons: int) -> list[Measure]:
    """How the scores of two models compare, on the rows on which both have one; raises BadInput."""
    found = []
    for name, scores in ours.scores.items():
        numbers = sorted(scores.keys() & theirs.scores[name].keys())
        if len(numbers) < LEAST:
            raise BadInput(f"{len(numbers)} rows have a score of {name} for both models", f"give {LEAST} rows or more")
        one, other = ([each[number] for number in numbers] for each in (scores, theirs.scores[name]))
        differences = [mine - its for mine, its in zip(one, other, strict=True)]
        found.append(
            Measure(
                name=name,
                model=sum(one) / len(one),
                against=sum(other) / len(other),
                comparison=compare(differences, comparisons=comparisons),
                wins=count_wins(differences, comparisons=comparisons),
            )
        )
    return found


def judged(
    judge: Judge, rows: Sequence[EvalRow], answers: tuple[Answers, Answers], comparisons: int, reporter: Reporter
) -> Measure:
    """How often a judge prefers the answers of one model; raises BadInput, HostCannot."""
    pairs, (ours, theirs) = [], answers
    for row in rows:
        one, other = ours.answers.get(row.number), theirs.answers.get(row.number)
        if row.example and one and other and not one.error and not other.error:
            pairs.append(Pair(row.example.messages, one.text, other.text, row.example.reference))
    if len(pairs) < LEAST:
        raise BadInput(f"{len(pairs)} rows have an answer of both models", f"give {LEAST} rows or more")
    verdicts = judge.compare(pairs, lambda done: reporter.progress("judging", done, len(pairs)))
    reporter.ended()
    values = [float(each) for each in verdicts.values if each is not None]
    wins = count_wins(values, comparisons=comparisons)
    return Measure(
        name="judge",
        model=wins.rate,
        against=1 - wins.rate,
        comparison=compare(values, comparisons=comparisons),
        wins=wins,
        more={"judge": judge.model, "contradictions": verdicts.contradictions, "nonsense": verdicts.nonsense},
    )
