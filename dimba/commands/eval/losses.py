"""The losses of models on the same rows, and what they show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dimba.commands.eval.rows import EvalRow
from dimba.commands.talk.session import ModelSession
from dimba.common.inference import RowLoss, Scoring
from dimba.jobs.lifecycle import Reporter

Losses = Mapping[int, RowLoss]  # by the number of the row
_WINDOW = 512  # rows that are sent at once, and sorted by length together


@dataclass(frozen=True, kw_only=True)
class LossTable:
    """Losses of the rows that all models could score, in nats per trained token of the row.

    The tokens are those of the first model, so that models with other tokenizers are measured by the same text.
    """

    numbers: tuple[int, ...]  # of the rows
    rows: tuple[tuple[float, ...], ...]  # by model, then by row
    per_token: tuple[float, ...]  # by model: over all tokens, as training reports a validation loss
    tokens: int
    cut: int  # rows that were longer than training reads
    problems: Mapping[int, str]  # why a row has no loss

    @classmethod
    def of(cls, models: Sequence[Losses]) -> "LossTable":
        """The table of these models' losses."""
        problems = {each.number: each.error for one in models for each in one.values() if each.error}
        numbers = tuple(number for number in sorted(models[0]) if number not in problems)
        tokens = [models[0][number].tokens for number in numbers]
        total = sum(tokens)
        return cls(
            numbers=numbers,
            rows=tuple(
                tuple(one[number].nats / count for number, count in zip(numbers, tokens, strict=True)) for one in models
            ),
            per_token=tuple(sum(one[number].nats for number in numbers) / max(total, 1) for one in models),
            tokens=total,
            cut=sum(models[0][number].cut > 0 for number in numbers),
            problems=problems,
        )


def score_rows(
    session: ModelSession,
    rows: Sequence[EvalRow],
    scoring: Scoring,
    reporter: Reporter,
    *,
    models: int,
) -> list[Losses]:
    """The losses of the usable rows by each loaded model."""
    usable = [(row.number, row.sample) for row in rows if row.sample]
    found: list[dict[int, RowLoss]] = [{} for _ in range(models)]
    done, total = 0, models * len(usable)
    for model, losses in enumerate(found):
        for start in range(0, len(usable), _WINDOW):
            for loss in session.losses(usable[start : start + _WINDOW], scoring, model):
                losses[loss.number] = loss
                done += 1
                reporter.progress("scoring rows", done, total)
    reporter.ended()
    return list(found)
