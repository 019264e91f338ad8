"""What people see: errors, plans, runs, and a launch as it goes."""

import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dimba.common.errors import DimbaError, Interrupted, printable
from dimba.common.units import millions, size
from dimba.dataset.token_report import counted
from dimba.spec.load import BadSpec

if TYPE_CHECKING:
    from pathlib import Path

    from dimba.cli.live import LaunchReporter
    from dimba.commands.demo import DemoResult
    from dimba.commands.doctor import Check
    from dimba.host.facts import Harm
    from dimba.plan.model import LaunchPlan
    from dimba.records import RunRecord

_GIB = 1 << 30
_MARKS = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "error": "[red]error[/]  "}
_STATUS = {"succeeded": "green", "running": "cyan", "failed": "red", "lost": "red", "stopped": "yellow"}


def errors_console() -> Console:
    """stderr, in colour where it is a terminal and NO_COLOR is not set."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def output_console() -> Console:
    """stdout, the same."""
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "0")) or 120
    return Console(highlight=False, width=width)


def reporter() -> "LaunchReporter":
    """How a launch is shown here."""
    from dimba.cli.live import LaunchReporter

    return LaunchReporter(errors_console())


def quiet_reporter() -> "LaunchReporter":
    """For a process that nobody looks at: what matters, without the job's own lines."""
    from dimba.cli.live import QuietReporter

    return QuietReporter(errors_console())


def note(text: str) -> None:
    """One line to stderr."""
    errors_console().print(text, markup=False)


def say_error(error: DimbaError) -> None:
    """Cause first; after a blank line, what to do. What somebody asked for is no error."""
    console = errors_console()
    if not isinstance(error, Interrupted | BadSpec):  # `file:line: key: what` is for editors too
        console.print("[bold red]error:[/] ", end="")
    console.print(str(error), markup=False)


