"""A job while it runs: started with its output on the log, watched, asked to stop, killed if need be."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimba.common import contract
from dimba.supervisor.accelerate_config import CONFIGURATION_FILE, rank_count, with_configuration
from dimba.supervisor.job_log import JobLog
from dimba.supervisor.limits import HangDetector, Limits
from dimba.supervisor.nodes import SECONDS_AFTER_FAILURE, Node
from dimba.supervisor.rank import die_with_parent
from dimba.supervisor.rank_notes import RankNotes, send_signal
from dimba.supervisor.sampler import SamplerServer
from dimba.supervisor.store_upload import StoreUpload

_POLL = 0.05  # seconds
_LATE_OUTPUT = 5.0  # seconds to wait for output of a process that outlives the launcher


@dataclass
class Job:
    """The state of one job; `folder` is its attempt's."""

    environment: dict[str, str]
    log: JobLog
    limits: Limits
    hangs: HangDetector
    node: Node = field(default_factory=Node)
    folder: Path | None = None
    sampler: SamplerServer | None = None
    upload: StoreUpload | None = None
    stop_signals: list[int] = field(default_factory=list)
    stop_began: float | None = None  # monotonic seconds
    signalled: set[int] = field(default_factory=set)  # process ids
    exit_reason: str = ""  # of a job that the supervisor ends
    is_hung: bool = False
    failed_at: float | None = None  # monotonic seconds at which a rank or a machine was seen to have failed

    def stop_for_time_limit(self) -> None:
        """Asks the job to save and stop, unless it is asked already."""
        if not self.stop_signals:
            self.exit_reason = "time_limit"
            self.stop_signals.append(signal.SIGTERM)


def run_in_ranks(argv: list[str], job: Job) -> tuple[int, dict[str, Any]]:
    """Runs `argv`; returns (exit status, details of the exit): its reason, and what the trainer reported of it."""
    with tempfile.TemporaryDirectory(prefix="dimba-ranks-") as name:
        folder = Path(name)
        configuration = (job.folder or folder) / job.node.file(CONFIGURATION_FILE)
        job.environment[contract.ENV_WORLD_SIZE] = str(rank_count(argv))
        status = _launch(with_configuration(argv, configuration), job, RankNotes(folder))
        if job.exit_reason:
            return status or contract.EXIT_STOPPED, {"reason": job.exit_reason}
        return status, contract.read_json_object(folder / contract.WORD_FILE) if status else {}


def _launch(argv: list[str], job: Job, ranks: RankNotes) -> int:
    process = subprocess.Popen(
        argv,
        env={**job.environment, contract.ENV_RANK_DIR: str(ranks.folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a Ctrl-C in the terminal reaches this process alone, which signals the ranks
        preexec_fn=die_with_parent,  # noqa: PLW1509  # no threads yet
    )
    reader = threading.Thread(target=job.log.copy_from, args=(process.stdout,), daemon=True)
    reader.start()
    while process.poll() is None:
        _check(job, ranks)
        time.sleep(_POLL)
    reader.join(_LATE_OUTPUT)
    return ranks.exit_status(process.returncode)


def _check(job: Job, ranks: RankNotes) -> None:
    if job.limits.is_over() and not job.stop_signals:
        job.log.write_line(f"time limit of {job.limits.job:,.0f} s reached: saving a checkpoint and stopping")
        job.stop_for_time_limit()
    if not job.is_hung and (problem := job.hangs.problem()):
        _report_hang(job, ranks, problem)
    if job.node.nodes > 1:
        _kill_after_failure(job, ranks)
    if job.upload:
        job.upload.keep_running()
    if job.sampler and job.sampler.exit_status() is not None:
        _end_without_sampler(job, ranks)
    if job.stop_signals:
        _stop(job, ranks)


def _end_without_sampler(job: Job, ranks: RankNotes) -> None:
    """Kills the ranks, also one that starts later: they would wait for completions of a server that is gone."""
    if not job.exit_reason:
        job.exit_reason = "trainer_error"
        status = job.sampler.exit_status() if job.sampler else None
        hint = "its lines in the log name the cause; without `sampler-gpus` vLLM shares the GPUs of training"
        job.log.write_line(f"error: the server that samples ended with status {status}\n\nhint: {hint}")
    ranks.kill()


def _report_hang(job: Job, ranks: RankNotes, problem: str) -> None:
    job.is_hung = True
    job.log.write_line(f"warning: the job hangs: {problem}")
    if os.environ.get(contract.ENV_KILL_HUNG):
        job.exit_reason = "hung"
        ranks.kill()


def _kill_after_failure(job: Job, ranks: RankNotes) -> None:
    # The other ranks would wait for the failed one: with NCCL, for minutes.
    has_failed = ranks.has_failure() or (job.stop_signals and job.node.another_failed(job.folder))
    if job.failed_at is None and has_failed:
        job.failed_at = time.monotonic()
    if job.failed_at is not None and time.monotonic() - job.failed_at > SECONDS_AFTER_FAILURE:
        ranks.kill()


def _stop(job: Job, ranks: RankNotes) -> None:
    """Signals every rank once, also one that starts after the signal came; kills all of them after the grace."""
    job.stop_began = job.stop_began or time.monotonic()
    for pid in ranks.running():
        if pid not in job.signalled:
            job.signalled.add(pid)
            send_signal(pid, job.stop_signals[0])
    grace = job.limits.stop_grace
    if grace is not None and time.monotonic() - job.stop_began > grace and job.exit_reason != "killed":
        job.log.write_line(f"killed: the trainer did not save and stop within {grace:,.0f} s")
        job.exit_reason = "killed"
        ranks.kill()
