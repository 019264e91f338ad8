"""The job's first process: checks the GPUs, starts `accelerate launch`, passes signals on, keeps log and status.

`accelerate launch` turns every failure into 1 and leaves the trainer behind when it is told to end; so each rank
is wrapped (`dimba.supervisor.rank`) and notes its pid and how it ended, and this process reads those notes.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimba.common import contract
from dimba.supervisor.configuration import CONFIGURATION_FILE, configured, world_size
from dimba.supervisor.diagnosis import diagnose, oom_kills
from dimba.supervisor.job_log import JobLog
from dimba.supervisor.nodes import SECONDS_AFTER_FAILURE, Node
from dimba.supervisor.rank import die_with_parent
from dimba.supervisor.watch import Limits, Steps

_POLL = 0.05
_LATE_OUTPUT = 5.0  # seconds for what somebody else still holds the job's stdout open
ON_CPU_INSTEAD = "DIMBA_ON_CPU_INSTEAD"


@dataclass
class Job:
    """One job on its way to its end."""

    environment: dict[str, str]
    log: JobLog
    limits: Limits
    steps: Steps
    asked: list[int] = field(default_factory=list)  # signals that told it to stop
    cause: str = ""  # the exit reason, where we ended it ourselves
    told: set[int] = field(default_factory=set)
    asked_at: float | None = None
    hung: bool = False
    node: Node = field(default_factory=Node)
    folder: Path | None = None
    failed_at: float | None = None  # since when a rank has failed, or a whole machine, monotonic seconds


def main(argv: list[str]) -> int:
    """Runs `argv`; returns the trainer's own exit status, or EXIT_NO_GPU before anything started."""
    named = os.environ.get(contract.ENV_ATTEMPT_DIR)
    folder = Path(named) if named else None
    node = Node.of_environment()
    secrets = _secrets()
    environment = {**os.environ, **secrets}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    log = JobLog(_log_file(folder, node), secrets.values(), aloud=node.rank == 0)
    steps = Steps(folder / contract.METRICS_FILE if folder else None)
    job = Job(environment, log, Limits.of_environment(), steps, node=node, folder=folder)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _frame: job.asked.append(number))
    signal.signal(signal.SIGUSR1, lambda _number, _frame: _near_limit(job))
    before = oom_kills()
    if node.nodes > 1 and "--cpu" in argv:  # with the flag, accelerate would start one process and say nothing
        job.environment["ACCELERATE_USE_CPU"] = "true"
    status, said = _run(node.spread(argv), job)
    if status and status != contract.EXIT_STOPPED and not said:
        reason, line = diagnose(status, log.tail, oom_kills=oom_kills() - before)
        said = {"reason": reason, "line": line}
    when = {"at": _failed_at(job)} if node.nodes > 1 else {}
    word = {"exit_code": status, "reason": None, **when, **said}
    if status and not node.rank:
        word = node.first_failure(folder, word)
    elif status not in (0, contract.EXIT_STOPPED):
        log.aloud(f"machine {node.rank} ({os.uname().nodename}) failed with status {status}; it said last:")
    if folder:
        _leave_word(folder, node.file(contract.EXIT_FILE), word)
    return int(word["exit_code"])


def _log_file(folder: Path | None, node: Node) -> Path | None:
    kept_by_others = not node.rank and os.environ.get(contract.ENV_LOG_ON_STDOUT)
    return None if folder is None or kept_by_others else folder / node.file(contract.LOG_FILE)


def _near_limit(job: Job) -> None:
    """The scheduler's time limit is near."""
    if not job.asked:
        job.cause = "time_limit"
        job.asked.append(signal.SIGTERM)


def _failed_at(job: Job) -> float:
    """When it failed, seconds since 1970: machines have that in common."""
    ago = time.monotonic() - job.failed_at if job.failed_at else 0.0
    return time.time() - ago


def _leave_word(folder: Path, name: str, word: dict[str, Any]) -> None:
    part = folder / f".{name}.part"
    with contextlib.suppress(OSError):  # a full disk: the launcher has the status all the same
        part.write_text(json.dumps(word), encoding="utf-8")
        part.replace(folder / name)


def _run(argv: list[str], job: Job) -> tuple[int, dict[str, Any]]:
    wanted = int(job.environment.get(contract.ENV_GPU_COUNT, "0"))
    problem = _gpu_problem(wanted) if wanted else ""
    if problem and not job.environment.get(contract.ENV_ALLOW_CPU):
        job.log.say(f"error: {wanted} GPU(s) asked for, and {problem}")
        return contract.EXIT_NO_GPU, {"reason": contract.NO_GPU}
    if problem:
        job.log.say(f"on the CPU instead: {problem}")
        job.environment |= {ON_CPU_INSTEAD: "1", "ACCELERATE_USE_CPU": "true"}
    if argv[0] == contract.PREPARE:
        argv = argv[1:]
        status, said = _in_ranks(_preparation(argv), job)
        if status or job.asked:
            return status or contract.EXIT_STOPPED, said
    return _in_ranks(argv, job)


