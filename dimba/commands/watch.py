"""`dimba watch`: what there is to see of a run, each time that something has changed."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dimba.commands.report.gather import estimated_memory, masked
from dimba.commands.report.texts import reward_of
from dimba.jobs.metrics import Metrics, MetricsReader, joined_samples
from dimba.jobs.reconcile import reconciled
from dimba.records import ACTIVE, RunFolder, RunRecord

_POLL = 1.0  # seconds
_RECENT = 50  # steps whose time predicts the remaining ones
_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Sight:
    """A run at one moment."""

    record: RunRecord
    metrics: Metrics
    estimated_memory: float | None
    samples: tuple[Mapping[str, Any], ...] = ()  # the best of the newest sampled step

    @property
    def is_active(self) -> bool:
        """Whether the run has not ended."""
        return self.record.status in ACTIVE

    @property
    def seconds_left(self) -> float | None:
        """The time that the remaining steps take at the pace of the last ones; None if it is unknown."""
        metrics = self.metrics
        recent = [(step, row.get("elapsed")) for step, row in metrics.rows[-_RECENT:]]
        timed = [(step, elapsed) for step, elapsed in recent if elapsed is not None]
        for number in range(len(timed) - 1, 0, -1):  # a clock that starts again belongs to another attempt
            if timed[number - 1][1] > timed[number][1]:
                timed = timed[number:]
                break
        if not metrics.max_steps or len(timed) < 2 or not self.is_active:
            return None
        (first, start), (last, now) = timed[0], timed[-1]
        return (now - start) / (last - first) * max(metrics.max_steps - last, 0)

    @property
    def measured_memory(self) -> float | None:
        """Bytes of the first GPU at its peak."""
        return self.metrics.peak_memory or self.record.peak_memory_bytes

    def as_json(self) -> dict[str, Any]:
        """The state, the step and the newest value of each metric."""
        metrics = self.metrics
        last = {key: value for key in metrics.keys if (value := metrics.last(key)) is not None}
        return {
            "id": self.record.id,
            "status": self.record.status,
            "exit_reason": self.record.exit_reason,
            "attempts": len(self.record.attempts),
            "step": metrics.last_step,
            "max_steps": metrics.max_steps,
            "seconds_left": self.seconds_left,
            "last": last,
        }


def watch(folder: RunFolder) -> Iterator[Sight | None]:
    """The run whenever it has changed, until it has ended; None once a second in between, so that a clock can move."""
    reader, before = MetricsReader(folder), None
    while True:
        record = reconciled(folder)  # before the metrics: those of an ended run are then complete
        metrics = reader.read()
        now = (record, len(metrics.rows), metrics.last_step)
        if now == before:
            yield None
        else:
            before = now
            estimate = estimated_memory(folder.plan(), record)
            yield Sight(record=record, metrics=metrics, estimated_memory=estimate, samples=_newest_samples(folder))
        if record.status not in ACTIVE:
            return
        time.sleep(_POLL)


def _newest_samples(folder: RunFolder) -> tuple[Mapping[str, Any], ...]:
    samples = joined_samples(folder)
    newest = [each for each in samples if each["step"] == samples[-1]["step"]]
    return tuple(sorted(newest, key=reward_of, reverse=True)[:_SAMPLES])


def text_of(sample: Mapping[str, Any]) -> str:
    """The end of the prompt and the completion, in one line."""
    prompt = sample.get("prompt")
    last = prompt[-1] if isinstance(prompt, list) and prompt else prompt
    asked = last.get("content") if isinstance(last, Mapping) else last
    return masked(" ".join(f"{asked or ''} → {sample.get('completion') or ''}".split()))
