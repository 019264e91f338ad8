"""What runs leave on disk."""

from dimba.runs.record import ACTIVE, SETTLING, RunRecord
from dimba.runs.store import RunFolder, all_runs, create_run, find_run

__all__ = ["ACTIVE", "SETTLING", "RunFolder", "RunRecord", "all_runs", "create_run", "find_run"]