def _preparation(argv: list[str]) -> list[str]:
    """Tokenises what the trainer's flags name, before there are ranks that would wait for one of them."""
    wrapper = argv.index("dimba.supervisor.rank")
    script, *flags = argv[wrapper + 1 :]
    return [
        sys.executable,
        *argv[wrapper - 1 : wrapper + 1],
        *("-m", "dimba.trainers.data.preview", contract.LINES, script),
        *flags,
    ]


def _in_ranks(argv: list[str], job: Job) -> tuple[int, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="dimba-ranks-") as folder:
        configuration = (job.folder or Path(folder)) / job.node.file(CONFIGURATION_FILE)
        job.environment[contract.ENV_WORLD_SIZE] = str(world_size(argv))
        status = _launch(configured(argv, configuration), job, Path(folder))
        if job.cause:
            return status or contract.EXIT_STOPPED, {"reason": job.cause}
        return status, contract.json_object(Path(folder, contract.WORD_FILE)) if status else {}


def _secrets() -> dict[str, str]:
    """Values that must not be seen: one JSON line on stdin, so not in `docker inspect`, or variables by name."""
    if names := os.environ.get(contract.ENV_SECRET_NAMES, "").split():
        return {name: os.environ[name] for name in names if name in os.environ}
    if not os.environ.pop(contract.ENV_SECRETS_ON_STDIN, ""):
        return {}
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        raise SystemExit("error: whoever started this job was gone before it had said everything; `dimba resume` it")
    values: dict[str, str] = json.loads(line)
    return values


def _gpu_problem(wanted: int) -> str:
    """Why CUDA does not work here, by asking the driver: milliseconds, where importing torch takes seconds."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "the NVIDIA driver's libcuda.so.1 is not visible here"
    status = cuda.cuInit(0)
    count = ctypes.c_int(0)
    if status or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver does not start (CUDA error {status})"
    return "" if count.value >= wanted else f"only {count.value} work"


def _launch(argv: list[str], job: Job, ranks: Path) -> int:
    # Its own session: a Ctrl-C in the terminal reaches this process alone, which then tells the ranks.
    process = subprocess.Popen(
        argv,
        env={**job.environment, contract.ENV_RANK_DIR: str(ranks)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent if contract.ENV_NODE_RANK in os.environ else None,  # noqa: PLW1509  # no threads yet
    )
    reader = threading.Thread(target=job.log.pump, args=(process.stdout,), daemon=True)
    reader.start()
    while process.poll() is None:
        _attend(job, ranks)
        time.sleep(_POLL)
    reader.join(_LATE_OUTPUT)
    return _status(_notes(ranks), process.returncode)


def _attend(job: Job, ranks: Path) -> None:
    """One look at a job that runs: who asks it to stop, and what is up."""
    if job.limits.is_over() and not job.asked:
        job.log.say(f"the time limit of {job.limits.whole:,.0f} s is over: saving and stopping")
        job.asked.append(signal.SIGTERM)
        job.cause = "time_limit"
    if not job.hung and (problem := job.steps.hang()):
        job.hung = True
        job.log.say(f"warning: it hangs: {problem}")
        if os.environ.get(contract.ENV_KILL_HUNG):
            job.cause = "hung"
            _kill(ranks)
    if job.node.nodes > 1:
        _end_with_others(job, ranks)
    if job.asked:
        _pass_on(job, ranks)


def _end_with_others(job: Job, ranks: Path) -> None:
    """Where a rank fails, here or elsewhere, the others wait for it in vain: NCCL for minutes."""
    failed = any(note.get("status") not in (None, 0, contract.EXIT_STOPPED) for note in _notes(ranks))
    if job.failed_at is None and (failed or (job.asked and job.node.another_failed(job.folder))):
        job.failed_at = time.monotonic()
    if job.failed_at is not None and time.monotonic() - job.failed_at > SECONDS_AFTER_FAILURE:
        _kill(ranks)


def _pass_on(job: Job, ranks: Path) -> None:
    """Tells every rank once, also one that was not there yet when the signal came; kills what does not obey in time."""
    job.asked_at = job.asked_at or time.monotonic()
    for note in _alive(ranks):
        if note["pid"] not in job.told:
            job.told.add(note["pid"])
            _send(note["pid"], job.asked[0])
    if job.limits.grace is not None and time.monotonic() - job.asked_at > job.limits.grace and job.cause != "killed":
        job.log.say(f"it did not save and end within {job.limits.grace:,.0f} s: killed")
        job.cause = "killed"
        _kill(ranks)


def _kill(ranks: Path) -> None:
    for note in _alive(ranks):
        _send(note["pid"], signal.SIGKILL)


def _send(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _alive(ranks: Path) -> list[dict[str, Any]]:
    return [note for note in _notes(ranks) if "status" not in note]


def _notes(ranks: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in ranks.glob("[0-9]*.json")]


def _status(notes: list[dict[str, Any]], launcher: int) -> int:
    """The status of the rank that failed first; a rank that left no status was killed."""
    ended = sorted((note for note in notes if "status" in note), key=lambda note: note["time"])
    failed = [int(note["status"]) for note in ended if note["status"]]
    if failed:
        return failed[0]
    if len(ended) < len(notes):
        return 128 + signal.SIGKILL
    return launcher if launcher >= 0 else 128 - launcher


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
