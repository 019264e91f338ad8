"""The page: one HTML file with its styles, its script, plotly's basic bundle and the curves inside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dimba import __version__
from dimba.commands.report.charts import Chart, charts_of, memory_chart, number_text, step_text
from dimba.commands.report.differences import spec_differences
from dimba.commands.report.facts import EVALUATION, Fact, attempt_rows, evaluation_rows, outcome_facts, what_ran
from dimba.commands.report.gather import RunFacts, masked
from dimba.commands.report.texts import continuations, data_lines, data_rows, sampled_steps
from dimba.jobs.sweep.ranking import Row, Standings
from dimba.records.record import now

_HERE = Path(__file__).parent
_BUNDLE = _HERE / "assets" / "plotly-basic.min.js"
_LABEL = 36  # characters of a run in a legend


def page(runs: Sequence[RunFacts], sweep: Standings | None = None) -> str:
    """The report of these runs as HTML; those of a `sweep` are its rows, in their order."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = [_swept(row) for row in sweep.rows] if sweep else [run.record.id for run in runs]
    labels = short_labels(names)
    charts = _charts(runs, labels)
    bundle, script = (path.read_text(encoding="utf-8") for path in (_BUNDLE, _HERE / "report.js"))
    has_charts = bool(charts)
    html: str = environment.get_template("page.html").render(
        title=sweep.sweep.id if sweep else runs[0].record.id if len(runs) == 1 else f"{len(runs)} runs",
        swept=sweep_table(sweep, labels) if sweep else None,
        runs=[_view(run, label) for run, label in zip(runs, labels, strict=True)],
        outcomes=_compared([outcome_facts(run) for run in runs]) if len(runs) > 1 else [],
        differences=spec_differences(runs) if len(runs) > 1 else [],
        unread=[run.record.id for run in runs if run.spec is None],
        evaluation_head=list(EVALUATION),
        charts=charts,
        drawings=Markup(embedded([chart.drawing for chart in charts])),  # noqa: S704  # escaped by `embedded`
        styles=Markup((_HERE / "report.css").read_text(encoding="utf-8")),  # noqa: S704  # our own file
        scripts=[Markup(text) for text in (bundle, script) if has_charts],  # noqa: S704  # our own files
        made=now(),
        version=__version__,
    )
    return html


def _charts(runs: Sequence[RunFacts], labels: Sequence[str]) -> list[Chart]:
    charts = charts_of([(label, run.metrics) for run, label in zip(runs, labels, strict=True)])
    sizes = [(label, run.estimated_memory, run.measured_memory) for run, label in zip(runs, labels, strict=True)]
    memory = memory_chart(sizes)
    return [*charts, memory] if memory else charts


def _swept(row: Row) -> str:
    return f"{row.number}: {', '.join(row.values)}"


def sweep_table(found: Standings, labels: Sequence[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """(head, rows) of the runs of a sweep: name, swept values, status, step, metric, seconds."""
    head = ["run", *found.sweep.keys, "status", "step", found.metric.label, "best", "seconds"]
    rows = [
        (
            label,
            *map(masked, row.values),
            f"{row.record.status}, {row.record.exit_reason}" if row.record.exit_reason else row.record.status,
            step_text(row.metrics.last_step),
            *("" if each is None else number_text(each) for each in (row.score, row.best, row.seconds)),
        )
        for label, row in zip(labels, found.rows, strict=True)
    ]
    return head, rows


def _compared(facts: Sequence[Sequence[Fact]]) -> list[tuple[str, ...]]:
    """A row for each label, with the text of each run."""
    texts = [{fact.label: fact.text for fact in each} for each in facts]
    labels = dict.fromkeys(fact.label for each in facts for fact in each)
    return [(label, *(each.get(label, "") for each in texts)) for label in labels]


def _view(run: RunFacts, label: str) -> dict[str, Any]:
    return {
        "id": run.record.id,
        "label": label,
        "status": run.record.status,
        "is_failed": run.record.status in ("failed", "lost"),
        "problem": masked(run.record.learning_problem),
        "outcome": outcome_facts(run),
        "attempts": attempt_rows(run.record),
        "evaluation": evaluation_rows(run),
        "unreadable": run.metrics.unreadable,
        "samples": sampled_steps(run),
        "continuations": continuations(run),
        "data": data_lines(run),
        "rows": list(data_rows(run)),
        "asks": bool(run.data and run.data.asks),
        "spec": masked(run.spec_text),
        "ran": what_ran(run),
        "log": masked(run.log),
    }


def short_labels(ids: Sequence[str]) -> list[str]:
    """Names of runs that fit a legend: a long one without its middle; their number keeps equal ones apart."""
    half = _LABEL // 2
    short = [name if len(name) <= _LABEL else f"{name[: half - 1]}…{name[-half:]}" for name in ids]
    return [f"{n}: {name}" if short.count(name) > 1 else name for n, name in enumerate(short, 1)]


def embedded(value: Any) -> str:
    """The value as JSON that HTML neither ends nor reads: `<`, `>` and `&` are escaped."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
