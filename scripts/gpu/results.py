"""Results of the checks on a GPU: one JSON line each, written at once, and a table of them."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "results.jsonl"
RIGHT, WRONG, FAILED, TIMEOUT, ABSENT = "right", "wrong", "failed", "time-out", "absent"
_COUNTED = {RIGHT: "right", WRONG: "wrong", FAILED: "failed", TIMEOUT: "time-out", ABSENT: "not possible here"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One answer: `outcome` is one of the words above, `measured` are its numbers."""

    part: str
    check: str
    case: str
    outcome: str
    seconds: float = 0.0
    measured: dict[str, Any] = field(default_factory=dict)
    detail: str = ""


def write(folder: Path, result: Result) -> None:
    """Append a result; it is on the disk when this returns."""
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> Iterator[Result]:
    """The results so far; a line that was cut off is none."""
    path = folder / FILE
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            yield Result(**json.loads(line))
        except (ValueError, TypeError):
            continue


def table(results: list[Result]) -> str:
    """The results in lines, and how many there are of each outcome."""
    return "\n".join([*map(line_of, results), counts(results)])


def counts(results: list[Result]) -> str:
    """How many results there are of each outcome."""
    found = [f"{sum(each.outcome == outcome for each in results)} {words}" for outcome, words in _COUNTED.items()]
    return ", ".join(found)


def line_of(result: Result) -> str:
    """A result in one line."""
    numbers = "  ".join(f"{name} {_shown(value)}" for name, value in result.measured.items())
    head = f"{result.outcome:<8} {result.part}/{result.check:<10} {result.case:<22} {result.seconds:6.1f} s"
    return "  ".join(part for part in (head, numbers, result.detail) if part)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
