"""Which metrics share a chart, and a chart as the page draws it, describes it and lists it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dimba.commands.report.sampling import drawn, points_of, stretch_length
from dimba.common.units import quantity
from dimba.jobs.metrics import Metrics, Series
from dimba.objectives.rewards import reward_label

_ROWS = 60  # of a chart's table
_MARKED = 50  # points of a curve, up to which each has a marker
_GIB = float(1 << 30)


@dataclass(frozen=True)
class Group:
    """Metrics that share a chart; `parts` matches further ones, which only the report of a single run draws."""

    name: str
    title: str
    keys: tuple[tuple[str, str], ...]  # (metric, label)
    parts: str = r"(?!)"
    format: str = ".4~g"  # of the axis


_GROUPS = (
    Group("loss", "Loss", (("loss", "training"), ("eval_loss", "validation"))),
    Group("reward", "Reward", (("reward", "training"), ("eval_reward", "held-out")), r"rewards/(.+)/mean"),
    Group("margin", "Reward margin", (("rewards/margins", "training"), ("eval_rewards/margins", "validation"))),
    Group(
        "accuracy",
        "Pairs ranked right",
        (("rewards/accuracies", "training"), ("eval_rewards/accuracies", "validation")),
    ),
    Group("rate", "Learning rate", (("learning_rate", "learning rate"),), format=".2~e"),
    Group("speed", "Tokens per second", (("tokens_per_second", "tokens per second"),), format=",~r"),
    Group("gradient", "Gradient norm", (("grad_norm", "gradient norm"),)),
    Group("kl", "KL from the reference", (("kl", "KL"),)),
    Group("entropy", "Entropy of the sampled tokens", (("entropy", "entropy"),)),
    Group(
        "length", "Tokens per completion", (("completions/mean_length", "mean"), ("completions/max_length", "longest"))
    ),
    Group("equal", "Groups of equal rewards", (("frac_reward_zero_std", "share"),)),
)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A curve: the `run`-th run's, in its colour, or with one run the `run`-th curve."""

    name: str
    series: Series
    run: int
    dots: bool  # a few values, each with a marker


@dataclass(frozen=True, kw_only=True)
class Table:
    """The values behind a chart."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of the page: what JavaScript draws, in words and as a table."""

    name: str
    title: str
    drawing: dict[str, Any]
    words: str
    notes: tuple[str, ...]
    table: Table


def charts_of(runs: Sequence[tuple[str, Metrics]]) -> list[Chart]:
    """The charts of these runs, (label, metrics) each; none for what no run has measured."""
    return [chart for group in _GROUPS if (chart := _chart(group, runs))]


def _chart(group: Group, runs: Sequence[tuple[str, Metrics]]) -> Chart | None:
    traces = list(_traces(group, runs))
    if not any(trace.series.finite for trace in traces):
        return None
    title = _title(group, runs)
    return Chart(
        name=group.name,
        title=title,
        drawing={
            "name": group.name,
            "format": group.format,
            "curves": [_drawing(trace, points_of(len(runs))) for trace in traces],
        },
        words=f"{title} by step. " + " ".join(_words(trace) for trace in traces),
        notes=tuple(dict.fromkeys(note for trace in traces for note in _notes(trace, points_of(len(runs))))),
        table=_table(traces),
    )


def _title(group: Group, runs: Sequence[tuple[str, Metrics]]) -> str:
    imitates = any("imitation" in reward_label(metrics.keys) for _label, metrics in runs)
    return "Reward (imitation)" if group.name == "reward" and imitates else group.title


def _traces(group: Group, runs: Sequence[tuple[str, Metrics]]) -> Iterator[Trace]:
    if len(runs) == 1:
        for number, (label, series) in enumerate(_all_of(group, runs[0][1])):
            yield Trace(name=label, series=series, run=number, dots=number > 0 and len(series.steps) <= _MARKED)
        return
    for number, (run, metrics) in enumerate(runs):
        for key, label in group.keys:
            if (series := metrics.series(key)).finite:
                name = run if key == group.keys[0][0] else f"{run}, {label}"
                yield Trace(name=name, series=series, run=number, dots=key != group.keys[0][0])


