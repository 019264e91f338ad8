"""The texts of a run: samples over steps, continuations before and after, the data with what is trained."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from dimba.commands.report.charts import number_text, step_text
from dimba.commands.report.gather import RunFacts, masked

_STEPS = 12  # of the samples
_PER_STEP = 4
_LONGEST = 1500  # characters of a sample
_LONGEST_ROW = 6000  # characters of a row of data
_CONTINUATIONS = 20
_HIGHEST = 1e300  # reward; a larger one is none


@dataclass(frozen=True, kw_only=True)
class SampleText:
    """A sampled completion."""

    prompt: str
    completion: str
    reward: str
    tokens: str


@dataclass(frozen=True, kw_only=True)
class SampledStep:
    """The best and the worst completions of a step, of `count` in all."""

    step: str
    count: int
    mean: str
    shown: tuple[SampleText, ...]


@dataclass(frozen=True, kw_only=True)
class RowText:
    """A row of the data; each part is (text, whether it is trained)."""

    title: str
    parts: tuple[tuple[str, bool], ...]
    left_out: int  # characters


def sampled_steps(run: RunFacts) -> list[SampledStep]:
    """Up to _STEPS steps of the sample log, the first and the last among them."""
    steps = [(step, list(rows)) for step, rows in groupby(run.samples, key=lambda row: float(row["step"]))]
    spread = {round(n * (len(steps) - 1) / (_STEPS - 1)) for n in range(_STEPS)}
    return [_step(step, rows) for n, (step, rows) in enumerate(steps) if n in spread or len(steps) <= _STEPS]


def _step(step: float, rows: Sequence[Mapping[str, Any]]) -> SampledStep:
    scored = sorted(rows, key=reward_of, reverse=True)
    half = _PER_STEP // 2
    shown = scored if len(scored) <= _PER_STEP else scored[:half] + scored[-half:]
    scores = [score for row in rows if math.isfinite(score := reward_of(row))]
    mean = number_text(sum(scores) / len(scores)) if scores else ""
    return SampledStep(step=step_text(step), count=len(rows), mean=mean, shown=tuple(_sample(row) for row in shown))


def reward_of(sample: Mapping[str, Any]) -> float:
    """The reward of a sample; minus infinity if it has none."""
    value = sample.get("reward")
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _HIGHEST:
        return -math.inf
    return float(value)


def _sample(row: Mapping[str, Any]) -> SampleText:
    score = reward_of(row)
    return SampleText(
        prompt=_cut(_prompt(row.get("prompt"))),
        completion=_cut(row.get("completion")),
        reward=number_text(score) if math.isfinite(score) else "none",
        tokens=str(row.get("tokens") or ""),
    )


def _prompt(value: Any) -> str:
    if not isinstance(value, list):
        return str(value or "")
    messages = [each for each in value if isinstance(each, Mapping)]
    return "\n".join(f"{each.get('role')}: {each.get('content')}" for each in messages)


def _cut(value: Any) -> str:
    text = masked(str(value or ""))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters)"


def continuations(run: RunFacts) -> list[tuple[str, str, str]]:
    """(prompt, before, after) of the rows that the trainer continued before and after training."""
    learning = run.record.learning
    rows = learning.get("continuations") if isinstance(learning, Mapping) else None
    found = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    return [
        (
            _cut(row.get("prompt")),
            _cut(row.get("before")),
            _cut(row.get("after")) if row.get("changed") else "unchanged",
        )
        for row in found[:_CONTINUATIONS]
    ]


def data_lines(run: RunFacts) -> list[str]:
    """The counts of the data in lines; of a run without a token report those of the plan's summary."""
    if run.data:
        return [masked(line) for line in run.data.lines()]
    summary = run.plan["data"].get("summary") if isinstance(run.plan.get("data"), Mapping) else None
    if not isinstance(summary, Mapping) or not isinstance(summary.get("rows"), int):
        return []
    return [masked(f"{summary.get('format')}, {summary['rows']:,} rows")]


def data_rows(run: RunFacts) -> Iterator[RowText]:
    """The rows that the token report shows."""
    for shown in run.data.shown if run.data else ():
        left, parts = _LONGEST_ROW, []
        for part in shown.parts:
            parts.append((masked(part.text[:left]), part.trained))
            left = max(0, left - len(part.text))
        length = sum(len(part.text) for part in shown.parts)
        title = f"{shown.title}: {shown.where}" if shown.title else shown.where
        words = f"{masked(title)}, {shown.tokens:,} tokens"
        kept = tuple((text, trained) for text, trained in parts if text)
        yield RowText(title=words, parts=kept, left_out=max(0, length - _LONGEST_ROW))
