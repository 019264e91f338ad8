"""The data as a job prints and records them before its first step."""

import json
import os
from contextlib import suppress
from pathlib import Path

from dimba.common.contract import DATA_FILE, ENV_ATTEMPT_DIR
from dimba.common.errors import printable
from dimba.dataset.token_report import DataReport

_LONGEST = 600  # characters of an excerpt
_END = 280  # characters kept of either end of a longer one


def print_report(report: DataReport) -> None:
    """Print the counts and notes of the report."""
    for line in report.lines():
        print_line(line)


def record_data(report: DataReport) -> None:
    """Write the report beside the log of a launched job, for `dimba report`."""
    folder = os.environ.get(ENV_ATTEMPT_DIR)
    if not folder:
        return
    with suppress(OSError):  # a save reports a full disk
        text = json.dumps(report.as_json(), ensure_ascii=False)
        Path(folder, DATA_FILE).write_text(text + "\n", encoding="utf-8", errors="replace")


def print_data(report: DataReport) -> None:
    """Print the report and its first example, the trained part in brackets."""
    print_report(report)
    first = report.shown[0]
    opened, closed = first.brackets()
    print_line(f"{printable(first.where)}, the trained part in {opened} {closed}:")
    print_excerpt("".join(f"{opened}{part.text}{closed}" if part.trained else part.text for part in first.parts))


def print_line(text: str) -> None:
    """Print one line about the data."""
    print(f"data: {printable(text)}", flush=True)


def print_excerpt(text: str) -> None:
    """Print a text of the data, indented; a long one without its middle."""
    text = text if len(text) <= _LONGEST else f"{text[:_END]} … {text[-_END:]}"
    print("\n".join(f"  | {printable(line.expandtabs(4))}" for line in text.splitlines()), flush=True)
