"""The supervisor of a sweep: starts its runs in their turn, and stops those that are not worth their GPUs."""

import re
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from dimba.common.contract import STOPPED_BY_SWEEP, SWEEP_FAILED
from dimba.common.errors import BadInput, DimbaError
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.metrics import MetricsReader
from dimba.jobs.reconcile import in_hand, reconciled, stop_run
from dimba.jobs.supervisor import lock_of, spawn_supervisor
from dimba.jobs.sweep.halving import rung_of, worst
from dimba.objectives.metrics import METRICS
from dimba.records import ACTIVE, PENDING, RunFolder, RunRecord
from dimba.records.locks import try_lock
from dimba.records.sweep import SweepRecord, run_folders, sweep_of

_POLL, _POLL_SCHEDULER = 1.0, 5.0  # seconds
_MOST_STARTS = 3  # of a run's supervisor that ends before the run has started
_ALIKE = 3  # first runs that fail for the same reason end the sweep
# These depend on the values of a run, so they say nothing of the other runs.
_OF_VALUES = ("nan_loss", "gpu_out_of_memory", "out_of_memory")
_NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")

Records = Mapping[str, RunRecord]  # by run id


def supervise_sweep(folder: RunFolder, reporter: Reporter) -> None:
    """Runs the sweep to its end, unless another process does."""
    with try_lock(lock_of(folder)) as free:
        if free:
            _Supervisor(folder, sweep_of(folder), reporter).run()


