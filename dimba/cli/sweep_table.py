"""The table of a sweep: its runs with their values, the best one first."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dimba.cli import render
from dimba.commands.report.charts import number_text
from dimba.common.contract import SWEEP_FAILED
from dimba.common.errors import printable
from dimba.common.units import span
from dimba.jobs.store import has_unsent
from dimba.objectives.metrics import comparison_warning
from dimba.records import RunRecord

if TYPE_CHECKING:
    from dimba.jobs.sweep.ranking import Row, Standings

_QUIET = ("completed", "start_failed")  # reasons that the status says too


def live(looks: "Iterator[Standings]", console: Console) -> "Standings":
    """Show the table until the last look."""
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis", transient=True) as view:
        for last in looks:
            view.update(_drawn(last, console), refresh=True)
    return last


def show_table(found: "Standings") -> None:
    """Print the table on stdout."""
    console = render.output_console()
    console.print(_drawn(found, console))
    if found.missing:
        render.note(f"without records: {', '.join(found.missing)}")


def show_end(found: "Standings") -> None:
    """Print the table, the best run, and the commands that come next."""
    show_table(found)
    best, sweep = found.best, found.sweep
    if unsent := [row.record.id for row in found.rows if has_unsent(row.record)]:
        render.note(
            f"warning: not all of {', '.join(unsent)} is in its store; `dimba resume {sweep.id}` sends the rest"
        )
    if any(row.record.exit_reason == SWEEP_FAILED for row in found.rows):
        render.note("its first runs failed alike, so the others did not start")
    if best is None:
        render.note(f"no run succeeded; `dimba logs {sweep.id}` prints what happened")
        return
    run = next(each for each in sweep.runs if each.id == best.record.id)
    score = number_text(best.score or 0.0)
    render.note(f"best: {best.record.id} ({printable(sweep.label(run))}), {found.metric.label} {score}")
    if not found.metric.on_held_out:
        render.note("warning: compared by what they were trained on, as no rows are held out: a poor judge")
    if warning := comparison_warning(found.metric, sweep.keys):
        render.note(warning)
    render.note(f"`dimba report {sweep.id} --open` shows the curves of all runs")
    render.note(f"`dimba eval {best.record.id}` compares the best run with its base")
    render.note(f"`dimba chat {best.record.id}` talks to its model")


def _drawn(found: "Standings", console: Console) -> Table | Text:
    head, rows = _cells(found)
    widths = [max(len(each) for each in column) for column in zip(head, *rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= console.width:
        return _table(found, head, rows)
    return Text("\n").join(_in_lines(found, row, cells) for row, cells in zip(found.rows, rows, strict=True))


def _in_lines(found: "Standings", row: "Row", cells: list[str]) -> Text:
    """The cells of a row that no line holds, in two lines."""
    number, *rest = cells
    named = ", ".join(f"{name}={value}" for name, value in zip(found.sweep.names, rest, strict=False))
    status, step, score, *more = rest[len(found.sweep.names) :]
    details = [step and f"step {step}", score and f"{found.metric.label} {score}", *more]
    style = "bold" if row is found.best else ""
    return Text.assemble((f"{number}  {named}", style), "\n   ", ", ".join(filter(None, (status, *details))))


def _table(found: "Standings", head: list[str], rows: list[list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(printable(name), no_wrap=True)
    for row, cells in zip(found.rows, rows, strict=True):
        style = "bold" if row is found.best else ""
        styled = [Text(cell, style=style) for cell in cells]
        styled[1 + len(found.sweep.keys)].stylize(render.STATUS_STYLES.get(row.record.status, ""))
        table.add_row(*styled)
    return table


def _cells(found: "Standings") -> tuple[list[str], list[list[str]]]:
    """(head, rows): number, values, status, step, score, time."""
    shows_best = any(row.best != row.score for row in found.rows)
    head = ["RUN", *found.sweep.names, "STATUS", "STEP", found.metric.label, *(["best"] if shows_best else []), "TIME"]
    return head, [_row(row, shows_best=shows_best) for row in found.rows]


def _row(row: "Row", *, shows_best: bool) -> list[str]:
    cells = [
        str(row.number),
        *(printable(value) for value in row.values),
        _status(row.record),
        _step(row),
        _number(row.score),
        *([_number(row.best)] if shows_best else []),
        "" if row.seconds is None else span(row.seconds),
    ]
    return cells


def _status(record: RunRecord) -> str:
    reason = "learned nothing" if record.learning_problem else record.exit_reason or ""
    return f"{record.status}, {reason}" if reason and reason not in _QUIET else record.status


def _step(row: "Row") -> str:
    if not row.metrics.rows:
        return ""
    return f"{row.metrics.last_step:,}" + (f"/{row.metrics.max_steps:,}" if row.metrics.max_steps else "")


def _number(value: float | None) -> str:
    return "" if value is None else number_text(value)
