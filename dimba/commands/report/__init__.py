"""`dimba report`: one HTML file that shows a run, or compares several, and opens without a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.commands.report.gather import RunFacts, gather
from dimba.commands.report.page import page
from dimba.common.contract import REPORT_FILE
from dimba.common.errors import BadInput
from dimba.host.output import job_user
from dimba.jobs.sweep.ranking import Ranking
from dimba.records import RunFolder
from dimba.records.store import write_atomically
from dimba.records.sweep import sweep_of


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """The file, and the runs that it shows."""

    path: Path
    bytes: int
    runs: tuple[RunFacts, ...]

    def as_json(self) -> dict[str, Any]:
        """The path, the size and the state of each run."""
        return {"path": str(self.path), "bytes": self.bytes, "runs": [_summary(run) for run in self.runs]}


def write_report(folders: Sequence[RunFolder], folder: Path) -> WrittenReport:
    """Write the report of a run into its folder, that of several runs into `folder`.

    Raises:
        BadInput: the record of a run is unreadable.
        HostCannot: the file cannot be written.
    """
    once = list({each.path: each for each in folders}.values())
    runs = tuple(gather(each) for each in once)
    data = page(runs).encode(errors="replace")
    if len(once) == 1:
        path = once[0].path / REPORT_FILE
        once[0].write_bytes(REPORT_FILE, data)
    else:
        path = folder / REPORT_FILE
        write_atomically(path, data, *job_user(folder))
    return WrittenReport(path=path, bytes=len(data), runs=runs)


def write_sweep_report(folder: RunFolder) -> WrittenReport:
    """Write the report of a sweep into its folder: its runs, the best first, named by their values.

    Raises:
        BadInput: no run has a record.
        HostCannot: the file cannot be written.
    """
    found = Ranking(folder, sweep_of(folder)).look()
    if not found.rows:
        raise BadInput(f"no run of {folder.id} has a record", "`dimba ps -a` lists the runs that have")
    runs = tuple(gather(RunFolder(folder.path.parent / row.record.id, folder.uid, folder.gid)) for row in found.rows)
    data = page(runs, found).encode(errors="replace")
    folder.write_bytes(REPORT_FILE, data)
    return WrittenReport(path=folder.path / REPORT_FILE, bytes=len(data), runs=runs)


def _summary(run: RunFacts) -> dict[str, Any]:
    record, metrics = run.record, run.metrics
    last = {key: value for key in metrics.keys if (value := metrics.last(key)) is not None}
    return {
        "id": record.id,
        "name": record.name,
        "status": record.status,
        "exit_reason": record.exit_reason,
        "learned": record.learned,
        "step": metrics.last_step,
        "max_steps": metrics.max_steps,
        "last": last,
    }
