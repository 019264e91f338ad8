"""The metrics and samples of a run, joined over its attempts: a step that a resumed attempt repeats counts once."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dimba.common.contract import METRICS_FILE, SAMPLES_FILE
from dimba.records import RunFolder
from dimba.runners.tail import Tail

_MOST = 2**53  # of a step; a larger one is no step
_TRAINED = ("loss", "reward")  # keys of a line about a training step
_PEAK = "peak_memory_bytes"

Row = dict[str, float | None]  # None stands for NaN and for infinity


@dataclass(frozen=True)
class Series:
    """The values of one metric by step; None where one is not a number."""

    steps: tuple[float, ...]
    values: tuple[float | None, ...]

    @property
    def finite(self) -> list[tuple[float, float]]:
        """(step, value) of the values that are numbers."""
        return [(step, value) for step, value in zip(self.steps, self.values, strict=True) if value is not None]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The metrics of a run: a row per step, in order."""

    rows: tuple[tuple[float, Row], ...] = ()
    repeated: int = 0  # steps that a later attempt trained again
    unreadable: int = 0  # lines
    peak_memory: float | None = None  # bytes, the highest of all attempts
    max_steps: int | None = None

    @property
    def last_step(self) -> int | float:
        """The last step; 0 before the first."""
        step = self.rows[-1][0] if self.rows else 0.0
        return int(step) if step.is_integer() else step

    @cached_property
    def keys(self) -> list[str]:
        """The names of all metrics, in the order in which they come up."""
        return list(dict.fromkeys(key for _step, row in self.rows for key in row))

    def series(self, key: str) -> Series:
        """One metric over the steps that have it."""
        found = [(step, row[key]) for step, row in self.rows if key in row]
        return Series(tuple(step for step, _value in found), tuple(value for _step, value in found))

    def last(self, key: str) -> float | None:
        """The newest number of a metric."""
        return next((value for _step, row in reversed(self.rows) if (value := row.get(key)) is not None), None)


@dataclass
class MetricsReader:
    """Reads the metrics of a run, and later only what was added since; lines that are no metrics are counted."""

    folder: RunFolder
    rows: dict[float, Row] = field(default_factory=dict)
    repeated: int = 0
    unreadable: int = 0
    peaks: list[float] = field(default_factory=list)
    max_steps: float | None = None
    _tails: dict[Path, Tail] = field(default_factory=dict)
    _continued: set[Path] = field(default_factory=set)  # attempts whose first training step is known

    def read(self) -> Metrics:
        """The metrics so far."""
        for attempt in attempts_of(self.folder):
            tail = self._tails.setdefault(attempt, Tail(attempt / METRICS_FILE))
            for line in filter(str.strip, tail.lines()):
                self._add(attempt, line)
        return Metrics(
            rows=tuple(sorted(self.rows.items())),
            repeated=self.repeated,
            unreadable=self.unreadable,
            peak_memory=max(self.peaks, default=None),
            max_steps=int(self.max_steps) if self.max_steps else None,
        )

    def _add(self, attempt: Path, line: str) -> None:
        value = parsed(line)
        step = _number(value.get("step")) if value else None
        if value is None or step is None or not 0 <= step < _MOST:
            self.unreadable += 1
            return
        row = {key: _number(each) for key, each in value.items() if _is_metric(key, each)}
        self.max_steps = row.pop("max_steps", None) or self.max_steps
        if (peak := row.get(_PEAK)) is not None:
            self.peaks.append(peak)
        if attempt not in self._continued and _is_trained(row):
            self._continued.add(attempt)
            self._forget_from(step)
        self.rows.setdefault(step, {}).update(row)

    def _forget_from(self, step: float) -> None:
        """Remove what an earlier attempt did after the checkpoint from which this one continues."""
        gone = [each for each in self.rows if each >= step]
        self.repeated += sum(_is_trained(self.rows[each]) for each in gone)
        for each in gone:
            del self.rows[each]


def _is_trained(row: Row) -> bool:
    return any(key in row for key in _TRAINED)


def joined_metrics(folder: RunFolder) -> Metrics:
    """The metrics of all attempts."""
    return MetricsReader(folder).read()


def joined_samples(folder: RunFolder) -> list[Mapping[str, Any]]:
    """The lines of every samples.jsonl that have a step, in the order of the steps."""
    found: list[Mapping[str, Any]] = []
    for attempt in attempts_of(folder):
        lines = [value for line in complete_lines(attempt / SAMPLES_FILE) if (value := parsed(line))]
        new: list[Mapping[str, Any]] = [value for value in lines if _number(value.get("step")) is not None]
        first = min((value["step"] for value in new), default=math.inf)
        found = [value for value in found if value["step"] < first] + new
    return sorted(found, key=lambda value: float(value["step"]))


def attempts_of(folder: RunFolder) -> list[Path]:
    """The folders of the attempts, oldest first."""
    numbered = [path for path in folder.path.glob("attempts/*") if path.name.isascii() and path.name.isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name))


def complete_lines(path: Path) -> list[str]:
    """The lines of a file without a last one that is still being written; none if it is unreadable."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.split("\n")[:-1] if line.strip()]


def parsed(line: str) -> dict[str, Any] | None:
    """The JSON object of a line; None for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_metric(key: str, value: Any) -> bool:
    return key != "step" and (value is None or (isinstance(value, int | float) and not isinstance(value, bool)))


def _number(value: Any) -> float | None:
    """The value as a finite number, None if it is none."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
