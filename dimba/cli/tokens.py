"""The data report as text: counts, lengths as bars, and examples with the trained part marked."""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from dimba.cli.wrapping import print_wrapped, width_of
from dimba.common.errors import printable
from dimba.common.units import quantity
from dimba.dataset.token_report import DataReport, Shown, list_unusable_rows

_BAR = 30  # columns at most
_BESIDE_BAR = 36  # columns of the lengths and their count
_SHOWN_LINES = 14


def show_data(report: DataReport, console: Console) -> None:
    """Print the report, eighty columns wide on a pipe."""
    bar = "█" if (console.encoding or "").startswith("utf") else "#"
    for name, text in _facts(report, bar, max(8, min(_BAR, _width(console) - _BESIDE_BAR))):
        first, *rest = text.splitlines() or [""]
        for label, line in [(name, first), *(("", each) for each in rest)]:
            _print(f"{label:<10}{line}", console, indent=12)
    for example in report.shown:
        console.print()
        _show_example(example, console)
    if report.problem:
        console.print()
        console.print("a launch would refuse this data:", style="bold red")
        for line in report.problem.splitlines():
            _print(f"  {line}", console, indent=4)
        _print(f"hint: {report.hint}", console, indent=6)


def _print(line: str, console: Console, *, indent: int) -> None:
    print_wrapped(line, console, indent=indent, width=_width(console))


def _width(console: Console) -> int:
    return min(width_of(console, on_pipe=80), console.width)


def _facts(report: DataReport, bar: str, columns: int) -> Iterator[tuple[str, str]]:
    read = [ours if ours == theirs else f"{ours} from {theirs}" for ours, theirs in report.columns.items()]
    yield "format", f"{report.format} (columns read: {', '.join(read)})"
    if report.sources:
        yield "sources", "\n".join(each.line(asks=report.asks) for each in report.sources)
    yield "rows", _rows(report)
    yield "tokens", _tokens(report)
    yield "lengths", _histogram(report, bar, columns)
    yield "prompts" if report.asks else "examples", report.split_summary()
    for note in report.notes:
        yield "note", note


def _rows(report: DataReport) -> str:
    first = "the first " if report.streamed else ""
    count = f"{first}{report.rows:,}" + (f", of which {report.unusable:,} are unusable" if report.unusable else "")
    lines = list_unusable_rows(((each.where, each.why) for each in report.bad), report.unusable, report.rows)
    # If they prevent a launch, the problem lists them.
    return count if report.problem == "\n".join(lines) else "\n".join([count, *lines[: len(report.bad)]])


def _tokens(report: DataReport) -> str:
    if report.asks:
        prompts = f"{report.tokens:,} of prompts; the trained completions are sampled"
        return f"{prompts}\n{report.long_rows_summary()}" if report.long_rows else prompts
    share = f" ({report.trained_tokens / report.tokens:.0%})" if report.tokens else ""
    lines = [f"{report.tokens:,}, {report.trained_tokens:,} of them trained{share}"]
    if report.long_rows:
        lines.append(report.long_rows_summary())
    return "\n".join(lines)


def _histogram(report: DataReport, bar: str, columns: int) -> str:
    lines = [f"median {report.median:,}, longest {report.longest:,}, {_most(report)}"]
    most = max((each.rows for each in report.lengths), default=0) or 1
    starts = [0, *(each.below for each in report.lengths if each.below is not None)]
    for start, each in zip(starts, report.lengths, strict=True):
        if each.below is None and not each.rows:
            continue
        span = f"{start:,} to {each.below - 1:,}" if each.below is not None else f"{start:,} and more"
        drawn = bar * -(-columns * each.rows // most)
        lines.append(f"{span:>16} {drawn:<{columns}} {each.rows:,}")
    return "\n".join(lines)


def _most(report: DataReport) -> str:
    return f"a prompt may have {report.max_length:,}" if report.asks else f"max_length {report.max_length:,}"


def _show_example(example: Shown, console: Console) -> None:
    """Print an example with the trained part in green, or in brackets without colour."""
    plain = console.color_system is None or console.no_color
    opened, closed = example.brackets()
    marked = f"in {opened} {closed}" if plain else "in green"
    trained = f", trained {marked}" if any(part.trained for part in example.parts) else ""
    _print(f"{example.where} ({example.title}, {quantity(example.tokens, 'token')}){trained}:", console, indent=2)
    text = Text()
    for part in example.parts:
        part_text = printable(part.text.expandtabs(4))
        if part.trained:
            text.append(f"{opened}{part_text}{closed}" if plain else part_text, style="green")
        else:
            text.append(part_text)
    _print_clipped(text, console)


def _print_clipped(text: Text, console: Console) -> None:
    text.rstrip()
    lines = list(text.wrap(console, min(console.width, 80) - 4))
    if len(lines) > _SHOWN_LINES:
        half = _SHOWN_LINES // 2
        lines = [*lines[:half], Text(f"… {len(lines) - 2 * half} lines …", style="dim"), *lines[-half:]]
    for line in lines:
        line.rstrip()
        console.print(Text.assemble(("  | ", "dim"), line))
