"""A launch as it goes: bars on a terminal, lines on a pipe."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dimba.objectives.rewards import reward_label
from dimba.plan.model import LaunchPlan
from dimba.records import RunRecord

_QUIET_SECONDS = 2.0  # what takes less needs no bar
_BAR_SECONDS, _LINE_SECONDS = 0.2, 10.0  # between what a bar shows, and between lines on a pipe


class LaunchReporter:
    """Shows a launch on `console` (stderr); the job's own lines go to stdout."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""
        self._since: dict[str, float] = {}

    def note(self, text: str) -> None:
        """One line, above the bar where there is one."""
        self._console.print(text, markup=False)

    def progress(self, what: str, done: int, total: int) -> None:
        """On a terminal a bar; on a pipe a line for each step that may take long."""
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
        """Reading the data, or tokenising `total` rows of them, shows once it takes long."""
        what = "tokenising" if total else "reading"
        now = time.monotonic()
        started = self._since.setdefault(what, now)
        said = self._since.get(f"{what} said", started)
        if now - said < (_BAR_SECONDS if self._live else _LINE_SECONDS) or now - started < _QUIET_SECONDS:
            return
        self._since[f"{what} said"] = now
        text = f"{what} the data: {count:,} rows"
        if self._live:
            self._show(text, count, total)
        else:
            self.note(f"{text} of {total:,}" if total else text)

    def started(self, record: RunRecord, plan: LaunchPlan) -> None:
        """Says which run it is, and how to find it again."""
        self.ended()
        where = f"started in {plan.image.reference}" if plan.image else "started on this machine itself"
        if plan.slurm:
            where = f"is Slurm's job {str(record.attempts[-1].job).partition(':')[0]}"
        self.note(f"run {record.id} {where}")

    def line(self, text: str, metrics: Sequence[dict[str, Any]]) -> None:
        """The bar takes the place of the trainer's own step lines."""
        if self._live and metrics:
            last = metrics[-1]
            names = {"reward": reward_label(last), "loss": "loss"}
            shown = next((f"{said} {last[name]:.4f}" for name, said in names.items() if name in last), "")
            speed = last.get("tokens_per_second")
            what = f"step {last['step']}/{last.get('max_steps', '?')}  {shown}"
            text_beside = f"{what}  {speed:,.0f} tokens/s" if speed else what
            self._show(text_beside, last["step"], last.get("max_steps", 0), keep=True)
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
            # Whoever read along has gone (`| head`); the run, its log and its record go on.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def ended(self) -> None:
        """Takes the bar away; a training bar's last state is left standing."""
        if self._bar:
            self._bar.stop()
        self._bar = self._task = None

    def asks_to_stop(self) -> bool | None:
        """One question on a terminal; whoever presses Ctrl-C again means stop."""
        if not (sys.stdin.isatty() and self._live):
            return None
        self.ended()
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            answer = self._console.input("stop the run (it saves first), or leave it running? [S/l] ", markup=False)
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


class QuietReporter(LaunchReporter):
    """Notes only."""

    def line(self, text: str, metrics: Sequence[dict[str, Any]]) -> None:
        """They are in the run's log."""