def can_ask() -> bool:
    """Whether somebody sits there who can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask_for_trust(source: str, harms: "Sequence[Harm]") -> bool:
    """Everything that a spec brings along, and one question; whoever would give the machine away spells it out."""
    console = errors_console()
    console.print(f"{source} brings along what could do harm, if it is a stranger's:", markup=False)
    for harm in harms:
        console.print(f"  {printable(str(harm))}", markup=False, style="bold red" if harm.grave else None)
    grave = any(harm.grave for harm in harms)
    answer = console.input(
        f"run it? It is not asked again until the file changes [{'type yes' if grave else 'y/N'}] ", markup=False
    )
    return answer.strip().lower() in (("yes",) if grave else ("y", "yes"))


def show_plan(plan: "LaunchPlan", console: Console | None = None) -> None:
    """The plan as a page, eighty columns wide but for the command and the paths."""
    console = console or output_console()
    console.print(f"{plan.name}: {plan.mode}, {plan.method}, {plan.runner} runner", markup=False)
    for name, text in _plan_lines(plan):
        first, *rest = text.splitlines() or [""]
        console.print(f"  {name:<9} {first}", markup=False, soft_wrap=True)
        for line in rest:
            console.print(f"  {'':<9} {line}", markup=False, soft_wrap=True)


def _plan_lines(plan: "LaunchPlan") -> list[tuple[str, str]]:
    base = plan.checkpoint
    facts = f" ({base.architecture}, {millions(base.parameters)} parameters)" if base.parameters else ""
    data = _data_line(plan)
    lines = [
        ("base", base.reference + facts),
        ("data", plan.data.reference + data),
        ("output", f"{plan.output_dir}, as user {plan.uid}:{plan.gid}"),
        ("image", _image_line(plan)),
        ("GPUs", ", ".join(f"{gpu.index} {gpu.name or ''}".strip() for gpu in plan.gpus) or "none"),
        ("steps", _steps_line(plan)),
        ("sharing", _sharing_line(plan)),
        *([("speed", textwrap.fill("; ".join(plan.speed), 68))] if plan.speed else []),
        ("memory", _memory_line(plan)),
        ("shm", f"{plan.shm_bytes / _GIB:.1f} GiB"),
        ("network", f"{plan.network or 'open'}: {plan.network_why}"),
        ("mounts", "\n".join(f"{'ro' if each.read_only else 'rw'} {each.target}" for each in plan.mounts)),
        ("env", textwrap.fill(" ".join(plan.as_json()["env"]), 68)),
        ("command", shlex.join(plan.argv)),
        ("flags", f"found in the trainer's {plan.flags_from}"),
    ]
    lines += [("trust", f"launch asks first, or wants --trust-spec: {each}") for each in plan.trust]
    lines += [("omitted", f"{each.key} {each.value}: the trainer has no flag for it") for each in plan.omitted]
    return [*lines, *(("note", each) for each in plan.notes)]


def _data_line(plan: "LaunchPlan") -> str:
    summary = plan.data.summary
    if summary is None:
        return " (on the Hub, not looked at; `dimba data` does)"
    text = f": {summary.format}, {counted(summary.usable, 'row')}"
    if summary.unusable:
        text += f", and {summary.unusable:,} that cannot be used"
    return text if plan.data.report else f"{text} (`dimba data` shows their tokens)"


def _image_line(plan: "LaunchPlan") -> str:
    image = plan.image
    if image is None:
        return "none: it runs on this machine itself"
    state = "there" if image.id else "to be fetched" if image.key is None else "to be built"
    if image.key is not None and image.base_digest is None:
        state = "to be built, under another key once its base is fetched"
    return f"{image.reference} ({state}{f'; on {image.base}' if image.base else ''})"


def _steps_line(plan: "LaunchPlan") -> str:
    steps = plan.steps
    batch = f"{steps.effective_batch} rows a step"
    if steps.completions:
        prompts = steps.effective_batch // steps.completions
        batch = f"{prompts} prompt{'s' if prompts > 1 else ''} × {steps.completions} completions a step"
    if steps.processes > 1:
        text = f"{batch} = {steps.processes} processes × {steps.batch_size} × accumulation {steps.accumulation}"
    else:
        text = batch + (f" (gradient accumulation {steps.accumulation})" if steps.completions else "") + ", 1 process"
    if steps.per_epoch:
        text += f"; {steps.per_epoch:,} a pass over the data"
    return text + (f", {steps.total:,} in all" if steps.total else "; how many is known once the data are read")


def _sharing_line(plan: "LaunchPlan") -> str:
    mixed = "float32" if plan.precision == "no" else f"mixed {plan.precision}"
    return textwrap.fill(f"{plan.strategy}, {mixed}: {plan.strategy_why}", 68)


_TERMS = {
    "weights": "weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "buckets": "DDP's buckets",
    "gathered": "gathered layers",
    "reference": "reference model",
    "reward": "reward model",
    "copies": "copies (autocast)",
    "inputs": "kept activations",
    "layer": "one layer, computed",
    "mask": "attention mask",
    "head": "head, vocabulary",
    "cache": "keys and values",
    "sampling": "sampling",
    "fragments": "fragments, assumed",
    "context": "CUDA, assumed",
}


def _memory_line(plan: "LaunchPlan") -> str:
    memory = plan.memory
    if memory is None:
        return "not known: no safetensors of the checkpoint are on this machine"
    if not memory.peak:
        head = f"{size(memory.model_states)} a process, and activations on top"
    elif memory.lower_bound:
        head = f"at least {size(memory.total)} a process: activations unknown"
    else:
        head = f"{size(memory.total)} a process, at its peak: {memory.peak}"
    terms = [f"{_TERMS[name]:<20}{size(value):>10}" for name, value in memory.terms.items() if value]
    return "\n".join([head, *("    ".join(terms[row : row + 2]) for row in range(0, len(terms), 2))])


def show_runs(records: "Sequence[RunRecord]") -> None:
    """A table of runs, oldest first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("RUN", "STATUS", "REASON", "RUNNER", "CREATED"):
        table.add_column(column, no_wrap=column in ("RUN", "STATUS"), overflow="fold")
    for record in records:
        on_cpu = " (CPU)" if record.allow_cpu and record.gpus else ""
        status = Text(record.status + on_cpu, style=_STATUS.get(record.status, ""))
        plain = (record.exit_reason or record.waits_for or "", record.runner, _clock(record.created))
        table.add_row(Text(record.id), status, *(Text(str(each)) for each in plain))
    output_console().print(table)


def _clock(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%m-%d %H:%M") if time else ""


def show_ending(record: "RunRecord", seconds: float) -> None:
    """The last words of a followed launch."""
    console = errors_console()
    minutes, second = divmod(round(seconds), 60)
    console.print(f"[green]{record.status}[/] in {minutes}:{second:02d}: ", end="")
    console.print(record.output_dir, markup=False)
    if record.peak_memory_bytes:
        estimated = record.estimated_memory_bytes
        beside = f", {size(estimated)} were estimated" if estimated else ""
        console.print(f"GPU memory: {size(record.peak_memory_bytes)} at its peak{beside}", markup=False)
    console.print(f"run {record.id}; `dimba logs {record.id}` prints its log", markup=False)


def show_demo(result: "DemoResult", run: "Path") -> None:
    """Loss before and after, a sample, and where everything is."""
    console = output_console()
    console.print()
    console.print(f"loss        {result.loss_before:.3f} before, [bold green]{result.loss_after:.3f}[/] after")
    console.print(f"asked       {result.prompt}", markup=False)
    console.print(f"answered    {result.answer}", markup=False)
    console.print(f"spec        {result.folder / 'job.yaml'}", markup=False, soft_wrap=True)
    console.print(f"run         {run}", markup=False, soft_wrap=True)
    console.print(f"checkpoint  {result.folder / 'tuned'}", markup=False, soft_wrap=True)


def show_check(check: "Check") -> None:
    """One line of the doctor, the fix below it."""
    console = output_console()
    console.print(f"{_MARKS[check.status]}  {check.name}: ", end="")
    console.print(check.detail, markup=False, soft_wrap=True)
    if check.fix and check.status != "ok":
        console.print(f"         fix: {check.fix}", markup=False, soft_wrap=True)
