"""What runs leave on disk."""

from dimba.records.record import ACTIVE, SETTLING, RunRecord
from dimba.records.store import RunFolder, all_runs, create_run, find_run

__all__ = ["ACTIVE", "SETTLING", "RunFolder", "RunRecord", "all_runs", "create_run", "find_run"]
