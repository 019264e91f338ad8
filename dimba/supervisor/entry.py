"""The job's first process: tests the GPUs, runs `accelerate launch`, forwards signals, writes log and exit status.

`accelerate launch` exits with 1 whatever the trainer's status is, and leaves the trainer running when it gets SIGTERM.
So each rank runs below a wrapper (`dimba.supervisor.rank`) that notes its pid and exit status for this process.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dimba.common import contract
from dimba.common.errors import BadInput
from dimba.common.owner import this_process
from dimba.common.ownership import take
from dimba.supervisor.diagnosis import diagnose, oom_kills
from dimba.supervisor.gpus import gpu_problem
from dimba.supervisor.job import Job, run_in_ranks
from dimba.supervisor.job_log import JobLog
from dimba.supervisor.job_secrets import read_secrets
from dimba.supervisor.limits import HangDetector, Limits
from dimba.supervisor.nodes import Node
from dimba.supervisor.sampler import sampler_server
from dimba.supervisor.store_upload import await_upload, store_upload

_NOT_FAILED = (0, contract.EXIT_STOPPED)


def main(argv: list[str]) -> int:
    """Runs `argv`; returns the trainer's exit status, or EXIT_NO_GPU if the GPUs do not work."""
    job = _job_of_environment()
    _watch_signals(job)
    try:
        _own_output(job)
    except BadInput as error:
        job.log.write_line(f"error: {error}")
        return _record_exit(job, error.exit_status, {"reason": contract.REFUSED, **error.as_json()})
    kills_before = oom_kills()
    if job.node.nodes > 1 and "--cpu" in argv:  # with the flag, accelerate silently starts one process
        job.environment["ACCELERATE_USE_CPU"] = "true"
    status, details = _run(job.node.launch_command(argv), job)
    if status not in _NOT_FAILED and not details:
        reason, line = diagnose(status, job.log.tail, oom_kills=oom_kills() - kills_before)
        details = {"reason": reason, "line": line}
    status = _record_exit(job, status, details)
    if status == contract.EXIT_STOPPED and job.folder:
        await_upload(job.environment, job.node, job.folder)
    return status


def _job_of_environment() -> Job:
    name = os.environ.get(contract.ENV_ATTEMPT_DIR)
    folder = Path(name) if name else None
    node = Node.from_environment()
    secrets = read_secrets()
    environment = {**os.environ, **secrets}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    log = JobLog(_log_file(folder, node), secrets.values(), to_stdout=node.rank == 0)
    hangs = HangDetector(folder / contract.METRICS_FILE if folder else None)
    return Job(environment, log, Limits.from_environment(), hangs, node, folder)


def _own_output(job: Job) -> None:
    """Holds the output folder for the job's run until this process ends; raises BadInput if another run writes there.

    A trainer of the user's own does not hold it.
    """
    output, run_id = os.environ.get(contract.ENV_OUTPUT_DIR), os.environ.get(contract.ENV_RUN_ID)
    if output and run_id and job.folder and not job.node.rank:
        with suppress(OSError):  # the trainer reports that it cannot write there
            take(Path(output), this_process(run_id, str(job.folder.parents[1])), adopts=True)


def _log_file(folder: Path | None, node: Node) -> Path | None:
    is_kept_elsewhere = not node.rank and os.environ.get(contract.ENV_LOG_ON_STDOUT)
    return None if folder is None or is_kept_elsewhere else folder / node.file(contract.LOG_FILE)


def _watch_signals(job: Job) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _frame: job.stop_signals.append(number))
    # A scheduler sends SIGUSR1 shortly before its time limit.
    signal.signal(signal.SIGUSR1, lambda _number, _frame: job.stop_for_time_limit())


def _run(argv: list[str], job: Job) -> tuple[int, dict[str, Any]]:
    wanted = int(job.environment.get(contract.ENV_GPU_COUNT, "0"))
    problem = gpu_problem(wanted) if wanted else ""
    if problem and not job.environment.get(contract.ENV_ALLOW_CPU):
        job.log.write_line(f"error: {wanted} GPU(s) requested: {problem}\n\nhint: `dimba doctor` tests the GPUs")
        return contract.EXIT_NO_GPU, {"reason": contract.NO_GPU}
    if problem:
        job.log.write_line(f"training on the CPU instead: {problem}")
        job.environment |= {contract.ENV_ON_CPU_INSTEAD: "1", "ACCELERATE_USE_CPU": "true"}
    if argv[0] == contract.PREPARE:
        argv = argv[1:]
        status, details = run_in_ranks(_preparation(argv), job)
        if status or job.stop_signals:
            return status or contract.EXIT_STOPPED, details
    job.upload = store_upload(job.environment, job.log, job.node)
    with sampler_server(job.environment, job.log) as job.sampler:
        status, details = run_in_ranks(argv, job)
    if job.upload:
        job.upload.finish(status, job.stop_signals)
    return status, details


def _preparation(argv: list[str]) -> list[str]:
    """The command that tokenises the trainer's data before the ranks start, which would wait for one of them."""
    wrapper = argv.index("dimba.supervisor.rank")
    script, *flags = argv[wrapper + 1 :]
    in_rank = argv[wrapper - 1 : wrapper + 1]
    return [sys.executable, *in_rank, "-m", "dimba.trainers.data.preview", contract.LINES, script, *flags]


def _record_exit(job: Job, status: int, details: dict[str, Any]) -> int:
    """Writes the machine's exit note; returns the status to exit with, on the first machine that of the job."""
    node = job.node
    when = {"at": _failure_time(job)} if node.nodes > 1 else {}
    note = {"exit_code": status, "reason": None, **when, **details}
    if status and not node.rank:
        note = node.first_failure(job.folder, note)
    elif status not in _NOT_FAILED:
        job.log.print_tail(f"machine {node.rank} ({os.uname().nodename}) failed with status {status}; its last lines:")
    if job.folder:
        _write_exit_note(job.folder, node.file(contract.EXIT_FILE), note)
    return int(note["exit_code"])


def _failure_time(job: Job) -> float:
    # Seconds since 1970: the machines have no other clock in common.
    ago = time.monotonic() - job.failed_at if job.failed_at else 0.0
    return time.time() - ago


def _write_exit_note(folder: Path, name: str, note: dict[str, Any]) -> None:
    part = folder / f".{name}.part"
    with suppress(OSError):  # on a full disk, the launcher still has the exit status
        part.write_text(json.dumps(note), encoding="utf-8")
        part.replace(folder / name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
