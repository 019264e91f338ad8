"""The runs of a sweep as they are now, with their values and the metric that they are compared in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dimba.common.errors import BadInput
from dimba.jobs.metrics import Metrics, MetricsReader
from dimba.jobs.reconcile import reconciled
from dimba.jobs.supervisor import lock_of
from dimba.objectives.metrics import METRICS, Metric, measured_otherwise
from dimba.records import ACTIVE, RunFolder, RunRecord
from dimba.records.locks import is_held
from dimba.records.record import now
from dimba.records.sweep import SweepRecord, SweepRun, run_folders

_FALLBACK = {"eval_loss": "loss", "eval_reward": "reward"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run of a sweep at one moment."""

    number: int
    record: RunRecord
    values: tuple[str, ...]
    metrics: Metrics
    best: float | None
    last: float | None
    score: float | None  # of the model that it saves: the best value or the last one

    @property
    def seconds(self) -> float | None:
        """Seconds that its attempts have taken; None before the first."""
        known = [(each.started, each.ended or now()) for each in self.record.attempts if each.started]
        return sum(map(_seconds, known)) if known else None


def _seconds(times: tuple[str, str]) -> float:
    start, end = map(datetime.fromisoformat, times)
    return max(0.0, (end - start).total_seconds())


@dataclass(frozen=True, kw_only=True)
class Standings:
    """A sweep at one moment: its runs, the best that ended first, then the active ones, then the others."""

    sweep: SweepRecord
    metric: Metric
    rows: tuple[Row, ...]
    missing: tuple[str, ...] = ()  # runs whose records are gone or unreadable

    @property
    def best(self) -> Row | None:
        """The run that succeeded with the best score; None without one."""
        done = [row for row in self.rows if row.record.status == "succeeded" and row.score is not None]
        return min(done, key=lambda row: self.metric.rank(row.score or 0.0)) if done else None

    @property
    def is_active(self) -> bool:
        """Whether a run has not ended."""
        return any(row.record.status in ACTIVE for row in self.rows)

    @property
    def failed(self) -> tuple[Row, ...]:
        """The runs that failed or were lost."""
        return tuple(row for row in self.rows if row.record.status in ("failed", "lost"))

    def as_json(self) -> dict[str, Any]:
        """What `dimba ps --group --json` prints."""
        best = self.best
        return {
            "id": self.sweep.id,
            "name": self.sweep.name,
            "keys": list(self.sweep.keys),
            "metric": self.metric.key,
            "lower_is_better": self.metric.lower_is_better,
            "best": best.record.id if best else None,
            "comparable": not measured_otherwise(self.metric, self.sweep.keys),
            "runs": [_row_json(self.sweep, row) for row in self.rows],
            "missing": list(self.missing),
        }


def _row_json(sweep: SweepRecord, row: Row) -> dict[str, Any]:
    record = row.record
    return {
        "id": record.id,
        "values": dict(zip(sweep.keys, row.values, strict=False)),
        "status": record.status,
        "exit_reason": record.exit_reason,
        "waits_for": record.waits_for,
        "step": row.metrics.last_step,
        "max_steps": row.metrics.max_steps,
        "best": row.best,
        "last": row.last,
        "score": row.score,
        "seconds": row.seconds,
        "output_dir": record.output_dir,
    }


@dataclass
class Ranking:
    """Looks at a sweep again and again; metrics are read once, and later what was added."""

    folder: RunFolder
    sweep: SweepRecord
    _readers: dict[str, MetricsReader] = field(default_factory=dict)

    def look(self) -> Standings:
        """The sweep as it is now; without its supervisor, this closes the runs that have ended, as `dimba ps` does."""
        read = RunFolder.record if is_held(lock_of(self.folder)) else reconciled
        folders = {each.id: each for each in run_folders(self.folder, self.sweep)}
        records = {name: record for name, each in folders.items() if (record := _record(each, read))}
        found = {name: (record, self._metrics(folders[name])) for name, record in records.items()}
        metric = _metric(self.sweep, [metrics for _, metrics in found.values()])
        numbered = [each for each in enumerate(self.sweep.runs, 1) if each[1].id in found]
        rows = [_row(each, found[each[1].id], metric) for each in numbered]
        return Standings(
            sweep=self.sweep,
            metric=metric,
            rows=tuple(sorted(rows, key=lambda row: _place(row, metric))),
            missing=tuple(run.id for run in self.sweep.runs if run.id not in found),
        )

    def _metrics(self, folder: RunFolder) -> Metrics:
        return self._readers.setdefault(folder.id, MetricsReader(folder)).read()


def _record(folder: RunFolder, read: Callable[[RunFolder], RunRecord]) -> RunRecord | None:
    try:
        return read(folder)
    except BadInput:
        return None


def _metric(sweep: SweepRecord, found: Sequence[Metrics]) -> Metric:
    """The sweep's metric; that of training where a custom trainer has written no other."""
    metric = METRICS.get(sweep.metric, METRICS["loss"])
    fallback = METRICS[_FALLBACK.get(metric.key, metric.key)]
    has = {key for metrics in found for key in metrics.keys}
    return fallback if metric.key not in has and fallback.key in has else metric


def _row(numbered: tuple[int, SweepRun], found: tuple[RunRecord, Metrics], metric: Metric) -> Row:
    (number, run), (record, metrics) = numbered, found
    known = [value for step, value in metrics.series(metric.key).finite if step or not metric.during_training]
    best = min(known, key=metric.rank) if known else None
    last = known[-1] if known else None
    score = best if run.by_best else last
    return Row(number=number, record=record, values=run.values, metrics=metrics, best=best, last=last, score=score)


def _place(row: Row, metric: Metric) -> tuple[int, float, int]:
    status = row.record.status
    group = 0 if status == "succeeded" else 2 if status in ACTIVE else 1 if row.score is not None else 3
    rank = metric.rank(row.score) if row.score is not None and status not in ACTIVE else float("inf")
    return group, rank, row.number
