"""Everything that the report shows of a run, read from its folder."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimba.common.contract import DATA_FILE, EVAL_FILE, LOG_FILE, SPEC_FILE, is_secret_name, read_json_object
from dimba.common.errors import BadInput
from dimba.dataset.token_report import DataReport
from dimba.jobs.metrics import Metrics, attempts_of, joined_metrics, joined_samples
from dimba.jobs.reconcile import reconciled
from dimba.records import RunFolder, RunRecord
from dimba.spec import JobSpec, parse_spec
from dimba.spec.secrets import mask_secrets

_LOG_LINES, _LOG_BYTES = 40, 1 << 16


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run: its record, its files, and its metrics joined over the attempts."""

    folder: RunFolder
    record: RunRecord
    metrics: Metrics
    samples: tuple[Mapping[str, Any], ...]
    spec_text: str
    spec: JobSpec | None  # None if this version cannot read it
    plan: Mapping[str, Any]
    data: DataReport | None
    log: str  # its last lines
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # eval.json of the model as it is now

    @property
    def estimated_memory(self) -> float | None:
        """Bytes per GPU as the plan estimated them; None if it did not count activations."""
        return estimated_memory(self.plan, self.record)

    @property
    def measured_memory(self) -> float | None:
        """Bytes of the first GPU at the peak of all attempts; None if nothing measured them."""
        return self.metrics.peak_memory or self.record.peak_memory_bytes


def estimated_memory(plan: Mapping[str, Any], record: RunRecord) -> float | None:
    """Bytes per GPU as the plan estimated them; None if it did not count activations."""
    memory = plan.get("memory")
    if not isinstance(memory, Mapping) or not memory.get("peak") or memory.get("lower_bound"):
        return record.estimated_memory_bytes
    total = memory.get("total")
    return total if isinstance(total, int) else None


def gather(folder: RunFolder) -> RunFacts:
    """Read a run; raises BadInput if its record is unreadable. A file that is missing or broken leaves a gap."""
    record = reconciled(folder)
    plan = folder.plan()
    data = _text(folder, SPEC_FILE)
    return RunFacts(
        folder=folder,
        record=record,
        metrics=joined_metrics(folder),
        samples=tuple(joined_samples(folder)),
        spec_text=data,
        spec=_spec(data, record),
        plan=plan,
        data=_data(folder, plan),
        log=_log(folder),
        evaluation=_evaluation(record),
    )


def _evaluation(record: RunRecord) -> dict[str, Any]:
    """The newest evaluation of the run's model; empty if the run has been continued since."""
    found = read_json_object(Path(record.output_dir) / EVAL_FILE)
    made = found.get("time")
    return found if isinstance(made, str) and made >= (record.ended or "") else {}


def masked(text: str) -> str:
    """The text without secrets: what looks like one, and the values of this environment's secret variables."""
    return mask_secrets(text, [value for name, value in os.environ.items() if is_secret_name(name)])


def _text(folder: RunFolder, name: str) -> str:
    try:
        return (folder.path / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _spec(text: str, record: RunRecord) -> JobSpec | None:
    try:
        return parse_spec(text.encode(), source=SPEC_FILE, overrides=record.overrides).spec
    except BadInput:  # written for another version
        return None


def _data(folder: RunFolder, plan: Mapping[str, Any]) -> DataReport | None:
    """The report that the newest attempt's trainer wrote, else the plan's."""
    found: list[Any] = [read_json_object(attempt / DATA_FILE) for attempt in reversed(attempts_of(folder))]
    found.append(plan["data"].get("report") if isinstance(plan.get("data"), Mapping) else None)
    for value in filter(None, found):
        try:
            return DataReport.from_json(value)
        except (TypeError, KeyError, AttributeError, ValueError):  # of another version, or broken
            continue
    return None


def _log(folder: RunFolder) -> str:
    for attempt in reversed(attempts_of(folder)):
        try:
            with (attempt / LOG_FILE).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        if lines:
            return "\n".join(line.rsplit("\r", 1)[-1] for line in lines[-_LOG_LINES:])
    return ""
