"""Prints errors, notes, runs and checks for people."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dimba.cli.wrapping import asked_columns, width_of, wrapped
from dimba.common.errors import DimbaError, Interrupted, printable
from dimba.common.units import size
from dimba.spec.load import BadSpec

if TYPE_CHECKING:
    from pathlib import Path

    from dimba.cli.live import LaunchReporter
    from dimba.commands.demo import DemoResult
    from dimba.commands.doctor import Check
    from dimba.host.facts import TrustRequirement
    from dimba.records import RunRecord

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("error", "red")}
STATUS_STYLES = {"succeeded": "green", "running": "cyan", "failed": "red", "lost": "red", "stopped": "yellow"}


def errors_console() -> Console:
    """A console on stderr, in colour if it is a terminal and NO_COLOR is not set."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def output_console() -> Console:
    """A console on stdout, in colour if it is a terminal and NO_COLOR is not set."""
    width = None if sys.stdout.isatty() else asked_columns() or 120
    return Console(highlight=False, width=width)


def reporter() -> "LaunchReporter":
    """The reporter of a launch that a user follows."""
    from dimba.cli.live import LaunchReporter

    return LaunchReporter(errors_console())


def quiet_reporter() -> "LaunchReporter":
    """The reporter of a background process: notes without the job's own lines."""
    from dimba.cli.live import QuietReporter

    return QuietReporter(errors_console())


def note(text: str) -> None:
    """Print one line on stderr."""
    errors_console().print(text, markup=False)


def print_error(error: DimbaError) -> None:
    """Print the cause and, after a blank line, the hint."""
    console = errors_console()
    # An interruption is no error, and editors parse a spec's `file:line: key: …`.
    if not isinstance(error, Interrupted | BadSpec):
        console.print("[bold red]error:[/] ", end="")
    console.print(str(error), markup=False)


def can_ask() -> bool:
    """Whether a user at a terminal can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask_for_trust(source: str, requirements: "Sequence[TrustRequirement]") -> bool:
    """List the parts of a spec that require trust and ask once; a grave one requires the answer `yes` in full."""
    console = errors_console()
    console.print(f"{source} can run code, or reach files, that you did not choose:", markup=False)
    for each in requirements:
        console.print(f"  {printable(str(each))}", markup=False, style="bold red" if each.grave else None)
    grave = any(each.grave for each in requirements)
    question = f"run it, and do not ask again until the file changes? [{'type yes' if grave else 'y/N'}] "
    answer = console.input(question, markup=False)
    return answer.strip().lower() in (("yes",) if grave else ("y", "yes"))


_COLUMNS = ("RUN", "STATUS", "REASON", "RUNNER", "CREATED")


def show_runs(records: "Sequence[RunRecord]") -> None:
    """Print a table of runs, the oldest first; two lines for each run where the table does not fit."""
    console = output_console()
    if _least_width(records) <= console.width:
        console.print(_runs_table(records))
        return
    for record in records:
        run, status, *rest = _cells(record)
        console.print(Text.assemble(run, "  ", status), soft_wrap=True)
        console.print(Text("  " + ", ".join(each.plain for each in rest if each.plain)))


def _runs_table(records: "Sequence[RunRecord]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _COLUMNS:
        # A sentence may wrap between words, names and times may not.
        table.add_column(column, no_wrap=column != "REASON", min_width=len(column))
    for record in records:
        table.add_row(*_cells(record))
    return table


def _least_width(records: "Sequence[RunRecord]") -> int:
    """The width at which no cell is cut; a reason may wrap between words."""
    rows = [[cell.plain for cell in _cells(record)] for record in records]
    columns = zip(_COLUMNS, *rows, strict=True)
    words = ([word for cell in each for word in cell.split()] if each[0] == "REASON" else each for each in columns)
    return sum(max(map(len, each)) + 2 for each in words) - 2


def _cells(record: "RunRecord") -> tuple[Text, ...]:
    on_cpu = " (CPU)" if record.allow_cpu and record.gpus else ""
    status = Text(record.status + on_cpu, style=STATUS_STYLES.get(record.status, ""))
    reason = "learned nothing" if record.learning_problem else record.exit_reason or record.waits_for or ""
    plain = (reason, record.runner, _clock(record.created))
    return Text(record.id), status, *(Text(str(each)) for each in plain)


def _clock(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%m-%d %H:%M") if time else ""


def show_ending(record: "RunRecord", seconds: float) -> None:
    """Print the result of a followed launch; `seconds` is its duration."""
    console = errors_console()
    minutes, second = divmod(round(seconds), 60)
    console.print(f"[green]{record.status}[/] in {minutes}:{second:02d}: ", end="")
    console.print(record.output_dir, markup=False)
    if record.learning_problem:
        console.print("[yellow]warning:[/] ", end="")
        console.print(f"nothing was learned: {printable(record.learning_problem)}", markup=False)
    if record.peak_memory_bytes:
        estimate = record.estimated_memory_bytes
        estimated = f", {size(estimate)} estimated" if estimate else ""
        console.print(f"GPU memory: {size(record.peak_memory_bytes)} at its peak{estimated}", markup=False)
    console.print(f"run {record.id}; `dimba logs {record.id}` prints its log", markup=False)
    show_next_steps(record)


def show_outcome(record: "RunRecord") -> None:
    """Print how a run ended, with its exit reason, and the commands that come next."""
    console = errors_console()
    console.print(f"[{STATUS_STYLES.get(record.status, 'default')}]{record.status}[/], {record.exit_reason}: ", end="")
    console.print(record.output_dir, markup=False)
    if record.learning_problem:
        console.print(f"nothing was learned: {printable(record.learning_problem)}", markup=False)
    show_next_steps(record)


def show_next_steps(record: "RunRecord") -> None:
    """Print the commands that come next, a line each."""
    from dimba.jobs.next_steps import next_steps

    for step in next_steps(record):
        errors_console().print(f"`{step.command}` {step.does}", markup=False)


def show_demo(result: "DemoResult", run: "Path") -> None:
    """Print the loss before and after, a sample, and the paths of everything that the demo wrote."""
    console = output_console()
    console.print()
    console.print(f"loss        {result.loss_before:.3f} before, [bold green]{result.loss_after:.3f}[/] after")
    console.print(f"prompt      {result.prompt}", markup=False)
    console.print(f"completion  {result.answer}", markup=False)
    console.print(f"spec        {result.folder / 'job.yaml'}", markup=False, soft_wrap=True)
    console.print(f"run         {run}", markup=False, soft_wrap=True)
    console.print(f"checkpoint  {result.folder / 'tuned'}", markup=False, soft_wrap=True)


def show_check(check: "Check") -> None:
    """Print one check of the doctor, and its fix on the next line."""
    console = output_console()
    mark, style = _MARKS[check.status]
    first, *rest = wrapped(f"{mark:<7}  {check.name}: {check.detail}", indent=9, width=width_of(console))
    console.print(Text.assemble((mark, style), first[len(mark) :]), soft_wrap=True)
    if check.fix and check.status != "ok":
        rest.append(f"         fix: {check.fix}")  # to be copied, so not broken
    for line in rest:
        console.print(line, markup=False, soft_wrap=True)