@dataclass
class _Supervisor:
    folder: RunFolder
    sweep: SweepRecord
    reporter: Reporter
    ended: dict[str, RunRecord] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    started: dict[str, list["subprocess.Popen[bytes]"]] = field(default_factory=dict)
    readers: dict[str, MetricsReader] = field(default_factory=dict)
    stopping: dict[str, threading.Thread] = field(default_factory=dict)

    def run(self) -> None:
        """Until every run has ended, or the sweep is stopped and no run is left in hand."""
        runs = {each.id: each for each in run_folders(self.folder, self.sweep)}
        self.said = {name: _text(record) for name, each in runs.items() if (record := self._look(each))}
        while True:
            records = {name: record for name, each in runs.items() if (record := self._look(each))}
            for record in records.values():
                self._say(record)
            if not any(record.status in ACTIVE for record in records.values()):
                break
            if not self.folder.has_stop_request():
                self._end_if_alike(runs, records)
                self._stop_worst(runs, records)
                if not self.sweep.scheduled:
                    self._start_next(runs, records)
            time.sleep(self._pause(len(records) - len(self.ended)))
        for thread in self.stopping.values():
            thread.join()

    def _pause(self, active: int) -> float:
        """Seconds until the next look; a scheduler is asked about each run, for all of a cluster's users."""
        return max(_POLL_SCHEDULER, active / 2) if self.sweep.scheduled else _POLL

    def _look(self, folder: RunFolder) -> RunRecord | None:
        """The run's reconciled record; None if it is gone or broken."""
        try:
            if folder.id in self.ended and self.ended[folder.id] == folder.record():
                return self.ended[folder.id]
            record = reconciled(folder)
        except BadInput:
            return None
        self.ended.pop(folder.id, None)
        if record.status not in ACTIVE:
            self.ended[folder.id] = record
        return record

    def _say(self, record: RunRecord) -> None:
        if (text := _text(record)) and self.said.get(record.id) != text:
            self.said[record.id] = text
            self.reporter.note(f"{self._label(record.id)}: {text}")

    def _label(self, run_id: str) -> str:
        numbered = enumerate(self.sweep.runs, 1)
        return next(f"run {number} ({self.sweep.label(run)})" for number, run in numbered if run.id == run_id)

    def _start_next(self, runs: Mapping[str, RunFolder], records: Records) -> None:
        """Starts the supervisors of as many runs as can run, and of some that wait for GPUs."""
        active = [record for record in records.values() if record.status in ACTIVE]
        idle = [record for record in active if self._is_idle(runs[record.id], record)]
        at_once = self.sweep.at_once or len(active)
        running = sum(record.status not in PENDING for record in active)
        ahead = self.sweep.ahead if running >= at_once else 0  # the first runs start first
        room = at_once + ahead - (len(active) - len(idle))
        for record in idle[: max(0, room)]:
            self._start(runs[record.id], record)

    def _is_idle(self, folder: RunFolder, record: RunRecord) -> bool:
        tries = self.started.get(record.id)
        if record.status != "queued" or record.is_started or (tries and tries[-1].poll() is None):
            return False
        return not in_hand(folder, record)

    def _start(self, folder: RunFolder, record: RunRecord) -> None:
        tries = self.started.setdefault(record.id, [])
        if len(tries) == _MOST_STARTS:
            folder.write_record(record.closed("failed", "start_failed", None))
            self.reporter.note(
                f"{self._label(record.id)}: its supervisor ended {_MOST_STARTS} times before it started: {folder.path}"
            )
        else:
            tries.append(spawn_supervisor(folder))

    def _end_if_alike(self, runs: Mapping[str, RunFolder], records: Records) -> None:
        """Starts no more runs if the first ones have failed for the same reason, as the others would."""
        done = [record for record in records.values() if record.status not in ACTIVE]
        causes = {_cause(runs[each.id], each) for each in done}
        if len(done) < _ALIKE or len(causes) != 1 or not (cause := causes.pop()):
            return
        self.folder.request_stop(SWEEP_FAILED)
        self.reporter.note(
            f"the first {len(done)} runs failed alike ({cause}): no further run starts; correct the cause, then "
            f"`dimba resume {self.folder.id}` continues with the runs that are missing"
        )
        for name, record in records.items():
            if record.status in PENDING:
                self._stop(runs[name], SWEEP_FAILED)

    def _stop_worst(self, runs: Mapping[str, RunFolder], records: Records) -> None:
        if not self.sweep.stop_worst:
            return
        metric = METRICS[self.sweep.metric]
        metrics = {name: self._reader(runs[name]).read() for name, each in records.items() if each.attempts}
        found = {name: each.series(metric.key) for name, each in metrics.items()}
        histories = {
            name: [value for step, value in zip(series.steps, series.values, strict=True) if step]
            for name, series in found.items()
        }
        for name in worst(histories, metric):
            record, at = records[name], metrics[name]
            ends_anyway = at.max_steps is not None and at.last_step >= at.max_steps
            resumed = any(each.exit_reason == STOPPED_BY_SWEEP for each in record.attempts)  # by a user, who wants it
            if record.status == "running" and name not in self.stopping and not ends_anyway and not resumed:
                rung = rung_of(len(histories[name]))
                self.reporter.note(f"{self._label(name)}: in the worse half at evaluation {rung}, so it is stopped")
                self._stop(runs[name], STOPPED_BY_SWEEP)

    def _reader(self, folder: RunFolder) -> MetricsReader:
        return self.readers.setdefault(folder.id, MetricsReader(folder))

    def _stop(self, folder: RunFolder, reason: str) -> None:
        """In a thread, as the run saves first."""

        def stop() -> None:
            try:
                stop_run(folder, now=False, reason=reason)
            except BadInput:  # it has just ended
                return
            except DimbaError as error:
                self.reporter.note(f"{folder.id}: {error.message}")

        self.stopping[folder.id] = threading.Thread(target=stop)
        self.stopping[folder.id].start()


def _text(record: RunRecord) -> str:
    """The state of a run as the log has it; empty before its job runs."""
    if record.status in PENDING:
        return ""
    return record.status if record.status in ACTIVE else f"{record.status}, {record.exit_reason}"


def _cause(folder: RunFolder, record: RunRecord) -> str:
    """Why a run failed, without what tells runs apart; empty for any other ending, and for causes of its values."""
    if record.status != "failed" or record.exit_reason in _OF_VALUES:
        return ""
    word = folder.last_word()
    text = str(word.get("cause") or word.get("line") or "")
    text = _NUMBER.sub("…", text.replace(record.output_dir, "…").replace(record.id, "…"))
    return f"{record.exit_reason}: {text}" if text else f"{record.exit_reason}, status {record.exit_code}"
