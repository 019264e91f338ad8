"""Run records, GPU leases and locks on disk."""

from dimba.common.contract import ACTIVE, PENDING
from dimba.records.record import RunRecord
from dimba.records.store import RunFolder, all_runs, create_run, find_run

__all__ = ["ACTIVE", "PENDING", "RunFolder", "RunRecord", "all_runs", "create_run", "find_run"]