def _all_of(group: Group, metrics: Metrics) -> Iterator[tuple[str, Series]]:
    for key, label in group.keys:
        if (series := metrics.series(key)).finite:
            yield label, series
    parts = [(found[1], key) for key in metrics.keys if (found := re.fullmatch(group.parts, key))]
    for label, key in parts if len(parts) > 1 else ():
        if (series := metrics.series(key)).finite:
            yield label, series


def _drawing(trace: Trace, most: int) -> dict[str, Any]:
    shown = drawn(trace.series, most)
    few = trace.dots or len(shown.steps) <= _MARKED
    values = [None if value is None else float(f"{value:.6g}") for value in shown.values]
    return {"name": trace.name, "run": trace.run, "dots": few, "x": [_short(x) for x in shown.steps], "y": values}


def _short(number: float) -> float:
    return int(number) if number.is_integer() else number


def _words(trace: Trace) -> str:
    points = trace.series.finite
    if not points:
        return f"{trace.name}: no value is a number."
    (first, start), (last, end) = points[0], points[-1]
    if len(points) == 1:
        return f"{trace.name}: {number_text(start)} at step {step_text(first)}."
    low, high = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    ends = f"{number_text(start)} at step {step_text(first)}, {number_text(end)} at step {step_text(last)}"
    lowest = f"lowest {number_text(low[1])} at step {step_text(low[0])}"
    return f"{trace.name}: {ends}, {lowest}, highest {number_text(high[1])} at step {step_text(high[0])}."


def _notes(trace: Trace, most: int) -> Iterator[str]:
    count = len(trace.series.steps)
    if stretch := stretch_length(count, most):
        yield f"{count:,} steps; the lowest and the highest value of every {stretch:,} are drawn"
    bad = [step for step, value in zip(trace.series.steps, trace.series.values, strict=True) if value is None]
    if bad:
        steps = quantity(len(bad), "step")
        yield f"{trace.name}: not a number at {steps}, first at step {step_text(bad[0])}: the curve has a gap there"


def _table(traces: Sequence[Trace]) -> Table:
    steps = sorted({step for trace in traces for step in trace.series.steps})
    rare = {step for trace in traces if len(trace.series.steps) <= _ROWS // 2 for step in trace.series.steps}
    spread = {steps[round(n * (len(steps) - 1) / (_ROWS - 1))] for n in range(_ROWS)}
    shown = [step for step in steps if len(steps) <= _ROWS or step in spread or step in rare]
    columns = [dict(zip(trace.series.steps, trace.series.values, strict=True)) for trace in traces]
    rows = [(step_text(step), *(_cell(column, step) for column in columns)) for step in shown]
    note = f"{len(shown):,} of {quantity(len(steps), 'step')}" if len(shown) < len(steps) else ""
    return Table(head=("step", *(trace.name for trace in traces)), rows=tuple(rows), note=note)


def _cell(column: dict[float, float | None], step: float) -> str:
    if step not in column:
        return ""
    value = column[step]
    return "not a number" if value is None else number_text(value)


def memory_chart(runs: Sequence[tuple[str, float | None, float | None]]) -> Chart | None:
    """The chart of (label, estimated, measured) bytes per GPU; None if nothing was measured or estimated."""
    known = [each for each in runs if each[1] or each[2]]
    if not known:
        return None
    rows = tuple((label, _gib(estimated), _gib(measured)) for label, estimated, measured in known)
    bars = [
        {
            "name": name,
            "run": column,
            "x": [_in_gib(each[column + 1]) for each in known],
            "y": [each[0] for each in known],
        }
        for column, name in enumerate(("estimated", "measured"))
    ]
    texts = [f"{label}: {estimated} estimated, {measured} measured." for label, estimated, measured in rows]
    return Chart(
        name="memory",
        title="GPU memory at its peak",
        drawing={"name": "memory", "bars": bars},
        words="GPU memory per GPU. " + " ".join(texts),
        notes=(),
        table=Table(head=("run", "estimated", "measured"), rows=rows),
    )


def _in_gib(size: Any) -> float | None:
    return round(size / _GIB, 4) if size else None


def _gib(size: float | None) -> str:
    return f"{size / _GIB:.2f} GiB" if size else "unknown"


def number_text(value: float) -> str:
    """A metric with four digits."""
    return f"{value:,.0f}" if abs(value) >= 10_000 and abs(value) < 1e12 else f"{value:.4g}"


def step_text(step: float) -> str:
    """A step with separators."""
    return f"{step:,.0f}" if float(step).is_integer() else f"{step:g}"
