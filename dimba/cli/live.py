"""The progress of a launch: bars on a terminal, lines on a pipe."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dimba.common.contract import LATEST
from dimba.objectives.rewards import reward_label
from dimba.plan.model import LaunchPlan
from dimba.plan.pins import latest_releases
from dimba.records import RunRecord

_QUIET_SECONDS = 2.0  # shorter work shows no progress
_BAR_SECONDS, _LINE_SECONDS = 0.2, 10.0  # between updates of a bar, and between lines on a pipe


class LaunchReporter:
    """Shows a launch on `console` (stderr), and the job's own lines on stdout."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""
        self._since: dict[str, float] = {}

    def note(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        self._console.print(text, markup=False)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show a bar on a terminal, or print a line for each long step on a pipe."""
        if not what:
            return
        if self._live:
            self._show(what, done, total)
        elif what != self._what and what.startswith("RUN "):
            self.note(f"building the image, step {done + 1}/{total}: {what}")
        elif what != self._what and what.startswith("pulling "):
            self.note(what)
        self._what = what

    def rows(self, count: int, total: int = 0) -> None:
        """Show the progress of reading the data, or of tokenising `total` rows, once it takes long."""
        what = "tokenising" if total else "reading"
        now = time.monotonic()
        started = self._since.setdefault(what, now)
        shown = self._since.get(f"{what} shown", started)
        if now - shown < (_BAR_SECONDS if self._live else _LINE_SECONDS) or now - started < _QUIET_SECONDS:
            return
        self._since[f"{what} shown"] = now
        text = f"{what} the data: {count:,} rows"
        if self._live:
            self._show(text, count, total)
        else:
            self.note(f"{text} of {total:,}" if total else text)

    def started(self, record: RunRecord, plan: LaunchPlan) -> None:
        """Print the run's id and the place where it runs."""
        self.ended()
        started = f"started in {plan.image.reference}" if plan.image else "started on this machine without a container"
        if plan.image and plan.image.pins == LATEST:
            started += f", with {latest_releases(plan.image)}"
        if plan.slurm:
            started = f"is Slurm's job {str(record.attempts[-1].job).partition(':')[0]}"
        self.note(f"run {record.id} {started}")

    def line(self, text: str, metrics: Sequence[dict[str, Any]]) -> None:
        """Print a line of the job; on a terminal, a bar with its metrics replaces the trainer's step lines."""
        if self._live and metrics:
            last = metrics[-1]
            self._show(_step_text(last), last["step"], last.get("max_steps", 0), keep=True)
            if text.startswith("step "):
                return
        if self._live and sys.stdout.isatty():
            self._console.print(text, markup=False)
        else:
            self._write(text + "\n")

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has ended (`| head`); the run, its log and its record continue.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def ended(self) -> None:
        """Remove the bar; the last state of a training bar remains visible."""
        if self._bar:
            self._bar.stop()
        self._bar = self._task = None

    def asks_to_stop(self, what: str = "the run (it saves first)") -> bool | None:
        """Whether the user wants to stop it, as a second Ctrl-C also means; None without a terminal."""
        if not (sys.stdin.isatty() and self._live):
            return None
        self.ended()
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            answer = self._console.input(f"stop {what}, or leave it running? [S/l] ", markup=False)
        except (EOFError, KeyboardInterrupt):
            return True
        finally:
            signal.signal(signal.SIGINT, before)
        return not answer.strip().lower().startswith("l")

    def _show(self, what: str, done: int, total: int, *, keep: bool = False) -> None:
        if self._bar is None:
            text = TextColumn("{task.description}", markup=False)
            left = (TextColumn("ETA"), TimeRemainingColumn()) if keep else ()
            self._bar = Progress(BarColumn(14), text, TimeElapsedColumn(), *left, console=self._console)
            self._bar.live.transient = not keep
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, description=what, completed=max(done, 0), total=total or None)


def _step_text(metrics: dict[str, Any]) -> str:
    labels = {"reward": reward_label(metrics), "loss": "loss"}
    value = next((f"{label} {metrics[name]:.4f}" for name, label in labels.items() if name in metrics), "")
    text = f"step {metrics['step']}/{metrics.get('max_steps', '?')}  {value}"
    speed = metrics.get("tokens_per_second")
    return f"{text}  {speed:,.0f} tokens/s" if speed else text


class QuietReporter(LaunchReporter):
    """Prints notes only."""

    def line(self, text: str, metrics: Sequence[dict[str, Any]]) -> None:
        """Print nothing: the run's log has the line."""
