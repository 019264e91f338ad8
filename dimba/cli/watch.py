"""`dimba watch`: a live view on a terminal, lines on a pipe."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dimba.cli import render
from dimba.cli.plots import plot
from dimba.commands.report.charts import number_text
from dimba.commands.report.texts import reward_of
from dimba.commands.watch import Sight, text_of
from dimba.commands.watch import watch as sights
from dimba.common.errors import printable
from dimba.common.units import size
from dimba.objectives.rewards import reward_label

_PLOT_LINES = 4
_LABEL = 10  # columns
_WIDEST = 100  # columns of a plot
_LINE_SECONDS = 10.0  # between lines on a pipe
_PLOTTED = (("loss", "loss"), ("eval_loss", "validation"), ("reward", "reward"), ("eval_reward", "held-out"))
_MARGIN = "rewards/margins"


def watch(args: argparse.Namespace) -> int:
    """Show a run until it ends; returns 0 if it succeeded, else 1, and 130 after Ctrl-C, which leaves it alone."""
    from dimba.host.probe import runs_folder
    from dimba.records import find_run
    from dimba.records.sweep import find_sweep

    if sweep := find_sweep(runs_folder(Path.cwd()), args.run):
        from dimba.cli.sweep import watch as watch_sweep

        return watch_sweep(sweep, as_json=args.json)
    folder = find_run(runs_folder(Path.cwd()), args.run)
    console = render.output_console()
    try:
        if args.json:
            last = _json_lines(sights(folder))
        elif console.is_terminal and not console.is_dumb_terminal:
            last = _live(sights(folder), console)
        else:
            last = _lines(sights(folder))
    except KeyboardInterrupt:
        render.note(f"the run continues; `dimba stop {folder.id}` saves and ends it")
        return 130
    render.show_outcome(last.record)
    return 0 if last.record.status == "succeeded" else 1


def _json_lines(found: Iterator[Sight | None]) -> Sight:
    for sight in filter(None, found):
        _print(json.dumps(sight.as_json(), ensure_ascii=False))
        last = sight
    return last


def _lines(found: Iterator[Sight | None]) -> Sight:
    shown, before = 0.0, ""
    for sight in filter(None, found):
        last = sight
        state = f"{sight.record.status} {len(sight.record.attempts)}"
        if state != before or not sight.is_active or time.monotonic() - shown >= _LINE_SECONDS:
            shown, before = time.monotonic(), state
            _print(_line(sight))
    return last


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _line(sight: Sight) -> str:
    metrics = sight.metrics
    values = [f"{label} {number_text(value)}" for key, label in _PLOTTED if (value := metrics.last(key)) is not None]
    speed = metrics.last("tokens_per_second")
    parts = [
        _state(sight),
        _step(sight),
        *values,
        f"{speed:,.0f} tokens/s" if speed else "",
        _memory(sight),
        f"ETA {_clock(sight.seconds_left)}" if sight.seconds_left is not None else "",
    ]
    return printable("  ".join(filter(None, parts)))


def _live(found: Iterator[Sight | None], console: Console) -> Sight:
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for sight in filter(None, found):
            last = sight
            live.update(Group(*_view(sight, console)), refresh=True)
    return last


def _view(sight: Sight, console: Console) -> Iterator[Text]:
    width = min(console.width, _LABEL + _WIDEST)
    yield _fitted(f"{sight.record.id}  {_state(sight)}", width, "bold")
    if sight.metrics.max_steps:
        yield _bar(sight.metrics.last_step / sight.metrics.max_steps, width - 1, blocks=_has_blocks(console))
    left = f"  ETA {_clock(sight.seconds_left)}" if sight.seconds_left is not None else ""
    if step := _step(sight):
        yield _fitted(f"{step}{left}", width)
    for key, label in (*_PLOTTED, (_MARGIN, "margin")):
        yield from _plotted(sight, key, label, width, blocks=_has_blocks(console))
    if speed := sight.metrics.last("tokens_per_second"):
        yield _fitted(f"{'tokens/s':<{_LABEL}}{speed:,.0f}", width)
    if memory := _memory(sight):
        yield _fitted(f"{'GPU':<{_LABEL}}{memory}", width)
    for sample in sight.samples:
        reward = reward_of(sample)
        score = number_text(reward) if reward > float("-inf") else "none"
        yield _fitted(f"{score:>{_LABEL - 2}}  {text_of(sample)}", width)


def _bar(share: float, width: int, *, blocks: bool) -> Text:
    full, empty = ("━", "─") if blocks else ("#", ".")
    done = round(min(share, 1.0) * width)
    return Text.assemble((full * done, "green"), empty * (width - done), no_wrap=True)


def _plotted(sight: Sight, key: str, label: str, width: int, *, blocks: bool) -> Iterator[Text]:
    values = [value for _step, value in sight.metrics.series(key).finite]
    if not values:
        return
    if label == "reward":
        label = reward_label(sight.metrics.keys)
    lowest, highest = number_text(min(values)), number_text(max(values))
    yield _fitted(f"{label} {number_text(values[-1])}  (lowest {lowest}, highest {highest})", width)
    if len(values) > 1:
        rows = plot(values, max(width - 3, 1), _PLOT_LINES if key in ("loss", "reward") else 1, blocks=blocks)
        yield from (Text(f"  {row}", style="cyan", no_wrap=True) for row in rows)


def _fitted(text: str, width: int, style: str = "") -> Text:
    line = Text(printable(text), style=style, no_wrap=True)
    line.truncate(width - 1, overflow="ellipsis" if width > 1 else "crop")
    return line


def _has_blocks(console: Console) -> bool:
    return (console.encoding or "").startswith("utf")


def _state(sight: Sight) -> str:
    record = sight.record
    attempts = f", attempt {len(record.attempts)}" if len(record.attempts) > 1 else ""
    waits = f", waits for {record.waits_for}" if record.waits_for else ""
    return f"{record.status}{attempts}{waits}"


def _step(sight: Sight) -> str:
    metrics = sight.metrics
    if not metrics.rows:
        return ""
    done = f"step {metrics.last_step:,.0f}"
    return f"{done}/{metrics.max_steps:,}" if metrics.max_steps else done


def _memory(sight: Sight) -> str:
    measured, estimated = sight.measured_memory, sight.estimated_memory
    parts = [f"{size(measured)} at its peak" if measured else "", f"{size(estimated)} estimated" if estimated else ""]
    return ", ".join(filter(None, parts))


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
